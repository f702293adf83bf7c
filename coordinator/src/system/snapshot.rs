//! [`SnapshotTable`]: a table of what there is when a query is planned.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{MemTable, Session, TableProvider};
use datafusion::common::Result;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;

/// What can be looked at.
pub(super) trait Snapshot: Send + Sync + 'static {
    /// Its columns.
    fn schema(&self) -> &SchemaRef;

    /// Its rows now.
    fn batch(&self) -> Result<RecordBatch>;
}

/// The table over a [`Snapshot`].
pub(super) struct SnapshotTable<T>(pub(super) T);

impl<T> fmt::Debug for SnapshotTable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SnapshotTable")
    }
}

#[async_trait]
impl<T: Snapshot> TableProvider for SnapshotTable<T> {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.0.schema())
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let table = MemTable::try_new(self.schema(), vec![vec![self.0.batch()?]])?;
        table.scan(state, projection, filters, limit).await
    }
}
