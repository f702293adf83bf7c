//! How far a statement is: PollFlightInfo.
//!
//! ```text
//!   PollFlightInfo(statement) --> FlightInfo with a ticket, and, while the statement is not over, what to poll next
//!   PollFlightInfo(ticket) -----> the same, once there is news or POLL_WAIT is over
//! ```
//!
//! It starts a statement like GetFlightInfo, but for writes, which may go on after the first answer. The ticket can be
//! fetched at any time: its stream begins when there are rows. With direct results the first answer comes when the query is over.

use std::time::Duration;

use arrow_flight::sql::TicketStatementQuery;
use arrow_flight::{FlightDescriptor, FlightInfo, PollInfo};
use onward_coordinator::QueryProgress;
use prost::Message;
use tonic::{Request, Status};

use crate::actions::handle_of;
use crate::results::Running;
use crate::service::Service;

/// The longest that a poll waits for news.
const POLL_WAIT: Duration = Duration::from_millis(500);

/// The `app_metadata` of the endpoint that PollFlightInfo answers with, in protobuf.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Progress {
    /// Tasks of the query; 0 when it runs in the coordinator.
    #[prost(uint64, tag = "1")]
    pub tasks: u64,
    /// Tasks committed.
    #[prost(uint64, tag = "2")]
    pub tasks_done: u64,
    /// Functions working for it now.
    #[prost(uint64, tag = "3")]
    pub functions: u64,
    /// Rows written by all attempts so far, those of exchanges included.
    #[prost(uint64, tag = "4")]
    pub rows: u64,
    /// Bytes written by all attempts so far.
    #[prost(uint64, tag = "5")]
    pub bytes: u64,
    /// Its place in its queue, from 1; 0 when it does not wait.
    #[prost(uint64, tag = "6")]
    pub position: u64,
    /// Queries that waited in its queue when it came.
    #[prost(uint64, tag = "7")]
    pub queued: u64,
}

impl From<&QueryProgress> for Progress {
    fn from(progress: &QueryProgress) -> Self {
        let QueryProgress { tasks, tasks_done, functions, rows, bytes, position, queued } = *progress;
        Self { tasks, tasks_done, functions, rows, bytes, position, queued }
    }
}

impl From<Progress> for QueryProgress {
    fn from(progress: Progress) -> Self {
        let Progress { tasks, tasks_done, functions, rows, bytes, position, queued } = progress;
        Self { tasks, tasks_done, functions, rows, bytes, position, queued }
    }
}

/// On a call that starts a statement: its client will poll, so a write need not be over when it is answered.
#[derive(Clone, Copy)]
pub(crate) struct Polled;

pub(crate) fn is_polled<T>(request: &Request<T>) -> bool {
    request.extensions().get::<Polled>().is_some()
}

impl Service {
    /// The answer to the poll that started the statement of `info`.
    pub(crate) fn poll_started(&self, info: FlightInfo) -> PollInfo {
        let handle = info.endpoint.first().and_then(handle_of);
        match handle.and_then(|handle| self.results.get(&handle)) {
            Some(running) => poll_info(&running, info),
            // The answer of a question about the catalog.
            None => PollInfo::new().with_info(info),
        }
    }

    /// The answer to a later poll, when there is news.
    pub(crate) async fn poll(
        &self,
        ticket: &TicketStatementQuery,
        descriptor: FlightDescriptor,
    ) -> Result<PollInfo, Status> {
        let running = self.results.find(&ticket.statement_handle)?;
        running.news(POLL_WAIT).await?;
        Ok(poll_info(&running, self.flight_info(&running, descriptor)?))
    }
}

fn poll_info(running: &Running, mut info: FlightInfo) -> PollInfo {
    let progress = Progress::from(&running.progress());
    let mut poll = PollInfo::new();
    if let Some(endpoint) = info.endpoint.first_mut() {
        endpoint.app_metadata = progress.encode_to_vec().into();
        if running.is_working() {
            let ticket = endpoint.ticket.clone().unwrap_or_default();
            poll = poll.with_descriptor(FlightDescriptor::new_cmd(ticket.ticket));
        }
    }
    poll.progress = match (running.is_working(), progress.tasks) {
        (false, _) => Some(1.0),
        (true, 0) => None,
        (true, tasks) => Some(progress.tasks_done as f64 / tasks as f64),
    };
    poll.with_info(info)
}
