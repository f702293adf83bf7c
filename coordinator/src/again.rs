//! A query whose plan turned out to be no good, for an object was overwritten after it was planned or its tasks take longer than
//! functions live: planned again.

use futures::future::BoxFuture;
use futures::{StreamExt, stream};
use onward_wire::WireError;

use crate::api::{Result, ResultStream};

/// Another plan's rows for an error that is worth one.
pub(crate) type Again = Box<dyn FnOnce(&WireError) -> Option<BoxFuture<'static, Result<ResultStream>>> + Send>;

/// `rows`, or, when planning them or the first thing that they say is an error that is worth another plan, those of `again`.
/// Rows that somebody may have seen are never repeated: an error that is met later is the statement's error.
///
/// # Errors
/// Any other one of planning.
pub(crate) fn or_again(rows: Result<ResultStream>, again: Again) -> Result<ResultStream> {
    let rows = match rows {
        Err(error) if error.error.is_stale || error.error.is_too_long => stream::iter([Err(error)]).boxed(),
        rows => rows?,
    };
    let first = async move {
        let mut rows = rows;
        let first = rows.next().await;
        if let Some(Err(error)) = &first
            && let Some(again) = again(&error.error)
        {
            tracing::info!(error = %error.error, "the query is planned again");
            drop(rows);
            return again.await.unwrap_or_else(|error| stream::iter([Err(error)]).boxed());
        }
        stream::iter(first).chain(rows).boxed()
    };
    Ok(stream::once(first).flatten().boxed())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use futures::{FutureExt, TryStreamExt};
    use onward_wire::WireError;

    use super::*;
    use crate::api::QueryError;

    fn row(value: i64) -> Result<RecordBatch> {
        let column = Arc::new(Int64Array::from(vec![value])) as ArrayRef;
        Ok(RecordBatch::try_from_iter([("a", column)]).unwrap())
    }

    fn stale() -> Result<RecordBatch> {
        Err(QueryError { error: WireError::stale("s3://b/t"), query: None })
    }

    fn when_stale(rows: Vec<Result<RecordBatch>>) -> Again {
        Box::new(|error| error.is_stale.then(|| async move { Ok(stream::iter(rows).boxed()) }.boxed()))
    }

    async fn run(rows: Vec<Result<RecordBatch>>, again: Vec<Result<RecordBatch>>) -> Result<usize> {
        let rows: Vec<_> = or_again(Ok(stream::iter(rows).boxed()), when_stale(again))?.try_collect().await?;
        Ok(rows.len())
    }

    #[tokio::test]
    async fn a_stale_object_is_worth_one_more_plan_until_a_row_was_seen() {
        assert_eq!(run(vec![row(1), row(2)], vec![]).await.unwrap(), 2);
        assert_eq!(run(vec![stale()], vec![row(1), row(2), row(3)]).await.unwrap(), 3);
        assert!(run(vec![stale()], vec![stale()]).await.unwrap_err().error.is_stale, "once");
        assert!(run(vec![row(1), stale()], vec![row(1)]).await.is_err(), "rows are not repeated");
        assert_eq!(run(vec![], vec![row(1)]).await.unwrap(), 0);
    }

    /// Removed between its listing and the reading of its footer.
    #[tokio::test]
    async fn an_object_that_goes_while_a_statement_is_planned_is_worth_one_more_plan() {
        let again = || when_stale(vec![row(1)]);
        let rows = or_again(stale().map(|_| stream::empty().boxed()), again()).unwrap();
        assert_eq!(rows.try_collect::<Vec<_>>().await.unwrap().len(), 1);
        let other = QueryError::from(WireError::new(onward_wire::ErrorKind::NotFound, "no such table"));
        assert!(or_again(Err(other), again()).is_err());
    }
}
