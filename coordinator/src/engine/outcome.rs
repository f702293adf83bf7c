//! What a query gave, and what it took.

use std::sync::Arc;

use datafusion::physical_plan::ExecutionPlan;
use onward_cache::scan::{HIT_BYTES, MISS_BYTES};
use onward_planner::explain::StageRun;
use onward_wire::exchange::InputAttempt;
use onward_wire::message::AttemptDone;

use crate::scheduler::QueryStats;

/// A query that ended well.
#[derive(Debug)]
pub struct Outcome {
    /// Committed attempts of the last stage, by task.
    pub result: Vec<InputAttempt>,
    /// What it took.
    pub stats: QueryStats,
    /// Merged metrics, one entry per stage.
    pub stages: Vec<StageRun>,
    /// Stages that ran their other plan.
    pub replaced: Vec<u32>,
}

/// What scans found in the column cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheRead {
    /// Bytes of columns that were there.
    pub hit_bytes: u64,
    /// Bytes of columns that were decoded.
    pub miss_bytes: u64,
}

impl CacheRead {
    pub(super) fn add(&mut self, done: &AttemptDone) {
        for metric in done.operators.iter().flat_map(|operator| &operator.values) {
            match metric.name.as_str() {
                HIT_BYTES => self.hit_bytes += metric.value,
                MISS_BYTES => self.miss_bytes += metric.value,
                _ => {}
            }
        }
    }

    /// What the scans of a plan that ran in this process found.
    pub fn of(plan: &Arc<dyn ExecutionPlan>) -> Self {
        let metrics = plan.metrics();
        let sum = |name| metrics.as_ref().and_then(|all| all.sum_by_name(name)).map_or(0, |sum| sum.as_usize() as u64);
        let own = Self { hit_bytes: sum(HIT_BYTES), miss_bytes: sum(MISS_BYTES) };
        plan.children().into_iter().map(Self::of).fold(own, |sum, child| Self {
            hit_bytes: sum.hit_bytes + child.hit_bytes,
            miss_bytes: sum.miss_bytes + child.miss_bytes,
        })
    }
}
