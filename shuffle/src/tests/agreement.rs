//! Our hash partitioning is DataFusion's, in every process.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, StringViewArray};
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::expressions::col;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::{ExecutionPlan, Partitioning};
use futures::TryStreamExt;

use super::harness::{Exchange, OPTIONS};
use crate::OutputMapping;

/// Keys of several types, with nulls.
fn keys(start: i64) -> RecordBatch {
    let rows = || start..start + 500;
    let null = |row: &i64| row % 7 == 3;
    let columns: [(&str, ArrayRef); 4] = [
        ("n", Arc::new(rows().map(|row| (!null(&row)).then_some(row * 31)).collect::<Int64Array>())),
        ("s", Arc::new(rows().map(|row| (row % 5 != 1).then(|| format!("key {}", row % 40))).collect::<StringArray>())),
        ("v", Arc::new(rows().map(|row| Some(format!("a longer key, number {row}"))).collect::<StringViewArray>())),
        ("f", Arc::new(rows().map(|row| Some(row as f64 / 3.0)).collect::<Float64Array>())),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn sorted_rows(batches: &[RecordBatch]) -> Vec<String> {
    let text = pretty_format_batches(batches).unwrap().to_string();
    let mut rows: Vec<String> = text.lines().filter(|line| line.starts_with("| ")).skip(1).map(str::to_owned).collect();
    rows.sort();
    rows
}

#[tokio::test]
async fn rows_go_where_repartition_exec_sends_them() {
    let batches: Vec<RecordBatch> = (0..6).map(|at| keys(at * 500)).collect();
    let schema = batches[0].schema();
    for (names, partitions) in [(vec!["n"], 5), (vec!["s"], 8), (vec!["v", "n"], 7), (vec!["f", "s", "v"], 1)] {
        let exprs: Vec<_> = names.iter().map(|name| col(name, &schema).unwrap()).collect();
        let memory = MemorySourceConfig::try_new_exec(std::slice::from_ref(&batches), schema.clone(), None).unwrap();
        let plan = RepartitionExec::try_new(memory, Partitioning::Hash(exprs.clone(), partitions)).unwrap();

        let exchange = Exchange::new();
        let lanes = [batches[..2].to_vec(), batches[2..].to_vec()];
        let output = exchange.write(OutputMapping::Hash { exprs, partitions }, OPTIONS, &lanes).await.unwrap();
        let ours = exchange.read(&schema, &[output], partitions as u32).await;
        for (partition, ours) in ours.iter().enumerate() {
            let stream = plan.execute(partition, Arc::new(TaskContext::default())).unwrap();
            let theirs: Vec<RecordBatch> = stream.try_collect().await.unwrap();
            assert_eq!(sorted_rows(ours), sorted_rows(&theirs), "{names:?} % {partitions}, partition {partition}");
        }
    }
}

/// The numbers were made in another process. A DataFusion that hashes differently would break joins between functions of
/// different builds; the handshake refuses those, and this test says when it has to.
#[tokio::test]
async fn hashes_are_those_of_other_processes() {
    let exchange = Exchange::new();
    let batch = keys(0).slice(0, 16);
    let schema = batch.schema();
    let mut found = Vec::new();
    for name in ["n", "s", "v", "f"] {
        let exprs = vec![col(name, &schema).unwrap()];
        let mapping = OutputMapping::Hash { exprs, partitions: 1000 };
        let output = exchange.write(mapping, OPTIONS, &[vec![batch.clone()]]).await.unwrap();
        found.push(output.partitions.iter().map(|stats| stats.partition).collect::<Vec<_>>());
    }
    assert_eq!(found, GOLDEN_PARTITIONS);
}

const GOLDEN_PARTITIONS: [&[u32]; 4] = [
    &[0, 114, 255, 341, 486, 514, 607, 682, 735, 766, 783, 819, 820, 853, 893],
    &[0, 40, 57, 93, 104, 365, 394, 532, 583, 610, 706, 783, 933],
    &[101, 184, 197, 220, 257, 353, 370, 383, 628, 697, 700, 762, 790, 824, 896, 981],
    &[46, 58, 228, 281, 292, 344, 367, 379, 456, 522, 563, 611, 707, 783, 830, 975],
];
