//! From the manifest rows of a running write to its one result row.

use datafusion::error::DataFusionError;
use futures::{StreamExt, stream};
use onward_planner::error::classify;
use onward_wire::QueryId;

use super::pending::Write;
use crate::api::{QueryError, ResultStream};
use crate::session::count;

/// Reads the manifest to its end, then commits. The stream gives one row: how many rows were written. An error, and
/// dropping the stream, leave nothing behind.
pub(crate) fn commit_after(mut write: Write, manifest: ResultStream, query: QueryId) -> ResultStream {
    let written = async move {
        add_all(&mut write, manifest, query).await?;
        commit(write, query).await.map(count)
    };
    stream::once(written).boxed()
}

/// Adds all files of the manifest to `write`.
pub(crate) async fn add_all(write: &mut Write, mut manifest: ResultStream, query: QueryId) -> Result<(), QueryError> {
    while let Some(batch) = manifest.next().await {
        write.add(&batch?).map_err(failed(query))?;
    }
    Ok(())
}

/// Commits, and gives the number of rows written. From here on the client cannot stop it half-way.
pub(crate) async fn commit(write: Write, query: QueryId) -> Result<u64, QueryError> {
    let rows = tokio::spawn(write.commit());
    let rows = rows.await.unwrap_or_else(|error| Err(DataFusionError::ExecutionJoin(Box::new(error))));
    rows.map_err(failed(query))
}

fn failed(query: QueryId) -> impl Fn(DataFusionError) -> QueryError {
    move |error| QueryError { error: classify(&error), query: Some(query) }
}
