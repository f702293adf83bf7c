//! Executions whose rows wait for a client, or are being sent to one.
//!
//! ```text
//!   GetFlightInfo --> waiting --DoGet--> sending --last row--> gone
//!                       |                   |
//!                       +-- retention, cancel, timeout, dropped stream, closed connection --> cancelled and gone
//! ```
//!
//! An execution starts at GetFlightInfo, so that it has a query id and can be cancelled before anyone fetches. A ticket
//! can be fetched once: rows are streamed from where they lie, not kept a second time.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use futures::{Stream, StreamExt};
use onward_coordinator::accounting::QueryCost;
use onward_coordinator::{Coordinator, Execution, LocatedResult, QueryProgress, ResultStream};
use onward_wire::{ErrorKind, QueryId};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::handle::Handle;
use crate::session::ClientSession;
use crate::statement::failure;
use crate::status;

/// Results that wait or are being sent, of all sessions; more are refused.
const MAX_RESULTS: usize = 10_000;

/// Why an execution was ended before its last row.
#[derive(Clone, Copy)]
enum Ended {
    Cancelled,
    TimedOut { timeout_ms: u64 },
    Expired { retention_ms: u64 },
}

/// One execution.
pub(crate) struct Running {
    /// Its ticket.
    pub(crate) handle: Handle,
    /// Its query.
    pub(crate) query: QueryId,
    /// Schema of its rows, before it is fitted to clients.
    pub(crate) schema: SchemaRef,
    timeout: Option<Timeout>,
    /// Not so for what was over when its client got the ticket: nobody needs to fetch that.
    is_query: bool,
    state: Mutex<State>,
    /// Parts of it that are being read through this server.
    readers: AtomicUsize,
    expires: Mutex<Instant>,
    ended: CancellationToken,
    /// Its rows are all there, and can be read any number of times.
    pub(crate) located: Option<Arc<LocatedResult>>,
    /// Closed when its functions are done with it, or when none work for it.
    progress: watch::Receiver<QueryProgress>,
    /// Of a write that its client polls for: cancelled when it is over.
    written: Option<CancellationToken>,
    /// A session lives as long as its results.
    session: Arc<ClientSession>,
}

enum State {
    Waiting(ResultStream),
    Sending,
    /// Kept until its client asks or the retention is over, so that the client learns why.
    Ended(Ended),
}

/// All results of the endpoint.
pub(crate) struct Results {
    coordinator: Arc<Coordinator>,
    retention: Duration,
    /// Since when there are results here.
    since: Instant,
    running: Mutex<HashMap<Handle, Arc<Running>>>,
    /// Told when a result has ended or was sent.
    freed: Notify,
}

impl Results {
    /// No result yet; unfetched ones will be kept for `retention`.
    pub(crate) fn new(coordinator: Arc<Coordinator>, retention: Duration) -> Arc<Self> {
        let (since, running, freed) = (Instant::now(), Mutex::default(), Notify::new());
        Arc::new(Self { coordinator, retention, since, running, freed })
    }

    /// What a query took and cost; `None` when it is forgotten.
    pub(crate) fn cost(&self, query: QueryId) -> Option<QueryCost> {
        self.coordinator.cost(query)
    }

    /// Keeps an execution for its client; past `timeout` it is cancelled, fetched or not. `written` tells the end of a write
    /// that goes on.
    pub(crate) fn keep(
        self: &Arc<Self>,
        execution: Execution,
        session: Arc<ClientSession>,
        timeout: Option<Timeout>,
        written: Option<CancellationToken>,
    ) -> Result<Arc<Running>, Status> {
        let running = Arc::new(Running {
            handle: Handle::random()?,
            query: execution.query,
            schema: execution.schema,
            timeout,
            is_query: execution.is_query || written.is_some(),
            state: Mutex::new(State::Waiting(execution.stream)),
            readers: AtomicUsize::new(0),
            expires: Mutex::new(Instant::now() + self.retention),
            ended: CancellationToken::new(),
            session,
            located: execution.located,
            progress: execution.progress,
            written,
        });
        {
            let mut all = self.running.lock();
            if all.len() >= MAX_RESULTS {
                let message = format!("{MAX_RESULTS} results wait for their clients: fetch or cancel some");
                return Err(status::new(ErrorKind::ResourceExhausted, message, Some(running.query)));
            }
            all.insert(running.handle, running.clone());
        }
        // Its client may have gone while this was started: then nobody else ends it.
        if running.session.is_closed() {
            self.give_up(&running);
            return Err(status::cancelled(Some(running.query)));
        }
        if let Some(timeout) = timeout.filter(|_| running.located.is_none()) {
            self.watch(&running, timeout);
        }
        Ok(running)
    }

    /// Ends `running` at its deadline, even while nobody reads its rows.
    pub(crate) fn watch(self: &Arc<Self>, running: &Arc<Running>, timeout: Timeout) {
        let (results, running, ended) = (self.clone(), Arc::downgrade(running), running.ended.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = ended.cancelled() => {}
                () = tokio::time::sleep_until(timeout.deadline.into()) => {
                    if let Some(running) = running.upgrade() {
                        results.end(&running, Ended::TimedOut { timeout_ms: timeout.timeout_ms });
                    }
                }
            }
        });
    }

    /// The execution of a ticket, fetched or not.
    pub(crate) fn get(&self, ticket: &[u8]) -> Option<Arc<Running>> {
        let handle = Handle::parse(ticket)?;
        self.running.lock().get(&handle).cloned()
    }

    /// Starts to send the rows of `running`. Dropping the stream cancels what has not been sent.
    pub(crate) fn fetch(
        self: &Arc<Self>,
        running: Arc<Running>,
    ) -> Result<impl Stream<Item = Result<RecordBatch, Status>> + Send + use<>, Status> {
        let stream = {
            let mut state = running.state.lock();
            match std::mem::replace(&mut *state, State::Sending) {
                State::Waiting(stream) => stream,
                State::Sending => return Err(fetched_already(running.query)),
                State::Ended(why) => {
                    *state = State::Ended(why);
                    drop(state);
                    self.forget(running.handle);
                    return Err(why.status(running.query));
                }
            }
        };
        let sending = Sending { results: self.clone(), running };
        Ok(futures::stream::unfold(Some((sending, stream)), async |state| {
            let (sending, mut stream) = state?;
            let next = tokio::select! {
                biased;
                () = sending.running.ended.cancelled() => Some(Err(sending.running.end_status())),
                next = stream.next() => next.map(|rows| rows.map_err(|error| failure(&error, sending.running.timeout))),
            };
            match next {
                Some(Ok(rows)) => Some((Ok(rows), Some((sending, stream)))),
                Some(Err(error)) => Some((Err(error), None)),
                None => None,
            }
        }))
    }

    /// Cancels an execution; false when there is nothing left of it to cancel: what is no query was over, with whatever it
    /// did, when its client got the ticket.
    pub(crate) fn cancel(&self, ticket: &[u8]) -> bool {
        let Some(running) = self.get(ticket).filter(|running| running.is_query) else { return false };
        self.end(&running, Ended::Cancelled);
        true
    }

    /// Ends what waits for the client of a session that was closed. What is being sent ends with its stream.
    pub(crate) fn client_gone(&self, session: &Arc<ClientSession>) {
        let is_theirs = |running: &&Arc<Running>| {
            Arc::ptr_eq(&running.session, session) && !matches!(*running.state.lock(), State::Sending)
        };
        let waiting: Vec<_> = self.running.lock().values().filter(is_theirs).cloned().collect();
        waiting.iter().for_each(|running| self.give_up(running));
    }

    fn give_up(&self, running: &Running) {
        self.end(running, Ended::Cancelled);
        self.forget(running.handle);
    }

    /// Gives an unfetched result its full retention time again.
    pub(crate) fn renew(&self, ticket: &[u8]) -> Option<Instant> {
        let running = self.get(ticket)?;
        let expires = Instant::now() + self.retention;
        *running.expires.lock() = expires;
        Some(expires)
    }

    /// The result of a ticket.
    ///
    /// # Errors
    /// It is gone, or went with the coordinator that led before this one: Unavailable.
    pub(crate) fn find(&self, ticket: &[u8]) -> Result<Arc<Running>, Status> {
        self.get(ticket).ok_or_else(|| {
            let may_be_of_another = self.coordinator.state().is_some() && self.since.elapsed() < self.retention;
            if !may_be_of_another {
                return no_such_result();
            }
            let message = "there is no such result: it was fetched, or another coordinator leads since. Run the statement \
                           again; a write may have been carried out";
            status::new(ErrorKind::Unavailable, message, None)
        })
    }

    /// Ends results that nobody fetched within `result_retention_ms`, and forgets those that ended before.
    pub(crate) fn expire(&self) {
        let now = Instant::now();
        let retention_ms = u64::try_from(self.retention.as_millis()).unwrap_or(u64::MAX);
        let is_expired = |running: &&Arc<Running>| {
            let is_read =
                matches!(*running.state.lock(), State::Sending) || running.readers.load(Ordering::Relaxed) > 0;
            *running.expires.lock() <= now && !is_read
        };
        let expired: Vec<_> = self.running.lock().values().filter(is_expired).cloned().collect();
        for running in expired {
            if self.end(&running, Ended::Expired { retention_ms }) {
                tracing::info!(query = %running.query, retention_ms, "nobody fetched the result: it is given up");
            }
            self.forget(running.handle);
        }
    }

    /// Waits until functions are done with what they work for, and writes are over. Rows that wait for their client are not waited for,
    /// made or not.
    pub(crate) async fn worked(&self) {
        let is_working = |running: &&Arc<Running>| running.is_working() && running.ended().is_none();
        loop {
            let Some(running) = self.running.lock().values().find(is_working).cloned() else { return };
            running.worked().await;
        }
    }

    /// Waits until no result waits or is being sent.
    pub(crate) async fn drained(&self) {
        // Clients need not fetch what a write answers.
        self.gone(|running| running.is_query).await;
    }

    /// Waits until no rows are being sent.
    pub(crate) async fn sent(&self) {
        self.gone(|_| false).await;
    }

    /// Waits until what writes answered was fetched, too.
    pub(crate) async fn fetched(&self) {
        self.gone(|_| true).await;
    }

    async fn gone(&self, counts: impl Fn(&Running) -> bool) {
        loop {
            let freed = self.freed.notified();
            let is_gone = self.running.lock().values().all(|running| match *running.state.lock() {
                State::Ended(_) => true,
                // What hosts hold is over; who reads it still is not waited for, since nobody knows.
                State::Waiting(_) => !counts(running) || running.located.is_some(),
                State::Sending => false,
            });
            if is_gone {
                return;
            }
            freed.await;
        }
    }

    /// Ends an execution whatever it is doing; false when it had ended before.
    fn end(&self, running: &Running, why: Ended) -> bool {
        let before = {
            let mut state = running.state.lock();
            match &*state {
                State::Ended(_) => return false,
                State::Waiting(_) | State::Sending => std::mem::replace(&mut *state, State::Ended(why)),
            }
        };
        running.ended.cancel();
        self.coordinator.cancel(running.query);
        drop(before);
        self.freed.notify_waiters();
        true
    }

    fn forget(&self, handle: Handle) {
        let removed = self.running.lock().remove(&handle);
        drop(removed);
        self.freed.notify_waiters();
    }
}

/// A part that is being read through this server: as long as it is, and for the retention after that, its result stays.
pub(crate) struct Reading {
    results: Arc<Results>,
    running: Arc<Running>,
}

impl Reading {
    pub(crate) fn new(results: &Arc<Results>, running: &Arc<Running>) -> Self {
        running.readers.fetch_add(1, Ordering::Relaxed);
        Self { results: Arc::clone(results), running: Arc::clone(running) }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        *self.running.expires.lock() = Instant::now() + self.results.retention;
        self.running.readers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a ticket that nothing belongs to is answered with.
fn no_such_result() -> Status {
    status::new(ErrorKind::NotFound, "there is no such result: it was fetched, cancelled or has expired", None)
}

fn fetched_already(query: QueryId) -> Status {
    status::new(ErrorKind::NotFound, "the result was fetched already: a ticket can be used once", Some(query))
}

/// A result on its way to a client.
struct Sending {
    results: Arc<Results>,
    running: Arc<Running>,
}

impl Drop for Sending {
    fn drop(&mut self) {
        // Ends the watch; the rows that were not sent are cancelled by the drop of their stream.
        self.running.ended.cancel();
        self.results.forget(self.running.handle);
    }
}

impl Running {
    /// When it is given up, unless it is renewed, fetched, or being read through this server.
    pub(crate) fn expires(&self) -> Instant {
        *self.expires.lock()
    }

    /// Why nothing of it can be fetched any more.
    pub(crate) fn ended(&self) -> Option<Status> {
        self.ended.is_cancelled().then(|| self.end_status())
    }

    /// How far it is.
    pub(crate) fn progress(&self) -> QueryProgress {
        self.progress.borrow().clone()
    }

    /// Functions work for it, or it is a write that is not over. A query of the coordinator works only while it is fetched.
    pub(crate) fn is_working(&self) -> bool {
        match &self.written {
            Some(written) => !written.is_cancelled(),
            None => self.progress.has_changed().is_ok(),
        }
    }

    /// Waits until no function works for it and what it writes is written, or until it was ended.
    async fn worked(&self) {
        let mut progress = self.progress.clone();
        let over = async {
            while progress.changed().await.is_ok() {}
            if let Some(written) = &self.written {
                written.cancelled().await;
            }
        };
        tokio::select! {
            () = self.ended.cancelled() => {}
            () = over => {}
        }
    }

    /// Waits until it is further than now, or over, or until `limit` has passed.
    ///
    /// # Errors
    /// Why it was ended.
    pub(crate) async fn news(&self, limit: Duration) -> Result<(), Status> {
        let mut progress = self.progress.clone();
        progress.mark_unchanged();
        let changed = async {
            if progress.changed().await.is_err() {
                self.written(limit).await;
            }
        };
        tokio::select! {
            // What was ended is over as well: why comes first.
            biased;
            () = self.ended.cancelled() => Err(self.end_status()),
            _ = tokio::time::timeout(limit, changed) => Ok(()),
        }
    }

    /// Waits until a write is over, or until `limit` has passed; not at all for a query.
    pub(crate) async fn written(&self, limit: Duration) {
        if let Some(written) = &self.written {
            // That it goes on is no error.
            let _ = tokio::time::timeout(limit, written.cancelled()).await;
        }
    }

    fn end_status(&self) -> Status {
        match *self.state.lock() {
            State::Ended(why) => why.status(self.query),
            State::Waiting(_) | State::Sending => status::cancelled(Some(self.query)),
        }
    }
}

impl Ended {
    fn status(self, query: QueryId) -> Status {
        match self {
            Self::Cancelled => status::cancelled(Some(query)),
            Self::TimedOut { timeout_ms } => status::timed_out(Some(query), timeout_ms),
            Self::Expired { retention_ms } => {
                let message = format!("the result was not fetched within result_retention_ms = {retention_ms}");
                status::new(ErrorKind::NotFound, message, Some(query))
            }
        }
    }
}

/// When a statement ends at the latest.
#[derive(Clone, Copy)]
pub(crate) struct Timeout {
    /// The moment.
    pub(crate) deadline: Instant,
    /// How long that was when the statement came, for its message.
    pub(crate) timeout_ms: u64,
}
