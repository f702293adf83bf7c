//! What is known of one function process while it is supervised.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use onward_wire::message::ToFunction;
use onward_wire::{AttemptId, FunctionId, QueryId, SegmentId, StageId, WireError};
use parking_lot::Mutex;
use rustix::process::{Signal, pidfd_send_signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::files::Access;
use crate::socket::Sender;

/// One function: its connection, its work, and the wish that it ends.
pub(super) struct Function {
    pub(super) id: FunctionId,
    pub(super) vcpus: usize,
    pub(super) memory_bytes: u64,
    sender: OnceLock<Sender<ToFunction>>,
    /// Its process; signals through it never hit another process that got the same number.
    pidfd: OnceLock<OwnedFd>,
    work: Mutex<Work>,
    reason: OnceLock<String>,
    leaves: CancellationToken,
    killed: CancellationToken,
}

#[derive(Default)]
struct Work {
    /// Attempts that were sent and not answered, and when they were sent.
    running: HashMap<AttemptId, Instant>,
    /// Attempts that were sent and that something in the process may still work for, whatever was answered.
    present: HashSet<AttemptId>,
    /// Segments of this host that attempts were given to read.
    readable: HashMap<AttemptId, HashSet<SegmentId>>,
    /// Queries it has stages of.
    queries: HashSet<QueryId>,
    /// What the stages it has may read and write of stores.
    access: HashMap<StageId, Access>,
    /// What the host does for attempts just now, by query.
    served: HashMap<QueryId, usize>,
    /// Stages that could not be sent.
    undefined: HashMap<StageId, WireError>,
}

impl Function {
    pub(super) fn new(id: FunctionId, vcpus: usize, memory_bytes: u64) -> Self {
        Self {
            id,
            vcpus,
            memory_bytes,
            sender: OnceLock::new(),
            pidfd: OnceLock::new(),
            work: Mutex::default(),
            reason: OnceLock::new(),
            leaves: CancellationToken::new(),
            killed: CancellationToken::new(),
        }
    }

    /// Notes its process, so that [`Function::kill`] reaches it from any thread.
    pub(super) fn set_process(&self, pidfd: OwnedFd) {
        let _ = self.pidfd.set(pidfd);
        if self.killed.is_cancelled() {
            self.signal();
        }
    }

    /// From here on commands reach it.
    pub(super) fn set_sender(&self, sender: Sender<ToFunction>) {
        let _ = self.sender.set(sender);
    }

    pub(super) fn sender(&self) -> Option<&Sender<ToFunction>> {
        self.sender.get()
    }

    /// Notes that an attempt was sent, which may read these segments of this host.
    pub(super) fn begin(&self, attempt: AttemptId, readable: HashSet<SegmentId>) {
        let mut work = self.work.lock();
        work.readable.insert(attempt, readable);
        work.running.insert(attempt, Instant::now());
        work.present.insert(attempt);
        work.queries.insert(attempt.query());
    }

    /// Notes that an attempt may read these segments, too, if anything still works for it.
    pub(super) fn may_read_more(&self, attempt: AttemptId, segments: HashSet<SegmentId>) {
        if let Some(readable) = self.work.lock().readable.get_mut(&attempt) {
            readable.extend(segments);
        }
    }

    /// Notes that an attempt was answered; false when it was before.
    pub(super) fn answer(&self, attempt: AttemptId) -> bool {
        self.work.lock().running.remove(&attempt).is_some()
    }

    /// Notes that nothing works for an attempt any more; true when it was answered before.
    pub(super) fn end(&self, attempt: AttemptId) -> bool {
        let mut work = self.work.lock();
        work.readable.remove(&attempt);
        work.present.remove(&attempt) && !work.running.contains_key(&attempt)
    }

    /// Something in the process may still work for it.
    pub(super) fn is_present(&self, attempt: AttemptId) -> bool {
        self.work.lock().present.contains(&attempt)
    }

    /// Something in the process may still work for the query, or the host does so for it.
    pub(super) fn works_for(&self, query: QueryId) -> bool {
        let work = self.work.lock();
        work.served.contains_key(&query) || work.present.iter().any(|attempt| attempt.query() == query)
    }

    /// An attempt that something may still work for was given this segment.
    pub(super) fn may_read(&self, segment: SegmentId) -> bool {
        self.work.lock().readable.values().any(|readable| readable.contains(&segment))
    }

    pub(super) fn is_running(&self, attempt: AttemptId) -> bool {
        self.work.lock().running.contains_key(&attempt)
    }

    /// Since when it has been working; `None` when it has nothing to do.
    pub(super) fn working_since(&self) -> Option<Instant> {
        self.work.lock().running.values().min().copied()
    }

    /// Notes what a stage may read and write, before the function hears of it.
    pub(super) fn allow(&self, stage: StageId, access: Access) {
        self.work.lock().access.insert(stage, access);
    }

    /// The host does something for an attempt that something still works for, if its stage may do that. The attempt's query has
    /// not ended before the guard is dropped.
    pub(super) fn serve(
        self: &Arc<Self>,
        ended: &Arc<Notify>,
        attempt: AttemptId,
        is_allowed: impl Fn(&Access) -> bool,
    ) -> Option<Serving> {
        let mut work = self.work.lock();
        let may = work.access.get(&attempt.task.stage).is_some_and(is_allowed) && work.present.contains(&attempt);
        may.then(|| {
            let query = attempt.query();
            *work.served.entry(query).or_default() += 1;
            Serving { function: Arc::clone(self), ended: Arc::clone(ended), query }
        })
    }

    /// Some stage that it has may do that.
    pub(super) fn may(&self, is_allowed: impl Fn(&Access) -> bool) -> bool {
        self.work.lock().access.values().any(is_allowed)
    }

    pub(super) fn set_undefined(&self, stage: StageId, error: WireError) {
        self.work.lock().undefined.insert(stage, error);
    }

    pub(super) fn undefined(&self, stage: StageId) -> Option<WireError> {
        self.work.lock().undefined.get(&stage).cloned()
    }

    /// Forgets a query; true when the function has stages of it.
    pub(super) fn forget(&self, query: QueryId) -> bool {
        let mut work = self.work.lock();
        work.undefined.retain(|stage, _| stage.query != query);
        work.access.retain(|stage, _| stage.query != query);
        work.queries.remove(&query)
    }

    /// Asks for its end in good order.
    pub(super) fn leave(&self) {
        self.leaves.cancel();
    }

    /// Resolves when it shall leave.
    pub(super) async fn leaving(&self) {
        self.leaves.cancelled().await;
    }

    /// Ends it now. The first reason is the one that is reported.
    pub(super) fn kill(&self, reason: String) {
        let _ = self.reason.set(reason);
        self.killed.cancel();
        self.signal();
    }

    /// Resolves when it was killed.
    pub(super) async fn killed(&self) {
        self.killed.cancelled().await;
    }

    /// Why it was killed, or `other`.
    pub(super) fn reason_or(&self, other: String) -> String {
        self.reason.get().cloned().unwrap_or(other)
    }

    fn signal(&self) {
        if let Some(pidfd) = self.pidfd.get() {
            // An error means that it is gone.
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
        }
    }
}

/// The host does something for an attempt.
pub(super) struct Serving {
    function: Arc<Function>,
    ended: Arc<Notify>,
    query: QueryId,
}

impl Drop for Serving {
    fn drop(&mut self) {
        {
            let mut work = self.function.work.lock();
            if let Some(served) = work.served.get_mut(&self.query) {
                *served -= 1;
                if *served == 0 {
                    work.served.remove(&self.query);
                }
            }
        }
        self.ended.notify_waiters();
    }
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Function").field("id", &self.id).field("vcpus", &self.vcpus).finish_non_exhaustive()
    }
}
