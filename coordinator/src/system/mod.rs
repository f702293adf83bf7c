//! The `system` schema: what the engine knows about itself, as tables.
//!
//! | table | one row per |
//! | --- | --- |
//! | `system.cache` | cached column of a row group, and remote object whose bytes are kept |
//! | `system.coordinators` | coordinator, where there are several |
//! | `system.hosts` | host that runs functions, the coordinator's own included |
//! | `system.queries` | query, of this coordinator or those before it, the last [`HISTORY_LIMIT`] of them |
//!
//! Tables here are snapshots taken when the query is planned. They hold no locks while they are read.

mod cache;
mod coordinators;
mod hosts;
mod kept;
mod log;
pub(crate) mod membership;
mod queries;
mod snapshot;

use std::sync::Arc;

use datafusion::catalog::{MemorySchemaProvider, SchemaProvider};
use onward_cache::ranges::RangeTier;

use snapshot::SnapshotTable;

use crate::term::Term;

pub use cache::TierCell;
pub use hosts::{HostRecord, HostTable};
pub(crate) use kept::{KeptHistory, keep_running};
pub(crate) use log::QueryLog;
pub use queries::{History, QueryRecord, QueryState};

/// Queries that `system.queries` remembers; the oldest finished ones make room.
pub const HISTORY_LIMIT: usize = 1_000;

/// The name of the schema.
pub const SCHEMA: &str = "system";

/// The `system` schema over `history`, the hosts and both tiers of the cache.
pub fn schema(
    history: &Arc<History>,
    hosts: &Arc<HostTable>,
    tier: &TierCell,
    ranges: Option<Arc<RangeTier>>,
    term: &Term,
) -> datafusion::common::Result<Arc<dyn SchemaProvider>> {
    let schema = MemorySchemaProvider::new();
    let queries = queries::QueriesTable::new(Arc::clone(history));
    let cache = cache::CacheTable::new(Arc::clone(tier), ranges);
    let hosts = hosts::HostsTable::new(Arc::clone(hosts));
    schema.register_table("queries".to_owned(), Arc::new(SnapshotTable(queries)))?;
    schema.register_table("cache".to_owned(), Arc::new(SnapshotTable(cache)))?;
    let coordinators = coordinators::CoordinatorsTable::new(term.clone());
    schema.register_table("hosts".to_owned(), Arc::new(SnapshotTable(hosts)))?;
    schema.register_table("coordinators".to_owned(), Arc::new(SnapshotTable(coordinators)))?;
    Ok(Arc::new(schema))
}
