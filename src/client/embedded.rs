//! An engine in this process, started by the first statement.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use onward_coordinator::{Coordinator, CoordinatorOptions, Session, SessionOptions};
use onward_wire::WireError;
use tokio::sync::OnceCell;

use super::{End, Running};

/// A coordinator with its host and one session.
pub struct Embedded {
    options: CoordinatorOptions,
    started: OnceCell<(Arc<Coordinator>, Arc<Session>)>,
}

impl Embedded {
    /// Starts nothing yet.
    pub fn new(options: CoordinatorOptions) -> Self {
        Self { options, started: OnceCell::new() }
    }

    async fn session(&self) -> Result<&(Arc<Coordinator>, Arc<Session>), WireError> {
        let start = || async {
            let coordinator = Coordinator::start(self.options.clone()).await?;
            let session = coordinator.session(SessionOptions::default())?;
            Ok::<_, onward_coordinator::QueryError>((coordinator, session))
        };
        self.started.get_or_try_init(start).await.map_err(|error| error.error)
    }

    pub(super) async fn execute(&self, sql: &str) -> Result<Running, WireError> {
        let (coordinator, session) = self.session().await?;
        let execution = session.execute(sql).await.map_err(|error| error.error)?;
        let stream = execution.stream.map_err(|error| error.error).boxed();
        let end = End::Embedded(Arc::clone(coordinator), execution.query);
        Ok(Running { schema: execution.schema, stream, progress: Some(execution.progress), end })
    }

    pub(super) async fn close(&self) {
        if let Some((coordinator, _)) = self.started.get() {
            coordinator.shutdown(Duration::ZERO).await;
        }
    }
}
