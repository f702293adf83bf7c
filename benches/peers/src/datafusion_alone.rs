//! DataFusion in one process: what distributing costs or gains.

use datafusion::prelude::{SessionConfig, SessionContext};

/// A context with its defaults and `threads` partitions.
pub fn context(threads: usize) -> SessionContext {
    SessionContext::new_with_config(SessionConfig::new().with_target_partitions(threads))
}
