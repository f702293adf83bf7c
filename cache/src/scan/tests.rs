//! The warm scan gives the rows of DataFusion's own Parquet source, cold and warm, whatever the query asks of it.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, DictionaryArray, Float64Array, Int32Array, Int64Array,
    ListArray, RecordBatch, StringArray, StructArray,
};
use datafusion::arrow::datatypes::{DataType, Field, Int32Type, Schema, UInt8Type};
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader};
use datafusion::parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};
use datafusion::physical_plan::display::DisplayableExecutionPlan;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::{SessionConfig, SessionContext};
use onward_segment::{SegmentStore, StoreOptions};
use onward_wire::FunctionId;

use super::{FusedFilterExec, HIT_BYTES, MISS_BYTES, WarmScans};
use crate::columns::{ColumnTier, LocalColumns};

const ROWS: usize = 30_000;
const ROW_GROUP_ROWS: usize = 20_000;

struct Bench {
    dir: tempfile::TempDir,
    tier: Arc<ColumnTier>,
}

impl Bench {
    fn new(cache_bytes: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions::below(&dir.path().join("store"), cache_bytes, 0);
        let tier = Arc::new(ColumnTier::new(SegmentStore::open(options).unwrap(), Box::new(|_| {})));
        std::fs::create_dir(dir.path().join("t")).unwrap();
        Self { dir, tier }
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join("t").join(name)
    }

    async fn context(&self, settings: &[(&str, &str)], table_schema: Option<Schema>) -> SessionContext {
        let mut config = SessionConfig::new()
            .with_target_partitions(3)
            .set_usize("datafusion.optimizer.repartition_file_min_size", 1);
        for (key, value) in settings {
            config = config.set_str(key, value);
        }
        let context = SessionContext::new_with_config(config);
        let options = ListingOptions::new(Arc::new(ParquetFormat::default()))
            .with_file_extension(".parquet")
            .with_table_partition_cols(match self.file("p=1").exists() {
                true => vec![("p".to_owned(), DataType::Int32)],
                false => vec![],
            });
        let url = ListingTableUrl::parse(self.dir.path().join("t/").to_str().unwrap()).unwrap();
        let config = ListingTableConfig::new(url).with_listing_options(options);
        let config = match table_schema {
            Some(schema) => config.with_schema(Arc::new(schema)),
            None => config.infer_schema(&context.state()).await.unwrap(),
        };
        context.register_table("t", Arc::new(ListingTable::try_new(config).unwrap())).unwrap();
        context
    }

    /// Runs `sql` with DataFusion's scans, then twice with warm ones, and compares. Gives the last plan.
    async fn check(&self, context: &SessionContext, sql: &str) -> Arc<dyn ExecutionPlan> {
        self.check_once(context, sql).await;
        self.check_once(context, sql).await
    }

    /// Runs `sql` with DataFusion's scans and with warm ones, and compares.
    async fn check_once(&self, context: &SessionContext, sql: &str) -> Arc<dyn ExecutionPlan> {
        let plan = async || context.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
        let expected = collect(plan().await, context.task_ctx()).await.unwrap();
        let scans = WarmScans::new(LocalColumns::new(Arc::clone(&self.tier), FunctionId(1)), None);
        let warm = scans.apply(plan().await).unwrap();
        let found = collect(Arc::clone(&warm), context.task_ctx()).await.unwrap();
        let shown = DisplayableExecutionPlan::with_metrics(warm.as_ref()).indent(true).to_string();
        assert_eq!(lines(&found), lines(&expected), "{sql}\n{shown}");
        assert_eq!(self.tier.usage().claims, 0, "no claim is left: {sql}");
        warm
    }
}

/// The rows as text, in order of their text: partitions run side by side.
fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let text = pretty_format_batches(batches).unwrap().to_string();
    let mut lines: Vec<String> = text.lines().filter(|line| line.starts_with('|')).map(str::to_owned).collect();
    // Column widths are those of the widest value: the same rows have the same.
    lines.sort();
    lines
}

fn metric(plan: &Arc<dyn ExecutionPlan>, name: &str) -> usize {
    let own = plan.metrics().and_then(|metrics| metrics.sum_by_name(name)).map_or(0, |value| value.as_usize());
    own + plan.children().into_iter().map(|child| metric(child, name)).sum::<usize>()
}

/// Rows with every kind of column; `seed` moves the values.
fn rows(seed: i64) -> RecordBatch {
    let n = ROWS as i64;
    let numbers = move |f: fn(i64) -> i64| (0..n).map(move |i| f(i + seed));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from_iter_values(0..n))),
        ("k", Arc::new(Int32Array::from_iter(numbers(|i| i * 7 % 101).map(|v| (v != 5).then_some(v as i32))))),
        (
            "few",
            Arc::new(StringArray::from_iter(numbers(|i| i % 6).map(|v| match v {
                0 => None,
                v => Some(["AIR", "a long value that is not inline", "", "SHIP", "ü"][v as usize - 1]),
            }))),
        ),
        // Few values, and each batch has others of them.
        ("runs", Arc::new(StringArray::from_iter_values(numbers(|i| i / 3_000).map(|v| format!("run {v}"))))),
        (
            "keyed",
            Arc::new(
                (0..ROWS)
                    .map(|i| ["x", "y", "z"][(i + seed as usize) / 12_000 % 3])
                    .collect::<DictionaryArray<UInt8Type>>(),
            ),
        ),
        (
            "many",
            Arc::new(StringArray::from_iter(
                numbers(|i| i * 31).map(|v| (v % 97 != 3).then(|| format!("value number {v} of many"))),
            )),
        ),
        (
            "price",
            Arc::new(
                Decimal128Array::from_iter_values(numbers(|i| i * 13 % 10_000).map(i128::from))
                    .with_precision_and_scale(15, 2)
                    .unwrap(),
            ),
        ),
        ("day", Arc::new(Date32Array::from_iter_values(numbers(|i| 9_000 + i / 100).map(|v| v as i32)))),
        (
            "x",
            Arc::new(Float64Array::from_iter(numbers(|i| i).map(|v| match v % 11 {
                0 => None,
                1 => Some(f64::NAN),
                _ => Some(v as f64 / 3.0),
            }))),
        ),
        ("b", Arc::new(BooleanArray::from_iter(numbers(|i| i % 3).map(|v| (v > 0).then_some(v == 1))))),
        (
            "list",
            Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(
                numbers(|i| i % 4).map(|v| (v > 0).then(|| (0..v).map(|i| Some(i as i32)).collect::<Vec<_>>())),
            )),
        ),
        (
            "nested",
            Arc::new(StructArray::from(vec![
                (
                    Arc::new(Field::new("a", DataType::Int64, true)),
                    Arc::new(Int64Array::from_iter_values(numbers(|i| i % 17))) as ArrayRef,
                ),
                (
                    Arc::new(Field::new("s", DataType::Utf8, true)),
                    Arc::new(StringArray::from_iter_values(numbers(|i| i % 3).map(|v| format!("s{v}")))) as ArrayRef,
                ),
            ])),
        ),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
}

fn write(path: &Path, batch: &RecordBatch) {
    write_with(path, batch, WriterProperties::builder());
}

fn write_with(path: &Path, batch: &RecordBatch, properties: WriterPropertiesBuilder) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let properties = properties.set_max_row_group_row_count(Some(ROW_GROUP_ROWS)).build();
    let mut writer =
        ArrowWriter::try_new(std::fs::File::create(path).unwrap(), batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

const QUERIES: &[&str] = &[
    "select * from t where id < 50",
    "select count(*) from t where k > 3",
    "select count(*), sum(price), min(day), max(x), count(few), count(many) from t",
    "select few, count(*), sum(k) from t group by few",
    "select runs, count(*), min(id), max(id) from t group by runs",
    "select runs, keyed, id from t where runs in ('run 2', 'run 7') and id % 100 = 1",
    "select keyed, count(*), min(id) from t where keyed <> 'x' group by keyed",
    "select id from t where few = 'AIR' and k < 10",
    "select id, few, many from t where few like 'a long%' and many like '%99%'",
    "select id from t where few is null and k is null",
    "select id, price * 2, k + 1 from t where day between date '1994-09-01' and date '1994-10-01' and price > 20.00",
    "select id from t where k in (1, 2, 3) or few = 'SHIP'",
    "select id, x from t where x > 9000 or x is null",
    "select b, count(*) from t where not b group by b",
    "select id, list, nested from t where id between 19990 and 20010",
    "select nested.a, count(*) from t where nested.s = 's1' group by nested.a",
    "select id from t order by id desc limit 5",
    "select * from t limit 7",
    "select k from t where id = 12345",
    "select id from t where id > 1000000",
    "select id from t where coalesce(few, 'none') = 'none' and id < 100",
    "select a.id from t a join t b on a.id = b.id where b.k = 7 and b.id < 500",
    "select a.few, count(*) from t a join (select distinct k from t where id < 3) b on a.k = b.k group by a.few",
    "select id from t where cast(k as varchar) = '42' and id < 2000",
];

#[tokio::test]
async fn rows_are_those_of_datafusions_own_scan() {
    let bench = Bench::new(256 << 20);
    write(&bench.file("a.parquet"), &rows(0));
    write(&bench.file("b.parquet"), &rows(7));
    let variants: [&[(&str, &str)]; 3] = [
        &[],
        &[("datafusion.execution.batch_size", "100")],
        &[("datafusion.execution.parquet.pushdown_filters", "true")],
    ];
    for settings in variants {
        let context = bench.context(settings, None).await;
        for sql in QUERIES {
            // Which rows a LIMIT without an order gives is nobody's promise: their number is.
            let sql = match sql.contains("limit 7") {
                true => format!("select count(*) from ({sql})"),
                false => (*sql).to_owned(),
            };
            bench.check(&context, &sql).await;
        }
    }
}

#[tokio::test]
async fn a_second_run_decodes_nothing_and_skips_what_cannot_match() {
    let bench = Bench::new(256 << 20);
    write(&bench.file("a.parquet"), &rows(0));
    let context = bench.context(&[], None).await;
    let plan = bench.check(&context, "select many from t where id between 100 and 110 and k >= 0").await;
    assert_eq!(metric(&plan, MISS_BYTES), 0);
    assert!(metric(&plan, HIT_BYTES) > 0);
    // Of the first row group's three batches two cannot have such ids; the second row group is pruned by its footer.
    assert_eq!(metric(&plan, "cache_batches_pruned"), 2);
    let published = bench.tier.usage().published;
    bench.check(&context, "select count(many) from t where id > 7").await;
    assert_eq!(bench.tier.usage().published, published + 1, "`many` of the other row group, all of whose rows pass");
}

#[tokio::test]
async fn of_a_column_that_is_not_cached_pages_that_cannot_match_are_not_read() {
    let bench = Bench::new(256 << 20);
    let small_pages = || WriterProperties::builder().set_data_page_row_count_limit(500).set_write_batch_size(100);
    write_with(&bench.file("a.parquet"), &rows(0), small_pages());
    let context = bench.context(&[], None).await;
    let sql = "select id, price, nested from t where id between 2100 and 2900";
    for (published, sentence) in [(0, "pages, for the first who asks"), (3, "whole columns, for the second"), (3, "")] {
        let plan = bench.check_once(&context, sql).await;
        assert_eq!(bench.tier.usage().published, 1 + published, "the footer, and {sentence}");
        assert_eq!(metric(&plan, MISS_BYTES) == 0, sentence.is_empty(), "{sentence}");
    }

    // A page of prices that nobody needs is no page at all.
    let bench = Bench::new(256 << 20);
    let path = bench.file("a.parquet");
    write_with(&path, &rows(0), small_pages());
    let reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Required);
    let footer = reader.parse_and_finish(&std::fs::File::open(&path).unwrap()).unwrap();
    let prices =
        footer.row_group(0).columns().iter().position(|column| column.column_path().string() == "price").unwrap();
    let page = &footer.offset_index().unwrap()[0][prices].page_locations()[20];
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&vec![0xff; page.compressed_page_size as usize], page.offset as u64).unwrap();
    let context = bench.context(&[], None).await;
    bench.check_once(&context, sql).await;
    let scans = WarmScans::new(LocalColumns::new(Arc::clone(&bench.tier), FunctionId(1)), None);
    let plan = context.sql("select sum(price) from t").await.unwrap().create_physical_plan().await.unwrap();
    collect(scans.apply(plan).unwrap(), context.task_ctx()).await.expect_err("it is read when it is needed");

    for sql in QUERIES.iter().filter(|sql| !sql.contains("limit 7")) {
        let bench = Bench::new(256 << 20);
        write_with(&bench.file("a.parquet"), &rows(0), small_pages());
        write_with(&bench.file("b.parquet"), &rows(7), small_pages());
        bench.check(&bench.context(&[], None).await, sql).await;
    }
}

/// Found in review: rows between those selected were decoded, from pages that had not been read.
#[tokio::test]
async fn many_small_pages_with_few_rows_between_them() {
    let bench = Bench::new(256 << 20);
    let columns: [(&str, ArrayRef); 2] = [
        ("x", Arc::new(Int64Array::from_iter_values((0..40_000).map(|i| i / 10 % 5)))),
        ("v", Arc::new(Int64Array::from_iter_values(0..40_000))),
    ];
    let small = WriterProperties::builder().set_data_page_row_count_limit(10).set_write_batch_size(10);
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    write_with(&bench.file("a.parquet"), &batch, small.set_dictionary_enabled(false));
    let context = bench.context(&[], None).await;
    let plan = bench.check_once(&context, "select count(*), sum(v) from t where x = 0").await;
    assert!(metric(&plan, MISS_BYTES) > 0);
    assert_eq!(bench.tier.usage().published, 1, "pages were read, nothing but the footer is kept");
}

/// Found in review: with many row groups none was kept, however often a query came.
#[tokio::test]
async fn however_many_row_groups_the_second_who_needs_few_rows_caches_them() {
    let bench = Bench::new(256 << 20);
    let small = || WriterProperties::builder().set_data_page_row_count_limit(500).set_write_batch_size(100);
    for file in 0..40 {
        write_with(&bench.file(&format!("{file}.parquet")), &rows(file), small());
    }
    let context = bench.context(&[], None).await;
    let sql = "select sum(k), sum(price) from t where id between 2100 and 2900";
    for published in [40, 160] {
        bench.check_once(&context, sql).await;
        assert_eq!(bench.tier.usage().published, published, "40 footers, then three columns of each file");
    }
}

#[tokio::test]
async fn row_groups_that_are_large_when_decoded_are_read_batch_by_batch() {
    let bench = Bench::new(256 << 20);
    write(&bench.file("a.parquet"), &rows(0));
    let context = bench.context(&[], None).await;
    let scans = WarmScans::new(LocalColumns::new(Arc::clone(&bench.tier), FunctionId(1)), None);
    // Two columns are more than that in the first row group, not in the second, which has half of its rows.
    let scans = scans.with_most_group_bytes(ROW_GROUP_ROWS as u64 * 20);
    for (sql, published) in
        [("select sum(id), sum(price) from t", 3), ("select sum(id), count(*) from t where k > 0", 6)]
    {
        let plan = context.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
        collect(scans.apply(plan).unwrap(), context.task_ctx()).await.unwrap();
        assert_eq!(bench.tier.usage().published, published, "{sql}");
    }
}

#[tokio::test]
async fn row_groups_that_a_bloom_filter_excludes_are_not_read() {
    let bench = Bench::new(256 << 20);
    let properties = WriterProperties::builder().set_column_bloom_filter_enabled("many".into(), true);
    write_with(&bench.file("a.parquet"), &rows(0), properties);
    let context = bench.context(&[], None).await;
    let plan = bench.check_once(&context, "select id from t where many = 'value number 31000x of many'").await;
    assert_eq!(metric(&plan, MISS_BYTES), 0);
    assert_eq!(bench.tier.usage().published, 1, "the footer");
    let plan = bench.check_once(&context, "select id from t where many = 'value number 31000 of many'").await;
    assert!(metric(&plan, MISS_BYTES) > 0, "row 1,000 has it");
}

#[tokio::test]
async fn filters_run_in_the_scan_and_keep_their_place_in_the_tree() {
    let bench = Bench::new(256 << 20);
    write(&bench.file("a.parquet"), &rows(0));
    let context = bench.context(&[], None).await;
    let plan = context.sql("select many from t where k = 3").await.unwrap().create_physical_plan().await.unwrap();
    let scans = WarmScans::new(LocalColumns::new(Arc::clone(&bench.tier), FunctionId(1)), None);
    let warm = scans.apply(Arc::clone(&plan)).unwrap();
    fn depth(plan: &Arc<dyn ExecutionPlan>) -> usize {
        1 + plan.children().into_iter().map(depth).max().unwrap_or(0)
    }
    fn has_fused(plan: &Arc<dyn ExecutionPlan>) -> bool {
        plan.is::<FusedFilterExec>() || plan.children().into_iter().any(has_fused)
    }
    assert!(has_fused(&warm));
    assert_eq!(depth(&plan), depth(&warm));
    // A volatile condition draws once per row, where it stands.
    let plan = context.sql("select many from t where random() < 2").await.unwrap();
    let warm = scans.apply(plan.create_physical_plan().await.unwrap()).unwrap();
    assert!(!has_fused(&warm));
}

#[tokio::test]
async fn missing_added_and_widened_columns_and_partitions_of_hive() {
    let bench = Bench::new(256 << 20);
    let whole = rows(0);
    write(&bench.file("p=1/a.parquet"), &whole);
    // No `few`, `k` narrower and at another place, one column more.
    let narrow = RecordBatch::try_from_iter_with_nullable([
        ("extra", Arc::new(Int32Array::from_iter_values(0..100)) as ArrayRef, true),
        ("id", Arc::new(Int64Array::from_iter_values(0..100)) as ArrayRef, true),
        ("k", Arc::new(datafusion::arrow::array::Int16Array::from_iter_values(0..100)) as ArrayRef, true),
    ]);
    write(&bench.file("p=2/b.parquet"), &narrow.unwrap());
    let mut fields: Vec<Field> = whole.schema().fields().iter().map(|field| field.as_ref().clone()).collect();
    fields[1] = Field::new("k", DataType::Int64, true);
    fields.push(Field::new("extra", DataType::Int32, true));
    let context = bench.context(&[], Some(Schema::new(fields))).await;
    for sql in [
        "select id, k, few, extra, p from t where id < 20",
        "select p, count(*), sum(k), count(few), count(extra) from t group by p",
        "select id from t where p = 2 and few is null and k < 7",
        "select id from t where few = 'AIR' and p in (1, 2) and id < 100",
        "select count(*) from t where extra > 90",
        "select p from t where p + k = 5",
    ] {
        bench.check(&context, sql).await;
    }
}

#[tokio::test]
async fn a_cache_that_is_far_too_small_is_still_right_and_bounded() {
    let bench = Bench::new(1 << 20);
    write(&bench.file("a.parquet"), &rows(0));
    write(&bench.file("b.parquet"), &rows(3));
    let context = bench.context(&[], None).await;
    for sql in QUERIES.iter().filter(|sql| !sql.contains("limit 7")) {
        bench.check(&context, sql).await;
    }
    assert!(bench.tier.usage().evicted > 0);
    assert!(bench.tier.store().usage().memory_bytes <= 1 << 20);
}

#[tokio::test]
async fn an_overwritten_file_is_another_object() {
    let bench = Bench::new(256 << 20);
    write(&bench.file("a.parquet"), &rows(0));
    let context = bench.context(&[], None).await;
    let sql = "select few, sum(k), max(many) from t group by few";
    bench.check(&context, sql).await;
    write(&bench.file("a.parquet"), &rows(1));
    let context = bench.context(&[], None).await;
    bench.check(&context, sql).await;
}

#[tokio::test]
async fn empty_files_and_single_rows() {
    let bench = Bench::new(64 << 20);
    write(&bench.file("a.parquet"), &rows(0).slice(0, 0));
    write(&bench.file("b.parquet"), &rows(0).slice(11, 1));
    let context = bench.context(&[], None).await;
    for sql in ["select * from t", "select count(*) from t where k > 0", "select few from t where few is null"] {
        bench.check(&context, sql).await;
    }
}
