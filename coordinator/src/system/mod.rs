//! The `system` schema: what the engine knows about itself, as tables.
//!
//! | table | one row per |
//! | --- | --- |
//! | `system.cache` | cached column of a row group, and remote object whose bytes are kept |
//! | `system.queries` | query of this coordinator's life, the last [`HISTORY_LIMIT`] of them |
//!
//! Tables here are snapshots taken when the query is planned. They hold no locks while they are read.

mod cache;
mod queries;

use std::sync::Arc;

use datafusion::catalog::{MemorySchemaProvider, SchemaProvider};
use onward_cache::ranges::RangeTier;

pub use cache::TierCell;
pub use queries::{History, QueryRecord, QueryState};

/// Queries that `system.queries` remembers; the oldest finished ones make room.
pub const HISTORY_LIMIT: usize = 1_000;

/// The name of the schema.
pub const SCHEMA: &str = "system";

/// The `system` schema over `history` and both tiers of the cache.
pub fn schema(
    history: &Arc<History>,
    tier: &TierCell,
    ranges: Option<Arc<RangeTier>>,
) -> datafusion::common::Result<Arc<dyn SchemaProvider>> {
    let schema = MemorySchemaProvider::new();
    schema.register_table("queries".to_owned(), Arc::new(queries::QueriesTable::new(Arc::clone(history))))?;
    schema.register_table("cache".to_owned(), Arc::new(cache::CacheTable::new(Arc::clone(tier), ranges)))?;
    Ok(Arc::new(schema))
}
