//! A coordinator without functions: what becomes of statements whose clients go away, and of writes that commit.

mod clients;
mod commits;
mod gated;
mod lost_answers;

use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::{AsArray, RecordBatch};
use futures::TryStreamExt;
use onward_cache::StoreHandle;
use onward_wire::{Config, QueryId};
use tempfile::TempDir;
use url::Url;

use self::gated::{Completion, Gate, GatedStore};
use crate::{Coordinator, CoordinatorOptions, Session, SessionOptions};

/// Longer than anything here takes on a busy machine; a hang fails instead of blocking.
const PATIENCE: Duration = Duration::from_secs(60);

/// A coordinator and a session; `s3://bucket` is a store with a gate.
struct Fixture {
    coordinator: Arc<Coordinator>,
    session: Arc<Session>,
    store: Arc<GatedStore>,
    _root: TempDir,
}

impl Fixture {
    /// What `gate` names waits until it is opened.
    async fn with(gate: Gate) -> Self {
        let root = tempfile::tempdir().unwrap();
        let config = Config { spill_dir: root.path().display().to_string(), ..Config::default() };
        let function_program = Some("/nonexistent".into());
        let options = CoordinatorOptions { config, function_program, ..CoordinatorOptions::default() };
        let coordinator = Coordinator::start(options).await.unwrap();
        let store = Arc::new(GatedStore::new(gate));
        let handle = StoreHandle { store: store.clone(), multipart: Some(store.clone()), is_local: false };
        coordinator.resources.stores().register_handle(&Url::parse("s3://bucket").unwrap(), handle);
        let session = coordinator.session(SessionOptions::default()).unwrap();
        Self { coordinator, session, store, _root: root }
    }

    async fn rows(&self, sql: &str) -> Vec<RecordBatch> {
        self.session.execute(sql).await.unwrap().stream.try_collect().await.unwrap()
    }

    /// How `system.queries` lists the statements that contain `part`: state and error.
    async fn listed(&self, part: &str) -> Vec<(String, Option<String>)> {
        let sql = "select state, error, sql from system.queries where sql not like '%system.queries%'";
        let batches = self.rows(sql).await;
        let text = |batch: &RecordBatch, column: usize| -> Vec<Option<String>> {
            batch.column(column).as_string::<i32>().iter().map(|text| text.map(str::to_owned)).collect()
        };
        let rows = batches
            .iter()
            .flat_map(|batch| text(batch, 0).into_iter().zip(text(batch, 1)).zip(text(batch, 2)).collect::<Vec<_>>());
        rows.filter(|(_, sql)| sql.as_ref().unwrap().contains(part))
            .map(|((state, error), _)| (state.unwrap(), error))
            .collect()
    }

    /// The state of a statement once it does not run any more.
    async fn end(&self, part: &str) -> (String, Option<String>) {
        let ended = async {
            loop {
                match self.listed(part).await.pop().unwrap() {
                    (state, _) if state == "running" => tokio::task::yield_now().await,
                    ended => return ended,
                }
            }
        };
        tokio::time::timeout(PATIENCE, ended).await.expect("it ends")
    }
}

/// The one number of a write's answer.
fn count(rows: &[RecordBatch]) -> u64 {
    rows[0].column(0).as_primitive::<datafusion::arrow::datatypes::UInt64Type>().value(0)
}

/// Nothing is left of it to cancel.
fn assert_over(coordinator: &Coordinator, query: QueryId) {
    assert!(!coordinator.cancel(query), "{query} is still listed");
}
