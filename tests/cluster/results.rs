//! Results that clients fetch from the hosts that hold them.

use arrow_flight::error::FlightError;
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::{
    CancelFlightInfoRequest, FlightClient, FlightEndpoint, FlightInfo, RenewFlightEndpointRequest, Ticket,
};
use datafusion::arrow::array::RecordBatch;
use futures::TryStreamExt;
use onward_endpoint::{FlightServer, ServerOptions};
use onward_shuffle::flight::{pack, unpack};
use onward_wire::Config;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::hosts::Hosts;
use super::{define, expected, small};
use crate::oracle::rows::cells;

const PAIRS: &str = "SELECT a.id, b.id, a.grp FROM nums a JOIN nums b ON a.day = b.day";

/// A server with hosts, and a client that wants to fetch from them.
struct Cluster {
    hosts: Hosts,
    data: std::path::PathBuf,
    server: Channel,
    client: FlightSqlServiceClient<Channel>,
}

async fn connect(url: String) -> Channel {
    Endpoint::from_shared(url).expect("a URL").connect().await.expect("it listens")
}

impl Cluster {
    async fn start(config: Config) -> Self {
        let hosts = Hosts::start(None, 2, config).await;
        let data = define(&hosts).await;
        let options = ServerOptions {
            listen: ([127, 0, 0, 1], 0).into(),
            allow_paths: vec![data.clone()],
            config: hosts.config.clone(),
            ..ServerOptions::default()
        };
        let server = FlightServer::bind(options, std::sync::Arc::clone(&hosts.coordinator)).await.expect("a port");
        let url = format!("http://{}", server.local_addr());
        tokio::spawn(server.serve(std::future::pending()));
        let server = connect(url).await;
        let mut client = FlightSqlServiceClient::new(server.clone());
        for setting in
            ["SET onward.functions = 4", "SET datafusion.execution.batch_size = 7", "SET onward.direct_results = true"]
        {
            client.execute_update(setting.to_owned(), None).await.expect(setting);
        }
        Self { hosts, data, server, client }
    }

    async fn info(&mut self, sql: &str) -> FlightInfo {
        self.client.execute(sql.to_owned(), None).await.expect(sql)
    }

    /// What the server itself answers to a ticket.
    async fn proxied(&self, endpoint: &FlightEndpoint) -> Result<Vec<RecordBatch>, FlightError> {
        fetch(self.server.clone(), ticket(endpoint)).await
    }
}

fn ticket(endpoint: &FlightEndpoint) -> Ticket {
    endpoint.ticket.clone().expect("a ticket")
}

async fn fetch(channel: Channel, ticket: Ticket) -> Result<Vec<RecordBatch>, FlightError> {
    FlightClient::new(channel).do_get(ticket).await?.try_collect().await
}

/// What the host says that an endpoint names first.
async fn from_host(endpoint: &FlightEndpoint, ticket: Ticket) -> Result<Vec<RecordBatch>, FlightError> {
    let place = endpoint.location[0].uri.strip_prefix("grpc+tcp://").expect("a place");
    fetch(connect(format!("http://{place}")).await, ticket).await
}

fn code(error: &FlightError) -> Code {
    match error {
        FlightError::Tonic(status) => status.code(),
        other => panic!("{other}"),
    }
}

/// Hosts give the parts of a result that they hold, as often as asked; the server gives the same rows; and when the result is
/// let go, nobody gives any.
#[tokio::test(flavor = "multi_thread")]
async fn clients_fetch_results_from_the_hosts_that_hold_them() {
    let mut cluster = Cluster::start(small()).await;
    let info = cluster.info(PAIRS).await;
    let places: std::collections::BTreeSet<_> =
        info.endpoint.iter().map(|endpoint| endpoint.location[0].uri.clone()).collect();
    assert_eq!((info.endpoint.len(), places.len(), info.ordered), (4, 2, true), "{info}");
    for endpoint in &info.endpoint {
        assert_eq!(endpoint.location[1].uri, "arrow-flight-reuse-connection://?");
        assert!(endpoint.expiration_time.is_some());
    }

    let mut parts = Vec::new();
    for endpoint in info.endpoint.iter().rev() {
        let part = from_host(endpoint, ticket(endpoint)).await.expect("its host gives it");
        assert_eq!(from_host(endpoint, ticket(endpoint)).await.expect("and again"), part);
        assert_eq!(cluster.proxied(endpoint).await.expect("so does the server"), part);
        parts.push(part);
    }
    let batches: Vec<RecordBatch> = parts.into_iter().rev().flatten().collect();
    let (mut rows, mut right) = (cells(&batches).expect("rows"), expected(&cluster.data, PAIRS).await);
    rows.sort();
    right.sort();
    assert_eq!(rows, right);
    assert_eq!(Some(batches[0].schema().as_ref()), info.clone().try_decode_schema().ok().as_ref());

    // A ticket is for its own rows, and no client makes one.
    let mut forged = unpack(&ticket(&info.endpoint[0]).ticket).expect("one of ours");
    forged.partitions[0].end += 1;
    let refused = from_host(&info.endpoint[0], Ticket::new(pack(&forged))).await.expect_err("not in the grant");
    assert_eq!(code(&refused), Code::PermissionDenied);

    let mut client = FlightClient::new(cluster.server.clone());
    client.cancel_flight_info(CancelFlightInfoRequest::new(info.clone())).await.expect("it is let go");
    let endpoint = &info.endpoint[0];
    assert_eq!(code(&cluster.proxied(endpoint).await.expect_err("gone")), Code::Cancelled);
    // Hosts hear of it in their own time.
    while from_host(endpoint, ticket(endpoint)).await.is_ok() {}

    // Where there is nothing on a host, there is one ticket as ever.
    let info = cluster.info("SELECT count(*) FROM nums").await;
    assert!(info.endpoint.len() == 1 && info.endpoint[0].location.is_empty(), "{info}");
    assert_eq!(cells(&cluster.proxied(&info.endpoint[0]).await.expect("one row")).expect("rows").len(), 1);
    cluster.hosts.stop().await;
}

/// A ticket ends with the retention of its result; renewed, it lasts longer.
#[tokio::test(flavor = "multi_thread")]
async fn tickets_of_direct_results_expire_and_can_be_renewed() {
    let mut cluster = Cluster::start(Config { result_retention_ms: 3_600_000, ..small() }).await;
    let info = cluster.info(PAIRS).await;
    let endpoint = info.endpoint[0].clone();
    let mut expired = unpack(&ticket(&endpoint).ticket).expect("one of ours");
    let key = onward_shuffle::flight::GrantKey::random().expect("random numbers");
    let (own, other) = (expired.grant.payload.clone(), onward_wire::exchange::Grant::default());
    expired.grant = key.sign(&other);
    assert_ne!(expired.grant.payload, own);
    let refused = from_host(&endpoint, Ticket::new(pack(&expired))).await.expect_err("another cluster's");
    assert_eq!(code(&refused), Code::PermissionDenied);

    let mut client = FlightClient::new(cluster.server.clone());
    let renewed =
        client.renew_flight_endpoint(RenewFlightEndpointRequest::new(endpoint.clone())).await.expect("renewed");
    let until = |endpoint: &FlightEndpoint| {
        let time = endpoint.expiration_time.as_ref().expect("a time");
        (time.seconds, time.nanos)
    };
    assert!(until(&renewed) > until(&endpoint), "{:?} {:?}", until(&renewed), until(&endpoint));
    assert_ne!(renewed.ticket, endpoint.ticket, "the time is in the ticket");
    let rows = from_host(&renewed, ticket(&renewed)).await.expect("rows");
    assert_eq!(rows, from_host(&endpoint, ticket(&endpoint)).await.expect("rows"));
    cluster.hosts.stop().await;

    let mut cluster = Cluster::start(Config { result_retention_ms: 1, ..small() }).await;
    let endpoint = cluster.info(PAIRS).await.endpoint[0].clone();
    let mut error = from_host(&endpoint, ticket(&endpoint)).await;
    while error.is_ok() {
        error = from_host(&endpoint, ticket(&endpoint)).await;
    }
    assert_eq!(code(&error.expect_err("expired")), Code::Unavailable);
    cluster.hosts.stop().await;
}
