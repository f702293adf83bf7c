//! Random queries over random small tables: one, two and four functions must give what single-process DataFusion gives,
//! in order where ORDER BY asks for one. `ONWARD_RANDOM_CASES` plays more of them.

mod sql;
mod table;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::oracle::cluster::Cluster;
use super::oracle::single::{Engine, single_process};
use super::oracle::{rows, tables};
use sql::{Query, Settings};
use table::Table;

/// Tables of a case.
const TABLES: usize = 3;

/// Queries over the same tables.
const QUERIES: usize = 6;

fn cases() -> u32 {
    std::env::var("ONWARD_RANDOM_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(16)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(),
        failure_persistence: None,
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    })]

    #[test]
    fn distributed_equals_single_process(
        tables in prop::collection::vec(table::table(), TABLES),
        queries in prop::collection::vec(sql::query(TABLES), QUERIES),
        settings in sql::settings(),
    ) {
        let cluster = Cluster::shared();
        cluster.block_on(compare(&cluster, &tables, &queries, &settings))?;
    }
}

async fn compare(
    cluster: &Cluster,
    tables: &[Table],
    queries: &[Query],
    settings: &Settings,
) -> Result<(), TestCaseError> {
    static CASE: AtomicU64 = AtomicU64::new(0);
    let case = CASE.fetch_add(1, Ordering::Relaxed);
    let directory = tempfile::tempdir()?;
    let names: Vec<_> = (0..tables.len()).map(|table| format!("random_{case}_{table}")).collect();
    let single = single_process();
    let admin = cluster.session(&[]).await;
    for (table, name) in tables.iter().zip(&names) {
        let location = directory.path().join(name);
        table.write(&location).await;
        let definition = tables::definition(name, &location, "parquet");
        run(&single, &definition).await?;
        run(&admin, &definition).await?;
    }
    for setting in settings.statements() {
        run(&single, &setting).await?;
    }
    for query in queries {
        let sql = query.sql(&names);
        let expected = result(&single, query, &sql).await;
        for functions in [1, 2, 4] {
            let mut statements = vec![format!("SET onward.functions = {functions}")];
            statements.extend(settings.statements());
            let session = cluster.session(&statements).await;
            let found = result(&session, query, &sql).await;
            check(directory.path(), functions, &sql, &expected, &found)?;
        }
    }
    for name in &names {
        run(&admin, &format!("DROP TABLE {name}")).await?;
    }
    Ok(())
}

async fn run(engine: &dyn Engine, sql: &str) -> Result<(), TestCaseError> {
    engine.run(sql).await.map(drop).map_err(|error| TestCaseError::fail(format!("{sql}: {error}")))
}

/// The rows, sorted where the query asks for no order.
async fn result(engine: &dyn Engine, query: &Query, sql: &str) -> Result<Vec<Vec<String>>, String> {
    let (_, batches) = engine.run(sql).await?;
    let mut rows = rows::cells(&batches)?;
    if !query.is_ordered() {
        rows.sort_unstable();
    }
    Ok(rows)
}

type Rows = Result<Vec<Vec<String>>, String>;

/// What DataFusion cannot run, Onward need not run; the wording may name other operators.
fn check(data: &Path, functions: usize, sql: &str, expected: &Rows, found: &Rows) -> Result<(), TestCaseError> {
    if expected == found || (expected.is_err() && found.is_err()) {
        return Ok(());
    }
    let data = data.display();
    Err(TestCaseError::fail(format!("{functions} functions, {data}\n{sql}\nexpected {expected:?}\nfound    {found:?}")))
}
