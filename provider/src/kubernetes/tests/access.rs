//! How an API server is found, and who is who.

use std::path::Path;
use std::sync::Arc;

use kube::Config;
use tokio::process::Command;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::standin::Standin;
use super::{cluster, connected, options, spec};
use crate::kubernetes::{Kubernetes, KubernetesOptions};
use crate::{Provider, ProviderError};

/// What the server proves with who it is, and whom to trust for it, in PEM.
fn identity() -> (TlsAcceptor, String) {
    let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()));
    let config = ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(vec![own.cert.der().clone()], key).expect("a certificate and its key");
    (TlsAcceptor::from(Arc::new(config)), own.cert.pem())
}

async fn secured() -> (Standin, tempfile::TempDir) {
    let (acceptor, pem) = identity();
    let standin = Standin::start(Some(acceptor)).await;
    standin.cluster.rule(|rules| rules.token = Some("secret".to_owned()));
    let files = tempfile::tempdir().expect("a directory");
    std::fs::write(files.path().join("ca.crt"), pem).expect("a file");
    std::fs::write(files.path().join("token"), "secret").expect("a file");
    (standin, files)
}

fn without_namespace() -> KubernetesOptions {
    KubernetesOptions { namespace: None, ..options(&cluster()) }
}

/// As in a pod, whose files are elsewhere.
fn in_cluster(standin: &Standin, files: &Path) -> Kubernetes {
    let mut config = Config::new(format!("https://{}", standin.address).parse().expect("a URL"));
    config.default_namespace = super::NAMESPACE.to_owned();
    config.root_cert_file = Some(files.join("ca.crt"));
    config.auth_info.token_file = Some(files.join("token").display().to_string());
    connected(without_namespace(), config)
}

#[tokio::test]
async fn a_service_account_is_taken_and_a_wrong_token_is_said_to_be_one() {
    let (standin, files) = secured().await;
    assert_eq!(in_cluster(&standin, files.path()).list().await, Ok(vec![]));
    std::fs::write(files.path().join("token"), "expired").expect("a file");
    let provider = in_cluster(&standin, files.path());
    let host = spec(&cluster(), "exit 0");
    let why =
        "cannot create pods in namespace `queries`: Unauthorized: its token or certificate is not, or no longer, valid";
    assert_eq!(provider.start(&host).await, Err(ProviderError::Failed(why.to_owned())));
}

#[tokio::test]
async fn a_server_that_is_not_the_one_is_told_nothing() {
    let (standin, files) = secured().await;
    let (_, other) = identity();
    std::fs::write(files.path().join("ca.crt"), other).expect("a file");
    let provider = in_cluster(&standin, files.path());
    let host = spec(&cluster(), "exit 0");
    let failed = provider.start(&host).await.expect_err("it is not trusted").to_string();
    assert!(failed.contains("certificate"), "{failed}");
    assert_eq!(standin.cluster.requests("create"), 0);
}

/// The environment is of a whole process: this test runs itself in another one.
#[tokio::test]
async fn the_kubeconfig_of_the_environment_is_taken() {
    const IS_OTHER: &str = "ONWARD_TEST_LOOKS_FOR_A_KUBECONFIG";
    if std::env::var_os(IS_OTHER).is_some() {
        assert_eq!(Kubernetes::new(without_namespace()).list().await, Ok(vec![]));
        return;
    }
    let (standin, files) = secured().await;
    let (address, dir) = (standin.address, files.path().display());
    let text = format!(
        "apiVersion: v1
kind: Config
clusters: [{{name: here, cluster: {{server: 'https://{address}', certificate-authority: {dir}/ca.crt}}}}]
users: [{{name: me, user: {{tokenFile: {dir}/token}}}}]
contexts: [{{name: test, context: {{cluster: here, user: me, namespace: queries}}}}]
current-context: test
"
    );
    let path = files.path().join("config");
    std::fs::write(&path, text).expect("a file");
    let mut other = Command::new(std::env::current_exe().expect("this program"));
    other.args(["--exact", "kubernetes::tests::access::the_kubeconfig_of_the_environment_is_taken"]);
    let output = other.env("KUBECONFIG", &path).env(IS_OTHER, "").kill_on_drop(true).output().await.expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(standin.cluster.requests("list"), 1);
}
