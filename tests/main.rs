//! Integration tests.

mod executor;
mod flight;
mod oracle;
mod random_queries;
mod slt;
mod tpch;
