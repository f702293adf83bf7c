//! `onward tls`: certificates of a cluster.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use onward_shuffle::flight::{CLUSTER_NAME, ClusterTls};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use super::Failure;

const INIT_HELP: &str = "\
Writes ca.pem and ca.key (the authority), host.pem and host.key (what every host of the cluster shows the others).
Copy all but ca.key to every machine, and start coordinator and hosts with --set cluster_dir=DIR.

  onward tls init ./cluster
  onward serve --cluster-listen 10.0.0.1:50052 --set cluster_dir=./cluster
  onward host --join grpc+tls://10.0.0.1:50052 --advertise 10.0.0.2:50052 --set cluster_dir=./cluster";

#[derive(Debug, Subcommand)]
pub(super) enum TlsCommand {
    /// Make a cluster's certificate authority and the certificate of its hosts
    Init(InitArgs),
}

#[derive(Debug, Args)]
#[command(after_help = INIT_HELP)]
pub(super) struct InitArgs {
    /// Directory to write into; must not have certificates yet
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

pub(super) fn run(command: TlsCommand) -> Result<(), Failure> {
    let TlsCommand::Init(InitArgs { dir }) = command;
    let files = certificates()?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(|error| failed(&dir, &error))?;
    for name in files.iter().map(|(name, _)| name) {
        let path = dir.join(name);
        if path.exists() {
            let path = path.display();
            return Err(Failure::Message(format!(
                "{path} is there already: a cluster's certificates are not replaced"
            )));
        }
    }
    for (name, text) in files {
        write(&dir.join(name), &text)?;
    }
    println!("certificates are in {}; keep {} off the hosts", dir.display(), ClusterTls::AUTHORITY_KEY);
    Ok(())
}

/// Names and contents of the files.
fn certificates() -> Result<[(&'static str, String); 4], Failure> {
    let authority_key = KeyPair::generate()?;
    let mut authority = parameters("onward cluster authority")?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority_certificate = authority.self_signed(&authority_key)?;

    let key = KeyPair::generate()?;
    let mut host = parameters("onward host")?;
    host.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    host.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    host.use_authority_key_identifier_extension = true;
    let certificate = host.signed_by(&key, &Issuer::from_params(&authority, &authority_key))?;
    Ok([
        (ClusterTls::AUTHORITY, authority_certificate.pem()),
        (ClusterTls::AUTHORITY_KEY, authority_key.serialize_pem()),
        (ClusterTls::CERTIFICATE, certificate.pem()),
        (ClusterTls::KEY, key.serialize_pem()),
    ])
}

/// rcgen's: valid from 1975 to 4096. Who wants less rolls the directory over by hand.
fn parameters(name: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut parameters = CertificateParams::new(vec![CLUSTER_NAME.to_owned()])?;
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    parameters.distinguished_name = names;
    Ok(parameters)
}

/// Keys are for the user alone; certificates need not be, but one rule is easier to keep.
fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| failed(path, &error))
}

fn failed(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Message(format!("{}: {error}", path.display()))
}
