//! Whole queries: planned, cut, run stage by stage in two functions, compared with single-process DataFusion.

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::prelude::{CsvReadOptions, SessionContext};
use onward_planner::{PlanRequest, Planned, StageGraph, plan_query};
use onward_segment::MappedSegment;
use onward_wire::exchange::InputAttempt;
use onward_wire::message::KeyValue;

use super::*;

/// Runs every stage after the stages it reads, its tasks spread over functions 1 and 2. Gives the result's rows.
async fn run(fixture: &mut Fixture, query: u64, graph: &StageGraph) -> Vec<RecordBatch> {
    let settings: Vec<_> =
        graph.settings.iter().map(|(key, value)| KeyValue { key: key.clone(), value: value.clone() }).collect();
    let mut outputs: Vec<StageInputs> = Vec::new();
    for planned in &graph.stages {
        let stage = Stage::new(query, planned.id, planned.output, planned.output_partitions as u32);
        let definition = DefineStage { settings: settings.clone(), ..stage.define(&planned.plan) };
        let inputs: Vec<_> = planned.inputs.iter().map(|input| outputs[*input as usize].clone()).collect();
        for (task, partitions) in planned.tasks.iter().enumerate() {
            let function = FunctionId(task as u64 % 2 + 1);
            if task < 2 {
                fixture.host.define_stage(function, definition.clone());
            }
            // Odd tasks go through the store, even ones inline where they are small.
            let inline = if task % 2 == 0 { 64 << 10 } else { 0 };
            fixture.host.run_attempt(function, stage.run(task as u32, 0, partitions, inputs.clone(), inline));
        }
        let mut attempts = Vec::new();
        for _ in &planned.tasks {
            let done = fixture.prepared().await;
            let expected = planned.tasks.len();
            assert!((done.attempt.task as usize) < expected);
            attempts.push(InputAttempt { attempt: done.attempt, output: done.output, host: 0 });
        }
        attempts.sort_by_key(|input| input.attempt.task);
        outputs.push(StageInputs { stage: planned.id, attempts, ..StageInputs::default() });
    }
    let result = outputs.pop().unwrap();
    let mut batches = Vec::new();
    for partition in 0..graph.result().output_partitions as u32 {
        for attempt in &result.attempts {
            let output = &attempt.output;
            if !output.inline.is_empty() {
                let image = Arc::new(MappedSegment::from_image(output.inline.clone()).unwrap());
                batches.extend(image.batches(partition).map(|batch| batch.unwrap()));
            }
            for segment in &output.segments {
                let mapped = fixture.host.store().map(segment.id()).unwrap();
                batches.extend(mapped.batches(partition).map(|batch| batch.unwrap()));
            }
        }
    }
    fixture.host.forget_query(QueryId(query), &[]);
    batches
}

fn sorted(batches: &[RecordBatch]) -> Vec<String> {
    let text = pretty_format_batches(batches).unwrap().to_string();
    let mut lines: Vec<_> = text.lines().filter(|line| line.starts_with("| ")).map(str::to_owned).collect();
    lines.sort();
    lines
}

/// Scans, hash and broadcast joins, aggregates, sorts and limits give the same rows over two functions.
#[tokio::test]
async fn queries_over_two_functions_equal_single_process() {
    let tables = tempfile::tempdir().unwrap();
    for (table, files) in [("fact", 4), ("dimension", 2)] {
        std::fs::create_dir(tables.path().join(table)).unwrap();
        for file in 0..files {
            let rows = (0..500).map(|i| i * files + file).map(|i| format!("{i},{},name {}\n", i % 97, i % 11));
            let text = std::iter::once("id,key,name\n".to_owned()).chain(rows).collect::<String>();
            std::fs::write(tables.path().join(table).join(format!("{file}.csv")), text).unwrap();
        }
    }
    let config = onward_planner::session::session_config(4, Default::default());
    let state = onward_planner::session::session_state_builder(config, Arc::default()).build();
    let context = SessionContext::new_with_state(state);
    for table in ["fact", "dimension"] {
        let path = tables.path().join(table).to_str().unwrap().to_owned();
        context.register_csv(table, path, CsvReadOptions::new()).await.unwrap();
    }
    let queries = [
        "select count(*), sum(id), min(name) from fact",
        "select key, count(*), avg(id) from fact group by key order by key",
        "select f.name, count(*), sum(d.id) from fact f join dimension d on f.key = d.key group by f.name order by 1",
        "select f.id, d.id from fact f join dimension d on f.id = d.id where d.key < 5 order by 1, 2",
        "select id, row_number() over (partition by key order by id) from fact where key < 3 order by 1, 2",
        "select distinct name from fact union all select name from dimension where id < 5",
    ];
    let mut fixture = Fixture::new();
    fixture.start(1, 1).await;
    fixture.start(2, 1).await;
    for (query, sql) in queries.into_iter().enumerate() {
        let frame = context.sql(sql).await.unwrap();
        let request = PlanRequest {
            functions: Some(2),
            vcpus: 2,
            bytes_per_function: 1 << 30,
            hosts: 1,
            bytes_per_host: 1 << 29,
            tiny_query_bytes: 0,
            max_functions: 2,
            skewed_bytes: 0,
            task_bytes: 0,
            finer: 1,
        };
        let logical = frame.logical_plan().clone();
        let Planned::Stages(graph) = plan_query(&context.state(), &logical, &request).await.unwrap() else {
            panic!("{sql} runs in the coordinator");
        };
        assert!(graph.stages.iter().any(|stage| stage.tasks.len() > 1), "{sql} uses one function");
        let batches = run(&mut fixture, query as u64 + 1, &graph).await;
        assert_eq!(sorted(&batches), sorted(&frame.collect().await.unwrap()), "{sql}");
    }
    fixture.end().await;
}
