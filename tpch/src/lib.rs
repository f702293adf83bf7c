//! Onward: TPC-H data, queries, answers, runner and report.

pub mod answers;
pub mod compare;
mod dataset;
pub mod error;
pub mod generate;
mod oracle;
pub mod queries;
pub mod run;
mod table;

pub use answers::Answer;
pub use compare::Comparison;
pub use dataset::Dataset;
pub use error::{Error, Result};
pub use generate::{GenerateOptions, Manifest, generate};
pub use oracle::Oracle;
pub use run::{Client, Functions, Report, RunOptions, run};
pub use table::Table;
