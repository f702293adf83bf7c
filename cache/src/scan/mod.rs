//! The warm scan: Parquet sources of a decoded plan, reading cached columns.
//!
//! ```text
//!   rewrite       FilterExec            the filter's conjuncts move into the scan, its place in the tree stays
//!                   DataSourceExec
//!   planner         footer (cached) -> adapt predicate and projection to the file -> row groups that may match
//!   pages           nothing of it is cached: Bloom filters, page index; few rows left are read alone, once
//!   row_group       look up its columns, decode the missing ones, in the order they are needed
//!   filter, zones   batches that cannot match are skipped; conjuncts run on columns, dictionaries once per value
//!   stream          columns of the output are touched for batches with rows left (late materialization)
//! ```
//!
//! Other formats: whatever gives row groups of columns (`decode`) and says what a column's bytes are can be cached the same
//! way; `planner` is where a format would be chosen. Only Parquet is there.
//!
//! Guarantees: the rows are those that DataFusion's own Parquet source gives, in the same order within a partition; what the
//! warm scan does not know (encryption, virtual columns, row selections, giant row groups) is left to that source.

mod decode;
mod filter;
mod footer;
mod metrics;
mod pages;
mod planner;
mod rewrite;
mod row_group;
mod source;
mod stream;
mod zones;

#[cfg(test)]
mod tests;

pub use footer::Footers;
pub use metrics::{HIT_BYTES, MISS_BYTES};
pub use rewrite::{FusedFilterExec, WarmScans, tags_of, with_tags};
pub use source::WarmSource;
