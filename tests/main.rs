//! Integration tests.

mod adaptive;
mod cache;
mod cli;
mod cluster;
mod executor;
mod flight;
mod functions;
mod oracle;
mod random_queries;
mod slt;
mod support;
mod tidy;
mod tpch;
