//! Writes: COPY TO, CREATE TABLE, INSERT INTO.
//!
//! ```text
//!   SqlSession::work -> Write            nothing is touched yet
//!   Write::begin                         directories are made; the files in them are hidden
//!   plan_query(Write::plan) and run      functions stage files; the result is their manifest
//!   Write::add(manifest), Write::commit   files are renamed or uploads completed, then the catalog names them
//!   or drop                              nothing is left, once nobody works for the write any more
//! ```
//!
//! Guarantees:
//! - Before `commit` no reader sees anything of the statement. A single file appears, or is replaced, in one rename. Rows
//!   of a managed table appear all at once, with the one write of the catalog file. Files of a directory (COPY, INSERT
//!   INTO an external table) appear one after the other, each whole.
//! - Only files in the manifest of committed attempts become visible.
//! - What was staged is removed after the last attempt of the query has ended or its process was reaped, so that no late
//!   writer brings it back; until then, and if it cannot be removed, the journal remembers it.
//! - What a coordinator had staged when it crashed is removed by the next one that starts with its data directory, or, when
//!   that was a temporary one, with its `spill_dir`.

mod copy;
mod create;
mod insert;
mod journal;
mod leftovers;
mod local;
mod pending;
mod place;
mod planner;
mod remote;
mod run;

pub use copy::adapt_copy;
pub use create::is_declaration;
pub use journal::Journal;
pub use pending::Write;
pub use planner::{query_planner, store_urls, written_url};
pub(crate) use run::{add_all, commit, commit_after};
