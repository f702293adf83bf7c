//! Who runs a statement: an engine in this process, or a server.

mod embedded;
mod reach;
mod remote;

use std::sync::Arc;
use std::time::Duration;

use arrow_flight::{Action, CancelFlightInfoRequest, CancelStatus, FlightClient, FlightInfo};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use onward_coordinator::accounting::QueryCost;
use onward_coordinator::{Coordinator, QueryProgress};
use onward_endpoint::QUERY_COST;
use onward_wire::{QueryId, WireError};
use tokio::sync::watch;

pub use self::embedded::Embedded;
pub use self::reach::until_listening;
pub use self::remote::{Remote, RemoteOptions};

/// Runs statements in one session.
pub enum Client {
    /// In this process.
    Embedded(Box<Embedded>),
    /// On a server.
    Remote(Box<Remote>),
}

/// A statement that runs. Dropping the stream cancels it.
pub struct Running {
    /// Schema of its rows; empty for definitions and settings.
    pub schema: SchemaRef,
    /// Its rows.
    pub stream: BoxStream<'static, Result<RecordBatch, WireError>>,
    /// How far it is, where that is known.
    pub progress: Option<watch::Receiver<QueryProgress>>,
    end: End,
}

/// Who can end a statement.
enum End {
    Embedded(Arc<Coordinator>, QueryId),
    Remote(Box<FlightClient>, FlightInfo),
}

/// A server that has not told what a query cost after this long is not waited for.
const COST_TIMEOUT: Duration = Duration::from_secs(2);

/// A server that has not answered a cancel after this long is not waited for.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

impl Running {
    /// What it took and cost, once its rows are there; `None` where the server does not say.
    pub async fn cost(&mut self) -> Option<QueryCost> {
        match &mut self.end {
            End::Embedded(coordinator, query) => coordinator.cost(*query),
            End::Remote(client, info) => {
                let query = info.app_metadata.split(|byte| *byte == b'\n').next().unwrap_or_default().to_vec();
                let asked = client.do_action(Action::new(QUERY_COST, query));
                let mut answers = tokio::time::timeout(COST_TIMEOUT, asked).await.ok()?.ok()?;
                serde_json::from_slice(&answers.try_next().await.ok()??).ok()
            }
        }
    }

    /// Ends the statement: it will have no effect. False when it cannot be ended any more, because it commits, has
    /// committed, or has given its last row: then the stream tells what came of it.
    pub async fn cancel(&mut self) -> bool {
        match &mut self.end {
            End::Embedded(coordinator, query) => coordinator.cancel(*query),
            End::Remote(client, info) => {
                let cancel = client.cancel_flight_info(CancelFlightInfoRequest::new(info.clone()));
                let answer = tokio::time::timeout(CANCEL_TIMEOUT, cancel).await;
                // Without an answer the dropped stream ends it.
                !matches!(answer, Ok(Ok(answer)) if answer.status() == CancelStatus::NotCancellable)
            }
        }
    }
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
        self.execute(sql).await?.stream.try_collect().await
    }

    /// A statement is started, and what is no query run to its end, by somebody who cannot be asked meanwhile.
    pub fn is_remote(&self) -> bool {
        matches!(self, Self::Remote(_))
    }

    /// Ends the session and, where it runs in this process, the engine.
    pub async fn close(&self) {
        if let Self::Embedded(embedded) = self {
            embedded.close().await;
        }
    }
}
