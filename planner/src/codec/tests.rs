//! A scan of files means the same before and after it was sent: with each of its options, alone and in every combination.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::config::{ConfigField, CsvOptions, TableParquetOptions};
use datafusion::common::parsers::{CompressionTypeVariant, CsvQuoteStyle};
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, Constraint, Constraints, ScalarValue, Statistics};
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{
    ArrowSource, CsvSource, FileGroup, FileScanConfig, FileScanConfigBuilder, FileSource, JsonSource, ParquetSource,
};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::TaskContext;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::Operator;
use datafusion::object_store::memory::InMemory;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, lit};
use datafusion::physical_expr::{LexOrdering, Partitioning, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::ExecutionPlan;

use super::file_scan::file_scan;
use super::{decode, encode};
use crate::json_array::JsonArraySource;

type Change = fn(FileScanConfigBuilder) -> FileScanConfigBuilder;

fn table_schema() -> TableSchema {
    let fields = vec![
        Field::new("a", DataType::Int32, false),
        Field::new("b", DataType::Utf8, true),
        Field::new("c", DataType::Float64, true),
    ];
    let file = Schema::new(fields).with_metadata([("made by".to_owned(), "a test".to_owned())].into());
    let partition = Arc::new(Field::new("p", DataType::Utf8, false));
    TableSchema::builder(Arc::new(file)).with_table_partition_cols(vec![partition]).build()
}

fn file(name: &str) -> PartitionedFile {
    let mut file = PartitionedFile::new(name, 10_000).with_partition_values(vec![ScalarValue::from("x")]);
    file.object_meta.last_modified += std::time::Duration::from_secs(1_700_000_000);
    file
}

fn statistics(rows: usize) -> Statistics {
    let column = |low: i32| ColumnStatistics {
        null_count: Precision::Exact(3),
        max_value: Precision::Exact(ScalarValue::Int32(Some(low + 1))),
        min_value: Precision::Inexact(ScalarValue::Int32(Some(low))),
        sum_value: Precision::Absent,
        distinct_count: Precision::Inexact(2),
        byte_size: Precision::Exact(77),
    };
    Statistics {
        num_rows: Precision::Exact(rows),
        total_byte_size: Precision::Inexact(9),
        column_statistics: (0..4).map(column).collect(),
    }
}

fn column_a() -> Arc<dyn PhysicalExpr> {
    Arc::new(Column::new("a", 0))
}

/// One option each, none with its default.
fn changes() -> Vec<Change> {
    vec![
        |scan| scan.with_limit(Some(17)),
        |scan| scan.with_preserve_order(true),
        |scan| {
            scan.with_output_ordering(
                LexOrdering::new([PhysicalSortExpr::new_default(column_a()).desc()]).into_iter().collect(),
            )
        },
        |scan| scan.with_constraints(Constraints::new_unverified(vec![Constraint::PrimaryKey(vec![0])])),
        |scan| scan.with_statistics(statistics(1_000)),
        |scan| scan.with_batch_size(Some(13)),
        |scan| scan.with_output_partitioning(Some(Partitioning::Hash(vec![column_a()], 2))),
        |scan| scan.with_projection_indices(Some(vec![3, 0])).expect("columns of the table"),
        |scan| scan.with_file_compression_type(FileCompressionType::ZSTD),
        |scan| {
            let read_as = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]));
            let mut part = file("c d.x").with_range(5, 500).with_arrow_schema(read_as);
            part.statistics = Some(Arc::new(statistics(10)));
            scan.with_file_groups(vec![FileGroup::new(vec![file("a"), part]), FileGroup::new(vec![file("e/é")])])
        },
    ]
}

/// Options of CSV, none with its default. A field that a new version adds breaks this: does its reader look at it?
fn csv_options() -> CsvOptions {
    CsvOptions {
        has_header: Some(false),
        delimiter: b'|',
        quote: b'\'',
        terminator: Some(b'#'),
        escape: Some(b'\\'),
        newlines_in_values: Some(true),
        comment: Some(b'%'),
        truncated_rows: Some(true),
        // The format's, of writers and of inference: `CsvSource` does not look at them.
        double_quote: None,
        quote_style: CsvQuoteStyle::Necessary,
        ignore_leading_whitespace: None,
        ignore_trailing_whitespace: None,
        compression: CompressionTypeVariant::UNCOMPRESSED,
        compression_level: None,
        schema_infer_max_rec: None,
        date_format: None,
        datetime_format: None,
        timestamp_format: None,
        timestamp_tz_format: None,
        time_format: None,
        null_value: None,
        null_regex: None,
    }
}

/// Every option of Parquet with a value that is not its default, whatever options there are.
fn parquet_options() -> TableParquetOptions {
    let values = ["true", "false", "12345", "2.0", "us", "Europe/Paris", "chunk", "plain", "snappy", "0.25"];
    let mut options = TableParquetOptions::default();
    for entry in TableParquetOptions::default().entries() {
        // Keys and columns are not among the options of a reader.
        if entry.key.contains("crypto") || entry.key.contains("::") {
            continue;
        }
        let changed = values.iter().find_map(|value| {
            let mut changed = options.clone();
            // Some options take any text, and fail when they are used.
            let is_special = match entry.key.as_str() {
                "coerce_int96" => *value == "us",
                "coerce_int96_tz" => *value == "Europe/Paris",
                _ => true,
            };
            changed.set(&entry.key, value).is_ok_and(|()| is_special && changed != options).then_some(changed)
        });
        options = changed.unwrap_or_else(|| panic!("no other value for {entry:?}"));
    }
    options
}

fn sources() -> Vec<Arc<dyn FileSource>> {
    let lines = JsonSource::new(table_schema());
    let predicate = Arc::new(BinaryExpr::new(column_a(), Operator::Gt, lit(3)));
    vec![
        Arc::new(ParquetSource::new(table_schema())),
        Arc::new(
            ParquetSource::new(table_schema()).with_table_parquet_options(parquet_options()).with_predicate(predicate),
        ),
        Arc::new(CsvSource::new(table_schema())),
        Arc::new(CsvSource::new(table_schema()).with_csv_options(csv_options())),
        Arc::new(JsonArraySource::in_place_of(&lines).expect("the same columns")),
        Arc::new(lines),
        Arc::new(ArrowSource::new_file_source(table_schema())),
        Arc::new(ArrowSource::new_stream_file_source(table_schema())),
    ]
}

/// All that a scan says of itself, a line per subject.
fn described(plan: &Arc<dyn ExecutionPlan>) -> Vec<String> {
    let scan: &FileScanConfig = file_scan(plan).expect("a scan of files");
    let source = scan.file_source();
    let files: Vec<_> = scan.file_groups.iter().map(|group| group.files().to_vec()).collect();
    let mut lines = vec![
        format!("{} {} {:?}", source.file_type(), source.supports_repartitioning(), scan.file_compression_type),
        format!("{} {files:?}", scan.object_store_url),
        format!("limit {:?}, in order {}", scan.limit, scan.preserve_order),
        format!("batches of {:?}", scan.batch_size),
        format!("{:?} {:?}", scan.output_ordering, scan.output_partitioning),
        format!("{:?}", scan.constraints),
        format!("{:?}", scan.statistics()),
        format!("{:?}", source.table_schema()),
        format!("{:?}", source.projection()),
        format!("{:?}", source.filter()),
        format!("{:?} {:?}", plan.schema(), plan.properties().output_partitioning()),
    ];
    if let Some(csv) = source.downcast_ref::<CsvSource>() {
        lines.push(format!("{} {} {}", csv.has_header(), csv.delimiter(), csv.quote()));
        lines.push(format!("{:?} {:?} {:?}", csv.terminator(), csv.comment(), csv.escape()));
        lines.push(format!("{} {}", csv.truncate_rows(), csv.newlines_in_values()));
    }
    if let Some(parquet) = source.downcast_ref::<ParquetSource>() {
        lines.push(format!("{:?}", parquet.table_parquet_options().global));
    }
    lines
}

fn sent(plan: &Arc<dyn ExecutionPlan>, ctx: &TaskContext) -> Arc<dyn ExecutionPlan> {
    let bytes = encode(plan, &[]).expect("it can be encoded");
    decode(&bytes, ctx, &[]).expect("it can be decoded")
}

#[test]
fn every_option_of_a_scan_survives() {
    let (ctx, changes) = (TaskContext::default(), changes());
    for source in sources() {
        let plain = FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), Arc::clone(&source))
            .with_file_groups(vec![FileGroup::new(vec![file("a")]), FileGroup::new(vec![file("b")])]);
        let unchanged = described(&(DataSourceExec::from_data_source(plain.clone().build()) as _));
        for chosen in 0_u32..1 << changes.len() {
            let is_chosen = |change: &usize| chosen >> change & 1 == 1;
            let scan = (0..changes.len()).filter(is_chosen).fold(plain.clone(), |scan, change| changes[change](scan));
            let plan = DataSourceExec::from_data_source(scan.build()) as Arc<dyn ExecutionPlan>;
            let before = described(&plan);
            assert_eq!(before, described(&sent(&plan, &ctx)), "changes {chosen:#b}");
            assert!(chosen.count_ones() != 1 || before != unchanged, "change {chosen:#b} changes nothing");
        }
    }
}

/// What cannot be carried is refused, rather than lost.
#[test]
fn a_scan_that_would_lose_something_is_refused() {
    use datafusion::physical_expr_adapter::DefaultPhysicalExprAdapterFactory;
    let refused = |source: Arc<dyn FileSource>, change: Change| {
        let scan = FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), source).with_file(file("a"));
        let error = encode(&(DataSourceExec::from_data_source(change(scan).build()) as _), &[]).map(drop);
        error.expect_err("it is refused").to_string()
    };
    let parquet = || Arc::new(ParquetSource::new(table_schema()));
    let row = Arc::new(Field::new("row", DataType::Int64, true));
    let schema = TableSchema::builder(Arc::clone(table_schema().file_schema())).with_virtual_columns(vec![row]);
    assert!(refused(Arc::new(ParquetSource::new(schema.build())), |scan| scan).contains("virtual"));
    let adapted: Change = |scan| scan.with_expr_adapter(Some(Arc::new(DefaultPhysicalExprAdapterFactory)));
    assert!(refused(parquet(), adapted).contains("adapter"));
    assert!(refused(parquet(), |scan| scan.with_file(file("b").with_extension(7_u8))).contains("extensions"));
    assert!(refused(parquet(), |scan| scan.with_limit(Some(1 << 40))).contains("LIMIT"));
}

/// In an object store the footer of a Parquet file is read with one request, in a function too.
#[test]
fn the_first_read_of_a_footer_keeps_its_size() {
    let (ctx, url) = (TaskContext::default(), ObjectStoreUrl::parse("mem://bucket").expect("a URL"));
    ctx.runtime_env().register_object_store(url.as_ref(), Arc::new(InMemory::new()));
    let source = ParquetSource::new(table_schema()).with_table_parquet_options(parquet_options());
    let source = Arc::new(source.with_metadata_size_hint(12_345));
    let scan = FileScanConfigBuilder::new(url, source).with_file(file("a"));
    let plan = sent(&(DataSourceExec::from_data_source(scan.build()) as _), &ctx);
    let source = file_scan(&plan).expect("a scan").file_source().downcast_ref::<ParquetSource>().expect("of Parquet");
    // Once among the options, once where the reader looks; only `Debug` shows the latter.
    let shown = format!("{source:?}");
    assert_eq!(shown.matches("metadata_size_hint: Some(12345)").count(), 2, "{shown}");
}
