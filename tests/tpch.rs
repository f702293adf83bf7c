//! The 22 queries of TPC-H at scale 0.01 through the whole system: Flight SQL client, endpoint, coordinator, function
//! processes, direct exchange. The rows must be the committed answers to the cent, not only within the tolerance of the
//! specification, which at this scale would hide lost rows.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use onward_coordinator::{Coordinator, CoordinatorOptions};
use onward_endpoint::{FlightServer, ServerOptions};
use onward_tpch::{Client, Dataset, Functions, GenerateOptions, Report, RunOptions};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A server of this process with function processes of the real binary.
struct TestServer {
    coordinator: Arc<Coordinator>,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl TestServer {
    async fn start(allowed: PathBuf) -> Self {
        let function_program = Some(PathBuf::from(env!("CARGO_BIN_EXE_onward")));
        let options = CoordinatorOptions { function_program, ..CoordinatorOptions::default() };
        let coordinator = Coordinator::start(options).await.expect("the coordinator starts");
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let options = ServerOptions { listen, allow_paths: vec![allowed], ..ServerOptions::default() };
        let server = FlightServer::bind(options, Arc::clone(&coordinator)).await.expect("a free port");
        let address = server.local_addr();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(async move {
            let stopped = async move { drop(stopped.await) };
            server.serve(stopped).await.expect("it serves");
        });
        Self { coordinator, address, stop, serving }
    }

    async fn stop(self) {
        drop(self.stop);
        self.serving.await.expect("the server ends");
        self.coordinator.shutdown(Duration::ZERO).await;
    }
}

/// Runs all queries with 1, 2 and 4 functions on data of `parts` files per table.
async fn run_all(parts: u32) -> Vec<Report> {
    let dir = tempfile::tempdir().expect("a directory");
    let options = GenerateOptions { parts, ..GenerateOptions::new(0.01, dir.path()) };
    let dataset = Dataset::open_or_generate(&options).expect("data");
    let server = TestServer::start(dataset.dir.clone()).await;
    let mut client = Client::connect(&format!("http://{}", server.address)).await.expect("it listens");
    let mut reports = Vec::new();
    for functions in [1, 2, 4] {
        let functions = Functions::Exactly(functions);
        let options = RunOptions { functions, verify: true, ..RunOptions::default() };
        reports.push(onward_tpch::run(&mut client, &dataset, &options).await.expect("tables are registered"));
    }
    drop(client);
    server.stop().await;
    reports
}

fn assert_exact(report: &Report) {
    assert_eq!(report.queries.len(), 22);
    for query in &report.queries {
        let name = format!("Q{} with {} functions", query.query, report.functions);
        assert_eq!(query.error, None, "{name}");
        assert_eq!((query.verified, &query.inexact), (Some(true), &None), "{name}");
        assert_eq!(query.intermediate_requests, 0, "{name}: nothing intermediate touches the object store");
        assert!(query.stages > 0, "{name}: forced functions leave no short cut through the coordinator");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_queries_are_right_on_one_file_per_table() {
    for report in run_all(1).await {
        assert_exact(&report);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_queries_are_right_on_eight_files_per_table_and_use_every_function() {
    for report in run_all(8).await {
        assert_exact(&report);
        let Functions::Exactly(functions) = report.functions else { panic!("a number was asked for") };
        for query in &report.queries {
            assert_eq!(query.functions_used, u64::from(functions), "functions of Q{}", query.query);
        }
    }
}
