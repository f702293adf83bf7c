//! `system.cache`: one row per cached column of a row group.

use std::fmt;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use datafusion::arrow::array::{ArrayRef, BooleanArray, RecordBatch, StringArray, UInt32Array, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::{MemTable, Session, TableProvider};
use datafusion::common::Result;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use onward_cache::columns::{ColumnInfo, ColumnTier};
use onward_wire::columns::FOOTER;

/// The tier of this coordinator's host, which starts with the first query that needs it.
pub type TierCell = Arc<OnceLock<Arc<ColumnTier>>>;

/// The table over a tier.
pub struct CacheTable {
    tier: TierCell,
    schema: SchemaRef,
}

impl CacheTable {
    /// A table that shows the tier as it is when a query is planned.
    pub fn new(tier: TierCell) -> Self {
        let number = |name: &str| Field::new(name, DataType::UInt64, false);
        let text = |name: &str| Field::new(name, DataType::Utf8, false);
        let schema = Schema::new(vec![
            text("object"),
            text("version"),
            Field::new("row_group", DataType::UInt32, true),
            text("column"),
            text("type"),
            number("rows"),
            number("bytes"),
            number("hits"),
            text("tier"),
            number("idle_ms"),
            Field::new("pinned", DataType::Boolean, false),
        ]);
        Self { tier, schema: Arc::new(schema) }
    }

    fn batch(&self) -> Result<RecordBatch> {
        let mut columns = self.tier.get().map(|tier| tier.columns()).unwrap_or_default();
        columns.sort_by(|a, b| {
            let order = |info: &ColumnInfo| (info.key.column.row_group, info.key.column.column);
            a.key.object.url.cmp(&b.key.object.url).then(order(a).cmp(&order(b)))
        });
        let texts = |value: &dyn Fn(&ColumnInfo) -> String| -> ArrayRef {
            Arc::new(columns.iter().map(|column| Some(value(column))).collect::<StringArray>())
        };
        let numbers = |value: &dyn Fn(&ColumnInfo) -> u64| -> ArrayRef {
            Arc::new(columns.iter().map(value).collect::<Vec<_>>().into_iter().collect::<UInt64Array>())
        };
        let row_groups: UInt32Array = (columns.iter())
            .map(|column| Some(column.key.column.row_group).filter(|row_group| *row_group != FOOTER))
            .collect();
        let pinned: BooleanArray = columns.iter().map(|column| Some(column.is_pinned)).collect();
        let arrays = vec![
            texts(&|column| column.key.object.url.clone()),
            texts(&|column| column.key.object.version.clone()),
            Arc::new(row_groups),
            texts(&|column| column.name.clone()),
            texts(&|column| column.key.column.target.clone()),
            numbers(&|column| column.rows),
            numbers(&|column| column.bytes),
            numbers(&|column| column.hits),
            texts(&|_| "memory".to_owned()),
            numbers(&|column| column.idle_ms),
            Arc::new(pinned),
        ];
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), arrays)?)
    }
}

impl fmt::Debug for CacheTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CacheTable")
    }
}

#[async_trait]
impl TableProvider for CacheTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
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
        let table = MemTable::try_new(Arc::clone(&self.schema), vec![vec![self.batch()?]])?;
        table.scan(state, projection, filters, limit).await
    }
}
