//! Sessions, catalog, scheduler and fleet: everything between SQL text and a running query.
//!
//! What it is: one [`Coordinator`] per process, with its embedded host; [`Session`]s that clients hold; [`Execution`]s that
//! stream rows. What it is not: a network server (`endpoint/`) or an operator library (DataFusion).
//!
//! Guarantees: a statement's rows are complete and of one run, or an error comes; dropping the future of a statement, or its
//! [`Execution`]'s stream, ends its query on all functions; a statement that was cancelled has no effect, and one that commits
//! what it wrote cannot be cancelled; an error keeps the kind it had where it happened.

pub mod accounting;
mod again;
mod analyze;
mod api;
pub mod catalog;
mod client;
mod cluster;
mod coordinator;
mod dispatch;
mod engine;
mod hosts;
pub mod scheduler;
pub mod session;
pub mod system;
mod term;
mod threads;
mod versions;
pub mod write;

#[cfg(test)]
mod tests;

pub use api::{
    CoordinatorOptions, Execution, Prepared, QueryError, QueryProgress, Result, ResultStream, SessionOptions,
};
pub use client::Session;
pub use cluster::{ClusterListener, ClusterOptions, StandbyServer, refuse_exposure};
pub use coordinator::Coordinator;
pub use engine::LocatedResult;
pub use term::Term;
pub use threads::end_threads;
