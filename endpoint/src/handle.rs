//! Handles for tickets, prepared statements and session cookies: 128 random bits of the operating system, so that no
//! client can guess another's.

use std::fmt;

use tonic::Status;

/// An opaque handle; on the wire it is 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Handle(u128);

impl Handle {
    /// A handle nobody can guess.
    pub(crate) fn random() -> Result<Self, Status> {
        let mut bytes = [0; 16];
        getrandom::getrandom(&mut bytes)
            .map_err(|error| Status::internal(format!("the operating system gives no random bytes: {error}")))?;
        Ok(Self(u128::from_le_bytes(bytes)))
    }

    /// Reads a handle from the wire; `None` when it cannot be one of ours.
    pub(crate) fn parse(wire: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(wire).ok()?;
        let is_hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hex.then(|| u128::from_str_radix(text, 16).ok().map(Self))?
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_survives_the_wire_and_garbage_is_refused() -> Result<(), Status> {
        let handle = Handle::random()?;
        assert!(Handle::parse(handle.to_string().as_bytes()) == Some(handle));
        assert!(Handle::random()? != handle);
        for garbage in [&b""[..], b"+0000000000000000000000000000001", b"\xff\xfe", &[b'0'; 33]] {
            assert!(Handle::parse(garbage).is_none());
        }
        Ok(())
    }
}
