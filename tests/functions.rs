//! Functions come and go: how long they live, and what they cost.

use onward_wire::Config;

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
    let config = Config { vcpus: 2, function_lifetime_ms: 800, ..Config::default() };
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

/// The first query starts its functions, the second finds them; both cost what their attempts took.
#[tokio::test(flavor = "multi_thread")]
async fn queries_say_what_they_cost() {
    let directory = tempfile::tempdir().expect("a directory");
    let prices = directory.path().join("prices.json");
    std::fs::write(&prices, r#"{"gb_second": 2.0, "million_requests": 0.0}"#).expect("a file");
    let price_file = prices.to_str().expect("a path").to_owned();
    let onward = Onward::start(Config { vcpus: 2, price_file, ..Config::default() }).await;
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
