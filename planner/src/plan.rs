//! [`plan_query`]: an optimized logical plan to stages, or to a plan that the coordinator runs itself.

use std::num::NonZeroUsize;
use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Result, not_impl_err};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::union::UnionExec;

use crate::codec;
use crate::cut::{cut, whole};
use crate::graph::{Sizing, Stage, StageGraph};
use crate::session::{OnwardOptions, PlanExtensions, changed_settings, onward_options};
use crate::sizing::{DealOut, scan_bytes, size};

/// The most bytes of an encoded stage. Larger ones (literal tables, mostly) run in the coordinator, where their data is.
const MAX_PLAN_BYTES: usize = 64 << 20;
/// However short the life of functions is: what a stage costs grows with its tasks.
const MOST_TASKS: usize = 1_024;

/// What the planner is told besides the SQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanRequest {
    /// `Some(n)` forces n functions, with no short cut through the coordinator.
    pub functions: Option<usize>,
    /// vCPUs of each host, shared by all functions there.
    pub vcpus: usize,
    /// Hosts.
    pub hosts: usize,
    /// Input bytes worth one more host.
    pub bytes_per_host: u64,
    /// Input bytes worth one more function.
    pub bytes_per_function: u64,
    /// Input up to this many bytes runs in the coordinator.
    pub tiny_query_bytes: u64,
    /// The most functions of one query.
    pub max_functions: usize,
    /// A partition of a scan of more bytes, which has far more than its share and cannot be split, is dealt out to all tasks;
    /// 0: never.
    pub skewed_bytes: u64,
    /// The most bytes that a task shall scan, so that it ends long before its function has to; 0: no limit.
    pub task_bytes: u64,
    /// Times as many tasks as usual, for a query whose tasks took longer than functions live; at least 1.
    pub finer: usize,
}

/// How a query runs.
#[derive(Clone, Debug)]
pub enum Planned {
    /// In the coordinator, without dispatch.
    Coordinator {
        /// DataFusion's plan.
        plan: Arc<dyn ExecutionPlan>,
        /// One line for EXPLAIN.
        reason: String,
    },
    /// In functions.
    Stages(StageGraph),
}

/// Plans `logical` (optimized here). Never fails for SQL that DataFusion can plan: what cannot be cut runs as one stage,
/// what cannot be sent runs in the coordinator.
///
/// # Errors
/// DataFusion's planning errors.
pub async fn plan_query(state: &SessionState, logical: &LogicalPlan, request: &PlanRequest) -> Result<Planned> {
    let optimized = state.optimize(logical)?;
    if has_scalar_subquery(&optimized)? {
        let state = with_scalar_subqueries(state);
        let plan = physical(&state, &state.optimize(logical)?).await?;
        let reason = "it has a scalar subquery that is no join and cannot be sent to a function".to_owned();
        return Ok(Planned::Coordinator { plan, reason });
    }
    if let Some(reason) = coordinator_reason(&optimized) {
        let plan = physical(state, &optimized).await?;
        return Ok(Planned::Coordinator { plan, reason: reason.to_owned() });
    }
    if reads_system_tables(&optimized)? {
        let plan = physical(state, &optimized).await?;
        return Ok(Planned::Coordinator { plan, reason: "it reads what the coordinator knows".to_owned() });
    }
    if let Some(functions) = request.functions {
        let sizing = size(request, None);
        if functions > 1 || stage_tasks(state) > 1 || request.finer > 1 {
            return distributed(state, &optimized, sizing, request).await;
        }
        let plan = physical(state, &optimized).await?;
        if scan_tasks(&plan, request)? > 1 {
            return distributed(state, &optimized, sizing, request).await;
        }
        return Ok(single(state, plan, sizing));
    }
    let plan = physical(state, &optimized).await?;
    let input = scan_bytes(&plan)?;
    if let Some(input) = input.filter(|input| *input <= request.tiny_query_bytes) {
        let reason = match input {
            0 => "it reads no table".to_owned(),
            _ => format!("its input of {} is tiny", crate::sizing::display_bytes(input)),
        };
        return Ok(Planned::Coordinator { plan, reason });
    }
    let sizing = size(request, input);
    if sizing.functions > 1 || stage_tasks(state) > 1 || request.finer > 1 || scan_tasks(&plan, request)? > 1 {
        return distributed(state, &optimized, sizing, request).await;
    }
    Ok(single(state, plan, sizing))
}

/// Tasks that the scans of `plan` take at least.
fn scan_tasks(plan: &Arc<dyn ExecutionPlan>, request: &PlanRequest) -> Result<usize> {
    if request.task_bytes == 0 {
        return Ok(1);
    }
    let tasks = scan_bytes(plan)?.map_or(1, |bytes| bytes.div_ceil(request.task_bytes));
    let tasks = usize::try_from(tasks).unwrap_or(usize::MAX);
    Ok(tasks.saturating_mul(request.finer.max(1)).min(MOST_TASKS))
}

/// It reads tables of the system, and no other ones.
fn reads_system_tables(optimized: &LogicalPlan) -> Result<bool> {
    let (mut is_system, mut is_other) = (false, false);
    optimized.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            let is_one = matches!(scan.table_name.schema(), Some("system" | "information_schema"));
            (is_system, is_other) = (is_system || is_one, is_other || !is_one);
        }
        Ok(if is_other { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(is_system && !is_other)
}

/// Statements that are about plans or the session rather than about data.
fn coordinator_reason(logical: &LogicalPlan) -> Option<&'static str> {
    match logical {
        LogicalPlan::Explain(_) | LogicalPlan::Analyze(_) => Some("it explains a plan"),
        LogicalPlan::DescribeTable(_) => Some("it describes a table"),
        LogicalPlan::Ddl(_) | LogicalPlan::Statement(_) => Some("it changes the session or the catalog"),
        LogicalPlan::Dml(_) | LogicalPlan::Copy(_) => Some("its rows are written by the coordinator"),
        _ => None,
    }
}

/// A scalar subquery that the optimizer did not make a join: in an ORDER BY, in VALUES, in the condition of an outer join.
fn has_scalar_subquery(optimized: &LogicalPlan) -> Result<bool> {
    optimized.exists(|node| {
        let mut is_found = false;
        node.apply_expressions(|expr| {
            is_found |= expr.exists(|expr| Ok(matches!(expr, Expr::ScalarSubquery(_))))?;
            Ok(if is_found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
        })?;
        Ok(is_found)
    })
}

/// The session with DataFusion's own node for scalar subqueries, which one process can run and no codec encodes.
fn with_scalar_subqueries(state: &SessionState) -> SessionState {
    let mut state = state.clone();
    state.config_mut().options_mut().optimizer.enable_physical_uncorrelated_scalar_subquery = true;
    state
}

async fn physical(state: &SessionState, optimized: &LogicalPlan) -> Result<Arc<dyn ExecutionPlan>> {
    state.query_planner().create_physical_plan(optimized, state).await
}

/// One stage, one task, one function: DataFusion's own parallelism does the rest.
fn single(state: &SessionState, plan: Arc<dyn ExecutionPlan>, sizing: Sizing) -> Planned {
    let stages = whole(Arc::clone(&plan)).and_then(|stages| encoded(stages, state, &extensions(state)));
    match stages {
        Ok(stages) => {
            Planned::Stages(StageGraph { stages, sizing, settings: changed_settings(state.config_options()) })
        }
        Err(error) => in_coordinator(plan, &error),
    }
}

async fn distributed(
    state: &SessionState,
    optimized: &LogicalPlan,
    sizing: Sizing,
    request: &PlanRequest,
) -> Result<Planned> {
    let usual = sizing.functions.max(stage_tasks(state));
    let finer = if request.finer > 1 { usual.saturating_mul(request.finer).min(MOST_TASKS) } else { 1 };
    let is_forced = sizing.is_forced;
    let mut spread = spread_state(state, &sizing, is_forced, finer);
    let mut plan = physical(&spread, optimized).await?;
    let scan_tasks = scan_tasks(&plan, request)?;
    if scan_tasks > onward_options(spread.config_options()).tasks {
        spread = spread_state(state, &sizing, is_forced, scan_tasks);
        plan = physical(&spread, optimized).await?;
    }
    let extensions = extensions(state);
    let tasks = onward_options(spread.config_options()).tasks;
    let deal_out = if request.finer > 1 { DealOut::All } else { DealOut::Skewed(request.skewed_bytes) };
    if plan.exists(|node| Ok(deal_out.names(node, tasks)))? {
        plan = physical(&dealing_out(&spread), optimized).await?;
    }
    let stages = cut(&plan, tasks, deal_out, spread.config_options(), &extensions.partition_wise);
    match stages.and_then(|stages| encoded(stages, &spread, &extensions)) {
        Ok(stages) => {
            let settings = changed_settings(spread.config_options());
            Ok(Planned::Stages(StageGraph { stages, sizing, settings }))
        }
        // The coordinator is one process: plan for it as such.
        Err(error) => Ok(in_coordinator(physical(state, optimized).await?, &error)),
    }
}

fn in_coordinator(plan: Arc<dyn ExecutionPlan>, error: &DataFusionError) -> Planned {
    let why = error.strip_backtrace();
    let why = why.lines().next().unwrap_or_default().chars().take(200).collect::<String>();
    Planned::Coordinator { plan, reason: format!("it cannot be sent to a function: {why}") }
}

fn extensions(state: &SessionState) -> Arc<PlanExtensions> {
    state.config().get_extension::<PlanExtensions>().unwrap_or_default()
}

/// Encodes every stage: the only way to know that a plan can be sent.
fn encoded(mut stages: Vec<Stage>, state: &SessionState, extensions: &PlanExtensions) -> Result<Vec<Stage>> {
    for stage in &mut stages {
        let bytes = codec::encode(&stage.plan, &extensions.codecs)?;
        if bytes.len() > MAX_PLAN_BYTES {
            return not_impl_err!("a plan of {} bytes is too large", bytes.len());
        }
        // A decoded union may hold casts that the planned one does not. EXPLAIN shows what functions run.
        if stage.plan.exists(|node| Ok(node.is::<UnionExec>()))? {
            stage.plan = codec::decode(&bytes, &state.task_ctx(), &extensions.codecs)?;
        }
        stage.encoded = Some(bytes);
        if let Some(alternative) = &mut stage.alternative {
            match codec::encode(&alternative.plan, &extensions.codecs) {
                Ok(bytes) if bytes.len() <= MAX_PLAN_BYTES => alternative.encoded = Some(bytes),
                // Then there is none.
                _ => stage.alternative = None,
            }
        }
    }
    Ok(stages)
}

/// The session as it plans where it may deal the rows of few partitions out to many.
fn dealing_out(state: &SessionState) -> SessionState {
    let mut state = state.clone();
    state.config_mut().options_mut().optimizer.enable_round_robin_repartition = true;
    state
}

/// Tasks of a stage, as the session wants them; 0: as many as functions.
fn stage_tasks(state: &SessionState) -> usize {
    onward_options(state.config_options()).stage_tasks
}

/// The session as it plans for several functions, and stages of at least `least_tasks` tasks.
fn spread_state(state: &SessionState, sizing: &Sizing, is_forced: bool, least_tasks: usize) -> SessionState {
    let mut state = state.clone();
    let session_partitions = state.config().target_partitions();
    let default_partitions = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let tasks = sizing.functions.max(stage_tasks(&state)).max(least_tasks);
    let options = state.config_mut().options_mut();
    let spread = (sizing.functions * sizing.threads).max(tasks);
    // A session that asked for more partitions than the machine has cores gets them.
    let asked = if session_partitions > default_partitions { session_partitions } else { 0 };
    options.execution.target_partitions = spread.max(asked);
    // Which partition reads a file must be known: functions share no queue of files.
    options.execution.enable_file_stream_work_stealing = false;
    options.optimizer.enable_round_robin_repartition = false;
    options.optimizer.repartition_file_scans = true;
    let mut onward = options.extensions.get::<OnwardOptions>().cloned().unwrap_or_default();
    onward.tasks = tasks;
    if is_forced {
        let unforced = std::mem::replace(&mut options.optimizer.repartition_file_min_size, 1);
        onward.unforced_split_bytes = Some(unforced);
    }
    options.extensions.insert(onward);
    state
}
