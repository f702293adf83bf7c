//! From the manifest rows of a running write to its one result row.

use std::sync::Arc;

use datafusion::error::DataFusionError;
use futures::{StreamExt, stream};
use onward_cache::OpenUploads;
use onward_planner::error::classify;
use onward_wire::{QueryId, WireError};
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
    mut write: Write,
    manifest: ResultStream,
    listing: Arc<Listing>,
    background: Arc<OpenUploads>,
) -> ResultStream {
    let written = async move {
        add_all(&mut write, manifest, listing.query()).await?;
        commit(write, listing, background).await.map(count)
    };
    stream::once(written).boxed()
}

/// Adds all files of the manifest to `write`.
pub(crate) async fn add_all(write: &mut Write, mut manifest: ResultStream, query: QueryId) -> Result<(), QueryError> {
    while let Some(batch) = manifest.next().await {
        write.add(&batch?).map_err(|error| failed(&error, query))?;
    }
    Ok(())
}

/// Commits, and gives the number of rows written. From here on nobody can stop it half-way.
pub(crate) async fn commit(
    write: Write,
    listing: Arc<Listing>,
    background: Arc<OpenUploads>,
) -> Result<u64, QueryError> {
    let query = listing.query();
    listing.stopper().commit()?;
    let committing = background.spawn_on(&Handle::current(), async move {
        let rows = write.commit().await;
        listing.end(match &rows {
            Ok(_) => QueryState::Done,
            Err(error) => QueryState::of(&classify(error)),
        });
        rows
    });
    let joined = committing.await.map_err(|error| QueryError { error: broken(&error), query: Some(query) })?;
    joined.map_err(|error| failed(&error, query))
}

fn failed(error: &DataFusionError, query: QueryId) -> QueryError {
    QueryError { error: classify(error), query: Some(query) }
}

/// The error of a commit that did not say what came of it.
fn broken(error: &tokio::task::JoinError) -> WireError {
    let message = format!("the commit ended unexpectedly ({error}): look at the target before you write again");
    WireError::new(onward_wire::ErrorKind::Internal, message)
}
