//! The engine: the shell around the pure scheduler. It carries out the scheduler's commands on the host, and turns what
//! the host reports into the scheduler's events.
//!
//! ```text
//!   session --submit--> Driver (one task) <--HostEvent-- host
//!                         |  Scheduler::handle(now, event) -> commands
//!                         +--start_function, define_stage, run_attempt, remove_segments--> fleet: this process's host,
//!                                                                                          or a stream to one that joined
//!   session <--Outcome (result attempts, metrics)--+
//! ```
//!
//! One task owns the scheduler, so there is no lock around it and no order of events to think about.

mod door;
mod driver;
mod filters;
mod fleet;
mod guard;
mod inputs;
mod listing;
mod located;
mod outcome;
mod result;
mod running;
mod stopper;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;

use onward_executor::host::{Exchange, Host, HostOptions};
use onward_shuffle::flight::GrantKey;
use onward_wire::cluster::Leader;
use onward_wire::message::DefineStage;
use onward_wire::{Config, ErrorKind, HostId, QueryId, WireError};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use self::fleet::Fleet;
use crate::api::QueryProgress;
use crate::scheduler::{Demand, QuerySpec};
use crate::system::{History, HostTable};
use crate::term::Term;

pub use fleet::Capacity;
pub use guard::{guard, timed_out};
pub use listing::Listing;
pub use located::LocatedResult;
pub use outcome::{CacheRead, Outcome};
pub use result::read_result;
pub use stopper::Stopper;

/// Events of members that wait for the driver; past it their streams are not read.
const MEMBER_EVENTS: usize = 4_096;

/// A query for the driver.
pub struct Submission {
    /// What the scheduler needs.
    pub spec: QuerySpec,
    /// One definition per stage, in order.
    pub stages: Vec<DefineStage>,
    /// Runtime filters that have a place in each stage.
    pub filters: Vec<Vec<u32>>,
    /// By stage: what it becomes when an input turns out small.
    pub alternatives: Vec<Option<Replacement>>,
    /// Which partitions of its inputs a task reads.
    pub reads: Reads,
    /// What a second of a function of each worker class costs, by number: see [`WorkerClass`](onward_planner::WorkerClass). Of others the
    /// memory and vCPUs cost.
    pub prices: BTreeMap<u16, u64>,
    /// Hears how far the query is.
    pub progress: watch::Sender<QueryProgress>,
}

/// Another plan of a stage.
pub struct Replacement {
    /// Its definition.
    pub stage: DefineStage,
    /// Runtime filters that have a place in it.
    pub filters: Vec<u32>,
    /// The input that every task reads whole.
    pub broadcast: u32,
    /// Which partitions of its inputs a task reads, for all stages.
    pub reads: Reads,
}

/// The exchange partitions that a task reads of each input stage, by its stage and its partitions.
pub type Reads = Box<dyn Fn(u32, &[u32]) -> datafusion::common::Result<BTreeMap<u32, BTreeSet<u32>>> + Send>;

/// What hosts are wanted for, and which are there.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// What queries would have work for.
    pub demand: Demand,
    /// Hosts that joined, by the name they gave, and whether functions are there.
    pub joined: BTreeMap<String, bool>,
}

enum Request {
    Submit(Box<Submission>, oneshot::Sender<Result<Outcome, WireError>>),
    Cancel(QueryId, WireError),
    /// The sender is dropped once no attempt of the query is started any more.
    AwaitEnd(QueryId, oneshot::Sender<()>),
    ReleaseResult(QueryId),
    /// A host wants in.
    Join(Box<door::Joining>),
    /// Hosts of this name shall leave; the sender is dropped once they were told.
    TellToLeave(String, oneshot::Sender<()>),
    /// What hosts are wanted for.
    Wanted(oneshot::Sender<Wanted>),
    /// Others reach the coordinator's own segments here.
    SetAddress(String),
    /// All hosts end; the sender is dropped once they were told.
    ShutDown(oneshot::Sender<()>),
}

/// Handle to the driver task and its host.
#[derive(Clone)]
pub struct Engine {
    requests: mpsc::UnboundedSender<Request>,
    member_events: mpsc::Sender<(HostId, door::MemberEvent)>,
    host: Arc<Host>,
    config: Arc<Config>,
    key: GrantKey,
    leader: watch::Receiver<Leader>,
    submitted: Arc<Notify>,
}

impl Engine {
    /// Starts the embedded host and the driver task, which ends when the last handle is dropped.
    pub fn start(
        options: HostOptions,
        hosts: &Arc<HostTable>,
        capacity: watch::Sender<Capacity>,
        history: Arc<History>,
        term: Term,
    ) -> Result<Self, WireError> {
        // Both queues are bounded by what feeds them: queries (max_running_queries, max_queued_queries) and the answers
        // of functions (max_functions, one attempt each, progress coalesced by the host).
        let (host_events, events) = mpsc::unbounded_channel();
        let (requests, inbox) = mpsc::unbounded_channel();
        let (member_events, said) = mpsc::channel(MEMBER_EVENTS);
        let (config, key, uploads) = (Arc::clone(&options.config), options.key.clone(), Arc::clone(&options.uploads));
        let host = Host::start(options, host_events).map_err(|error| WireError::new(ErrorKind::Unavailable, error))?;
        let leader = term.leader.clone();
        let fleet = Fleet::new(Arc::clone(&host), Arc::clone(&config), key.clone(), Arc::clone(hosts), &term);
        let driver = driver::Driver::new(fleet, &config, uploads, capacity, history, term);
        tokio::spawn(driver.run(inbox, events, said));
        Ok(Self { requests, member_events, host, config, key, leader, submitted: Arc::default() })
    }

    /// Lets hosts in.
    pub fn door(&self) -> Arc<dyn Exchange> {
        let (requests, events) = (self.requests.clone(), self.member_events.clone());
        Arc::new(door::Door { requests, events, leader: self.leader.clone() })
    }

    /// Other hosts reach the coordinator's own segments at `address`.
    pub fn set_address(&self, address: String) {
        // A closed queue means that the driver has ended.
        let _ = self.requests.send(Request::SetAddress(address));
    }

    /// Tells all hosts to end what they do for this coordinator.
    pub async fn shut_down_members(&self) {
        let (told, is_told) = oneshot::channel();
        let _ = self.requests.send(Request::ShutDown(told));
        // It is dropped, never sent.
        let _: Result<(), _> = is_told.await;
    }

    /// Has hosts of this name leave, as a signal would.
    pub async fn tell_to_leave(&self, name: &str) {
        let (told, is_told) = oneshot::channel();
        let _ = self.requests.send(Request::TellToLeave(name.to_owned(), told));
        // It is dropped, never sent.
        let _: Result<(), _> = is_told.await;
    }

    /// What hosts are wanted for; `None` when the driver has ended.
    pub async fn wanted(&self) -> Option<Wanted> {
        let (reply, wanted) = oneshot::channel();
        self.requests.send(Request::Wanted(reply)).ok()?;
        wanted.await.ok()
    }

    /// A query was submitted since the last time this resolved. For one who waits.
    pub async fn submitted(&self) {
        self.submitted.notified().await;
    }

    /// The embedded host.
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// Submits a query. The receiver gives the outcome once all result rows are committed.
    pub fn submit(&self, submission: Submission) -> oneshot::Receiver<Result<Outcome, WireError>> {
        let (reply, outcome) = oneshot::channel();
        if let Err(mpsc::error::SendError(Request::Submit(_, reply))) =
            self.requests.send(Request::Submit(Box::new(submission), reply))
        {
            // The other end may be gone as well; then nobody waits for this.
            let _ = reply.send(Err(WireError::new(ErrorKind::Unavailable, "the coordinator is shutting down")));
        }
        self.submitted.notify_one();
        outcome
    }

    /// Ends a query with `reason`; nothing when it has ended.
    pub fn cancel(&self, query: QueryId, reason: WireError) {
        // A closed queue means that the driver, and with it every query, has ended.
        let _ = self.requests.send(Request::Cancel(query, reason));
    }

    /// Resolves when the query, submitted before, is over and nothing in any function works for it any more: all its
    /// attempts have ended, or their processes were reaped.
    pub fn ended(&self, query: QueryId) -> impl Future<Output = ()> + Send + use<> {
        let (waiting, over) = oneshot::channel();
        // A closed queue means that the driver has ended, and with it the host: its functions are being reaped.
        let _ = self.requests.send(Request::AwaitEnd(query, waiting));
        let functions = self.host.query_ended(query);
        // The driver waits for other hosts' functions, before it says that the query is over.
        async move {
            // It is dropped, never sent.
            let _: Result<(), _> = over.await;
            functions.await;
        }
    }

    /// Lets go of a finished query's result segments.
    pub fn release_result(&self, query: QueryId) {
        let _ = self.requests.send(Request::ReleaseResult(query));
    }
}
