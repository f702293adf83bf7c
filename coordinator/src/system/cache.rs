//! `system.cache`: one row per cached column of a row group, and one per remote object whose bytes are kept.

use std::sync::{Arc, OnceLock};

use datafusion::arrow::array::{ArrayRef, BooleanArray, RecordBatch, StringArray, UInt32Array, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::Result;
use onward_cache::columns::{ColumnInfo, ColumnKey, ColumnTier};
use onward_cache::ranges::{ObjectUse, RangeTier};
use onward_wire::columns::FOOTER;

use super::snapshot::Snapshot;

/// The tier of this coordinator's host, which starts with the first query that needs it.
pub type TierCell = Arc<OnceLock<Arc<ColumnTier>>>;

/// The table over both tiers.
pub struct CacheTable {
    tier: TierCell,
    /// When bytes of remote objects are kept.
    ranges: Option<Arc<RangeTier>>,
    schema: SchemaRef,
}

impl CacheTable {
    /// A table that shows the tier as it is when a query is planned.
    pub fn new(tier: TierCell, ranges: Option<Arc<RangeTier>>) -> Self {
        let number = |name: &str| Field::new(name, DataType::UInt64, false);
        let text = |name: &str| Field::new(name, DataType::Utf8, false);
        let schema = Schema::new(vec![
            text("object"),
            text("version"),
            Field::new("row_group", DataType::UInt32, true),
            Field::new("column", DataType::Utf8, true),
            Field::new("type", DataType::Utf8, true),
            Field::new("rows", DataType::UInt64, true),
            number("bytes"),
            number("hits"),
            text("tier"),
            number("idle_ms"),
            Field::new("pinned", DataType::Boolean, false),
        ]);
        Self { tier, ranges, schema: Arc::new(schema) }
    }

    fn rows(&self) -> Vec<Row> {
        let columns = self.tier.get().map(|tier| tier.columns()).unwrap_or_default();
        let objects = self.ranges.as_ref().map(|ranges| ranges.objects()).unwrap_or_default();
        let mut rows: Vec<Row> =
            columns.into_iter().map(Row::of_column).chain(objects.into_iter().map(Row::of_object)).collect();
        rows.sort_by(|a, b| (&a.object, a.row_group, a.number).cmp(&(&b.object, b.row_group, b.number)));
        rows
    }
}

/// What is kept of one column of a row group, or of one object.
struct Row {
    object: String,
    version: String,
    row_group: Option<u32>,
    number: u32,
    column: Option<String>,
    target: Option<String>,
    rows: Option<u64>,
    bytes: u64,
    hits: u64,
    tier: &'static str,
    idle_ms: u64,
    is_pinned: bool,
}

impl Row {
    fn of_column(info: ColumnInfo) -> Self {
        let ColumnKey { object, column } = info.key;
        Self {
            object: object.url.clone(),
            version: object.version.clone(),
            row_group: Some(column.row_group).filter(|row_group| *row_group != FOOTER),
            number: column.column,
            column: Some(info.name),
            target: Some(column.target),
            rows: Some(info.rows),
            bytes: info.bytes,
            hits: info.hits,
            tier: "memory",
            idle_ms: info.idle_ms,
            is_pinned: info.is_pinned,
        }
    }

    fn of_object(uses: ObjectUse) -> Self {
        let object = uses.object;
        Self {
            object: format!("{}{}", object.store, object.path),
            version: object.e_tag.clone().unwrap_or_else(|| format!("{}-{}", object.bytes, object.modified_ns)),
            row_group: None,
            number: 0,
            column: None,
            target: None,
            rows: None,
            bytes: uses.store_bytes,
            hits: uses.hits,
            tier: "disk",
            idle_ms: uses.idle_ms,
            is_pinned: false,
        }
    }
}

impl Snapshot for CacheTable {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn batch(&self) -> Result<RecordBatch> {
        let rows = self.rows();
        let texts =
            |value: fn(&Row) -> Option<&str>| -> ArrayRef { Arc::new(rows.iter().map(value).collect::<StringArray>()) };
        let numbers =
            |value: fn(&Row) -> Option<u64>| -> ArrayRef { Arc::new(rows.iter().map(value).collect::<UInt64Array>()) };
        let row_groups: UInt32Array = rows.iter().map(|row| row.row_group).collect();
        let pinned: BooleanArray = rows.iter().map(|row| Some(row.is_pinned)).collect();
        let arrays = vec![
            texts(|row| Some(&row.object)),
            texts(|row| Some(&row.version)),
            Arc::new(row_groups),
            texts(|row| row.column.as_deref()),
            texts(|row| row.target.as_deref()),
            numbers(|row| row.rows),
            numbers(|row| Some(row.bytes)),
            numbers(|row| Some(row.hits)),
            texts(|row| Some(row.tier)),
            numbers(|row| Some(row.idle_ms)),
            Arc::new(pinned),
        ];
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), arrays)?)
    }
}
