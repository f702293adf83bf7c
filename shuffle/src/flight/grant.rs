//! Grants: HMAC-SHA256 under a key that the coordinator made and told its hosts.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use onward_wire::exchange::{Grant, Signed};
use onward_wire::{ErrorKind, WireError};
use prost::Message;
use ring::hmac;

/// Bytes of a key.
const KEY_BYTES: usize = 32;

/// The cluster's key. Coordinator and hosts have it, functions do not.
#[derive(Clone)]
pub struct GrantKey {
    bytes: Bytes,
    key: hmac::Key,
}

impl GrantKey {
    /// A new key, from the system's random numbers.
    ///
    /// # Errors
    /// When the system has none.
    pub fn random() -> Result<Self, WireError> {
        let mut bytes = vec![0; KEY_BYTES];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
            .map_err(|_| WireError::new(ErrorKind::Internal, "the system gives no random numbers"))?;
        Ok(Self::of(bytes.into()))
    }

    /// A key that was told.
    ///
    /// # Errors
    /// When it has another length.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, WireError> {
        match bytes.len() {
            KEY_BYTES => Ok(Self::of(bytes)),
            length => Err(WireError::new(ErrorKind::Internal, format!("a key of {length} bytes"))),
        }
    }

    fn of(bytes: Bytes) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, &bytes), bytes }
    }

    /// The key, for a host.
    pub fn bytes(&self) -> Bytes {
        self.bytes.clone()
    }

    /// Signs a grant.
    pub fn sign(&self, grant: &Grant) -> Signed {
        let payload: Bytes = grant.encode_to_vec().into();
        let mac = Bytes::copy_from_slice(hmac::sign(&self.key, &payload).as_ref());
        Signed { payload, mac }
    }

    /// The grant, if this key signed it and it holds at `now_ms`.
    ///
    /// # Errors
    /// Of kind Denied; Unavailable when it has expired.
    pub fn verify(&self, signed: &Signed, now_ms: u64) -> Result<Grant, WireError> {
        let denied = |why: &str| WireError::new(ErrorKind::Denied, format!("the grant to read an exchange {why}"));
        hmac::verify(&self.key, &signed.payload, &signed.mac).map_err(|_| denied("is not of this cluster"))?;
        let grant = Grant::decode(signed.payload.clone()).map_err(|_| denied("cannot be read"))?;
        if grant.expires_ms <= now_ms {
            // Another attempt gets a new one.
            let expired =
                WireError::new(ErrorKind::Unavailable, "a grant to read an exchange expired (grant_lifetime_ms)");
            return Err(WireError { counts_as_failure: false, ..expired });
        }
        Ok(grant)
    }
}

impl fmt::Debug for GrantKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GrantKey")
    }
}

/// Milliseconds since 1970 UTC.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_holds_for_its_key_its_bytes_and_its_time() {
        let (key, other) = (GrantKey::random().unwrap(), GrantKey::random().unwrap());
        let grant = Grant { query: 1, stage: 2, partitions: vec![], expires_ms: 100, may_write: false };
        let signed = key.sign(&grant);
        assert_eq!(key.verify(&signed, 99).unwrap(), grant);
        assert_eq!(GrantKey::from_bytes(key.bytes()).unwrap().verify(&signed, 99).unwrap(), grant);
        let forged = Signed { payload: Grant { stage: 3, ..grant }.encode_to_vec().into(), ..signed.clone() };
        for refused in [other.verify(&signed, 0), key.verify(&forged, 0)] {
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::Denied);
        }
        assert!(key.verify(&signed, 100).unwrap_err().is_retryable, "another attempt has another grant");
    }
}
