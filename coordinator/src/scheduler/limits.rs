//! What the scheduler may use.

use onward_wire::Config;

/// Limits of the scheduler; see the fields of the same names in [`Config`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchedulerLimits {
    /// Functions alive at once on the coordinator's own host, starting ones included; at least 1.
    pub max_functions: usize,
    /// vCPUs of the coordinator's own host. Attempts running at once stay within those of all hosts, with two exceptions: a
    /// query alone may run all functions it was sized for, and a query that runs nothing may always start one attempt.
    pub total_vcpus: u32,
    /// The coordinator's own host runs functions only while there is no other.
    pub is_reserve: bool,
    /// Tries of one task before its query fails, and failed starts in a row before queries fail; at least 1.
    pub max_attempts: u32,
    /// Queries that run at once; at least 1.
    pub max_running_queries: usize,
    /// Queries that wait; more are refused.
    pub max_queued_queries: usize,
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

impl From<&Config> for SchedulerLimits {
    fn from(config: &Config) -> Self {
        Self {
            max_functions: config.max_functions as usize,
            total_vcpus: config.vcpu_count() as u32,
            is_reserve: !config.coordinator_functions,
            max_attempts: config.max_attempts,
            max_running_queries: config.max_running_queries as usize,
            max_queued_queries: config.max_queued_queries as usize,
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
