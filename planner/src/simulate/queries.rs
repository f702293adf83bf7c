//! The queries and the ways to force a plan, each compared with single-process DataFusion for 1, 2 and 4 functions.

use super::tables::Tables;
use super::{Run, lines, run, run_graph, variants};

/// Batches so small that every operator sees several.
const TINY_BATCHES: (&str, &str) = ("datafusion.execution.batch_size", "8");
const HASH_ROWS: &str = "datafusion.optimizer.hash_join_single_partition_threshold_rows";
const HASH_BYTES: &str = "datafusion.optimizer.hash_join_single_partition_threshold";

/// Checks that `queries` give the oracle's rows under `settings`, in the oracle's order where they end in ORDER BY.
async fn check(settings: &[(&str, &str)], queries: &[&str]) {
    let tables = Tables::new().await;
    let oracle = tables.single_process().await;
    let mut settings = settings.to_vec();
    settings.push(TINY_BATCHES);
    let onward = tables.onward(&settings).await;
    let same = tables.single_process_with(&settings).await;
    let mut failures = Vec::new();
    for sql in queries {
        let expected = lines(&oracle.sql(sql).await.expect(sql).collect().await.expect(sql));
        if let Ok(frame) = same.sql(sql).await
            && frame.collect().await.is_err()
        {
            // DataFusion itself fails under these settings: there is nothing to agree with.
            continue;
        }
        for functions in [1, 2, 4] {
            if let Err(failure) = compare(&onward, sql, functions, &expected).await {
                failures.push(failure);
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

async fn compare(
    onward: &datafusion::prelude::SessionContext,
    sql: &str,
    functions: usize,
    expected: &[String],
) -> Result<(), String> {
    let done = match run(onward, sql, functions).await {
        Ok(Some(done)) => done,
        Ok(None) => return Err(format!("{functions} functions: runs in the coordinator: {sql}")),
        Err(error) => return Err(format!("{functions} functions: {error}\n{sql}")),
    };
    compare_rows(sql, functions, expected, &done)?;
    for (variant, splits) in variants(&done.graph) {
        let done = run_graph(onward, variant, splits).await;
        let done = done.map_err(|error| format!("{functions} functions, variant: {error}\n{sql}"))?;
        compare_rows(sql, functions, expected, &done)?;
    }
    Ok(())
}

fn compare_rows(sql: &str, functions: usize, expected: &[String], done: &Run) -> Result<(), String> {
    let (mut expected, mut found) = (expected.to_vec(), lines(&done.rows));
    // A query ends in ORDER BY when no bracket closes after the last one.
    let is_ordered = sql.rfind("order by").is_some_and(|at| !sql[at..].contains(')'));
    if !is_ordered {
        expected.sort();
        found.sort();
    }
    if expected == found {
        return Ok(());
    }
    let shape: String = done
        .graph
        .stages
        .iter()
        .map(|stage| {
            let plan = datafusion::physical_plan::displayable(stage.plan.as_ref()).indent(true).to_string();
            format!("stage {} {:?} tasks {:?}\n{plan}", stage.id, stage.output, stage.tasks)
        })
        .collect();
    Err(format!("{functions} functions: {sql}\nexpected {expected:?}\nfound    {found:?}\n{shape}"))
}

/// Every join type on keys with NULLs and duplicates, with a filter over both sides, and without a match at all.
fn equi_joins() -> Vec<String> {
    let mut queries = Vec::new();
    for join in ["join", "left join", "right join", "full join"] {
        for on in ["t.k = u.k", "t.k = u.k and t.id < u.id", "t.id = u.id and t.s = u.s"] {
            queries.push(format!("select t.id, t.k, u.id, u.k, u.s from t {join} u on {on}"));
        }
        let (some_t, some_u) = ("(select * from t where id > 3)", "(select * from u where id % 7 < 5)");
        queries.push(format!("select t.id, u.id, u.k from {some_t} t {join} {some_u} u on t.k = u.k"));
        queries.push(format!(
            "select t.k, count(*), sum(v.id) from t {join} {some_u} u on t.id = u.id {join} {some_u} v on u.k = v.k group by t.k"
        ));
        queries.push(format!("select count(*), sum(t.id), sum(u.id) from t {join} u on t.k = u.k and t.s = u.s"));
        queries.push(format!("select t.id, none.id from t {join} none on t.id = none.id"));
        queries.push(format!("select one.id, t.id from one {join} t on one.id = t.id"));
    }
    for semi in ["left semi join", "left anti join", "right semi join", "right anti join"] {
        queries.push(format!("select * from t {semi} u on t.k = u.k and t.s = u.s"));
        queries.push(format!("select * from t {semi} u on t.k = u.k and t.id > u.id"));
        queries.push(format!("select * from t {semi} none on t.id = none.id"));
    }
    for subquery in [
        "select id from t where k in (select k from u)",
        "select id from t where k not in (select k from u where k is not null)",
        "select id from t where k not in (select k from u)",
        "select id from t where exists (select 1 from u where u.id = t.id)",
        "select id from t where not exists (select 1 from u where u.id = t.id and u.s = t.s)",
        "select id from t where k in (select k from u) or s in (select s from u where id < 40)",
        "select id, (select max(u.x) from u where u.k = t.k) from t",
        "select id from t where x > (select avg(x) from u)",
        "select a.id, b.id, c.id from t a join u b on a.k = b.k join t c on b.id = c.id",
        "select a.k, count(*) from t a join u b on a.k = b.k left join c on c.id = a.id group by a.k",
    ] {
        queries.push(subquery.to_owned());
    }
    queries
}

async fn check_equi_joins(settings: &[(&str, &str)]) {
    let queries = equi_joins();
    check(settings, &queries.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn joins_as_planned() {
    check_equi_joins(&[]).await;
}

#[tokio::test]
async fn joins_over_broadcast_build_sides() {
    check_equi_joins(&[(HASH_ROWS, "1000000"), (HASH_BYTES, "1000000000")]).await;
}

/// What is planned for build sides that turn out small.
#[tokio::test]
async fn joins_over_hash_exchanges_that_may_become_broadcasts() {
    check_equi_joins(&[(HASH_ROWS, "0"), (HASH_BYTES, "1")]).await;
}

#[tokio::test]
async fn joins_over_hash_exchanges() {
    check_equi_joins(&[(HASH_ROWS, "0"), (HASH_BYTES, "0")]).await;
}

#[tokio::test]
async fn joins_that_merge_sorted_inputs() {
    check_equi_joins(&[("datafusion.optimizer.prefer_hash_join", "false")]).await;
}

#[tokio::test]
async fn joins_by_nested_loop_and_cross_joins() {
    let mut queries = Vec::new();
    for join in [
        "join",
        "left join",
        "right join",
        "full join",
        "left semi join",
        "left anti join",
        "right semi join",
        "right anti join",
    ] {
        queries.push(format!("select * from t {join} u on t.id > u.id + 55"));
        queries.push(format!("select * from one {join} u on one.id > u.id"));
        queries.push(format!("select * from t {join} none on t.id > none.id"));
        queries.push(format!("select * from none {join} t on t.id > none.id"));
    }
    for cross in [
        "select t.id, u.id from t cross join u where t.id + u.id = 77",
        "select t.id, one.id from t, one",
        "select count(*) from t, u, one",
        "select * from (select max(id) m from t) a cross join (select min(id) m from u) b",
        "select t.id, m from t cross join (select max(id) m from u) b",
        "select id from t where exists (select 1 from u where u.id > t.id)",
        "select id from t where not exists (select 1 from u where u.id > t.id + 20)",
    ] {
        queries.push(cross.to_owned());
    }
    check(&[], &queries.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn aggregates_and_grouping_sets() {
    check(
        &[],
        &[
            "select count(*), sum(id), avg(x), min(s), max(s) from t",
            "select count(*), sum(id) from none",
            "select k, count(*) from none group by k",
            "select k, count(*), sum(x), min(s) from t group by k",
            "select k, s, count(distinct id), count(distinct x) from t group by k, s",
            "select count(distinct k), count(distinct s) from t",
            "select distinct k, s from t",
            "select k, s, grouping(k), grouping(s), sum(id) from t group by grouping sets ((k), (s), (k, s), ())",
            "select k, s, count(*) from t group by rollup (k, s)",
            "select k, s, count(*) from t group by cube (k, s)",
            "select k, s, count(*) from none group by rollup (k, s)",
            "select k, count(*) c from t group by k having count(*) > 20",
            "select c, count(*) from (select k, count(*) c from t group by k) group by c",
            "select sum(id) filter (where k > 2), median(x), stddev(x) is not null from t",
            "select k, array_agg(id order by id) from t group by k",
            "select k, string_agg(s, ',' order by id) from t group by k",
            "select min(id), max(id) from t where k = 3",
        ],
    )
    .await;
}

#[tokio::test]
async fn windows() {
    check(
        &[],
        &[
            "select id, row_number() over (order by id) from t",
            "select id, row_number() over (partition by k order by id) from t",
            "select id, sum(x) over (partition by k order by id rows between 2 preceding and current row) from t",
            "select id, rank() over (partition by s order by x), avg(x) over (partition by s) from t",
            "select id, lag(id, 2) over (partition by k order by id), lead(id) over (order by id) from t",
            "select id, count(*) over () from t",
            "select id, sum(id) over (partition by k), sum(id) over (partition by k, s order by id) from t",
            "select * from (select id, row_number() over (partition by k order by id) r from t) where r <= 2",
            "select k, r from (select k, id, ntile(3) over (partition by k order by id) r from u) order by id",
        ],
    )
    .await;
}

#[tokio::test]
async fn set_operations_sorts_and_limits() {
    check(
        &[],
        &[
            "select id, k from t union all select id, k from u",
            "select k from t union select k from u",
            "select k, s from t intersect select k, s from u",
            "select k, s from t except select k, s from u",
            "select k, count(*) from (select k from t union all select k from u union all select id from one) group by k",
            "select t.id from (select id from t union all select id from one) t join u on t.id = u.id",
            "select * from (select k, count(*) from t group by k union all select k, count(*) from u group by k)",
            "select id from t union all (select id from u order by id limit 3)",
            "select id, s from t order by id",
            "select id, s from t order by id desc limit 7",
            "select id from t order by id limit 5 offset 30",
            "select id, k from t where k > 2 order by id limit 3",
            "select count(*) from (select * from t limit 17)",
            "select count(*) from (select * from t where k = 2 limit 1000)",
            "select count(*) from (select * from t limit 10 offset 175)",
            "select count(*) from (select distinct k from t limit 3)",
            "select a.id from (select id from t order by id limit 20) a join u on a.id = u.id order by a.id",
            "select id from (select id from t order by x, id limit 40) order by id",
            "select id, x from t order by x, id limit 9 offset 4",
            "select k, max(id) m from t group by k order by m desc limit 2",
            "select t.id from t join u on t.k = u.k order by t.id, u.id limit 11",
            "select id from t order by id limit 0",
            "select id, k from t order by id offset 170",
        ],
    )
    .await;
}

#[tokio::test]
async fn values_nesting_and_text_files() {
    check(
        &[],
        &[
            "select 1",
            "select * from (values (1, 'a'), (2, 'b'), (null, 'c')) v(a, b)",
            "select t.id, v.b from t join (values (1, 'a'), (2, 'b')) v(a, b) on t.id = v.a",
            "select id, unnest([id, id + 1]) from u",
            "select unnest(struct(id, s)) from u where id < 35",
            "select id, k from c where k > 3",
            "select k, count(*), sum(x) from c group by k",
            "select c.id, t.s from c join t on c.id = t.id where c.s is not null",
            "with a as (select k, sum(id) v from t group by k) select a.k, b.v from a join a b on a.v = b.v",
            "select * from generate_series(1, 20) g(v) where v % 3 = 0",
            "select g.v, t.id from generate_series(1, 20) g(v) join t on t.id = g.v",
            "select id from t where false",
            "select * from t where id in (1, 5, 170) or s = 's3'",
            "select case when k is null then 'none' else s end, count(*) from t group by 1",
            "select x / 2, cast(k as varchar) || s from t where s like 's%'",
        ],
    )
    .await;
}

/// Sorted files let DataFusion leave sorts out: what is left must still hold after cutting and slicing.
#[tokio::test]
async fn order_that_a_table_has_already() {
    let tables = Tables::new().await;
    let settings = [TINY_BATCHES, ("datafusion.optimizer.prefer_existing_sort", "true")];
    for settings in [&settings[..1], &settings[..]] {
        let onward = tables.onward(settings).await;
        let oracle = tables.single_process().await;
        for ctx in [&onward, &oracle] {
            let location = tables.location("t");
            ctx.sql(&format!(
                "create external table sorted (id int, k bigint, s varchar, x double) stored as parquet with order (id) location '{location}'"
            ))
            .await
            .expect("a sorted table")
            .collect()
            .await
            .expect("a sorted table");
        }
        for sql in [
            "select id, k from sorted order by id",
            "select id, count(*) from sorted group by id order by id",
            "select a.id, b.id from sorted a join sorted b on a.id = b.id order by a.id",
            "select id, sum(x) over (order by id) from sorted order by id",
            "select id from sorted where k > 1 order by id limit 5",
            "select * from (select id from sorted union all select id from sorted) order by id",
            "select id, x from (select id, x, k from sorted union all select id, x, k from sorted) where k > 3 order by id, x",
            "select id, max(k) from (select id, k from sorted union all select id, k from sorted) group by id order by id",
        ] {
            let expected = lines(&oracle.sql(sql).await.expect(sql).collect().await.expect(sql));
            for functions in [1, 2, 4] {
                compare(&onward, sql, functions, &expected).await.unwrap_or_else(|failure| panic!("{failure}"));
            }
        }
    }
}

/// What no function can run, the coordinator does: never an error for SQL that DataFusion accepts.
#[tokio::test]
async fn what_cannot_be_sent_runs_in_the_coordinator() {
    let tables = Tables::new().await;
    let onward = tables.onward(&[]).await;
    for sql in [
        "with recursive r as (select 1 n union all select n + 1 from r where n < 5) select * from r join t on t.id = r.n",
        "select * from information_schema.tables",
        "show tables",
        "explain select * from t",
        "describe t",
    ] {
        for functions in [1, 4] {
            assert!(run(&onward, sql, functions).await.expect(sql).is_none(), "{sql}");
        }
    }
}
