//! The column cache by itself: how fast a warm scan gives its rows, what a look-up costs, and evicting while others look up.
//!
//! `cargo bench --bench cache`
//!
//! The warm scan sums one column of numbers and passes on a column of few strings, on one thread; beside it stand the same sum over the
//! same bytes on the heap, which is what memory gives, and DataFusion's own scan of the same Parquet file.

mod support;

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use onward_cache::columns::layout::Stored;
use onward_cache::columns::{ColumnClient, ColumnTier, Found, LocalColumns, Lookup};
use onward_cache::scan::WarmScans;
use onward_segment::{SegmentStore, StoreOptions};
use onward_wire::FunctionId;
use onward_wire::columns::{ColumnId, ObjectVersion, WantedColumn};
use tokio::runtime::Runtime;

const ROWS: usize = 4_000_000;

fn tier(dir: &std::path::Path, bytes: u64) -> Arc<ColumnTier> {
    let options = StoreOptions::below(dir, bytes, 0);
    let store = SegmentStore::open(options).expect("a store");
    Arc::new(ColumnTier::new(store, Box::new(|_| {})))
}

fn object() -> Arc<ObjectVersion> {
    Arc::new(ObjectVersion { url: "s3://bench/t.parquet".to_owned(), version: "1".to_owned() })
}

fn column(row_group: u32) -> ColumnId {
    ColumnId { row_group, column: 0, target: "Int64".to_owned() }
}

/// Others go for it when there is no room.
fn wanted(row_group: u32) -> WantedColumn {
    WantedColumn { column: column(row_group), bytes: 0, is_ordered: true, is_partial: false }
}

/// Puts a small column into the tier.
fn keep(runtime: &Runtime, client: &Arc<LocalColumns>, row_group: u32, rows: i64) {
    let object = object();
    let found = runtime.block_on(client.clone().find(&object, &[wanted(row_group)])).expect("an answer");
    if let Some(Lookup::Claimed(claim)) = found.into_iter().next() {
        let stored = Stored::new(vec![Arc::new(Int64Array::from_iter_values(0..rows))]);
        runtime.block_on(claim.keep(stored, "a", rows as u64)).expect("it is kept");
    }
}

fn scans(criterion: &mut Criterion) {
    println!("{}", support::conditions());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let dir = tempfile::tempdir().expect("a directory");
    // Shared memory, as functions see it.
    let memory = tempfile::tempdir_in("/dev/shm").expect("a directory in /dev/shm");
    let file = dir.path().join("t.parquet");
    let few = ["AIR", "RAIL", "SHIP", "TRUCK"];
    let columns: [(&str, ArrayRef); 2] = [
        ("n", Arc::new(Int64Array::from_iter_values((0..ROWS as i64).map(|i| i * 7 % 1_000_003)))),
        ("s", Arc::new(StringArray::from_iter_values((0..ROWS).map(|i| few[i % 4])))),
    ];
    let batch = RecordBatch::try_from_iter(columns).expect("a batch");
    let mut writer =
        ArrowWriter::try_new(std::fs::File::create(&file).expect("a file"), batch.schema(), None).expect("a writer");
    writer.write(&batch).expect("rows");
    writer.close().expect("a footer");

    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
    let path = file.to_string_lossy().into_owned();
    runtime.block_on(context.register_parquet("t", &path, ParquetReadOptions::default())).expect("a table");
    let warm = WarmScans::new(LocalColumns::new(tier(memory.path(), 1 << 30), FunctionId(1)), None);
    let plan = |sql: &str| -> Arc<dyn ExecutionPlan> {
        runtime
            .block_on(async { context.sql(sql).await.expect("a query").create_physical_plan().await.expect("a plan") })
    };
    let run =
        |plan: Arc<dyn ExecutionPlan>| black_box(runtime.block_on(collect(plan, context.task_ctx())).expect("rows"));

    let mut group = criterion.benchmark_group("scan");
    group.sample_size(20);
    for (name, sql, bytes) in [
        ("sum of numbers", "select sum(n) from t", ROWS * 8),
        ("strings counted", "select s, count(*) from t group by s", ROWS),
        ("one row in four", "select sum(n) from t where s = 'SHIP'", ROWS * 9),
    ] {
        group.throughput(Throughput::Bytes(bytes as u64));
        run(warm.apply(plan(sql)).expect("a warm plan"));
        group.bench_function(BenchmarkId::new("warm", name), |bencher| {
            bencher.iter(|| run(warm.apply(plan(sql)).expect("a warm plan")));
        });
        group.bench_function(BenchmarkId::new("parquet", name), |bencher| bencher.iter(|| run(plan(sql))));
    }
    let numbers: Vec<i64> = (0..ROWS as i64).collect();
    group.throughput(Throughput::Bytes(ROWS as u64 * 8));
    group.bench_function("memory, sum of numbers", |bencher| {
        bencher.iter(|| black_box(&numbers).iter().fold(0i64, |sum, value| sum.wrapping_add(*value)));
    });
    group.finish();
}

fn look_ups(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory in /dev/shm");
    let tier = tier(dir.path(), 64 << 20);
    let client = LocalColumns::new(Arc::clone(&tier), FunctionId(1));
    (0..100).for_each(|row_group| keep(&runtime, &client, row_group, 1_000));
    let (object, asked) = (object(), wanted(7));
    assert_eq!(tier.set_pinned(true, |key, _| key.column.row_group == 7), 1, "it stays while others come and go");
    let look_up = |holder: FunctionId| match &tier.find(holder, &object, std::slice::from_ref(&asked))[..] {
        [Found::Hit(_, segment)] => tier.store().release(segment.id(), holder),
        other => panic!("{other:?}"),
    };
    criterion.bench_function("look-up of a cached column, with its descriptor", |bencher| {
        bencher.iter(|| look_up(FunctionId(2)));
    });

    // Another thread decodes columns that do not fit all the time, so that the tier evicts.
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let client = LocalColumns::new(Arc::clone(&tier), FunctionId(3));
            let mut row_group = 1_000;
            while !is_over.load(Ordering::Relaxed) {
                keep(&runtime, &client, row_group, 8_000);
                row_group += 1;
            }
        });
        criterion.bench_function("look-up while another thread fills and evicts", |bencher| {
            bencher.iter(|| look_up(FunctionId(2)));
        });
        is_over.store(true, Ordering::Relaxed);
    });
    println!("{:?}", tier.usage());
}

criterion_group!(benches, scans, look_ups);
criterion_main!(benches);
