//! Certificates: whom we trust, as whom we come, and why a server and we do not come together.

use std::path::Path;
use std::sync::Arc;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{AlertDescription, CertificateError, ClientConfig, Error, RootCertStore};
use tonic::codegen::http::Uri;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use crate::limits::TRUST_TIME;
use crate::{StateError, Tls};

/// What a server that wants another certificate than it got may say; which one is up to its library.
const REFUSALS: [AlertDescription; 9] = [
    AlertDescription::AccessDenied,
    AlertDescription::BadCertificate,
    AlertDescription::CertificateExpired,
    AlertDescription::CertificateRequired,
    AlertDescription::CertificateRevoked,
    AlertDescription::CertificateUnknown,
    AlertDescription::NoCertificate,
    AlertDescription::UnknownCA,
    AlertDescription::UnsupportedCertificate,
];

/// The files of [`Tls`], read and found to be what they should be.
#[derive(Clone, Debug)]
pub(crate) struct Trust {
    files: Tls,
    for_tonic: ClientTlsConfig,
    for_questions: Arc<ClientConfig>,
}

impl Trust {
    pub(crate) fn read(files: &Tls) -> Result<Self, StateError> {
        let read = |setting, path: &Path| std::fs::read(path).map_err(|error| invalid(setting, path, &error));
        let ca = read("etcd_ca", &files.ca)?;
        let ours = match &files.identity {
            None => None,
            Some((cert, key)) => Some((read("etcd_cert", cert)?, read("etcd_key", key)?)),
        };
        let mut roots = RootCertStore::empty();
        // Of a system's many some may be too strange.
        if let (0, _) = roots.add_parsable_certificates(certificates("etcd_ca", &files.ca, &ca)?) {
            return Err(invalid("etcd_ca", &files.ca, &"no certificate in it is one of an authority"));
        }
        let of_ring = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = of_ring.with_safe_default_protocol_versions().expect("ring has what these versions need");
        let config = config.with_root_certificates(roots);
        let for_tonic = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
        let (for_tonic, mut config) = match files.identity.as_ref().zip(ours) {
            None => (for_tonic, config.with_no_client_auth()),
            Some(((cert_path, key_path), (cert, key))) => {
                let ours = certificates("etcd_cert", cert_path, &cert)?;
                let our_key = PrivateKeyDer::from_pem_slice(&key);
                let our_key = our_key.map_err(|error| {
                    invalid("etcd_key", key_path, &format!("there is no private key in it (PEM): {error}"))
                })?;
                let config = config.with_client_auth_cert(ours, our_key);
                let unfit = |error| {
                    invalid("etcd_cert", cert_path, &format!("it does not go with {}: {error}", key_path.display()))
                };
                (for_tonic.identity(Identity::from_pem(cert, key)), config.map_err(unfit)?)
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { files: files.clone(), for_tonic, for_questions: Arc::new(config) })
    }

    /// What connections are made with.
    pub(crate) fn config(&self) -> ClientTlsConfig {
        self.for_tonic.clone()
    }

    /// Why the server and we do not trust each other, and what would help; `None`: it may be something else.
    ///
    /// Requests do not tell: a server looks at our certificate when we believe that we are connected (TLS 1.3), and what it says then is
    /// lost where the request that is on its way fails. So nothing is sent here.
    pub(crate) async fn refusal(&self, url: &Uri) -> Option<String> {
        let host = url.host()?.trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned()).ok()?;
        let asking = async {
            let stream = TcpStream::connect((host, url.port_u16().unwrap_or(443))).await?;
            TlsConnector::from(Arc::clone(&self.for_questions)).connect(name, stream).await?.read_u8().await
        };
        let error = tokio::time::timeout(TRUST_TIME, asking).await.ok()?.err()?;
        self.explain(error.get_ref()?.downcast_ref()?)
    }

    fn explain(&self, error: &Error) -> Option<String> {
        let ca = self.files.ca.display();
        match error {
            Error::InvalidCertificate(reason) => {
                let help = match reason {
                    CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                        "write the endpoint with a name or address that the certificate has".to_owned()
                    }
                    CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                        format!("put the certificate of its authority into {ca}")
                    }
                    _ => format!("give etcd one that is valid, of an authority in {ca}"),
                };
                Some(format!("the server's certificate is not trusted ({reason}): {help}"))
            }
            Error::AlertReceived(alert) if REFUSALS.contains(alert) => Some(match &self.files.identity {
                None => "the server wants a certificate of its clients, and we have none: give one of an authority that etcd trusts \
                         (its --trusted-ca-file), and its key"
                    .to_owned(),
                Some((cert, _)) => format!(
                    "the server does not take our certificate {} ({alert:?}): it must be valid, for clients, and of an authority that \
                     etcd trusts (its --trusted-ca-file)",
                    cert.display()
                ),
            }),
            _ => None,
        }
    }
}

fn certificates(setting: &str, path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, StateError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found.map_err(|error| invalid(setting, path, &error))? {
        none if none.is_empty() => Err(invalid(setting, path, &"there is no certificate in it (PEM)")),
        found => Ok(found),
    }
}

fn invalid(setting: &str, path: &Path, why: &dyn std::fmt::Display) -> StateError {
    StateError::Invalid(format!("{setting}: {}: {why}", path.display()))
}
