//! Functions come and go: how long they live, and what they cost.

use onward_wire::Config;
use onward_wire::config::{ClassConfig, QueueConfig};

use super::adaptive::{Onward, expected, rows};
use super::oracle::single::Engine;

const QUERIES: [&str; 3] = [
    "SELECT v, count(*), sum(id) FROM events GROUP BY v ORDER BY v",
    "SELECT count(*), sum(e.v), min(t.id) FROM tags t JOIN events e ON e.id = t.id WHERE t.tag < 50",
    "SELECT l.id, e.v FROM lines l JOIN events e ON e.id = l.id + 1 ORDER BY l.id DESC LIMIT 500",
];

/// Functions that live for a moment only give the same rows: what one does not finish runs again in another.
#[tokio::test(flavor = "multi_thread")]
async fn functions_that_die_young_lose_no_rows() {
    let config = Config { vcpus: 2, function_lifetime_ms: 800, ..crate::support::config() };
    let onward = Onward::start(config).await;
    let session = onward.session(&["SET onward.functions = 2", "SET onward.tasks = 6"]).await;
    let mut right = Vec::new();
    for sql in QUERIES {
        right.push(expected(&onward, sql).await);
    }
    let started = "SELECT sum(cold_starts) FROM system.queries WHERE functions > 0";
    let mut functions = 0_u64;
    while functions <= 6 {
        for (sql, right) in QUERIES.iter().zip(&right) {
            assert_eq!(&rows(&session, sql).await, right, "{sql}");
        }
        functions = rows(&session, started).await[0][0].parse().expect("a number");
    }
    onward.stop().await;
}

/// Tasks that take longer than functions live are cut into more, and no row is lost or given twice.
#[tokio::test(flavor = "multi_thread")]
async fn work_that_is_longer_than_a_life_is_cut() {
    // Partitions of a join; and row groups, of which each file has one, against all rows of a small table.
    let queries = [
        "SELECT count(*), sum(a.id % 7) FROM events a JOIN events b ON a.v % 50 = b.v % 50 \
         WHERE (a.id * 31 + b.id) % 5 < 3",
        "SELECT count(*), sum(a.id) FROM events a JOIN tags t ON a.id % 1000 > t.id % 1000 + t.tag WHERE t.tag < 20",
    ];
    let onward = Onward::start(Config { vcpus: 2, function_lifetime_ms: 400, ..Config::default() }).await;
    for (sql, direct_results) in queries.iter().zip([false, true]) {
        let direct_results = format!("SET onward.direct_results = {direct_results}");
        let session = onward.session(&["SET onward.functions = 1", &direct_results]).await;
        assert_eq!(rows(&session, sql).await, expected(&onward, sql).await, "{sql}");
    }
    let tasks = "SELECT min(tasks) >= 8 FROM system.queries WHERE sql LIKE 'SELECT count(*), sum(a.id%'";
    assert_eq!(rows(&onward.session(&[]).await, tasks).await, [["true"]], "it did not take long enough");
    onward.stop().await;
}

/// The first query starts its functions, the second finds them; both cost what their attempts took.
#[tokio::test(flavor = "multi_thread")]
async fn queries_say_what_they_cost() {
    let directory = tempfile::tempdir().expect("a directory");
    let prices = directory.path().join("prices.json");
    std::fs::write(&prices, r#"{"gb_second": 2.0, "million_requests": 0.0}"#).expect("a file");
    let price_file = prices.to_str().expect("a path").to_owned();
    let config = Config { vcpus: 2, price_file, function_lifetime_ms: 900_000, ..Config::default() };
    let onward = Onward::start(config).await;
    let session = onward.session(&["SET onward.functions = 2"]).await;
    for _ in 0..2 {
        rows(&session, QUERIES[0]).await;
    }
    session.run("SET onward.functions = auto").await.expect("a setting");
    rows(&session, "SELECT 1").await;
    let cost = |column: &str| {
        format!("SELECT {column} FROM system.queries WHERE sql = '{}' ORDER BY cold_starts DESC", QUERIES[0])
    };
    let starts = rows(&session, &cost("cold_starts, warm_starts")).await;
    assert_eq!(starts, [["2", "0"], ["0", "2"]]);
    let used =
        rows(&session, &cost("gb_seconds > 0 and vcpu_seconds > 0, abs(cost_usd - 2 * gb_seconds) < 1e-9")).await;
    assert_eq!(used, [["true", "true"], ["true", "true"]]);
    // What the coordinator does by itself starts nothing.
    let free = "SELECT cold_starts + warm_starts, cost_usd = 0 FROM system.queries WHERE sql = 'SELECT 1'";
    assert_eq!(rows(&session, free).await, [["0", "true"]]);
    onward.stop().await;
}

/// Stages run in the class that costs least for them, or in the one that the session pins; a query is billed by its class.
#[tokio::test(flavor = "multi_thread")]
async fn worker_classes_are_chosen_explained_pinned_and_paid_for() {
    let class =
        |memory_mib: u64, usd_per_hour| ClassConfig { memory_bytes: memory_mib << 20, usd_per_hour, ..<_>::default() };
    let classes = [("small".to_owned(), class(256, 36.0)), ("big".to_owned(), class(512, 3_600.0))].into();
    let far = ClassConfig { labels: vec!["moon".to_owned()], ..ClassConfig::default() };
    let classes = std::iter::once(("far".to_owned(), far)).chain::<std::collections::BTreeMap<_, _>>(classes).collect();
    let prices = r#"{"million_requests": 0}"#;
    let directory = tempfile::tempdir().expect("a directory");
    let price_file = directory.path().join("prices.json");
    std::fs::write(&price_file, prices).expect("a file");
    let price_file = price_file.to_str().expect("a path").to_owned();
    let onward = Onward::start(Config { vcpus: 2, classes, price_file, ..crate::support::config() }).await;
    let session = onward.session(&["SET onward.functions = 2"]).await;
    let right = expected(&onward, QUERIES[0]).await;
    let explain = format!("EXPLAIN {}", QUERIES[0]);
    for (pin, line, usd) in
        [("auto", "class small: scan-bound", 0.01), ("big", "class big: pinned by onward.class", 1.0)]
    {
        session.run(&format!("SET onward.class = '{pin}'")).await.expect("a setting");
        let shown = rows(&session, &explain).await.concat().concat();
        assert!(shown.contains(line) && !shown.contains("class far"), "{pin}: {shown}");
        assert_eq!(rows(&session, QUERIES[0]).await, right, "{pin}");
        let paid = format!(
            "SELECT count(*) FROM system.queries WHERE sql LIKE 'SELECT v%' AND abs(cost_usd / vcpu_seconds - {usd}) < 1e-6"
        );
        assert_eq!(rows(&session, &paid).await, [["1"]], "{pin}");
    }
    session.run("SET onward.class = 'far'").await.expect("a setting");
    let error = failure(&session, QUERIES[0]).await;
    assert!(error.contains("`far`") && error.contains("big, small"), "{error}");
    onward.stop().await;
}

/// What can never run is refused at once, and says why.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_can_never_fit_is_refused_with_the_reason() {
    let queues = [("shut".to_owned(), QueueConfig { max_running: 0, ..QueueConfig::default() })].into();
    let config = Config { vcpus: 2, max_functions_per_query: 2, queues, ..crate::support::config() };
    let onward = Onward::start(config).await;
    let session = onward.session(&["SET onward.functions = 4"]).await;
    let error = failure(&session, QUERIES[0]).await;
    assert!(error.contains("max_functions_per_query"), "{error}");
    session.run("SET onward.functions = 2").await.expect("a setting");
    session.run("SET onward.queue = 'shut'").await.expect("a setting");
    let error = failure(&session, QUERIES[0]).await;
    assert!(error.contains("queues.shut.max_running"), "{error}");
    let error = failure(&session, "SET onward.queue = 'nowhere'").await;
    assert!(error.contains("no queue `nowhere`") && error.contains("shut"), "{error}");
    session.run("SET onward.queue = 'default'").await.expect("a setting");
    assert_eq!(rows(&session, QUERIES[0]).await, expected(&onward, QUERIES[0]).await);
    onward.stop().await;
}

async fn failure(session: &dyn Engine, sql: &str) -> String {
    session.run(sql).await.expect_err("it is refused")
}
