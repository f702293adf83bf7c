//! One coordinator with function processes that all tests of the process share, while any of them runs.

use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use futures::TryStreamExt;
use onward_coordinator::{Coordinator, CoordinatorOptions, Session, SessionOptions};
use onward_wire::Config;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::single::Engine;
use super::tables;

/// A running coordinator that knows the test tables. Ended when the last test that holds it ends.
pub struct Cluster {
    runtime: Runtime,
    coordinator: Arc<Coordinator>,
    data: TempDir,
}

static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());

impl Cluster {
    /// The running one, or a new one.
    pub fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        shared.upgrade().unwrap_or_else(|| {
            let cluster = Arc::new(Self::start());
            *shared = Arc::downgrade(&cluster);
            cluster
        })
    }

    fn start() -> Self {
        let runtime = Runtime::new().expect("threads");
        let data = tempfile::tempdir().expect("a directory");
        // Small enough that the test tables take every way: inline, one segment, many segments.
        let config = Config {
            inline_attempt_bytes: 2 << 10,
            inline_exchange_bytes: 6 << 10,
            inline_query_bytes: 16 << 10,
            flush_bytes: 4 << 10,
            skewed_partition_bytes: 1 << 10,
            ..crate::support::config()
        };
        let function_program = Some(env!("CARGO_BIN_EXE_onward").into());
        let coordinator = runtime.block_on(async {
            tables::write_all(data.path()).await;
            let options = CoordinatorOptions { config, function_program, ..CoordinatorOptions::default() };
            let coordinator = Coordinator::start(options).await.expect("the coordinator starts");
            let session = coordinator.session(SessionOptions::default()).expect("a session");
            for definition in tables::definitions(data.path()) {
                session.run(&definition).await.unwrap_or_else(|error| panic!("{definition}: {error}"));
            }
            coordinator
        });
        Self { runtime, coordinator, data }
    }

    /// Runs a future on the cluster's threads.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// A new session with `settings` (statements).
    pub async fn session(&self, settings: &[String]) -> Arc<Session> {
        let session = self.coordinator.session(SessionOptions::default()).expect("a session");
        // A query that hangs is an error with a name, not a test run without an end.
        let timeout = "SET onward.statement_timeout_ms = 120000".to_owned();
        for setting in std::iter::once(&timeout).chain(settings) {
            session.run(setting).await.unwrap_or_else(|error| panic!("{setting}: {error}"));
        }
        session
    }

    /// Where the tables lie.
    pub fn data(&self) -> &Path {
        self.data.path()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.runtime.block_on(self.coordinator.shutdown(Duration::ZERO));
    }
}

#[async_trait]
impl Engine for Arc<Session> {
    async fn run(&self, sql: &str) -> Result<(SchemaRef, Vec<RecordBatch>), String> {
        let execution = self.execute(sql).await.map_err(|error| error.to_string())?;
        let schema = Arc::clone(&execution.schema);
        let batches = execution.stream.try_collect().await.map_err(|error| error.to_string())?;
        Ok((schema, batches))
    }
}
