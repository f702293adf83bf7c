//! A function: a process that runs task attempts for its host.
//!
//! ```text
//!   control thread: socket, requests, cancels, progress            never runs an operator, so it always answers
//!   worker threads (vcpus): decode -> slice -> bind -> run -> write -> AttemptDone straight to the socket
//! ```
//!
//! It listens on nothing: the connection to its host, whose end is its own end, came with it. What every attempt needs (functions
//! of SQL, memory pool, spill directory, object stores, footers) is built once, the functions of SQL before it was forked.
//!
//! Guarantees: every attempt gets exactly one answer; one that was cancelled is answered at once and dropped when it next
//! yields; `AttemptEnded` is said once, when the last thread that works for the attempt has left it; files of an attempt
//! that failed are released only after its last writer is gone.

mod attempt;
mod columns;
mod environment;
mod files;
mod link;
mod memory;
mod metrics;
mod ranges;
mod segments;
mod stage;
mod work;

use std::collections::HashMap;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use onward_cache::ranges::RangeClient;
use onward_cache::scan::WarmScans;
use onward_wire::message::{
    AttemptEnded, AttemptFailed, DefineStage, Hello, RunAttempt, ToFunction, ToHost, Welcome, to_function,
};
use onward_wire::{AttemptId, Config, ENGINE_VERSION, ErrorKind, FunctionId, HostId, QueryId, StageId, WireError};
use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};

use self::attempt::{Attempt, Finished, Shared, cancelled};
use self::columns::Columns;
use self::environment::Environment;
pub use self::environment::Registry;
use self::link::Link;
use self::ranges::Ranges;
use self::segments::Segments;
use self::stage::Stage;
use crate::sandbox;
use crate::socket::{self, Receiver, Sender, SocketError};

pub use self::stage::extensions;

/// How often a running attempt says how far it is; also how its host knows that this process lives.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
/// Stack of a worker: operators and expressions recurse with the depth of the plan. Only what is used costs memory.
const WORKER_STACK_BYTES: usize = 16 << 20;

/// Why a function ends before its host told it to.
#[derive(Debug, thiserror::Error)]
pub enum FunctionError {
    /// The connection ended or failed.
    #[error("the host is gone: {0}")]
    Lost(#[from] SocketError),
    /// The host does not want it.
    #[error("the host refused this function: {0}")]
    Refused(WireError),
    /// The host broke the protocol.
    #[error("the host answered Hello with something else than Welcome")]
    Protocol,
    /// Threads or the spill directory could not be had.
    #[error("the function cannot start: {0}")]
    Start(String),
}

/// Runs a function over the connection to its host, until that tells it to leave or closes it.
///
/// # Errors
/// Why it ends otherwise.
pub fn run(socket: UnixStream, registry: Registry) -> Result<(), FunctionError> {
    let start = |error: std::io::Error| FunctionError::Start(error.to_string());
    socket.set_nonblocking(true).map_err(start)?;
    let control = Builder::new_current_thread().enable_all().build().map_err(start)?;
    match control.block_on(async { serve(tokio::net::UnixStream::from_std(socket).map_err(start)?, registry).await }) {
        Err(FunctionError::Lost(SocketError::Closed)) => {
            tracing::debug!("the host closed the connection");
            Ok(())
        }
        ended => ended,
    }
}

async fn serve(socket: tokio::net::UnixStream, registry: Registry) -> Result<(), FunctionError> {
    work::follow_spawned_tasks();
    // The host's own limit comes with its Welcome and holds for what it sends; a function sends nothing larger than its
    // inline output and its metrics.
    let (sender, flusher, mut receiver) = socket::split(socket, Config::default().max_message_bytes);
    tokio::spawn(flusher.run());
    let welcome = greet(&sender, &mut receiver).await?;
    // Nothing is looked up from here; it is for people, who see where a process works.
    std::env::set_current_dir(&welcome.spill_dir).map_err(|error| FunctionError::Start(error.to_string()))?;
    sandbox::enter(Path::new(&welcome.spill_dir)).map_err(|error| FunctionError::Start(error.to_string()))?;
    let environment =
        Environment::build(&welcome, registry).map_err(|error| FunctionError::Start(error.to_string()))?;
    let workers = Builder::new_multi_thread()
        .worker_threads(welcome.vcpus.max(1) as usize)
        .thread_name("onward-task")
        .thread_stack_size(WORKER_STACK_BYTES)
        .enable_all()
        .build()
        .map_err(|error| FunctionError::Start(error.to_string()))?;
    let link = Link::new(sender);
    tokio::spawn(Arc::clone(&link).report_releases());
    let columns = Columns::new(Arc::clone(&link));
    let ranges = |is_direct| Ranges::new(Arc::clone(&link), is_direct) as Arc<dyn RangeClient>;
    let (direct, tier) = (ranges(true), welcome.reads_ranges.then(|| ranges(false)));
    let shared = Shared {
        segments: Segments::new(Arc::clone(&link), HostId(welcome.host), welcome.fetch_bytes),
        scans: WarmScans::new(Arc::clone(&columns) as _, tier.clone()),
        columns,
        tier,
        direct,
        link: Arc::clone(&link),
        environment,
        flush_bytes: welcome.flush_bytes,
    };
    let function = Function {
        id: FunctionId(welcome.function),
        shared: Arc::new(shared),
        stages: HashMap::new(),
        attempts: Arc::default(),
        workers,
    };
    function.serve(&link, &mut receiver).await
}

async fn greet(sender: &Sender<ToHost>, receiver: &mut Receiver<ToFunction>) -> Result<Welcome, FunctionError> {
    sender.try_send(Hello { engine_version: ENGINE_VERSION.to_owned() }, vec![])?;
    match receiver.receive().await?.0.body {
        Some(to_function::Body::Welcome(welcome)) => {
            sender.set_limit(welcome.max_message_bytes);
            receiver.set_limit(welcome.max_message_bytes);
            Ok(welcome)
        }
        Some(to_function::Body::RequestFailed(refused)) => Err(FunctionError::Refused(refused.error)),
        _ => Err(FunctionError::Protocol),
    }
}

/// The attempts that run.
#[derive(Default)]
struct Attempts {
    /// Whoever takes one out of it answers for it.
    running: HashMap<AttemptId, Arc<Attempt>>,
    /// A task reports their progress.
    is_reported: bool,
}

struct Function {
    id: FunctionId,
    shared: Arc<Shared>,
    stages: HashMap<StageId, Arc<Stage>>,
    attempts: Arc<Mutex<Attempts>>,
    workers: Runtime,
}

impl Function {
    async fn serve(mut self, link: &Arc<Link>, receiver: &mut Receiver<ToFunction>) -> Result<(), FunctionError> {
        tracing::debug!(function = %self.id, "ready");
        let result = loop {
            let (message, files) = match receiver.receive().await {
                Ok(received) => received,
                Err(error) => break Err(error.into()),
            };
            match message.body {
                Some(to_function::Body::DefineStage(stage)) => self.define(stage),
                Some(to_function::Body::RunAttempt(attempt)) => self.run(attempt),
                Some(to_function::Body::CancelAttempt(cancel)) => self.cancel(cancel.attempt.into()),
                Some(to_function::Body::RuntimeFilters(told)) => {
                    let attempt = self.attempts.lock().running.get(&AttemptId::from(told.attempt)).cloned();
                    // One that has ended needs none.
                    attempt.into_iter().for_each(|attempt| attempt.add_filters(told.filters.clone()));
                }
                Some(to_function::Body::MoreInputs(more)) => {
                    let attempt = self.attempts.lock().running.get(&AttemptId::from(more.attempt)).cloned();
                    // One that has ended reads no more.
                    if let Some(attempt) = attempt {
                        attempt.add_inputs(more.inputs);
                    }
                }
                Some(to_function::Body::ForgetQuery(query)) => {
                    self.stages.retain(|stage, _| stage.query != QueryId(query.query));
                }
                Some(to_function::Body::SegmentOpened(opened)) => link.segment_opened(opened, files),
                Some(to_function::Body::SegmentsMapped(mapped)) => link.segments_mapped(mapped, files),
                Some(to_function::Body::ColumnsFound(found)) => link.columns_found(found, files),
                Some(to_function::Body::RangesRead(read)) => link.ranges_read(read, files),
                Some(to_function::Body::FileOpened(opened)) => link.file_opened(opened, files),
                Some(to_function::Body::Uploaded(uploaded)) => link.uploaded(uploaded),
                Some(to_function::Body::ForgetColumns(forget)) => self.shared.columns.forget(&forget.segments),
                Some(to_function::Body::RequestFailed(failed)) => link.request_failed(failed),
                Some(to_function::Body::Shutdown(_)) => break Ok(()),
                Some(to_function::Body::Welcome(_)) | None => break Err(FunctionError::Protocol),
            }
        };
        // What still runs is of no use to anybody: the process ends without waiting for it.
        self.workers.shutdown_background();
        result
    }

    fn define(&mut self, stage: DefineStage) {
        self.stages.insert(StageId::new(QueryId(stage.query), stage.stage), Arc::new(Stage::new(stage)));
    }

    fn run(&mut self, mut request: RunAttempt) {
        let id = AttemptId::from(request.attempt);
        let link = Arc::clone(&self.shared.link);
        let inputs = std::mem::take(&mut request.inputs);
        let attempt = Attempt::new(id, inputs, move || tell(&link, id, AttemptEnded { attempt: id.into() }));
        let Some(stage) = self.stages.get(&id.task.stage).cloned() else {
            drop(attempt);
            let error = WireError::new(ErrorKind::Internal, format!("{id} came before its stage"));
            return answer(&self.shared.link, id, Err(error));
        };
        let (shared, attempts) = (Arc::clone(&self.shared), Arc::clone(&self.attempts));
        let mut table = self.attempts.lock();
        table.running.insert(id, Arc::clone(&attempt));
        let task = self.workers.spawn({
            let attempt = Arc::clone(&attempt);
            async move {
                let result = work::of(Arc::clone(&attempt), attempt.run(&shared, &stage, request)).await;
                let ours = attempts.lock().running.remove(&id);
                let is_ours = ours.is_some();
                // Says that it ended, unless a task of it is still at work: before the answer, so that who hears the
                // answer need not wait for the other.
                drop((ours, attempt));
                if is_ours {
                    answer(&shared.link, id, result);
                }
            }
        });
        attempt.add_task(task.abort_handle());
        if !std::mem::replace(&mut table.is_reported, true) {
            tokio::spawn(report_progress(Arc::clone(&self.shared.link), Arc::clone(&self.attempts)));
        }
    }

    /// An operator that never yields cannot be stopped inside the process: the coordinator, which is not told that the
    /// attempt ended, ends the function after a while.
    fn cancel(&self, id: AttemptId) {
        let attempt = self.attempts.lock().running.remove(&id);
        if let Some(attempt) = attempt {
            attempt.abort();
            drop(attempt);
            answer(&self.shared.link, id, Err(cancelled(id)));
        }
    }
}

/// Tells the host how an attempt ended.
fn answer(link: &Link, id: AttemptId, result: Result<Finished, WireError>) {
    let failed = |error| AttemptFailed { attempt: id.into(), error };
    match result {
        Ok(Finished { done, sink }) => match link.send(done) {
            // From here on the files are the host's.
            Ok(()) => sink.hand_over(),
            Err(error @ SocketError::TooLarge { .. }) => {
                tell(link, id, failed(WireError::new(ErrorKind::ResourceExhausted, error)));
            }
            Err(error) => cannot_tell(link, id, &error),
        },
        Err(error) => tell(link, id, failed(error)),
    }
}

fn tell(link: &Link, id: AttemptId, message: impl Into<ToHost>) {
    if let Err(error) = link.send(message) {
        cannot_tell(link, id, &error);
    }
}

/// A function that cannot say what became of an attempt ends: its host then runs the attempt again.
fn cannot_tell(link: &Link, id: AttemptId, error: &SocketError) {
    tracing::warn!(attempt = %id, %error, "what became of an attempt could not be reported: the function ends");
    link.close();
}

/// Reports until nothing runs any more.
async fn report_progress(link: Arc<Link>, attempts: Arc<Mutex<Attempts>>) {
    loop {
        tokio::time::sleep(PROGRESS_INTERVAL).await;
        let running: Vec<_> = {
            let mut table = attempts.lock();
            table.is_reported = !table.running.is_empty();
            table.running.values().cloned().collect()
        };
        if running.is_empty() {
            return;
        }
        for progress in running.iter().map(|attempt| attempt.progress()) {
            // A lost host ends the function by itself.
            let _ = link.send(progress);
        }
    }
}
