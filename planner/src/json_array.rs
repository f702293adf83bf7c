//! [`JsonArraySource`]: files that each hold one JSON array, `[{...}, {...}]`.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::physical_plan::{FileOpener, FileScanConfig, FileSource, JsonSource};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::object_store::ObjectStore;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;

/// DataFusion's source of JSON as it reads arrays, with what it lacks for them in 55.2: the optimizer does not split its
/// files into ranges of bytes (a range of an array fails when it is opened), and the codec can tell it from a source of
/// lines.
#[derive(Clone)]
pub struct JsonArraySource {
    arrays: Arc<dyn FileSource>,
}

impl JsonArraySource {
    /// All columns of a table whose files are arrays.
    pub fn new(columns: TableSchema) -> Self {
        Self { arrays: Arc::new(JsonSource::new(columns).with_newline_delimited(false)) }
    }

    /// Reads `source`'s columns from arrays.
    ///
    /// # Errors
    /// When its projection does not fit its schema, which planning rules out.
    pub(crate) fn in_place_of(source: &dyn FileSource) -> Result<Self> {
        let Self { arrays } = Self::new(source.table_schema().clone());
        Ok(Self { arrays: projected_like(arrays, source)? })
    }

    /// DataFusion's own source, which is encoded like one of lines.
    pub(crate) fn datafusion(&self) -> &Arc<dyn FileSource> {
        &self.arrays
    }

    fn with(&self, arrays: Arc<dyn FileSource>) -> Self {
        Self { arrays }
    }
}

/// `source`, of which nothing is projected yet, with the projection of `other`.
pub(crate) fn projected_like(source: Arc<dyn FileSource>, other: &dyn FileSource) -> Result<Arc<dyn FileSource>> {
    match other.projection() {
        Some(projection) => Ok(source.try_pushdown_projection(projection)?.unwrap_or(source)),
        None => Ok(source),
    }
}

impl FileSource for JsonArraySource {
    fn create_file_opener(
        &self,
        store: Arc<dyn ObjectStore>,
        config: &FileScanConfig,
        partition: usize,
    ) -> Result<Arc<dyn FileOpener>> {
        self.arrays.create_file_opener(store, config, partition)
    }

    fn table_schema(&self) -> &TableSchema {
        self.arrays.table_schema()
    }

    fn with_batch_size(&self, batch_size: usize) -> Arc<dyn FileSource> {
        Arc::new(self.with(self.arrays.with_batch_size(batch_size)))
    }

    fn projection(&self) -> Option<&ProjectionExprs> {
        self.arrays.projection()
    }

    fn metrics(&self) -> &ExecutionPlanMetricsSet {
        self.arrays.metrics()
    }

    fn file_type(&self) -> &str {
        self.arrays.file_type()
    }

    fn supports_repartitioning(&self) -> bool {
        false
    }

    fn try_pushdown_projection(&self, projection: &ProjectionExprs) -> Result<Option<Arc<dyn FileSource>>> {
        let projected = self.arrays.try_pushdown_projection(projection)?;
        Ok(projected.map(|arrays| Arc::new(self.with(arrays)) as _))
    }

    fn apply_expressions(
        &self,
        visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.arrays.apply_expressions(visit)
    }
}
