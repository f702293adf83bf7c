//! EXPLAIN ANALYZE: a statement runs as it would without, and its one row says what that took. A write writes.

use std::sync::Arc;
use std::time::Instant;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::common::DataFusionError;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::display::DisplayableExecutionPlan;
use futures::{StreamExt, stream};
use onward_cache::OpenUploads;
use onward_planner::{Stage, StageGraph, explain};
use onward_wire::WireError;
use tokio::sync::oneshot;

use crate::api::{Result, ResultStream};
use crate::dispatch;
use crate::engine::{Engine, Listing, Outcome, read_result};
use crate::system::History;
use crate::write::{Write, add_all, commit};

/// A graph that functions work on.
pub(crate) struct Submitted {
    pub(crate) engine: Engine,
    pub(crate) graph: StageGraph,
    pub(crate) outcome: oneshot::Receiver<Result<Outcome, WireError>>,
}

/// A plan on its way.
pub(crate) enum Started {
    /// In this process.
    Local { plan: Arc<dyn ExecutionPlan>, reason: String, rows: ResultStream },
    /// In functions.
    Stages(Box<Submitted>),
}

/// A statement on its way.
pub(crate) struct Analysis {
    pub(crate) listing: Arc<Listing>,
    pub(crate) begun: Instant,
    pub(crate) plan: Started,
    /// What becomes of the plan's rows; those of a query are dropped.
    pub(crate) write: Option<Write>,
    /// Where its commit runs.
    pub(crate) background: Arc<OpenUploads>,
}

/// Runs it when it is polled. Dropping the stream ends it and leaves nothing behind.
pub(crate) fn rows(analysis: Analysis, history: Arc<History>) -> ResultStream {
    stream::once(async move {
        let (kind, text) = run(analysis, &history).await?;
        row(kind, &text)
    })
    .boxed()
}

async fn run(analysis: Analysis, history: &History) -> Result<(&'static str, String)> {
    let Analysis { listing, begun, plan, mut write, background } = analysis;
    let query = listing.query();
    let (kind, mut text) = match plan {
        Started::Local { plan, reason, mut rows } => {
            match &mut write {
                Some(write) => add_all(write, rows, query).await?,
                None => {
                    while let Some(batch) = rows.next().await {
                        batch?;
                    }
                }
            }
            let plan = DisplayableExecutionPlan::with_metrics(plan.as_ref());
            ("coordinator with metrics", format!("coordinator: {reason}\n{}", plan.indent(false)))
        }
        Started::Stages(submitted) => {
            let Submitted { engine, mut graph, outcome } = *submitted;
            let outcome = dispatch::outcome(query, outcome, history).await?;
            graph
                .stages
                .iter_mut()
                .filter(|stage| outcome.replaced.contains(&stage.id))
                .for_each(Stage::run_alternative);
            let text = explain::analyze(&graph, &outcome.stages, begun.elapsed());
            if let Some(write) = &mut write {
                add_all(write, read_result(&engine, outcome.result), query).await?;
            }
            ("stages with metrics", text)
        }
    };
    if let Some(write) = write {
        let begun = Instant::now();
        let rows = commit(write, listing, background).await?;
        text += &format!("committed: {rows} row{}, in {:.1?}", if rows == 1 { "" } else { "s" }, begun.elapsed());
    }
    Ok((kind, text))
}

/// The row of an EXPLAIN.
pub(crate) fn row(kind: &str, text: &str) -> Result<RecordBatch> {
    let columns: [ArrayRef; 2] = [kind, text.trim_end()].map(|text| Arc::new(StringArray::from(vec![text])) as _);
    let batch = RecordBatch::try_new(LogicalPlan::explain_schema(), columns.to_vec());
    Ok(batch.map_err(DataFusionError::from)?)
}
