//! Integration tests.

mod executor;
mod flight;
mod tpch;
