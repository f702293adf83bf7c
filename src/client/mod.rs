//! Who runs a statement: an engine in this process, or a server.

mod embedded;
mod remote;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use futures::stream::BoxStream;
use onward_coordinator::QueryProgress;
use onward_wire::WireError;
use tokio::sync::watch;

pub use self::embedded::Embedded;
pub use self::remote::{Remote, RemoteOptions};

/// Runs statements in one session.
pub enum Client {
    /// In this process.
    Embedded(Embedded),
    /// On a server.
    Remote(Remote),
}

/// A statement that runs. Dropping the stream cancels it.
pub struct Running {
    /// Schema of its rows; empty for definitions and settings.
    pub schema: SchemaRef,
    /// Its rows.
    pub stream: BoxStream<'static, Result<RecordBatch, WireError>>,
    /// How far it is, where that is known.
    pub progress: Option<watch::Receiver<QueryProgress>>,
}

impl Client {
    /// Starts one statement. Dropping the future cancels it.
    ///
    /// # Errors
    /// Those of parsing, planning and reaching the server; those of running come through the stream.
    pub async fn execute(&self, sql: &str) -> Result<Running, WireError> {
        match self {
            Self::Embedded(embedded) => embedded.execute(sql).await,
            Self::Remote(remote) => remote.execute(sql).await,
        }
    }

    /// Runs a statement for its rows: for small results.
    ///
    /// # Errors
    /// All of the statement's.
    pub async fn collect(&self, sql: &str) -> Result<Vec<RecordBatch>, WireError> {
        futures::TryStreamExt::try_collect(self.execute(sql).await?.stream).await
    }

    /// Ends the session and, where it runs in this process, the engine.
    pub async fn close(&self) {
        if let Self::Embedded(embedded) = self {
            embedded.close().await;
        }
    }
}
