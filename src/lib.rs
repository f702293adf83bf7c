//! Onward: a serverless SQL engine. State outlives functions.

pub mod cli;
pub mod config;
