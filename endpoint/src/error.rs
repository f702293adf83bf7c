//! Why a server could not start or ended.

use std::net::SocketAddr;
use std::path::PathBuf;

/// An error of binding or serving. Errors of calls are gRPC statuses instead: see `status`.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// Plain text or no authentication on an address that others can reach.
    #[error(
        "refusing to listen on {listen}: other machines can reach it. Give {missing}, or accept the risk with --insecure"
    )]
    Exposed {
        /// The address asked for.
        listen: SocketAddr,
        /// The flags that are missing.
        missing: String,
    },
    /// The address is taken or not of this machine.
    #[error("cannot listen on {listen}: {source}. Is another server running? --listen takes another address")]
    Listen {
        /// The address asked for.
        listen: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The token, certificate or key could not be read.
    #[error("cannot read {what} {}: {source}", path.display())]
    Read {
        /// What the file is.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The token file holds no token.
    #[error("the token file {} is empty: write one line with the token into it", .0.display())]
    EmptyToken(PathBuf),
    /// The certificate or key is not usable.
    #[error("the TLS files {} and {} cannot be used: {source}", cert.display(), key.display())]
    Tls {
        /// The certificate chain, PEM.
        cert: PathBuf,
        /// The private key, PEM.
        key: PathBuf,
        /// Why.
        source: tonic::transport::Error,
    },
    /// The server ended.
    #[error("the server on {listen} failed: {source}")]
    Serve {
        /// Where it listened.
        listen: SocketAddr,
        /// Why.
        source: tonic::transport::Error,
    },
    /// A bug.
    #[error("the server cannot be set up: {0}")]
    Internal(String),
}
