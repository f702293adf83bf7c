//! etcd with certificates: whom we trust, and who trusts us.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};

use super::{announcement, candidate, etcd, is_deposed, lead, options, soon, until};
use crate::{Change, Etcd, StateError, StateOptions, Tls};

/// A certificate and its key.
type Identity = (PathBuf, PathBuf);

/// An authority, and where its certificate and those are that it gives.
struct Authority {
    dir: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(parameters, key).expect("a certificate");
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("ca.pem"), issuer.pem()).expect("a file");
        Self { dir, issuer }
    }

    fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// For servers and clients: etcd is both, it asks itself.
    fn give(&self, name: &str) -> Identity {
        let mut parameters = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let certificate = parameters.signed_by(&key, &self.issuer).expect("a certificate");
        let file = |end: &str| self.dir.path().join(format!("{name}.{end}"));
        fs::write(file("pem"), certificate.pem()).expect("a file");
        fs::write(file("key"), key.serialize_pem()).expect("a file");
        (file("pem"), file("key"))
    }

    /// An etcd with a certificate for this name, if there can be one.
    fn server(&self, name: &str, client_ca: Option<PathBuf>) -> Option<etcd::Etcd> {
        let (cert, key) = self.give(name);
        let tls = Some(etcd::Tls { cert, key, client_ca });
        etcd::Etcd::start_with(tls).inspect_err(|reason| eprintln!("skipped: {reason}")).ok()
    }
}

fn tls_options(endpoint: String, ca: PathBuf, identity: Option<Identity>) -> StateOptions {
    StateOptions { tls: Some(Tls { ca, identity }), ..options(endpoint) }
}

fn client(options: &StateOptions) -> Etcd {
    Etcd::new(options.clone()).expect("options")
}

fn put(value: &str) -> Vec<Change> {
    vec![Change::Put { key: "key".to_owned(), value: value.into() }]
}

async fn one_leads_writes_and_is_replaced(mut server: etcd::Etcd, options: StateOptions) {
    let (first, second) = (candidate(&client(&options), "first"), candidate(&client(&options), "second"));
    let leadership = lead(&first).await;
    until(&mut second.coordinators(), |there| there.len() == 2).await;
    let old = leadership.state();
    old.write(put("one")).await.expect("it leads");
    server.restart().expect("etcd starts again");
    old.write(put("two")).await.expect("it connects again");
    leadership.resign().await.expect("etcd is there");
    let leadership = lead(&second).await;
    let info =
        until(&mut first.leader(), |info| info.as_ref().is_some_and(|info| info.epoch == leadership.epoch())).await;
    assert_eq!(info.expect("it is there").announcement, announcement("second"));
    assert!(is_deposed(old.write(put("too late")).await));
    assert_eq!(leadership.state().get("key").await.expect("it leads"), Some(b"two".to_vec()));
}

#[tokio::test]
async fn a_server_with_a_certificate_of_our_authority_is_trusted() {
    let ours = Authority::new("ours");
    let Some(server) = ours.server("127.0.0.1", None) else { return };
    let options = tls_options(server.endpoint(), ours.ca(), None);
    one_leads_writes_and_is_replaced(server, options).await;
}

/// The servers' authority and the clients' need not be the same.
#[tokio::test]
async fn a_server_that_wants_a_certificate_gets_ours() {
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    // It asks itself, too.
    let both = servers.dir.path().join("both.pem");
    fs::write(&both, servers.issuer.pem() + &clients.issuer.pem()).expect("a file");
    let Some(server) = servers.server("127.0.0.1", Some(both)) else { return };
    let options = tls_options(server.endpoint(), servers.ca(), Some(clients.give("coordinator")));
    one_leads_writes_and_is_replaced(server, options).await;
}

/// Who would lead is told why it cannot, and does not wait for it.
async fn is_refused(options: &StateOptions, why: &str) {
    let begun = Instant::now();
    let refused = soon(candidate(&client(options), "a").lead()).await.expect_err("they do not trust each other");
    assert!(begun.elapsed() < options.timeout / 2, "{:?}", begun.elapsed());
    assert_eq!(refused, StateError::Untrusted(format!("{}: {why}", options.endpoints[0])));
}

#[tokio::test]
async fn a_server_that_is_not_trusted_is_said_to_be_so() {
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let Some(server) = ours.server("127.0.0.1", None) else { return };
    let ca = others.ca();
    let why = format!(
        "the server's certificate is not trusted (UnknownIssuer): put the certificate of its authority into {}",
        ca.display()
    );
    is_refused(&tls_options(server.endpoint(), ca, None), &why).await;
    // Of the same name it is another one all the same.
    let namesake = Authority::new("ours");
    let ca = namesake.ca();
    let why = why
        .replace("UnknownIssuer", "BadSignature")
        .replace(&others.ca().display().to_string(), &ca.display().to_string());
    is_refused(&tls_options(server.endpoint(), ca, None), &why).await;
    let Some(server) = ours.server("etcd.example", None) else { return };
    let why = "the server's certificate is not trusted (certificate not valid for name \"127.0.0.1\"; certificate is only valid \
               for DnsName(\"etcd.example\")): write the endpoint with a name or address that the certificate has";
    is_refused(&tls_options(server.endpoint(), ours.ca(), None), why).await;
}

#[tokio::test]
async fn a_client_that_is_not_trusted_is_told_so() {
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let Some(server) = ours.server("127.0.0.1", Some(ours.ca())) else { return };
    let why = "the server wants a certificate of its clients, and we have none: give one of an authority that etcd trusts (its \
               --trusted-ca-file), and its key";
    is_refused(&tls_options(server.endpoint(), ours.ca(), None), why).await;
    let identity = others.give("coordinator");
    let why = format!(
        "the server does not take our certificate {} (BadCertificate): it must be valid, for clients, and of an authority that etcd \
         trusts (its --trusted-ca-file)",
        identity.0.display()
    );
    is_refused(&tls_options(server.endpoint(), ours.ca(), Some(identity)), &why).await;
}

#[tokio::test]
async fn a_server_that_is_trusted_suffices() {
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let (Some(wrong), Some(right)) = (others.server("127.0.0.1", None), ours.server("127.0.0.1", None)) else { return };
    let mut options = tls_options(wrong.endpoint(), ours.ca(), None);
    options.endpoints.push(right.endpoint());
    let candidate = candidate(&client(&options), "a");
    lead(&candidate).await.state().write(put("value")).await.expect("it leads");
    until(&mut candidate.coordinators(), |there| there.len() == 1).await;
}

/// It is waited for, but whoever looks learns of the one that could be used.
#[tokio::test]
async fn a_server_that_is_not_trusted_is_not_hidden_by_one_that_is_away() {
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let Some(wrong) = others.server("127.0.0.1", None) else { return };
    let away = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let mut options = tls_options(wrong.endpoint(), ours.ca(), None);
    options.endpoints.push(format!("https://{away}"));
    options.timeout = Duration::from_secs(1);
    let error = StateError::from(client(&options).leader().await.expect_err("nobody answers"));
    let StateError::Unavailable(message) = error else { panic!("{error}") };
    assert!(message.contains("the server's certificate is not trusted (UnknownIssuer)"), "{message}");
}

#[tokio::test]
async fn a_server_that_is_away_is_waited_for() {
    let ours = Authority::new("ours");
    let Some(mut server) = ours.server("127.0.0.1", None) else { return };
    server.kill();
    let options = tls_options(server.endpoint(), ours.ca(), None);
    let candidate = candidate(&client(&options), "a");
    let mut leading = std::pin::pin!(candidate.lead());
    let early = tokio::time::timeout(Duration::from_millis(300), &mut leading).await;
    assert!(early.is_err(), "{early:?}");
    server.restart().expect("etcd starts again");
    soon(leading).await.expect("a leadership");
}

/// etcd reads its certificate for each connection.
#[tokio::test]
async fn a_leader_outlasts_a_certificate_that_was_wrong_for_a_moment() {
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let Some(mut server) = ours.server("127.0.0.1", None) else { return };
    let certificates = |from: &Authority| {
        let (cert, key) = from.give("127.0.0.1");
        for (from, to) in [(cert, "127.0.0.1.pem"), (key, "127.0.0.1.key")] {
            let to = ours.dir.path().join(to);
            if from != to {
                fs::copy(from, to).expect("a file");
            }
        }
    };
    let ttl = super::TTL;
    let options = tls_options(server.endpoint(), ours.ca(), None);
    let candidate = candidate(&client(&options), "a");
    let leadership = lead(&candidate).await;
    leadership.state().write(put("before")).await.expect("it leads");
    certificates(&others);
    server.restart().expect("etcd starts again");
    let refused = leadership.state().write(put("meanwhile")).await.expect_err("it is not trusted");
    assert!(matches!(refused, StateError::Untrusted(_)) && refused.is_retryable(), "{refused}");
    // A keep-alive fails meanwhile.
    let is_over = tokio::time::timeout(ttl / 2, leadership.lost()).await.is_ok();
    assert!(!is_over && leadership.is_valid());
    certificates(&ours);
    let is_over = tokio::time::timeout(ttl, leadership.lost()).await.is_ok();
    assert!(!is_over && leadership.is_valid());
    leadership.state().write(put("after")).await.expect("it leads");
}

#[tokio::test]
async fn files_that_are_not_what_they_should_be_are_named() {
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let [missing, empty, strange] = ["missing", "empty", "strange"].map(|name| ours.dir.path().join(name));
    fs::write(&empty, "").expect("a file");
    fs::write(&strange, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").expect("a file");
    let ((cert, key), (_, other_key)) = (ours.give("client"), others.give("client"));
    let said = |ca: &Path, identity: Option<(&Path, &Path)>| {
        let identity = identity.map(|(cert, key)| (cert.to_owned(), key.to_owned()));
        let refused = Etcd::new(tls_options("https://127.0.0.1:1".to_owned(), ca.to_owned(), identity));
        let error = refused.expect_err("a file is wrong");
        assert!(matches!(error, StateError::Invalid(_)), "{error:?}");
        error.to_string()
    };
    let named = |setting: &str, path: &Path, why: &str| format!("{setting}: {}: {why}", path.display());
    assert_eq!(said(&missing, None), named("etcd_ca", &missing, "No such file or directory (os error 2)"));
    assert_eq!(said(&empty, None), named("etcd_ca", &empty, "there is no certificate in it (PEM)"));
    assert_eq!(said(&strange, None), named("etcd_ca", &strange, "no certificate in it is one of an authority"));
    assert_eq!(said(&ours.ca(), Some((&key, &key))), named("etcd_cert", &key, "there is no certificate in it (PEM)"));
    assert_eq!(
        said(&ours.ca(), Some((&cert, &cert))),
        named("etcd_key", &cert, "there is no private key in it (PEM): no items found")
    );
    let unfit = format!("it does not go with {}: keys may not be consistent: KeyMismatch", other_key.display());
    assert_eq!(said(&ours.ca(), Some((&cert, &other_key))), named("etcd_cert", &cert, &unfit));
}
