//! [`StageGraph`]: a query's physical plan cut at its exchanges.
//!
//! ```text
//!   stage 0: scan lineitem -> filter -> partial aggregate      --hash(l_orderkey) % 8-->  stage 1
//!   stage 1: [StageInput 0, 8 partitions] -> final aggregate   --result--> client
//! ```
//!
//! A plan names stages and partitions, never addresses: which function runs a task, and where its inputs lie, is
//! decided when the task starts.

use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::Result;
use datafusion::physical_expr::{Partitioning, PhysicalExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion_proto::physical_plan::PhysicalExtensionCodec;
use onward_wire::message::OutputKind;
use prost::bytes::Bytes;

pub use crate::adaptive::Alternative;
use crate::classes::ClassChoice;
use crate::runtime_filter::filters;

/// What a hash exchange routes rows by.
pub type HashExprs = Vec<Arc<dyn PhysicalExpr>>;

/// A query as stages. The last stage's output is the result.
#[derive(Clone, Debug)]
pub struct StageGraph {
    /// In topological order: a stage comes after all stages it reads.
    pub stages: Vec<Stage>,
    /// How many functions the query is worth, and why.
    pub sizing: Sizing,
    /// DataFusion settings the functions need to run the stages as planned: those that differ from the defaults.
    pub settings: Vec<(String, String)>,
}

/// How many functions, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizing {
    /// Functions, at least 1.
    pub functions: usize,
    /// Threads of each function, at least 1.
    pub threads: usize,
    /// The number of functions is the user's word, or that of tasks is what their time asks for: no stage runs on fewer.
    pub is_forced: bool,
    /// One line for EXPLAIN: `forced by onward.functions`, `input 1.2 GiB fits one function (8.0 GiB each)`.
    pub reason: String,
}

/// A plan fragment between exchanges.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Position in [`StageGraph::stages`].
    pub id: u32,
    /// The fragment. Its leaves are table scans, values and [`crate::StageInputExec`]. When `output` is
    /// [`OutputKind::Hash`] or [`OutputKind::RoundRobin`] the root is the `RepartitionExec` whose partitioning the partition writer
    /// uses; the writer runs the root's child.
    pub plan: Arc<dyn ExecutionPlan>,
    /// Stages it reads, ascending, without duplicates.
    pub inputs: Vec<u32>,
    /// How output rows map to exchange partitions.
    pub output: OutputKind,
    /// Partitions of the exchange this stage writes, over all tasks.
    pub output_partitions: usize,
    /// The partitions of the fragment (of the root's child for `Hash`) that each task runs: ascending ranges that cover
    /// `0..n`. One entry = the fragment must run as one task, or is worth no more.
    pub tasks: Vec<Vec<u32>>,
    /// Rows, from any of its tasks, after which its consumer wants no more: the rest need not run. `None`: it wants all.
    pub enough_rows: Option<u64>,
    /// Two runs of a task may give different rows (LIMIT without order, `random()`): see DESIGN.md, Scheduling.
    pub is_indeterminate: bool,
    /// What its output's keys are told for, at run time: see [`crate::runtime_filter`].
    pub key_sources: Vec<KeySource>,
    /// Runtime filters that have a place in its plan.
    pub filters: Vec<u32>,
    /// It reads tables: how long it takes is not for its inputs to say.
    pub reads_tables: bool,
    /// An input of which several tasks may each read a part of a partition, and the same partition of the other inputs whole.
    pub splittable: Option<u32>,
    /// What it becomes when an input turns out small.
    pub alternative: Option<Box<Alternative>>,
    /// Estimated output, for EXPLAIN and sizing; `None` where statistics say nothing.
    pub estimate: Estimate,
    /// The kind of function that it runs in; `None`: as the query was sized.
    pub class: Option<ClassChoice>,
    /// `plan` as [`crate::codec::encode`] gives it with the session's extensions. `None` after [`Stage::replace_plan`].
    pub encoded: Option<Bytes>,
}

/// Columns of a stage's output whose values are the keys of a runtime filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySource {
    /// The filter, a number in the query.
    pub filter: u32,
    /// The stage.
    pub stage: u32,
    /// Its columns, in the order of the filter's keys.
    pub columns: Vec<u32>,
}

/// Estimated rows and bytes of a stage's output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Rows.
    pub rows: Option<u64>,
    /// Bytes in Arrow form.
    pub bytes: Option<u64>,
}

impl Stage {
    /// Schema of the rows the stage writes.
    pub fn schema(&self) -> SchemaRef {
        self.plan.schema()
    }

    /// Puts another plan, of as many partitions, in the place of this one (a writer on top of the result stage).
    pub fn replace_plan(&mut self, plan: Arc<dyn ExecutionPlan>) {
        self.filters = filters(&plan).map(|filters| filters.into_iter().collect()).unwrap_or_default();
        self.plan = plan;
        self.encoded = None;
        self.alternative = None;
    }

    /// Puts its alternative in place, as a run did.
    pub fn run_alternative(&mut self) {
        if let Some(alternative) = self.alternative.take() {
            let Alternative { inputs, tasks, plan, filters, encoded, .. } = *alternative;
            (self.inputs, self.tasks, self.plan, self.filters, self.encoded) = (inputs, tasks, plan, filters, encoded);
        }
    }

    /// The plan as a function decodes it. `extensions` as for [`crate::codec::encode`].
    ///
    /// # Errors
    /// When the plan was replaced by one that cannot be encoded.
    pub fn encode(&self, extensions: &[Arc<dyn PhysicalExtensionCodec>]) -> Result<Bytes> {
        match &self.encoded {
            Some(bytes) => Ok(bytes.clone()),
            None => crate::codec::encode(&self.plan, extensions),
        }
    }

    /// The root of its plan says where rows go: the partition writer does its work.
    pub fn is_repartitioned(&self) -> bool {
        matches!(self.output, OutputKind::Hash | OutputKind::RoundRobin)
    }

    /// Of a stage that [is repartitioned](Self::is_repartitioned): the plan that a task slices and runs, and the hash expressions
    /// of the exchange, if it is one by hash.
    pub fn split_root(plan: &Arc<dyn ExecutionPlan>) -> (Arc<dyn ExecutionPlan>, Option<HashExprs>) {
        match plan.downcast_ref::<RepartitionExec>().map(|root| (root, root.partitioning())) {
            Some((root, Partitioning::Hash(exprs, _))) => (Arc::clone(root.input()), Some(exprs.clone())),
            Some((root, Partitioning::RoundRobinBatch(_))) => (Arc::clone(root.input()), None),
            _ => (Arc::clone(plan), None),
        }
    }
}

impl StageGraph {
    /// The stage whose output is the result.
    pub fn result(&self) -> &Stage {
        self.stages.last().expect("a stage graph has at least one stage")
    }
}
