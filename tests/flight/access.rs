//! Who may call, over what: exposure, tokens, TLS, local paths, hostile input.

use std::net::SocketAddr;
use std::path::PathBuf;

use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::{FlightData, FlightDescriptor, SchemaAsIpc};
use datafusion::arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion::arrow::ipc::writer::IpcWriteOptions;
use onward_coordinator::{Coordinator, CoordinatorOptions};
use onward_endpoint::{EndpointError, FlightServer, ServerOptions, TlsFiles};
use prost::Message;
use tonic::Code;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use super::server::{TestServer, code, query, rows};

/// An address that others can reach needs token and TLS, or the user's word.
#[tokio::test(flavor = "multi_thread")]
async fn a_reachable_address_is_refused_without_protection() {
    let dir = tempfile::tempdir().expect("a directory");
    let token_file = dir.path().join("token");
    std::fs::write(&token_file, "secret\n").expect("a file");
    let coordinator = Coordinator::start(CoordinatorOptions::default()).await.expect("it starts");
    let listen = SocketAddr::from(([0, 0, 0, 0], 0));
    let bind = async |token_file: Option<PathBuf>, insecure: bool| {
        let options = ServerOptions { listen, token_file, insecure, ..ServerOptions::default() };
        FlightServer::bind(options, coordinator.clone()).await
    };
    let refused = bind(None, false).await.err().expect("refused").to_string();
    for flag in ["--token-file", "--tls-cert", "--tls-key", "--insecure"] {
        assert!(refused.contains(flag), "{refused}");
    }
    let refused = bind(Some(token_file), false).await.err().expect("refused");
    assert!(
        matches!(refused, EndpointError::Exposed { .. }) && refused.to_string().contains("--tls-cert"),
        "{refused}"
    );
    assert!(bind(None, true).await.is_ok());
    coordinator.shutdown(std::time::Duration::ZERO).await;
}

/// With a token file every call needs the token: as bearer, or as the password of a handshake.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let token_file = dir.path().join("token");
    std::fs::write(&token_file, "secret\n").expect("a file");
    let server = TestServer::start_with(|options| options.token_file = Some(token_file)).await;

    let mut client = server.client().await;
    assert_eq!(code(query(&mut client, "SELECT 1").await).0, Code::Unauthenticated);
    client.set_token("wrong".to_owned());
    assert_eq!(code(query(&mut client, "SELECT 1").await).0, Code::Unauthenticated);
    client.set_token("secret".to_owned());
    assert_eq!(rows(&mut client, "SELECT 1").await, ["1"]);

    let mut client = server.client().await;
    assert!(client.handshake("ann", "wrong").await.is_err());
    client.handshake("ann", "secret").await.expect("the token is the password");
    assert_eq!(rows(&mut client, "SELECT 1").await, ["1"]);
    server.stop().await;
}

/// TLS with a certificate of our own; a client that does not trust it gets nothing.
#[tokio::test(flavor = "multi_thread")]
async fn tls_is_served() {
    let dir = tempfile::tempdir().expect("a directory");
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&cert, certified.cert.pem()).expect("a file");
    std::fs::write(&key, certified.signing_key.serialize_pem()).expect("a file");
    let files = TlsFiles { cert: cert.clone(), key, ca: None };
    let server = TestServer::start_with(|options| options.tls = Some(files)).await;

    let url = format!("https://localhost:{}", server.address.port());
    let trusting = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(certified.cert.pem()));
    let endpoint = Endpoint::from_shared(url.clone()).expect("an address").tls_config(trusting).expect("TLS");
    let mut client = FlightSqlServiceClient::new(endpoint.connect().await.expect("it listens"));
    // Settings last on a TLS connection as they do on a plain one.
    query(&mut client, "SET datafusion.execution.batch_size = 77").await.expect("a setting");
    assert!(rows(&mut client, "SHOW datafusion.execution.batch_size").await.concat().ends_with("77"));

    let distrusting = Endpoint::from_shared(url).expect("an address").tls_config(ClientTlsConfig::new()).expect("TLS");
    assert!(distrusting.connect().await.is_err());
    server.stop().await;
}

/// A broken certificate is an error at start, with the file's name, not one of the first client.
#[tokio::test(flavor = "multi_thread")]
async fn broken_tls_files_are_refused_at_start() {
    let dir = tempfile::tempdir().expect("a directory");
    let broken = dir.path().join("broken.pem");
    std::fs::write(&broken, "not a certificate").expect("a file");
    let coordinator = Coordinator::start(CoordinatorOptions::default()).await.expect("it starts");
    for file in [broken, dir.path().join("missing.pem")] {
        let options = ServerOptions {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: Some(TlsFiles { cert: file.clone(), key: file.clone(), ca: None }),
            ..ServerOptions::default()
        };
        let refused = FlightServer::bind(options, coordinator.clone()).await.err().expect("refused").to_string();
        assert!(refused.contains(&file.display().to_string()), "{refused}");
    }
    coordinator.shutdown(std::time::Duration::ZERO).await;
}

/// Over Flight, local files are those below --allow-path.
#[tokio::test(flavor = "multi_thread")]
async fn local_paths_outside_are_denied() {
    let server = TestServer::start().await;
    let outside = tempfile::tempdir().expect("a directory");
    for (dir, is_allowed) in [(outside.path(), false), (server.dir.path(), true)] {
        let path = dir.join("t.parquet");
        super::server::write_parquet(&path, "SELECT 1 AS a").await;
        let mut client = server.client().await;
        let sql = format!("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{}'", path.display());
        let made = client.execute_update(sql, None).await;
        match is_allowed {
            true => assert_eq!(made.expect("it is allowed"), 0),
            false => assert_eq!(code(made).0, Code::PermissionDenied),
        }
    }
    server.stop().await;
}

/// Parameters with a broken schema fail that call at most; arrow's decoder panics on some, the server must not.
#[tokio::test(flavor = "multi_thread")]
async fn malformed_parameters_do_not_end_the_server() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let command = super::prepared::bind_command(&mut client, "SELECT $1::bigint").await.encode_to_vec();
    let schema = Schema::new(vec![
        Field::new("a", DataType::Time32(TimeUnit::Second), true),
        Field::new("b", DataType::Decimal128(10, 2), true),
        Field::new_list("c", Field::new_list_field(DataType::Utf8, true), true),
    ]);
    let right = FlightData::from(SchemaAsIpc::new(&schema, &IpcWriteOptions::default())).data_header;
    let cut = (0..right.len()).step_by(16).map(|end| right[..end].to_vec());
    let flipped = (0..right.len()).map(|at| {
        let mut wrong = right.to_vec();
        wrong[at] ^= 0xff;
        wrong
    });
    let mut refused = 0;
    for header in cut.chain(flipped) {
        let data = FlightData {
            flight_descriptor: Some(FlightDescriptor::new_cmd(command.clone())),
            data_header: header.into(),
            ..FlightData::default()
        };
        if let Err(error) = client.do_put(futures::stream::iter([data])).await {
            let (kind, message) = code(Err::<(), _>(error));
            assert_eq!(kind, Code::InvalidArgument, "{message}");
            refused += 1;
        }
    }
    assert!(refused > 0, "some of them are broken");
    assert_eq!(rows(&mut client, "SELECT 1").await, ["1"]);
    server.stop().await;
}
