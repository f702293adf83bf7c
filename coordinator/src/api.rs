//! The coordinator's door: what endpoint, CLI and embedders use.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::DataFusionError;
use futures::Stream;
use onward_planner::error::classify;
use onward_state::Fenced;
use onward_wire::error::WireError;
use onward_wire::{Config, QueryId};

use crate::engine::LocatedResult;
use crate::session::PreparedStatement;
use crate::term::Term;

/// An error a client sees: its kind, its message, and the query it belongs to.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{error}")]
pub struct QueryError {
    /// Kind, message, retryable.
    pub error: WireError,
    /// Set once the query has an id.
    pub query: Option<QueryId>,
}

/// Shorthand.
pub type Result<T, E = QueryError> = std::result::Result<T, E>;

impl From<WireError> for QueryError {
    fn from(error: WireError) -> Self {
        Self { error, query: None }
    }
}

impl From<DataFusionError> for QueryError {
    fn from(error: DataFusionError) -> Self {
        classify(&error).into()
    }
}

/// How to start a coordinator with its embedded host.
#[derive(Clone, Debug, Default)]
pub struct CoordinatorOptions {
    /// All limits.
    pub config: Config,
    /// Catalog and tables made by CREATE TABLE AS; `None` = a temporary one, removed at shutdown.
    pub data_dir: Option<PathBuf>,
    /// The program that function processes run (`PROGRAM function ...`); `None` = this executable.
    pub function_program: Option<PathBuf>,
    /// Where several coordinators keep what they share; `None`: it is alone, and keeps it in `data_dir`.
    pub state: Option<Fenced>,
    /// Of several coordinators: since when it leads. The default: it is alone.
    pub term: Term,
}

/// What a session may do.
#[derive(Clone, Debug, Default)]
pub struct SessionOptions {
    /// Local paths must lie below one of these; `None` = any path (CLI, embedding).
    pub allowed_paths: Option<Vec<PathBuf>>,
    /// Whose statements they are; may be empty. Users share places and functions evenly. It gives no rights.
    pub user: Arc<str>,
}

/// A statement that was parsed, and planned for what is told here. Each execution plans it anew.
#[derive(Clone)]
pub struct Prepared {
    /// The text.
    pub sql: String,
    /// Schema of its rows; empty for statements without rows.
    pub schema: SchemaRef,
    /// One field per parameter, named `$1`, `$2`, ...; type Null where it could not be inferred.
    pub parameters: SchemaRef,
    /// It gives rows (SELECT, SHOW, EXPLAIN ...) rather than an affected-row count.
    pub is_query: bool,
    pub(crate) statement: PreparedStatement,
}

/// A stream of result batches, all of the execution's schema.
pub type ResultStream = Pin<Box<dyn Stream<Item = Result<RecordBatch>> + Send>>;

/// A statement that runs. Dropping the stream cancels it.
pub struct Execution {
    /// Its id, for `cancel` and `system.queries`.
    pub query: QueryId,
    /// Schema of its rows.
    pub schema: SchemaRef,
    /// As in [`Prepared::is_query`], but for EXPLAIN ANALYZE of a write: false for definitions, settings and whatever
    /// writes, which the endpoint runs to their end even when the client never fetches.
    pub is_query: bool,
    /// Its rows. For INSERT, COPY and CREATE TABLE AS: one row, column `count` (UInt64).
    pub stream: ResultStream,
    /// Set for a query whose session wants direct results, where hosts hold some: then all rows are there. They can be read from
    /// there, or through `stream`, which keeps them.
    pub located: Option<Arc<LocatedResult>>,
    /// How far it is.
    pub progress: tokio::sync::watch::Receiver<QueryProgress>,
}

/// How far a query is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueryProgress {
    /// Tasks of the query; 0 when it runs in the coordinator.
    pub tasks: u64,
    /// Tasks committed.
    pub tasks_done: u64,
    /// Functions working for it now.
    pub functions: u64,
    /// Rows written by all attempts so far.
    pub rows: u64,
    /// Bytes written by all attempts so far.
    pub bytes: u64,
    /// Its place in its queue, from 1; 0 when it does not wait.
    pub position: u64,
    /// Queries that waited in its queue when it came.
    pub queued: u64,
}
