//! Certificates of a cluster: one directory that every machine of it has.

use std::path::{Path, PathBuf};

use onward_wire::{Config, ErrorKind, WireError};
use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};

/// The name in every certificate of a cluster: machines come and go, so no address is in them.
pub const CLUSTER_NAME: &str = "onward-cluster";

/// What a role shows others, and what it wants to be shown: a certificate of the cluster's own authority.
#[derive(Clone, Debug)]
pub struct ClusterTls {
    authority: Certificate,
    identity: Identity,
}

impl ClusterTls {
    /// File of the authority's certificate.
    pub const AUTHORITY: &str = "ca.pem";
    /// File of the authority's private key, which no host needs.
    pub const AUTHORITY_KEY: &str = "ca.key";
    /// File of the hosts' certificate.
    pub const CERTIFICATE: &str = "host.pem";
    /// File of the hosts' private key.
    pub const KEY: &str = "host.key";

    /// Reads what `onward tls init` wrote.
    ///
    /// # Errors
    /// When a file is missing.
    fn load(dir: &Path) -> Result<Self, WireError> {
        let read = |name: &str| {
            let path: PathBuf = dir.join(name);
            std::fs::read(&path).map_err(|error| {
                let message =
                    format!("{}: {error}; cluster_dir names a directory that `onward tls init` made", path.display());
                WireError::new(ErrorKind::NotFound, message)
            })
        };
        let identity = Identity::from_pem(read(Self::CERTIFICATE)?, read(Self::KEY)?);
        Ok(Self { authority: Certificate::from_pem(read(Self::AUTHORITY)?), identity })
    }

    /// What the setting `cluster_dir` says: none when it is empty.
    ///
    /// # Errors
    /// When a file of the directory is missing.
    pub fn from_config(config: &Config) -> Result<Option<Self>, WireError> {
        match config.cluster_dir.as_str() {
            "" => Ok(None),
            dir => Self::load(dir.as_ref()).map(Some),
        }
    }

    /// For a listener. Callers without certificate come through, for clients that fetch results with a grant.
    pub fn server(&self) -> ServerTlsConfig {
        ServerTlsConfig::new()
            .identity(self.identity.clone())
            .client_ca_root(self.authority.clone())
            .client_auth_optional(true)
    }

    /// For a connection.
    pub fn client(&self) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .ca_certificate(self.authority.clone())
            .identity(self.identity.clone())
            .domain_name(CLUSTER_NAME)
    }
}
