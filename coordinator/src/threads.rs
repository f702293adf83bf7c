//! Threads of queries that run in this process.
//!
//! An operator may compute for seconds before it lets go of its thread. Those who answer calls, hear of hosts and lead have threads of
//! their own, and wait for none of that.

use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::RecordBatch;
use datafusion::common::Result;
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures::{Stream, StreamExt, stream};
use onward_wire::{ErrorKind, WireError};
use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;

/// More threads than cores: while operators of some queries do not let go of theirs, the system has the others run, too.
const THREADS_PER_CORE: usize = 4;
const LEAST_THREADS: usize = 16;

/// Batches that wait for whoever reads them.
const BATCHES_AHEAD: usize = 2;

/// What they still write in the background at the end, such as bytes that are kept on disk, gets this long.
const END_TIMEOUT: Duration = Duration::from_secs(2);

static THREADS: Mutex<Option<Runtime>> = Mutex::new(None);

/// Ends them, at the end of the process: what they write in the background is written when this returns. Not to be called by a task.
pub fn end_threads() {
    let threads = THREADS.lock().take();
    if let Some(threads) = threads {
        threads.shutdown_timeout(END_TIMEOUT);
    }
}

/// They are there from the first query on.
fn threads() -> std::io::Result<Handle> {
    let mut threads = THREADS.lock();
    if let Some(threads) = &*threads {
        return Ok(threads.handle().clone());
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let count = LEAST_THREADS.max(cores * THREADS_PER_CORE);
    let made = Builder::new_multi_thread().worker_threads(count).enable_all().thread_name("onward-query").build()?;
    Ok(threads.insert(made).handle().clone())
}

/// The rows of a plan, which runs until they are dropped.
///
/// # Errors
/// ResourceExhausted when the system gives no more threads.
pub(crate) fn rows(
    plan: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
) -> Result<impl Stream<Item = Result<RecordBatch>> + Send, WireError> {
    let threads = threads().map_err(|error| {
        WireError::new(ErrorKind::ResourceExhausted, format!("no threads for queries of this process: {error}"))
    })?;
    let (batches, received) = mpsc::channel(BATCHES_AHEAD);
    let running = AbortOnDropHandle::new(threads.spawn(async move {
        match execute_stream(plan, context) {
            Ok(mut rows) => {
                while let Some(batch) = rows.next().await {
                    if batches.send(batch).await.is_err() {
                        return;
                    }
                }
            }
            // Who does not read any more needs no error.
            Err(error) => drop(batches.send(Err(error)).await),
        }
    }));
    let panic = stream::once(running).filter_map(async |ended| {
        let error = ended.err().filter(tokio::task::JoinError::is_panic)?;
        Some(Err(DataFusionError::ExecutionJoin(Box::new(error))))
    });
    Ok(ReceiverStream::new(received).chain(panic))
}
