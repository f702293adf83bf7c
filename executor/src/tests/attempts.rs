//! Attempts: what they make, how they fail, how they stop.

use onward_segment::MappedSegment;
use onward_wire::ErrorKind;
use onward_wire::exchange::InputAttempt;

use super::*;

fn input(stage: u32, done: AttemptDone) -> StageInputs {
    let attempts = vec![InputAttempt { attempt: done.attempt, output: done.output, host: 0 }];
    StageInputs { stage, attempts, ..StageInputs::default() }
}

fn rows(fixture: &Fixture, done: &AttemptDone, partition: u32) -> usize {
    let inline = (!done.output.inline.is_empty())
        .then(|| Arc::new(MappedSegment::from_image(done.output.inline.clone()).unwrap()));
    let files = done.output.segments.iter().map(|segment| fixture.host.store().map(segment.id()).unwrap());
    inline
        .into_iter()
        .chain(files)
        .flat_map(|segment| segment.batches(partition))
        .map(|batch| batch.unwrap().num_rows())
        .sum()
}

/// Small output comes inline and costs no segment; large output, or inline forbidden, lies in verified segments.
#[tokio::test]
async fn output_is_inline_when_small_and_in_segments_otherwise() {
    let mut fixture = Fixture::new();
    fixture.start(1, 1).await;
    let stage = Stage::new(1, 0, OutputKind::Preserve, 1);
    let plan = plan("select value from range(0, 1000)", 1).await;
    fixture.host.define_stage(FunctionId(1), stage.define(&plan));

    fixture.host.run_attempt(FunctionId(1), stage.run(0, 0, &[0], vec![], 64 << 10));
    let done = fixture.prepared().await;
    assert!(!done.output.inline.is_empty() && done.output.segments.is_empty());
    assert_eq!((rows(&fixture, &done, 0), done.output.rows()), (1000, 1000));
    assert_eq!(fixture.host.store().usage().segments, 0);

    fixture.host.run_attempt(FunctionId(1), stage.run(0, 1, &[0], vec![], 0));
    let done = fixture.prepared().await;
    assert!(done.output.inline.is_empty() && done.output.segments.len() == 1);
    assert_eq!(rows(&fixture, &done, 0), 1000);
    let produced = done.operators.iter().flat_map(|operator| &operator.values);
    assert!(produced.into_iter().any(|metric| metric.name == "output_rows" && metric.value == 1000));

    fixture.host.remove_segments(&done.output.segments.iter().map(|segment| segment.id()).collect::<Vec<_>>());
    assert_eq!(fixture.host.store().usage().segments, 0);
    fixture.end().await;
}

/// Two stages in two functions: a broadcast through segments is read whole, and the reader's leases end with it.
#[tokio::test]
async fn a_consumer_reads_what_a_producer_committed() {
    use datafusion::physical_expr::EquivalenceProperties;
    use datafusion::physical_plan::Partitioning;
    use onward_planner::StageInputExec;

    let mut fixture = Fixture::new();
    fixture.start(1, 1).await;
    fixture.start(2, 2).await;
    let producer = Stage::new(1, 0, OutputKind::Single, 1);
    let made = plan("select value from range(0, 100000)", 1).await;
    fixture.host.define_stage(FunctionId(1), producer.define(&made));
    fixture.host.run_attempt(FunctionId(1), producer.run(0, 0, &[0], vec![], 0));
    let done = fixture.prepared().await;
    let segments: Vec<_> = done.output.segments.iter().map(|segment| segment.id()).collect();

    let consumer = Stage::new(1, 1, OutputKind::Preserve, 1);
    let reads: Arc<dyn ExecutionPlan> = Arc::new(StageInputExec::new(
        0,
        vec![0],
        EquivalenceProperties::new(made.schema()),
        Partitioning::UnknownPartitioning(1),
    ));
    fixture.host.define_stage(FunctionId(2), consumer.define(&reads));
    fixture.host.run_attempt(FunctionId(2), consumer.run(0, 0, &[0], vec![input(0, done)], 0));
    let read = fixture.prepared().await;
    assert_eq!((rows(&fixture, &read, 0), read.output.rows()), (100_000, 100_000));

    fixture.host.remove_segments(&segments);
    // An answered request says that the releases sent before it were handled.
    fixture.host.run_attempt(FunctionId(2), consumer.run(0, 1, &[0], vec![input(0, AttemptDone::default())], 0));
    fixture.prepared().await;
    fixture.end().await;
}

/// What the user did wrong keeps its kind on the way from the operator to the coordinator, and is not retryable.
#[tokio::test]
async fn errors_keep_their_kind() {
    let mut fixture = Fixture::new();
    fixture.start(1, 1).await;
    for (query, sql) in [
        (1, "select 1 / (value - 5) from range(0, 10)"),
        (2, "select cast(concat('x', value) as int) from range(0, 10)"),
    ] {
        let stage = Stage::new(query, 0, OutputKind::Preserve, 1);
        fixture.host.define_stage(FunctionId(1), stage.define(&plan(sql, 1).await));
        fixture.host.run_attempt(FunctionId(1), stage.run(0, 0, &[0], vec![], 0));
        let (attempt, error) = fixture.failed().await;
        assert_eq!(attempt, stage.attempt(0, 0));
        assert_eq!((error.kind(), error.is_retryable), (ErrorKind::InvalidQuery, false), "{error}");
    }
    let unknown = Stage::new(3, 0, OutputKind::Preserve, 1);
    fixture.host.run_attempt(FunctionId(1), unknown.run(0, 0, &[0], vec![], 0));
    assert_eq!(fixture.failed().await.1.kind(), ErrorKind::Internal, "an attempt without its stage");
    fixture.end().await;
}

/// A cancelled attempt answers although its only thread is busy; the function then runs the next one.
#[tokio::test]
async fn cancel_reaches_a_busy_attempt() {
    let mut fixture = Fixture::new();
    fixture.start(1, 1).await;
    let endless = Stage::new(1, 0, OutputKind::Preserve, 1);
    fixture.host.define_stage(FunctionId(1), endless.define(&plan(ENDLESS, 1).await));
    let short = Stage::new(2, 0, OutputKind::Preserve, 1);
    fixture.host.define_stage(FunctionId(1), short.define(&plan("select 1", 1).await));

    fixture.host.run_attempt(FunctionId(1), endless.run(0, 0, &[0], vec![], 0));
    fixture.host.cancel_attempt(FunctionId(1), endless.attempt(0, 0));
    let (attempt, error) = fixture.failed().await;
    assert_eq!((attempt, error.kind()), (endless.attempt(0, 0), ErrorKind::Cancelled));
    assert!(!error.counts_as_failure);

    fixture.host.run_attempt(FunctionId(1), short.run(0, 0, &[0], vec![], 1 << 10));
    assert_eq!(fixture.prepared().await.attempt, short.attempt(0, 0).into());
    fixture.end().await;
}

/// A cancelled attempt is answered at once, and has ended when its last operator has yielded: not before, whoever
/// spawned the task of that operator. Until then something may still write what it stages.
#[tokio::test]
async fn a_cancelled_attempt_that_does_not_yield_ends_later() {
    // One call works for seconds. Over two partitions it does so in tasks of DataFusion's.
    let distance = "levenshtein(repeat('a', 40000 + value::int), repeat('b', 40000))";
    let alone = format!("select {distance} from range(0, 1)");
    let spawned = format!("select max({distance}) from (select value from range(0, 1) union all select 2)");
    for (query, sql, partitions) in [(1, alone, 1), (2, spawned, 2)] {
        let mut fixture = Fixture::new();
        fixture.start(1, 2).await;
        let stage = Stage::new(query, 0, OutputKind::Preserve, 1);
        fixture.host.define_stage(FunctionId(1), stage.define(&plan(&sql, partitions).await));
        fixture.host.run_attempt(FunctionId(1), stage.run(0, 0, &[0], vec![], 1 << 10));
        let working = fixture.any_event().await;
        assert!(matches!(working, HostEvent::Progress { .. }), "{working:?}");
        let mut ended = Box::pin(fixture.host.query_ended(QueryId(query)));
        assert!(futures::poll!(&mut ended).is_pending());

        fixture.host.cancel_attempt(FunctionId(1), stage.attempt(0, 0));
        match fixture.event().await {
            HostEvent::AttemptFailed { attempt, error, has_ended, .. } => {
                assert_eq!((attempt, error.kind()), (stage.attempt(0, 0), ErrorKind::Cancelled));
                assert!(!has_ended, "{sql}");
            }
            other => panic!("{other:?}"),
        }
        assert!(futures::poll!(&mut ended).is_pending());
        match fixture.any_event().await {
            HostEvent::AttemptEnded { attempt, .. } => assert_eq!(attempt, stage.attempt(0, 0)),
            other => panic!("{other:?}"),
        }
        tokio::time::timeout(PATIENCE, ended).await.expect("nothing works for the query any more");
        fixture.end().await;
    }
}

/// A function that is gone works for no query: what its attempts would still have done is not waited for.
#[tokio::test]
async fn a_lost_function_works_for_nobody() {
    let mut fixture = Fixture::new();
    let pid = fixture.start(1, 1).await;
    let stage = Stage::new(1, 0, OutputKind::Preserve, 1);
    fixture.host.define_stage(FunctionId(1), stage.define(&plan(ENDLESS, 1).await));
    fixture.host.run_attempt(FunctionId(1), stage.run(0, 0, &[0], vec![], 0));
    let ended = fixture.host.query_ended(QueryId(1));
    signal(pid, rustix::process::Signal::KILL);
    tokio::time::timeout(PATIENCE, ended).await.expect("nothing works for the query any more");
    assert!(!is_alive(pid), "it was reaped before");
    fixture.lost().await;
    fixture.end().await;
}

/// Several attempts run at once in one function, each with its own answer.
#[tokio::test]
async fn attempts_run_side_by_side() {
    let mut fixture = Fixture::new();
    fixture.start(1, 2).await;
    let endless = Stage::new(1, 0, OutputKind::Preserve, 1);
    fixture.host.define_stage(FunctionId(1), endless.define(&plan(ENDLESS, 1).await));
    let short = Stage::new(1, 1, OutputKind::Preserve, 1);
    fixture.host.define_stage(FunctionId(1), short.define(&plan("select value from range(0, 10)", 1).await));
    fixture.host.run_attempt(FunctionId(1), endless.run(0, 0, &[0], vec![], 0));
    for task in 0..4 {
        fixture.host.run_attempt(FunctionId(1), short.run(task, 0, &[0], vec![], 1 << 10));
    }
    let mut tasks = Vec::new();
    for _ in 0..4 {
        tasks.push(fixture.prepared().await.attempt.task);
    }
    tasks.sort_unstable();
    assert_eq!(tasks, [0, 1, 2, 3]);
    fixture.host.cancel_attempt(FunctionId(1), endless.attempt(0, 0));
    fixture.failed().await;
    fixture.end().await;
}

/// A sort larger than the function's memory spills to the function's directory, and says how much.
#[tokio::test]
async fn a_sort_past_the_memory_limit_spills() {
    let mut fixture = Fixture::new();
    fixture.host.start_function(FunctionId(1), 1, 16 << 20);
    assert!(matches!(fixture.event().await, HostEvent::FunctionReady { .. }));
    let stage = Stage::new(1, 0, OutputKind::Preserve, 1);
    let sql = "select value, concat('a longer text ', value) from range(0, 1000000) order by value % 1000, value";
    let mut definition = stage.define(&plan(sql, 1).await);
    let reserve = ("datafusion.execution.sort_spill_reservation_bytes", "1000000");
    definition.settings.push(onward_wire::message::KeyValue { key: reserve.0.to_owned(), value: reserve.1.to_owned() });
    fixture.host.define_stage(FunctionId(1), definition);
    fixture.host.run_attempt(FunctionId(1), stage.run(0, 0, &[0], vec![], 0));
    let done = fixture.prepared().await;
    assert_eq!(done.output.rows(), 1_000_000);
    assert!(done.spilled_bytes > 0 && done.peak_memory_bytes > 0 && done.peak_memory_bytes <= 16 << 20, "{done:?}");
    fixture.end().await;
}

/// A running attempt says how far it is, as long as that changes, and only then.
#[tokio::test]
async fn a_running_attempt_reports_progress() {
    let mut fixture = Fixture::new();
    fixture.start(1, 1).await;
    let stage = Stage::new(1, 0, OutputKind::Preserve, 1);
    let plan = plan("select value from range(0, 1000000000000) where value % 100 = 7", 1).await;
    fixture.host.define_stage(FunctionId(1), stage.define(&plan));
    fixture.host.run_attempt(FunctionId(1), stage.run(0, 0, &[0], vec![], 0));
    let mut rows = Vec::new();
    while rows.len() < 3 {
        match tokio::time::timeout(PATIENCE, fixture.events.recv()).await.unwrap().unwrap() {
            HostEvent::Progress { progress, .. } => rows.push(progress.rows),
            other => panic!("{other:?}"),
        }
    }
    assert!(rows.is_sorted() && rows[0] < rows[2], "{rows:?}");
    fixture.host.cancel_attempt(FunctionId(1), stage.attempt(0, 0));
    fixture.failed().await;
    fixture.end().await;
}

/// The footer and the columns of a Parquet file are read once: the second attempt makes no request, with equal rows.
#[tokio::test]
async fn a_warm_function_asks_for_nothing_again() {
    use datafusion::dataframe::DataFrameWriteOptions;
    use datafusion::prelude::{ParquetReadOptions, SessionContext};

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("table.parquet");
    let path = path.to_str().unwrap();
    let context = SessionContext::new_with_config(onward_planner::session::session_config(1, Default::default()));
    let rows = context.sql("select value from range(0, 1000)").await.unwrap();
    rows.write_parquet(path, DataFrameWriteOptions::new().with_single_file_output(true), None).await.unwrap();
    context.register_parquet("t", path, ParquetReadOptions::new()).await.unwrap();
    let plan =
        context.sql("select sum(value) from t where value > 5").await.unwrap().create_physical_plan().await.unwrap();

    let mut fixture = Fixture::new();
    fixture.start(1, 1).await;
    let stage = Stage::new(1, 0, OutputKind::Preserve, 1);
    fixture.host.define_stage(FunctionId(1), stage.define(&plan));
    let mut made = Vec::new();
    for attempt in 0..2 {
        fixture.host.run_attempt(FunctionId(1), stage.run(0, attempt, &[0], vec![], 1 << 10));
        let done = fixture.prepared().await;
        assert_eq!(done.output.rows(), 1);
        assert_eq!((done.requests.write, done.requests.intermediate), (0, 0));
        made.push(done.requests.table);
    }
    assert!(made[0] > 0 && made[1] == 0, "requests of two attempts: {made:?}");
    fixture.end().await;
}
