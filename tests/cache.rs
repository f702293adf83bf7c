//! The column cache through the whole system: what functions warmed outlives them, statements about it, and objects that change
//! under running queries.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::DataType;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::file::metadata::SortingColumn;
use datafusion::parquet::file::properties::WriterProperties;
use futures::TryStreamExt;
use onward_coordinator::{Coordinator, CoordinatorOptions, Session, SessionOptions};
use onward_wire::Config;
use tempfile::TempDir;

const ROWS: i64 = 60_000;

/// A coordinator of its own, whose functions can be found among all processes.
struct Cluster {
    coordinator: Arc<Coordinator>,
    dir: TempDir,
}

impl Cluster {
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let spill_dir = dir.path().join("spill");
        std::fs::create_dir(&spill_dir).expect("a directory");
        let config = Config {
            spill_dir: spill_dir.display().to_string(),
            segment_dir: spill_dir.display().to_string(),
            segment_memory_bytes: 64 << 20,
            segment_disk_bytes: 256 << 20,
            cache_memory_bytes: 256 << 20,
            vcpus: 2,
            function_idle_timeout_ms: 600_000,
            ..crate::support::config()
        };
        let function_program = Some(env!("CARGO_BIN_EXE_onward").into());
        let options = CoordinatorOptions { config, function_program, ..CoordinatorOptions::default() };
        Self { coordinator: Coordinator::start(options).await.expect("a coordinator"), dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn session(&self, functions: u32) -> Arc<Session> {
        let session = self.coordinator.session(SessionOptions::default()).expect("a session");
        rows(&session, "SET onward.statement_timeout_ms = 120000").await;
        rows(&session, &format!("SET onward.functions = {functions}")).await;
        session
    }

    /// Processes of its functions.
    fn functions(&self) -> Vec<i32> {
        let spill = self.path("spill");
        let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        // A function works in its own directory.
        let is_ours = |pid: &i32| {
            std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|directory| directory.starts_with(&spill))
        };
        pids.filter(is_ours).collect()
    }

    async fn end(self) {
        self.coordinator.shutdown(Duration::ZERO).await;
    }
}

/// The rows of one statement as text, and its id.
async fn run(session: &Arc<Session>, sql: &str) -> Result<(Vec<Vec<String>>, String), String> {
    let execution = session.execute(sql).await.map_err(|error| error.to_string())?;
    let query = execution.query.to_string();
    let batches: Vec<RecordBatch> = execution.stream.try_collect().await.map_err(|error| error.to_string())?;
    let mut rows = Vec::new();
    for batch in &batches {
        let columns: Vec<ArrayRef> =
            batch.columns().iter().map(|column| cast(column, &DataType::Utf8).expect("text")).collect();
        for row in 0..batch.num_rows() {
            let cell = |column: &ArrayRef| match column.is_null(row) {
                true => String::new(),
                false => column.as_string::<i32>().value(row).to_owned(),
            };
            rows.push(columns.iter().map(cell).collect());
        }
    }
    Ok((rows, query))
}

async fn rows(session: &Arc<Session>, sql: &str) -> Vec<Vec<String>> {
    run(session, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}")).0
}

/// What `system.queries` has of a query: bytes from the cache, bytes decoded, requests for tables.
async fn measured(session: &Arc<Session>, query: &str) -> [u64; 3] {
    let sql = format!(
        "select cache_hit_bytes, cache_miss_bytes, table_requests from system.queries where query_id = '{query}'"
    );
    let row = rows(session, &sql).await.remove(0);
    [0, 1, 2].map(|column| row[column].parse().expect("a number"))
}

fn write(path: &Path, value: i64) {
    let columns: [(&str, ArrayRef); 3] = [
        ("id", Arc::new(Int64Array::from_iter_values(0..ROWS))),
        ("v", Arc::new(Int64Array::from_iter_values((0..ROWS).map(|_| value)))),
        ("s", Arc::new(StringArray::from_iter_values((0..ROWS).map(|i| format!("text {}", i * value % 1_000))))),
    ];
    let batch = RecordBatch::try_from_iter(columns).expect("a batch");
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(20_000)).build();
    let file = std::fs::File::create(path).expect("a file");
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).expect("a writer");
    writer.write(&batch).expect("rows");
    writer.close().expect("a footer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn warm_columns_outlive_the_functions_that_decoded_them() {
    let cluster = Cluster::start().await;
    let file = cluster.path("t.parquet");
    write(&file, 3);
    let session = cluster.session(2).await;
    let sql = format!("select count(*), sum(v), max(s) from '{}' where id >= 100", file.display());
    let (cold, query) = run(&session, &sql).await.expect("rows");
    let [_, missed, requests] = measured(&session, &query).await;
    assert!(missed > 0 && requests > 0);

    let functions = cluster.functions();
    assert!(!functions.is_empty());
    for pid in &functions {
        let process = rustix::process::Pid::from_raw(*pid).expect("a process id");
        rustix::process::kill_process(process, rustix::process::Signal::KILL).expect("a kill");
    }
    let (warm, query) = run(&session, &sql).await.expect("rows");
    assert_eq!(warm, cold);
    assert!(cluster.functions().iter().all(|pid| !functions.contains(pid)), "others than those that were killed");
    let [hit, missed, requests] = measured(&session, &query).await;
    assert!(hit > 0);
    assert_eq!((missed, requests), (0, 0), "nothing is decoded or asked for again");

    rows(&session, "SET onward.cache = false").await;
    let (without, query) = run(&session, &sql).await.expect("rows");
    assert_eq!(without, cold);
    assert_eq!(measured(&session, &query).await[..2], [0, 0]);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_that_need_no_function_read_cached_columns_too() {
    let cluster = Cluster::start().await;
    write(&cluster.path("t.parquet"), 1);
    let session = cluster.session(0).await;
    let table = cluster.path("t.parquet").display().to_string();
    let sql = format!("select count(*), sum(v) from '{table}' where id >= 0");
    let expected = rows(&session, &sql).await;
    assert!(cluster.functions().is_empty(), "it is tiny");
    rows(&session, &format!("create external table t stored as parquet location '{table}'")).await;
    rows(&session, "cache table t").await;
    let (found, query) = run(&session, "select count(*), sum(v) from t where id >= 0").await.expect("rows");
    assert_eq!(found, expected);
    let [hits, misses, requests] = measured(&session, &query).await;
    assert!(hits > 0);
    assert_eq!((misses, requests), (0, 0));
    let plan = rows(&session, "explain analyze select sum(v) from t where id >= 0").await.remove(0).remove(1);
    assert!(plan.starts_with("coordinator") && plan.contains("cache_hit_bytes="), "{plan}");
    rows(&session, "set onward.cache = false").await;
    let (found, query) = run(&session, "select count(*), sum(v) from t where id >= 0").await.expect("rows");
    assert_eq!((found, measured(&session, &query).await[0]), (expected, 0));
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_lie_in_order_in_a_file_are_not_sorted_again() {
    let cluster = Cluster::start().await;
    let (sorted, plain) = (cluster.path("sorted.parquet"), cluster.path("plain.parquet"));
    let ids = (0..ROWS).map(|row| row / 3);
    let id: ArrayRef = Arc::new(Int64Array::from_iter_values(ids));
    let value: ArrayRef = Arc::new(Int64Array::from_iter_values((0..ROWS).map(|row| row * 7 % 1_001)));
    let batch = RecordBatch::try_from_iter([("id", id), ("value", value)]).expect("a batch");
    let by_id = SortingColumn { column_idx: 0, descending: false, nulls_first: false };
    for (path, order) in [(&sorted, Some(vec![by_id])), (&plain, None)] {
        let properties = WriterProperties::builder().set_sorting_columns(order).build();
        let file = std::fs::File::create(path).expect("a file");
        let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).expect("a writer");
        writer.write(&batch).expect("rows");
        writer.close().expect("a footer");
    }
    for functions in [1, 2] {
        let session = cluster.session(functions).await;
        for sql in [
            "select id, value from T where value < 50 order by id",
            "select id, sum(value) from T group by id order by id",
        ] {
            let of = |path: &Path| sql.replace('T', &format!("'{}'", path.display()));
            let expected = rows(&session, &of(&plain)).await;
            for _ in ["cold", "warm"] {
                let found = rows(&session, &of(&sorted)).await;
                let ids = |rows: &[Vec<String>]| rows.iter().map(|row| row[0].clone()).collect::<Vec<_>>();
                assert_eq!(ids(&found), ids(&expected), "{functions} functions: {sql}");
            }
            let plan = async |path: &Path| rows(&session, &format!("explain {}", of(path))).await.remove(0).remove(1);
            assert!(plan(&plain).await.contains("SortExec"), "{sql}");
            let plan = plan(&sorted).await;
            // Groups that were exchanged have no order; below the exchange they are made of rows in order.
            let is_exchanged = functions > 1 && sql.contains("group by");
            assert_eq!(plan.contains("SortExec"), is_exchanged, "{functions} functions: {sql}: {plan}");
            assert!(!is_exchanged || plan.contains("ordering_mode=Sorted"), "{plan}");
        }
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_are_cached_shown_and_let_go_by_statements() {
    let cluster = Cluster::start().await;
    for partition in ["1", "2"] {
        let directory = cluster.path("t").join(format!("p={partition}"));
        std::fs::create_dir_all(&directory).expect("a directory");
        write(&directory.join("a.parquet"), 3);
    }
    let session = cluster.session(0).await;
    let create = format!(
        "create external table t stored as parquet partitioned by (p) location '{}/'",
        cluster.path("t").display()
    );
    rows(&session, &create).await;
    let cached = rows(&session, "cache table t (V, \"s\") where p = '1'").await.remove(0);
    assert_eq!(
        (cached[0].as_str(), cached[1].as_str(), cached[3].as_str()),
        ("t", "6", "6"),
        "2 columns, 3 row groups"
    );

    let pinned = "select \"column\", count(*), sum(rows) from system.cache where pinned group by 1 order by 1";
    assert_eq!(rows(&session, pinned).await, [["s", "3", "60000"], ["v", "3", "60000"]]);
    assert!(rows(&session, "show cache").await.len() >= 6);
    let objects = rows(&session, "select distinct object from system.cache where pinned").await;
    assert!(objects.len() == 1 && objects[0][0].ends_with("/p=1/a.parquet"), "{objects:?}");

    rows(&session, "SET onward.functions = 1").await;
    let (_, query) = run(&session, "select sum(v), max(s) from t where p = '1'").await.expect("rows");
    assert_eq!(measured(&session, &query).await[1], 0);

    for (sql, parts) in [
        ("cache table t where id = 7", &["partition", "t"][..]),
        ("cache table t (nope)", &["nope"]),
        ("cache table nope", &["nope"]),
        ("uncache table nope", &["nope"]),
        ("cache table system.queries", &["Parquet"]),
    ] {
        let error = run(&session, sql).await.expect_err(sql);
        assert!(parts.iter().all(|part| error.contains(part)), "{sql}: {error}");
    }
    rows(&session, "uncache table t").await;
    assert_eq!(rows(&session, "select count(*) from system.cache where object like '%a.parquet'").await, [["0"]]);
    cluster.end().await;
}

/// What is done to a table's files while it is queried: each file has a version, or is not there.
#[derive(Clone, Debug, Default)]
struct Files {
    versions: [Option<i64>; 4],
    last: i64,
}

impl Files {
    /// Overwrites, removes or adds a file.
    fn change(&mut self, dir: &Path, random: &mut fastrand::Rng) {
        let number = random.usize(..self.versions.len());
        let path = dir.join(format!("{number}.parquet"));
        if self.versions[number].is_some() && random.u8(..3) == 0 {
            std::fs::remove_file(path).expect("a removal");
            self.versions[number] = None;
            return;
        }
        self.last += 1;
        let (new, value) = (dir.join(".new"), self.last * 4 + number as i64);
        write(&new, value);
        std::fs::rename(new, path).expect("a rename");
        self.versions[number] = Some(value);
    }

    /// The rows of [`VERSIONS_SQL`].
    fn rows(&self) -> Vec<Vec<String>> {
        let mut rows: Vec<Vec<String>> = (self.versions.iter().enumerate())
            .filter_map(|(number, version)| Some((number, (*version)?)))
            .map(|(number, value)| [number as i64, value, value, ROWS].map(|cell| cell.to_string()).to_vec())
            .collect();
        rows.sort();
        rows
    }
}

const VERSIONS_SQL: &str =
    "select v % 4 as f, min(v), max(v), count(*) from versions where id >= 0 and s like 'text%' group by f order by f";

/// Whatever happens to files between and during queries: an answer has every file in one version or not at all, and it is
/// right when nothing changes meanwhile. Errors may only say that something changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_two_versions_never_mix() {
    let cluster = Cluster::start().await;
    let dir = cluster.path("versions");
    std::fs::create_dir(&dir).expect("a directory");
    // From a seed that is printed when the test fails.
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut files = Files::default();
    while files.versions.contains(&None) {
        files.change(&dir, &mut random);
    }
    let session = cluster.session(2).await;
    let location = dir.display();
    rows(&session, &format!("create external table versions stored as parquet location '{location}/'")).await;
    assert_eq!(rows(&session, VERSIONS_SQL).await, files.rows());

    // Between queries.
    for _ in 0..12 {
        for _ in 0..random.u8(1..3) {
            files.change(&dir, &mut random);
        }
        assert_eq!(rows(&session, VERSIONS_SQL).await, files.rows(), "seed {seed}: {files:?}");
    }

    // During queries.
    let is_over = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (dir, is_over) = (dir.clone(), Arc::clone(&is_over));
        move || {
            while !is_over.load(Ordering::Relaxed) {
                files.change(&dir, &mut random);
                for _ in 0..random.u32(0..400_000) {
                    std::hint::spin_loop();
                }
            }
            files
        }
    });
    for _ in 0..25 {
        match run(&session, VERSIONS_SQL).await {
            Ok((found, _)) => {
                for row in found {
                    assert_eq!((&row[1], &row[3]), (&row[2], &ROWS.to_string()), "seed {seed}: {row:?}");
                }
            }
            Err(error) => assert!(error.contains("was overwritten or removed"), "seed {seed}: {error}"),
        }
    }
    is_over.store(true, Ordering::Relaxed);
    let files = writer.join().expect("the writer ends");
    assert_eq!(rows(&session, VERSIONS_SQL).await, files.rows(), "seed {seed}: {files:?}");

    let file = cluster.path("t.parquet");
    write(&file, 1);
    let sql = format!("select max(v) from '{}'", file.display());
    rows(&session, &sql).await;
    std::fs::remove_file(&file).expect("a removal");
    let error = run(&session, &sql).await.expect_err("the file is gone");
    assert!(error.contains("t.parquet"), "{error}");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_file_is_an_error_that_names_it_and_nothing_is_kept_of_it() {
    let cluster = Cluster::start().await;
    let file = cluster.path("t.parquet");
    write(&file, 3);
    let mut bytes = std::fs::read(&file).expect("a file");
    // The header of the first page: the footer stays whole.
    for byte in &mut bytes[4..60] {
        *byte = !*byte;
    }
    std::fs::write(&file, &bytes).expect("a file");
    let session = cluster.session(2).await;
    let sql = format!("select sum(id), max(s) from '{}'", file.display());
    for _ in 0..2 {
        let error = run(&session, &sql).await.expect_err("damaged pages");
        assert!(error.contains("column `id` of row group 0") && error.contains("t.parquet"), "{error}");
    }
    let kept = rows(&session, "select count(*) from system.cache where row_group = 0 and \"column\" = 'id'").await;
    assert_eq!(kept, [["0"]]);
    cluster.end().await;
}
