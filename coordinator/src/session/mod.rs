//! Sessions: from SQL text to [`Work`] for the engine.
//!
//! ```text
//!   SQL text --plan--> Statement --work--> Work::Done      SET, DDL, PREPARE: done here, in the coordinator
//!                      (no effect          Work::Query     rows to compute
//!                       anywhere)          Work::Explain   a plan to show, or to run and show
//!                                          Work::Cache     columns to decode and keep, or to let go of
//!                                          Work::Write     rows to compute and files to make visible afterwards
//! ```
//!
//! A [`SqlSession`] holds one DataFusion context: settings, tables registered by an embedder. Statements that are prepared, by a
//! client or by PREPARE, are planned anew for each execution. Its catalog and its object stores are shared with all sessions of
//! the coordinator ([`SharedResources`]).

pub(crate) mod cache;
mod context;
pub(crate) mod ddl;
mod error;
mod parameters;
mod prepared;
mod redact;
mod settings;
mod statement;
mod work;

#[cfg(test)]
mod tests;

pub use context::{SharedResources, SqlSession};
pub use error::SessionError;
pub use prepared::PreparedStatement;
pub use redact::redact;
pub use statement::Statement;
pub(crate) use statement::count_batch as count;
pub use work::{LocalRows, Work};
