//! From the manifest rows of a running write to its one result row.

use datafusion::arrow::array::RecordBatch;
use futures::{StreamExt, stream};
use onward_planner::error::classify;
use onward_wire::QueryId;

use super::pending::Write;
use crate::api::{QueryError, ResultStream};
use crate::session::count;

/// Reads the manifest to its end, then commits. The stream gives one row: how many rows were written. An error, and
/// dropping the stream, leave nothing behind.
pub(crate) fn commit_after(write: Write, manifest: ResultStream, query: QueryId) -> ResultStream {
    stream::once(commit(write, manifest, query)).boxed()
}

async fn commit(mut write: Write, mut manifest: ResultStream, query: QueryId) -> Result<RecordBatch, QueryError> {
    let failed = |error| QueryError { error: classify(&error), query: Some(query) };
    while let Some(batch) = manifest.next().await {
        write.add(&batch?).map_err(failed)?;
    }
    // From here on the client cannot stop it half-way.
    let rows = tokio::spawn(write.commit());
    let rows =
        rows.await.unwrap_or_else(|error| Err(datafusion::error::DataFusionError::ExecutionJoin(Box::new(error))));
    Ok(count(rows.map_err(failed)?))
}
