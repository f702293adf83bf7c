//! Integration tests.

mod cache;
mod cli;
mod executor;
mod flight;
mod oracle;
mod random_queries;
mod slt;
mod tidy;
mod tpch;
