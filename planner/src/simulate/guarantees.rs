//! What the rest of the system relies on, shown on plans and on plans that ran.

use std::sync::Arc;

use datafusion::arrow::array::{Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::datasource::MemTable;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::displayable;
use datafusion::prelude::{SessionContext, col};
use onward_wire::message::OutputKind;

use super::tables::Tables;
use super::{Run, lines, run};
use crate::{Planned, Stage, explain};

const NO_BROADCAST: &[(&str, &str)] = &[
    ("datafusion.optimizer.hash_join_single_partition_threshold_rows", "0"),
    ("datafusion.optimizer.hash_join_single_partition_threshold", "0"),
];

async fn ran(ctx: &SessionContext, sql: &str, functions: usize) -> Run {
    run(ctx, sql, functions).await.expect(sql).expect("it runs in functions")
}

fn shown(plan: &Arc<dyn ExecutionPlan>) -> String {
    displayable(plan.as_ref()).indent(true).to_string()
}

/// A join's filter reaches the scan in its own stage through encoding, slicing and binding, and the run fills it.
#[tokio::test]
async fn dynamic_filters_work_inside_a_stage() {
    let tables = Tables::new().await;
    let onward = tables.onward(&[]).await;
    let done = ran(&onward, "select t.id from t join u on t.id = u.id where u.s = 's3'", 2).await;
    let scans: Vec<String> =
        done.plans.iter().map(|(_, plan)| shown(plan)).filter(|plan| plan.contains("HashJoinExec")).collect();
    assert_eq!(scans.len(), 2, "two tasks join");
    for plan in scans {
        assert!(plan.contains("mode=CollectLeft") && plan.contains("DynamicFilter"), "{plan}");
        assert!(!plan.contains("DynamicFilter [ empty ]"), "the join never told the scan:\n{plan}");
    }

    let done = ran(&onward, "select id, x from t order by x desc, id limit 3", 2).await;
    let top = done.plans.iter().map(|(_, plan)| shown(plan)).filter(|plan| plan.contains("DataSourceExec"));
    for plan in top {
        assert!(plan.contains("TopK") && plan.contains("DynamicFilter ["), "{plan}");
        assert!(!plan.contains("DynamicFilter [ empty ]"), "the TopK never told the scan:\n{plan}");
    }
}

/// Filters of partitioned joins are made for all partitions: they must not reach a scan that runs in slices, nor one in
/// another stage, where nothing would ever fill them.
#[tokio::test]
async fn filters_of_partitioned_joins_are_dropped() {
    let tables = Tables::new().await;
    let onward = tables.onward(NO_BROADCAST).await;
    let done = ran(&onward, "select t.id from t join u on t.id = u.id where u.s = 's3'", 4).await;
    for stage in &done.graph.stages {
        assert!(!shown(&stage.plan).contains("DynamicFilter"), "{}", shown(&stage.plan));
    }
    // One function runs all partitions: there they stay.
    let done = ran(&onward, "select t.id from t join u on t.id = u.id where u.s = 's3'", 1).await;
    assert!(shown(&done.graph.stages[0].plan).contains("DynamicFilter"), "{}", shown(&done.graph.stages[0].plan));
}

/// The keys of a partitioned join's build side go to the scans of its probe side, through the stages between, and past no limit.
#[tokio::test]
async fn runtime_filters_reach_the_scans_of_other_stages() {
    let tables = Tables::new().await;
    let onward = tables.onward(NO_BROADCAST).await;
    let sources = |done: &Run| -> Vec<(u32, u32)> {
        let sources = done.graph.stages.iter().flat_map(|stage| &stage.key_sources);
        sources.map(|source| (source.filter, source.stage)).collect()
    };
    let placed = |done: &Run| -> Vec<(u32, Vec<u32>)> {
        let stages = done.graph.stages.iter().filter(|stage| !stage.filters.is_empty());
        stages.map(|stage| (stage.id, stage.filters.clone())).collect()
    };
    let done = ran(&onward, "select t.id from t join u on t.id = u.id where u.s = 's3'", 2).await;
    let text = explain::text(&Planned::Stages(done.graph.clone()));
    assert_eq!((sources(&done).len(), placed(&done).len()), (1, 1), "{text}");
    let (from, to) = (sources(&done)[0].1, placed(&done)[0].0);
    assert!(from != to && shown(&done.graph.stages[to as usize].plan).contains("predicate=RuntimeFilter"), "{text}");
    assert!(text.contains("keys of RuntimeFilter 0"), "{text}");

    // Through an aggregation's groups, and no further than the limit.
    let grouped = "select g.k from u join (select k, count(*) from t group by k) g on u.k = g.k where u.s = 's3'";
    let done = ran(&onward, grouped, 2).await;
    assert!(!sources(&done).is_empty(), "{}", explain::text(&Planned::Stages(done.graph.clone())));
    let limited = "select l.id from u join (select id from t limit 5) l on u.id = l.id where u.s = 's3'";
    let done = ran(&onward, limited, 2).await;
    for stage in done.graph.stages.iter().filter(|stage| shown(&stage.plan).contains("limit=5")) {
        assert!(stage.filters.is_empty(), "{}", shown(&stage.plan));
    }

    // Rows that stay without a match, and keys whose sums differ from run to run, have none.
    for sql in [
        "select t.id, u.id from t full join u on t.id = u.id",
        "select u.id from u join (select k, sum(x) x from t group by k) g on u.x = g.x",
    ] {
        let done = ran(&onward, sql, 2).await;
        assert!(sources(&done).is_empty(), "{sql}:\n{}", explain::text(&Planned::Stages(done.graph.clone())));
    }
}

/// What a condition leaves of groups is known before the rows that it is joined with are read.
#[tokio::test]
async fn a_having_under_a_join_is_a_stage_of_its_own() {
    let tables = Tables::new().await;
    let onward = tables.onward(NO_BROADCAST).await;
    let sql = "select id from t where k in (select k from u group by k having count(*) > 3)";
    let done = ran(&onward, sql, 2).await;
    let is_having = |stage: &&Stage| stage.output == OutputKind::Preserve && !stage.key_sources.is_empty();
    assert!(done.graph.stages.iter().any(|stage| is_having(&stage)), "{}", explain::text(&Planned::Stages(done.graph)));
}

/// Forced functions get work: stages with input enough have one task per function, each with its own partitions.
#[tokio::test]
async fn forced_functions_all_get_tasks() {
    let tables = Tables::new().await;
    let onward = tables.onward(&[("datafusion.execution.batch_size", "8")]).await;
    for functions in [2, 4, 7] {
        let done = ran(&onward, "select k, count(*) from t group by k", functions).await;
        for stage in &done.graph.stages {
            assert_eq!(stage.tasks.len(), functions, "stage {}:\n{}", stage.id, shown(&stage.plan));
            let all: Vec<u32> = stage.tasks.iter().flatten().copied().collect();
            assert_eq!(all, (0..all.len() as u32).collect::<Vec<_>>());
        }
    }
}

/// Joins that emit build rows never get a broadcast build side, whatever the statistics say.
#[tokio::test]
async fn build_rows_are_emitted_once() {
    let tables = Tables::new().await;
    let onward = tables.onward(&[]).await;
    for join in ["left join", "full join", "left semi join", "left anti join"] {
        let sql = format!("select u.id from u {join} t on t.id = u.id");
        let done = ran(&onward, &sql, 4).await;
        for stage in done.graph.stages.iter().filter(|stage| stage.tasks.len() > 1) {
            let plan = shown(&stage.plan);
            let joins: Vec<&str> = plan.lines().filter(|line| line.contains("mode=CollectLeft")).collect();
            let is_safe = |line: &&str| line.contains("join_type=Right") || line.contains("join_type=Inner");
            assert!(joins.iter().all(is_safe), "{sql}:\n{plan}");
        }
    }
}

/// The value of a scalar subquery is computed once, by one task, and sent: repeated in every task, a sum of floats could
/// differ in its last bits between tasks of one query.
#[tokio::test]
async fn a_scalar_subquery_is_computed_by_one_task() {
    let tables = Tables::new().await;
    let onward = tables.onward(&[]).await;
    for (sql, values) in [
        ("select id from t where x > (select avg(x) from t)", 1),
        ("select id, x - (select sum(x) / 3 from u) from t", 1),
        // The rows of `t` meet the second value in one task: nothing is sent to several.
        ("select id from t where x between (select sum(x) from one) and (select avg(x) + sum(x) from u)", 1),
        ("select k, sum(x) s from t group by k having sum(x) > (select 0.1 * sum(x) from t)", 1),
    ] {
        let done = ran(&onward, sql, 4).await;
        let is_value = |stage: &&Stage| stage.output == OutputKind::Single && stage.tasks.len() == 1;
        let computed: Vec<_> = done.graph.stages.iter().filter(is_value).collect();
        let text = explain::text(&Planned::Stages(done.graph.clone()));
        assert_eq!(computed.len(), values, "{sql}: single-task stages that are broadcast\n{text}");
        for stage in done.graph.stages.iter().filter(|stage| stage.tasks.len() > 1) {
            let is_final = |line: &str| line.contains("AggregateExec: mode=Final, gby=[]");
            assert!(!shown(&stage.plan).lines().any(is_final), "{sql}: every task computes it\n{text}");
        }
    }
}

/// A second run of these stages may give other rows, so losing their output must re-run who read it.
#[tokio::test]
async fn indeterminate_stages_are_marked() {
    let tables = Tables::new().await;
    let onward = tables.onward(&[]).await;
    for (sql, expected) in [
        ("select k, count(*) from t group by k", false),
        ("select t.id from t join u on t.k = u.k where t.x > 2", false),
        ("select id from t limit 5", true),
        ("select id, random() r from t", true),
        ("select id from t where random() < 2", true),
        ("select k, first_value(id) from t group by k", true),
        ("select row_number() over (partition by k order by x) from t", true),
    ] {
        for functions in [1, 4] {
            let done = ran(&onward, sql, functions).await;
            let is_marked = done.graph.stages.iter().any(|stage| stage.is_indeterminate);
            assert_eq!(is_marked, expected, "{sql} on {functions}");
        }
    }
}

/// A limit above an exchange bounds what its producers send.
#[tokio::test]
async fn limits_reach_the_producers() {
    let tables = Tables::new().await;
    let onward = tables.onward(&[("datafusion.execution.batch_size", "8")]).await;
    for sql in
        ["select id from t limit 4", "select id from t order by x limit 4", "select id from t where k > 1 limit 4"]
    {
        let done = ran(&onward, sql, 4).await;
        assert_eq!(lines(&done.rows).len(), 4);
        for stage in done.graph.stages.iter().filter(|stage| stage.output == OutputKind::Preserve) {
            let plan = shown(&stage.plan);
            assert!(plan.contains("fetch=4") || plan.contains("limit=4"), "{sql}:\n{plan}");
        }
    }
}

/// Tables in memory are sliced by partition. Sorted ones, of which some columns are read, cannot be decoded.
#[tokio::test]
async fn tables_in_memory_are_sliced() {
    let tables = Tables::new().await;
    let onward = tables.onward(&[("datafusion.execution.batch_size", "8")]).await;
    let batch = |first: i64| {
        let schema = Schema::new(vec![Field::new("s", DataType::Utf8, true), Field::new("id", DataType::Int64, false)]);
        let ids = Int64Array::from_iter_values(first..first + 40);
        let strings: StringArray = (first..first + 40).map(|id| Some(format!("m{}", id % 5))).collect();
        RecordBatch::try_new(Arc::new(schema), vec![Arc::new(strings), Arc::new(ids)]).expect("a batch")
    };
    let partitions = vec![vec![batch(0), batch(40)], vec![batch(80)], vec![batch(120)]];
    let memory = MemTable::try_new(batch(0).schema(), partitions.clone()).expect("a table");
    onward.register_table("m", Arc::new(memory)).expect("a new table");
    for sql in [
        "select id from m order by id",
        "select s, count(*), min(id) from m group by s order by s",
        "select m.id, t.id from m join t on m.id = t.id order by m.id",
        "select id, count(*) from (select id from m union all select id from m) group by id order by id",
    ] {
        let expected = lines(&onward.sql(sql).await.expect(sql).collect().await.expect(sql));
        for functions in [1, 2, 3, 4] {
            assert_eq!(expected, lines(&ran(&onward, sql, functions).await.rows), "{sql} on {functions}");
        }
    }
    let sorted = MemTable::try_new(batch(0).schema(), partitions).expect("a table");
    let sorted = sorted.with_sort_order(vec![vec![col("id").sort(true, false)]]);
    onward.register_table("sorted", Arc::new(sorted)).expect("a new table");
    let sql = "select id from sorted order by id";
    let expected = lines(&onward.sql(sql).await.expect(sql).collect().await.expect(sql));
    // Where its order would not survive the codec it runs in the coordinator.
    if let Some(ran) = run(&onward, sql, 4).await.expect("it is planned") {
        assert_eq!(expected, lines(&ran.rows));
    }
}

/// Functions that only this session has would be unknown where the stage runs.
#[tokio::test]
async fn unknown_functions_keep_a_query_in_the_coordinator() {
    use datafusion::logical_expr::{Volatility, create_udf};
    let tables = Tables::new().await;
    let onward = tables.onward(&[]).await;
    let same = Arc::new(|values: &[datafusion::logical_expr::ColumnarValue]| Ok(values[0].clone()));
    onward.register_udf(create_udf("mine", vec![DataType::Int32], DataType::Int32, Volatility::Immutable, same));
    for functions in [1, 4] {
        let planned = run(&onward, "select mine(id) from t", functions).await.expect("it is planned");
        assert!(planned.is_none());
    }
}
