//! Onward: TPC-H data, queries, answers, runner and report.
//!
//! What it is: the benchmark that every release must answer right, from dbgen-identical data to a verdict per query. It
//! speaks to the engine as any user does, over Flight SQL, and knows nothing of coordinator, planner or functions.
//!
//! What it is not: an audited TPC-H run. There are no refresh functions, no power and throughput metric, and the
//! parameters are always those of the specification's validation run.
//!
//! ```text
//!   generate (tpchgen, Parquet) --> Dataset --> run (Client, Flight SQL) --> compare --> Report: table, JSON
//!                                      |                                        ^
//!                                      +--> committed answers (DuckDB), else Oracle (single-process DataFusion)
//! ```
//!
//! ```no_run
//! # async fn example() -> onward_tpch::Result<()> {
//! use onward_tpch::{Client, Dataset, Functions, GenerateOptions, RunOptions, run};
//!
//! let dataset = Dataset::open_or_generate(&GenerateOptions::new(1.0, Dataset::default_dir(1.0)))?;
//! let mut client = Client::connect("http://127.0.0.1:50051").await?;
//! let options = RunOptions { functions: Functions::Exactly(2), verify: true, ..RunOptions::default() };
//! let report = run(&mut client, &dataset, &options).await?;
//! println!("{report}");
//! # Ok(())
//! # }
//! ```
//!
//! | module | holds |
//! | --- | --- |
//! | [`generate()`], `table` | the data |
//! | [`queries`], [`answers`] | `queries/qNN.sql`; `answers/sf*/qNN.csv` and how they were made |
//! | [`compare`] | TPC-H 2.1.3.5 |
//! | [`run()`], `dataset`, `oracle` | the runner and its report |

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
