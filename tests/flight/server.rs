//! A server on a free port, and clients of it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow_flight::FlightInfo;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::sql::client::FlightSqlServiceClient;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::TryStreamExt;
use onward_coordinator::{Coordinator, CoordinatorOptions};
use onward_endpoint::{FlightServer, ServerOptions};
use onward_wire::Config;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

pub type SqlClient = FlightSqlServiceClient<Channel>;

/// Longest wait for something that must happen; only a broken server needs it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A series nobody lives to see the end of, as a query that gives its first rows at once ...
pub const ENDLESS_ROWS: &str = "SELECT value FROM generate_series(1, 9000000000000000)";
/// ... and as one that gives none.
pub const ENDLESS_SUM: &str = "SELECT sum(value) FROM generate_series(1, 9000000000000000)";

pub struct TestServer {
    pub coordinator: Arc<Coordinator>,
    pub address: SocketAddr,
    /// Files here can be named in statements.
    pub dir: TempDir,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl TestServer {
    /// With default limits, no token, no TLS.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// With options changed by `adjust`; limits are taken from its `config`.
    pub async fn start_with(adjust: impl FnOnce(&mut ServerOptions)) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let config = Config {
            vcpus: 2,
            memory_bytes: 1 << 30,
            segment_memory_bytes: 32 << 20,
            spill_dir: dir.path().join("spill").display().to_string(),
            ..crate::support::config()
        };
        let mut options = ServerOptions {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            allow_paths: vec![dir.path().to_owned()],
            config,
            ..ServerOptions::default()
        };
        adjust(&mut options);
        std::fs::create_dir_all(dir.path().join("spill")).expect("a directory");
        let coordinator = Coordinator::start(CoordinatorOptions {
            config: options.config.clone(),
            function_program: Some(PathBuf::from(env!("CARGO_BIN_EXE_onward"))),
            ..CoordinatorOptions::default()
        });
        let coordinator = coordinator.await.expect("the coordinator starts");
        let server = FlightServer::bind(options, Arc::clone(&coordinator)).await.expect("a free port");
        let address = server.local_addr();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(async move {
            server.serve(async move { drop(stopped.await) }).await.expect("it serves");
        });
        Self { coordinator, address, dir, stop, serving }
    }

    /// A connection of its own, so a session of its own.
    pub async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).expect("an address");
        endpoint.connect().await.expect("it listens")
    }

    /// A Flight SQL client on a connection of its own.
    pub async fn client(&self) -> SqlClient {
        FlightSqlServiceClient::new(self.channel().await)
    }

    /// A file in the directory that statements can name.
    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Tells the server to end; `stop` waits for it.
    pub async fn stop(self) {
        drop(self.stop);
        tokio::time::timeout(PATIENCE, self.serving).await.expect("it ends in time").expect("the server ends");
        self.coordinator.shutdown(Duration::ZERO).await;
    }

    /// Tells the server to end and gives the task that ends with it.
    pub fn begin_stop(self) -> (JoinHandle<()>, Arc<Coordinator>, TempDir) {
        drop(self.stop);
        (self.serving, self.coordinator, self.dir)
    }
}

/// Waits until no statement runs any more: a leak is a wait that does not end.
pub async fn assert_idle(coordinator: &Coordinator) {
    let idle = coordinator.shutdown(10 * PATIENCE);
    tokio::time::timeout(PATIENCE, idle).await.expect("statements still run that nobody wants");
}

/// The rows of a FlightInfo.
pub async fn fetch(client: &mut SqlClient, info: &FlightInfo) -> Result<Vec<RecordBatch>, FlightError> {
    open(client, info).await?.try_collect().await
}

/// The stream of a FlightInfo with one endpoint.
pub async fn open(client: &mut SqlClient, info: &FlightInfo) -> Result<FlightRecordBatchStream, FlightError> {
    let [endpoint] = info.endpoint.as_slice() else { panic!("{} endpoints", info.endpoint.len()) };
    client.do_get(endpoint.ticket.clone().expect("a ticket")).await
}

/// Runs a statement.
pub async fn query(client: &mut SqlClient, sql: &str) -> Result<Vec<RecordBatch>, FlightError> {
    let info = client.execute(sql.to_owned(), None).await?;
    fetch(client, &info).await
}

/// Runs a statement; its rows as text, cells joined by `|`.
pub async fn rows(client: &mut SqlClient, sql: &str) -> Vec<String> {
    text(&query(client, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}")))
}

/// Rows as text, cells joined by `|`.
pub fn text(batches: &[RecordBatch]) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let mut rows = Vec::new();
    for batch in batches {
        let columns: Vec<_> = (batch.columns().iter())
            .map(|column| ArrayFormatter::try_new(column, &options).expect("a printable type"))
            .collect();
        let cells = |row: usize| columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>();
        rows.extend((0..batch.num_rows()).map(|row| cells(row).join("|")));
    }
    rows
}

/// The gRPC status of a failed call.
pub fn status<T>(failed: Result<T, FlightError>) -> Status {
    match failed.err().expect("it fails") {
        FlightError::Tonic(status) => *status,
        other => panic!("not a status: {other}"),
    }
}

/// Code and message of a failed call.
pub fn code<T>(failed: Result<T, FlightError>) -> (Code, String) {
    let status = status(failed);
    (status.code(), status.message().to_owned())
}

/// Writes a Parquet file of `sql` with single-process DataFusion.
pub async fn write_parquet(path: &Path, sql: &str) {
    let context = datafusion::prelude::SessionContext::new();
    let frame = context.sql(sql).await.expect("a query");
    let options = datafusion::dataframe::DataFrameWriteOptions::new().with_single_file_output(true);
    frame.write_parquet(&path.display().to_string(), options, None).await.expect("a file");
}
