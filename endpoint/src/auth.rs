//! Who may call: a bearer token, when the server has a token file.
//!
//! Clients send it in one of the ways Flight clients know:
//! - `authorization: Bearer TOKEN` on every call (ADBC `adbc.flight.sql.authorization_header`, JDBC `token=`);
//! - `authorization: Basic base64(ANY_USER:TOKEN)` on the handshake or on every call (ADBC and JDBC user and password,
//!   `pyarrow.flight` `authenticate_basic_token`); the handshake answers with the bearer header to use from then on;
//! - a handshake message with user and password, then `auth-token-bin` on every call (`pyarrow.flight` `authenticate`).

use std::path::Path;

use arrow_flight::BasicAuth;
use prost::Message;
use subtle::ConstantTimeEq;
use tonic::codegen::http::{HeaderMap, HeaderValue};
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use crate::error::EndpointError;

/// What servers without a token hand out, since clients of the handshake expect some token.
const NO_TOKEN: &str = "none";

/// The check of every call.
pub(crate) struct Auth {
    token: Option<String>,
}

impl Auth {
    /// Everyone may call.
    pub(crate) fn open() -> Self {
        Self { token: None }
    }

    /// Only who knows the token in `path` (surrounding white space is not part of it).
    pub(crate) fn from_file(path: &Path) -> Result<Self, EndpointError> {
        let text = std::fs::read_to_string(path).map_err(|source| EndpointError::Read {
            what: "the token file",
            path: path.to_owned(),
            source,
        })?;
        match text.trim() {
            "" => Err(EndpointError::EmptyToken(path.to_owned())),
            token => Ok(Self { token: Some(token.to_owned()) }),
        }
    }

    /// The token that a handshake hands out.
    pub(crate) fn token(&self) -> &str {
        self.token.as_deref().unwrap_or(NO_TOKEN)
    }

    /// Refuses a call without the token.
    pub(crate) fn check(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let Some(token) = &self.token else { return Ok(()) };
        match presented(metadata) {
            Some(presented) if is_equal(token, &presented) => Ok(()),
            Some(_) => Err(Status::new(Code::Unauthenticated, "the token is wrong")),
            None => Err(Status::new(
                Code::Unauthenticated,
                "this server needs a token: send `authorization: Bearer TOKEN`, or the token as the password of any user",
            )),
        }
    }

    /// Checks the user and password of a handshake message. The user can be any.
    pub(crate) fn check_handshake(&self, payload: &[u8]) -> Result<(), Status> {
        let Some(token) = &self.token else { return Ok(()) };
        let password = BasicAuth::decode(payload).map(|auth| auth.password).unwrap_or_default();
        if is_equal(token, password.as_bytes()) {
            Ok(())
        } else {
            Err(Status::new(Code::Unauthenticated, "the token is wrong"))
        }
    }
}

/// Compares in a time that does not tell how much of the token is right.
fn is_equal(token: &str, presented: &[u8]) -> bool {
    token.as_bytes().ct_eq(presented).into()
}

/// The token a call brings, if any.
fn presented(metadata: &MetadataMap) -> Option<Vec<u8>> {
    if let Some(token) = metadata.get_bin("auth-token-bin") {
        return token.to_bytes().ok().map(|token| token.to_vec());
    }
    let header = metadata.get("authorization")?.to_str().ok()?;
    let (scheme, credentials) = header.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(credentials.trim().as_bytes().to_vec());
    }
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(basic(credentials)?.1);
    }
    None
}

/// The user that a call names by Basic credentials.
pub(crate) fn basic_user(metadata: &MetadataMap) -> Option<String> {
    basic_user_of(metadata.as_ref())
}

/// As [`basic_user`].
pub(crate) fn basic_user_of(headers: &HeaderMap) -> Option<String> {
    let (scheme, credentials) = headers.get("authorization")?.to_str().ok()?.split_once(' ')?;
    let (user, _) = scheme.eq_ignore_ascii_case("basic").then(|| basic(credentials))??;
    String::from_utf8(user).ok()
}

/// User and password of Basic credentials.
fn basic(credentials: &str) -> Option<(Vec<u8>, Vec<u8>)> {
    let pair = decode_base64(credentials.trim())?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    Some((pair[..colon].to_vec(), pair[colon + 1..].to_vec()))
}

/// gRPC's own `-bin` metadata is base64, with or without padding: its decoder is the one we need.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let mut headers = HeaderMap::new();
    headers.insert("basic-bin", HeaderValue::from_str(text).ok()?);
    let metadata = MetadataMap::from_headers(headers);
    metadata.get_bin("basic-bin")?.to_bytes().ok().map(|bytes| bytes.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(header: &str) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        metadata.insert("authorization", header.parse().expect("a header"));
        metadata
    }

    #[test]
    fn bearer_and_basic_are_accepted_with_the_right_token_only() {
        let auth = Auth { token: Some("secret".to_owned()) };
        // ann:secret, ann:wrong
        for right in ["Bearer secret", "bearer secret", "Basic YW5uOnNlY3JldA==", "Basic YW5uOnNlY3JldA"] {
            assert!(auth.check(&call(right)).is_ok(), "{right}");
        }
        for wrong in ["Bearer secre", "Bearer secret2", "Basic YW5uOndyb25n", "Basic !", "secret", "Bearer "] {
            assert_eq!(auth.check(&call(wrong)).map_err(|status| status.code()), Err(Code::Unauthenticated), "{wrong}");
        }
        assert!(auth.check(&MetadataMap::new()).is_err());
        assert!(Auth::open().check(&MetadataMap::new()).is_ok());
    }

    #[test]
    fn basic_credentials_name_a_user() {
        assert_eq!(basic_user(&call("Basic YW5uOnNlY3JldA==")).as_deref(), Some("ann"));
        assert_eq!(basic_user(&call("Bearer secret")), None);
        assert_eq!(basic_user(&MetadataMap::new()), None);
    }

    #[test]
    fn a_handshake_message_carries_the_token_as_password() {
        let auth = Auth { token: Some("secret".to_owned()) };
        let message = |password: &str| BasicAuth { username: "ann".to_owned(), password: password.to_owned() };
        assert!(auth.check_handshake(&message("secret").encode_to_vec()).is_ok());
        assert!(auth.check_handshake(&message("").encode_to_vec()).is_err());
        assert!(auth.check_handshake(b"\xff").is_err());
    }
}
