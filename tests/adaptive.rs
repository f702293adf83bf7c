//! What stages tell each other while a query runs: keys of joins, sizes of inputs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use onward_coordinator::{Coordinator, CoordinatorOptions, Session, SessionOptions};
use onward_wire::Config;
use tempfile::TempDir;

use super::oracle::rows::cells;
use super::oracle::single::{Engine, single_process};
use super::oracle::tables;

/// No statistics make these joins broadcasts, and nothing that is found out while they run.
const PARTITIONED: [&str; 2] = [
    "SET datafusion.optimizer.hash_join_single_partition_threshold = 0",
    "SET datafusion.optimizer.hash_join_single_partition_threshold_rows = 0",
];

pub struct Onward {
    coordinator: Arc<Coordinator>,
    data: TempDir,
}

impl Onward {
    pub async fn start(config: Config) -> Self {
        let data = tempfile::tempdir().expect("a directory");
        let function_program = Some(env!("CARGO_BIN_EXE_onward").into());
        let options = CoordinatorOptions { config, function_program, ..CoordinatorOptions::default() };
        let coordinator = Coordinator::start(options).await.expect("the coordinator starts");
        write_all(data.path()).await;
        let onward = Self { coordinator, data };
        let session = onward.session(&[]).await;
        for definition in definitions(onward.data.path()) {
            session.run(&definition).await.unwrap_or_else(|error| panic!("{definition}: {error}"));
        }
        onward
    }

    pub async fn session(&self, settings: &[&str]) -> Arc<Session> {
        let session = self.coordinator.session(SessionOptions::default()).expect("a session");
        for setting in ["SET onward.statement_timeout_ms = 120000"].iter().chain(settings) {
            session.run(setting).await.unwrap_or_else(|error| panic!("{setting}: {error}"));
        }
        session
    }

    pub async fn stop(self) {
        self.coordinator.shutdown(Duration::ZERO).await;
    }
}

const TABLES: [(&str, &str, &str); 4] = [
    ("events", "parquet", "SELECT value AS id, value % 1000 AS v FROM range(0, 60000) WHERE value % 2 = $FILE"),
    ("lines", "csv", "SELECT value AS id, value % 1000 AS v FROM range(0, 60000) WHERE value % 2 = $FILE"),
    ("tags", "parquet", "SELECT value * 3 AS id, value % 100 AS tag FROM range(0, 20000) WHERE value % 2 = $FILE"),
    (
        "skewed",
        "parquet",
        "SELECT CASE WHEN value % 10 < 8 THEN 7 ELSE value END AS id, value AS v FROM range(0, 60000) WHERE value % 2 = $FILE",
    ),
];

async fn write_all(directory: &Path) {
    let context = single_process();
    for (name, format, query) in TABLES {
        for file in 0..2 {
            let query = query.replace("$FILE", &file.to_string());
            tables::write(&context, &query, &directory.join(name), file, format).await;
        }
    }
}

fn definitions(directory: &Path) -> Vec<String> {
    TABLES.iter().map(|(name, format, _)| tables::definition(name, &directory.join(name), format)).collect()
}

pub async fn rows(engine: &dyn Engine, sql: &str) -> Vec<Vec<String>> {
    let (_, batches) = engine.run(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    cells(&batches).expect("rows that can be shown")
}

pub async fn expected(onward: &Onward, sql: &str) -> Vec<Vec<String>> {
    let context = single_process();
    for definition in definitions(onward.data.path()) {
        Engine::run(&context, &definition).await.expect("a table");
    }
    rows(&context, sql).await
}

/// Bytes that the query with this text exchanged.
async fn exchanged(session: &Arc<Session>, sql: &str) -> u64 {
    let asked = format!("SELECT exchange_bytes FROM system.queries WHERE sql = '{sql}'");
    rows(session, &asked).await[0][0].parse().expect("a number")
}

/// One function works off the build side first, so its keys are there before the probe side is read: next to none of its rows
/// is sent. Whether scans look at rows (cached Parquet), at statistics only (Parquet), or at nothing (CSV).
#[tokio::test(flavor = "multi_thread")]
async fn keys_of_a_build_side_spare_the_exchange_of_the_probe_side() {
    let onward = Onward::start(Config { vcpus: 2, runtime_filter_wait_ms: 60_000, ..crate::support::config() }).await;
    for table in ["events", "lines"] {
        let sql =
            format!("SELECT count(*), sum(e.v), min(t.id) FROM tags t JOIN {table} e ON e.id = t.id WHERE t.tag = 11");
        let right = expected(&onward, &sql).await;
        for cache in [true, false] {
            let mut bytes = Vec::new();
            for is_told in [true, false] {
                let session = onward.session(&PARTITIONED).await;
                for setting in [
                    "onward.functions = 1".to_owned(),
                    "onward.tasks = 2".to_owned(),
                    format!("onward.cache = {cache}"),
                    format!("datafusion.optimizer.enable_join_dynamic_filter_pushdown = {is_told}"),
                ] {
                    session.run(&format!("SET {setting}")).await.expect("a setting");
                }
                let sql = format!("{sql} -- cache {cache}, told {is_told}");
                assert_eq!(rows(&session, &sql).await, right);
                bytes.push(exchanged(&session, &sql).await);
            }
            assert!(bytes[0] * 10 < bytes[1], "{table}, cache {cache}: {bytes:?}");
        }
    }
    onward.stop().await;
}

/// DataFusion's push-down finds columns by their names. Where an operator has two of a name, filters stop above it.
#[tokio::test(flavor = "multi_thread")]
async fn a_filter_is_not_taken_for_one_of_another_column_of_its_name() {
    let onward = Onward::start(Config { vcpus: 2, ..crate::support::config() }).await;
    let mut settings = PARTITIONED.to_vec();
    settings.extend(["SET onward.functions = 1", "SET onward.tasks = 2"]);
    let session = onward.session(&settings).await;
    let pairs = "(SELECT * FROM tags WHERE id < 900) a JOIN (SELECT * FROM tags WHERE id < 6000) b ON a.tag = b.tag";
    for sql in [
        format!("SELECT count(*), sum(a.id), sum(b.id) FROM {pairs} JOIN tags c ON b.id = c.id WHERE c.tag = 11"),
        format!("SELECT count(*), sum(a.id), sum(b.id) FROM {pairs} JOIN tags c ON a.id = c.id WHERE c.tag = 11"),
        format!(
            "SELECT a.id, b.id, e.v FROM {pairs} JOIN tags c ON b.id = c.id JOIN events e ON a.id = e.id
             WHERE c.tag < 7 AND e.v % 2 = 0 ORDER BY 1, 2"
        ),
    ] {
        assert_eq!(rows(&session, &sql).await, expected(&onward, &sql).await, "{sql}");
    }
    onward.stop().await;
}

/// Statistics expect a fifth of the rows under a condition. When there are few, every task reads them all, and the other side is
/// joined where it is read.
#[tokio::test(flavor = "multi_thread")]
async fn a_build_side_that_turns_out_small_is_broadcast() {
    let onward = Onward::start(Config { vcpus: 2, ..crate::support::config() }).await;
    let condition = |most: u64| {
        format!(
            "SELECT count(*), sum(e.v), min(t.id) FROM events e JOIN tags t ON e.id = t.id WHERE t.id % 1000 + 0 < {most}"
        )
    };
    let session = onward
        .session(&[
            "SET onward.functions = 2",
            "SET onward.tasks = 4",
            "SET datafusion.optimizer.hash_join_single_partition_threshold = 1",
            "SET datafusion.optimizer.hash_join_single_partition_threshold_rows = 0",
        ])
        .await;
    for (sql, is_small) in [(condition(5), true), (condition(1_000), false)] {
        assert_eq!(rows(&session, &sql).await, expected(&onward, &sql).await);
        let planned = rows(&session, &format!("EXPLAIN {sql}")).await[0].join(" ");
        assert!(planned.contains("is not run, its rows are joined where they are made"), "{planned}");
        let ran = rows(&session, &format!("EXPLAIN ANALYZE {sql}")).await[0].join(" ");
        assert_eq!(ran.contains("mode=CollectLeft"), is_small, "{ran}");
    }
    onward.stop().await;
}

/// Four rows in five have one key: several tasks join them.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_with_most_of_the_rows_is_joined_by_several_tasks() {
    let config = Config {
        vcpus: 2,
        flush_bytes: 8 << 10,
        inline_attempt_bytes: 0,
        skewed_partition_bytes: 16 << 10,
        ..crate::support::config()
    };
    let onward = Onward::start(config).await;
    let mut settings = PARTITIONED.to_vec();
    settings.extend([
        "SET onward.functions = 2",
        "SET onward.tasks = 4",
        "SET datafusion.execution.target_partitions = 8",
        "SET datafusion.execution.batch_size = 500",
    ]);
    let session = onward.session(&settings).await;
    for sql in [
        "SELECT count(*), sum(s.v), sum(t.tag) FROM tags t JOIN skewed s ON s.id = t.id + 1",
        "SELECT s.v, t.tag FROM tags t RIGHT JOIN skewed s ON s.id = t.id + 1 ORDER BY s.v LIMIT 700",
        "SELECT count(*) FROM skewed s WHERE s.id NOT IN (SELECT id + 1 FROM tags WHERE id IS NOT NULL)",
    ] {
        assert_eq!(rows(&session, sql).await, expected(&onward, sql).await, "{sql}");
    }
    let sql = "SELECT t.tag, count(*), sum(s.v) FROM tags t JOIN skewed s ON s.id = t.id + 1 GROUP BY t.tag ORDER BY 1";
    assert_eq!(rows(&session, sql).await, expected(&onward, sql).await);
    let ran = rows(&session, &format!("EXPLAIN ANALYZE {sql}")).await[0].join(" ");
    let joins = ran.split("stage ").find(|stage| stage.contains("mode=Partitioned")).expect("a stage that joins");
    let attempts: u64 =
        joins.split_once(" attempts").and_then(|(before, _)| before.rsplit(' ').next()?.parse().ok()).expect(joins);
    assert!(attempts > 4, "{joins}");
    onward.stop().await;
}

/// Two of three tasks leave a function free while the third runs: the next stage begins there, on what is there of its input.
#[tokio::test(flavor = "multi_thread")]
async fn a_stage_begins_before_the_last_of_its_input_is_there() {
    for (early_start, inline_attempt_bytes) in [(true, 0), (true, 1 << 16), (false, 0)] {
        let config = Config { vcpus: 2, early_start, inline_attempt_bytes, ..crate::support::config() };
        let onward = Onward::start(config).await;
        let session = onward.session(&["SET onward.functions = 2", "SET onward.tasks = 3"]).await;
        let sql = "SELECT v, count(*), min(id), max(id), sum(id) FROM events GROUP BY v ORDER BY v";
        let right = expected(&onward, sql).await;
        let mut began_early = false;
        // Whether a function is free at the right time is a race, which is lost now and then.
        for _ in 0..if early_start { 50 } else { 5 } {
            assert_eq!(rows(&session, sql).await, right);
            let ran = rows(&session, &format!("EXPLAIN ANALYZE {sql}")).await[0].join(" ");
            began_early |= ran.contains("began early");
            if began_early {
                break;
            }
        }
        assert_eq!(began_early, early_start);
        onward.stop().await;
    }
}

/// One task reads a file that cannot be split; its rows are dealt out to all tasks. So are those of a file that is far larger
/// than the others.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_file_that_cannot_be_split_are_dealt_out() {
    let config = Config { vcpus: 2, skewed_partition_bytes: 4 << 10, ..crate::support::config() };
    let onward = Onward::start(config).await;
    let context = single_process();
    let mut definitions = Vec::new();
    for (name, files) in [("lone", vec![60_000]), ("uneven", vec![60_000, 10, 20, 30])] {
        let directory = onward.data.path().join(name);
        for (file, values) in files.into_iter().enumerate() {
            let query =
                format!("SELECT value AS id, value % 100 AS v, 'a' || (value % 7) AS s FROM range(0, {values})");
            tables::write(&context, &query, &directory, file, "csv").await;
        }
        definitions.push(format!(
            "CREATE EXTERNAL TABLE {name} STORED AS CSV LOCATION '{}/'
             OPTIONS ('format.has_header' 'true', 'format.newlines_in_values' 'true')",
            directory.display()
        ));
    }
    let mut settings = PARTITIONED.to_vec();
    settings.extend([
        "SET onward.functions = 2",
        "SET onward.tasks = 4",
        "SET datafusion.execution.target_partitions = 4",
        "SET datafusion.execution.batch_size = 500",
    ]);
    let session = onward.session(&settings).await;
    for definition in &definitions {
        session.run(definition).await.expect("a table");
        Engine::run(&context, definition).await.expect("a table");
    }
    Engine::run(&context, &tables::definition("tags", &onward.data.path().join("tags"), "parquet"))
        .await
        .expect("a table");
    for table in ["lone", "uneven"] {
        for sql in [
            format!("SELECT v, s, count(*), sum(id) FROM {table} WHERE id % 3 <> 1 GROUP BY v, s ORDER BY v, s"),
            // Its keys go to where the rows are dealt out.
            format!(
                "SELECT count(*), sum(t.tag), max(e.s) FROM tags t
                 JOIN (SELECT id + 0 AS id, s FROM {table} WHERE id % 3 <> 1) e ON e.id = t.id WHERE t.tag = 11"
            ),
            format!("SELECT id, s FROM {table} ORDER BY s DESC, id LIMIT 100"),
        ] {
            assert_eq!(rows(&session, &sql).await, rows(&context, &sql).await, "{sql}");
            let ran = rows(&session, &format!("EXPLAIN ANALYZE {sql}")).await[0].join(" ");
            // A sort of one partition gains nothing, DataFusion says.
            assert!(ran.contains("RoundRobinBatch(4)") || sql.contains("LIMIT"), "{sql}: {ran}");
        }
    }
    onward.stop().await;
}
