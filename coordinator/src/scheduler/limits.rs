//! What the scheduler may use.

use std::collections::BTreeMap;

use onward_wire::Config;
use onward_wire::config::{ClassConfig, QueueConfig};

use super::event::FunctionShape;

/// Limits of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueLimits {
    /// Queries of it that run at once; 0: it is closed.
    pub max_running: usize,
    /// Queries that wait in it; more are refused.
    pub max_queued: usize,
    /// A query that waited this long fails; 0: it waits for as long as it takes.
    pub timeout_ms: u64,
}

/// Limits of the scheduler; see the fields of the same names in [`Config`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchedulerLimits {
    /// Functions alive at once on the coordinator's own host, starting ones included; at least 1.
    pub max_functions: usize,
    /// vCPUs of the coordinator's own host. Attempts running at once stay within those of all hosts, with three exceptions: a
    /// query alone may run all functions it was sized for, a query that runs nothing may always start one attempt, and the
    /// queries of a user may run on that user's share of the vCPUs, which are shared evenly between those who run queries.
    pub total_vcpus: u32,
    /// The coordinator's own host runs functions of a class only while no other host offers it.
    pub is_reserve: bool,
    /// Tries of one task before its query fails, and failed starts in a row before queries fail; at least 1.
    pub max_attempts: u32,
    /// Queries that run at once; at least 1.
    pub max_running_queries: usize,
    /// Queries that wait; more are refused.
    pub max_queued_queries: usize,
    /// A query that waited this long in the default queue fails; 0: never.
    pub queue_timeout_ms: u64,
    /// Queues with names. Those with a place still need one of `max_running_queries`.
    pub queues: BTreeMap<String, QueueLimits>,
    /// Queries of one user that run at once, over all queues; 0: no limit.
    pub max_running_queries_per_user: usize,
    /// Functions that a query may ask for; 0: no limit.
    pub max_functions_per_query: usize,
    /// Functions alive or starting that were started for a user or ran a task of that user last, at which none is started for
    /// that user any more; 0: no limit. Idle functions are given to any user.
    pub max_functions_per_user: usize,
    /// Functions that may be started at once; at least 1.
    pub function_start_burst: u64,
    /// Functions that may be started in a second, past the burst; 0: no limit.
    pub function_starts_per_second: u64,
    /// Functions of `warm_shape` that are there whether they have something to do or not.
    pub warm_functions: usize,
    /// Their shape.
    pub warm_shape: FunctionShape,
    /// Classes that the coordinator's own host offers; empty: all.
    pub classes: Vec<u16>,
    /// A function that had nothing to do for this long is stopped.
    pub function_idle_timeout_ms: u64,
    /// A function that is this old is stopped, whatever it runs; it takes no task in the last quarter. 0: never.
    pub function_lifetime_ms: u64,
    /// A function where an attempt that failed or was cancelled still runs on after this long is stopped.
    pub cancel_grace_ms: u64,
    /// The longest that a stage which could start waits for runtime filters.
    pub runtime_filter_wait_ms: u64,
    /// Inline output of one attempt.
    pub inline_attempt_bytes: u64,
    /// Inline output that one exchange holds at once.
    pub inline_exchange_bytes: u64,
    /// Inline output that one query holds at once.
    pub inline_query_bytes: u64,
}

impl SchedulerLimits {
    /// Limits of the queue without a name.
    pub(super) fn default_queue(&self) -> QueueLimits {
        QueueLimits {
            max_running: self.max_running_queries.max(1),
            max_queued: self.max_queued_queries,
            timeout_ms: self.queue_timeout_ms,
        }
    }
}

/// What an hour of a vCPU of a class costs; by its memory, where it has no price.
fn usd_per_vcpu(class: &ClassConfig) -> f64 {
    let usd = match class.usd_per_hour {
        0.0 => class.memory_bytes as f64 / f64::from(1 << 30) * 0.06,
        usd => usd,
    };
    usd / f64::from(class.vcpus.max(1))
}

impl From<&Config> for SchedulerLimits {
    fn from(config: &Config) -> Self {
        let queue = |queue: &QueueConfig| QueueLimits {
            max_running: queue.max_running as usize,
            max_queued: queue.max_queued as usize,
            timeout_ms: queue.timeout_ms,
        };
        // What the planner gives to each function of a query that uses so many.
        let functions = (config.functions as usize).max(config.warm_functions as usize).max(1);
        let plain = FunctionShape {
            vcpus: config.threads_per_function(functions) as u32,
            memory_bytes: match config.function_memory_bytes {
                0 => config.operator_memory_limit_bytes() / functions as u64,
                bytes => bytes,
            },
            class: 0,
        };
        // With classes no stage runs in functions of none.
        let offered = config.classes.values().zip(1..);
        let offered = offered.filter(|(class, _)| class.is_offered_by(config.labels(), config.vcpu_count() as u32));
        let cheapest = offered.min_by(|(one, _), (other, _)| usd_per_vcpu(one).total_cmp(&usd_per_vcpu(other)));
        let warm_shape = cheapest.map_or(plain, |(class, id)| FunctionShape {
            vcpus: class.vcpus.max(1),
            memory_bytes: class.memory_bytes,
            class: id,
        });
        Self {
            max_functions: config.max_functions as usize,
            total_vcpus: config.vcpu_count() as u32,
            is_reserve: !config.coordinator_functions,
            max_attempts: config.max_attempts,
            max_running_queries: config.max_running_queries as usize,
            max_queued_queries: config.max_queued_queries as usize,
            queue_timeout_ms: config.queue_timeout_ms,
            queues: config.queues.iter().map(|(name, limits)| (name.clone(), queue(limits))).collect(),
            max_running_queries_per_user: config.max_running_queries_per_user as usize,
            max_functions_per_query: config.max_functions_per_query as usize,
            max_functions_per_user: config.max_functions_per_user as usize,
            function_start_burst: config.function_start_burst.into(),
            function_starts_per_second: config.function_starts_per_second.into(),
            warm_functions: config.warm_functions as usize,
            warm_shape,
            classes: Vec::new(),
            function_idle_timeout_ms: config.function_idle_timeout_ms,
            function_lifetime_ms: config.function_lifetime_ms,
            cancel_grace_ms: config.cancel_grace_ms,
            runtime_filter_wait_ms: config.runtime_filter_wait_ms,
            inline_attempt_bytes: config.inline_attempt_bytes,
            inline_exchange_bytes: config.inline_exchange_bytes,
            inline_query_bytes: config.inline_query_bytes,
        }
    }
}
