//! From the manifest rows of a running write to its one result row.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use futures::{StreamExt, stream};
use onward_cache::OpenUploads;
use onward_planner::error::classify;
use onward_wire::WireError;
use tokio::runtime::Handle;

use super::pending::Write;
use crate::api::{QueryError, ResultStream};
use crate::engine::Listing;
use crate::session::count;
use crate::system::QueryState;

/// Reads the manifest to its end, then commits. The stream gives one row: how many rows were written. An error, and
/// dropping the stream before the commit begins, leave nothing behind. A commit that has begun goes on to its end,
/// cannot be cancelled, and is the end of the statement, whether or not anybody reads its row.
pub(crate) fn commit_after(
    write: Write,
    manifest: ResultStream,
    listing: Arc<Listing>,
    background: Arc<OpenUploads>,
) -> ResultStream {
    stream::once(commit(write, manifest, listing, background)).boxed()
}

async fn commit(
    mut write: Write,
    mut manifest: ResultStream,
    listing: Arc<Listing>,
    background: Arc<OpenUploads>,
) -> Result<RecordBatch, QueryError> {
    let query = Some(listing.query());
    let failed = |error: &_| QueryError { error: classify(error), query };
    while let Some(batch) = manifest.next().await {
        write.add(&batch?).map_err(|error| failed(&error))?;
    }
    drop(manifest);
    listing.stopper().commit()?;
    let committing = background.spawn_on(&Handle::current(), async move {
        let rows = write.commit().await;
        listing.end(match &rows {
            Ok(_) => QueryState::Done,
            Err(error) => QueryState::Failed(classify(error).message),
        });
        rows
    });
    let joined = committing.await.map_err(|error| QueryError { error: broken(&error), query })?;
    Ok(count(joined.map_err(|error| failed(&error))?))
}

/// The error of a commit that did not say what came of it.
fn broken(error: &tokio::task::JoinError) -> WireError {
    let message = format!("the commit ended unexpectedly ({error}): look at the target before you write again");
    WireError::new(onward_wire::ErrorKind::Internal, message)
}
