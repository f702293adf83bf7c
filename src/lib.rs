//! Onward: a serverless SQL engine. State outlives functions.
//!
//! This crate is the command line (`onward sql`, `serve`, `tpch`) and the door for programs that embed the engine:
//!
//! ```no_run
//! use futures::TryStreamExt;
//! use onward::{Coordinator, CoordinatorOptions, SessionOptions};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! // Functions are child processes of `onward`; another program says where that binary is.
//! let options = CoordinatorOptions { function_program: Some("/usr/local/bin/onward".into()), ..Default::default() };
//! let coordinator = Coordinator::start(options).await?;
//! let session = coordinator.session(SessionOptions::default())?;
//! let execution = session.execute("select count(*) from 'lineitem.parquet'").await?;
//! let batches: Vec<_> = execution.stream.try_collect().await?;
//! coordinator.shutdown(std::time::Duration::from_secs(10)).await;
//! # Ok(())
//! # }
//! ```
//!
//! | module | holds |
//! | --- | --- |
//! | [`cli`] | the subcommands |
//! | [`config`] | settings from flags, environment, file and defaults |
//! | [`client`] | who runs a statement: an engine in this process, or a server |
//! | [`shell`] | statements from text to printed results |
//! | [`repl`] | the interactive shell |
//! | [`output`] | results as tables, CSV, JSON, Parquet, Markdown |
//!
//! What it is not: an engine. It plans nothing and runs nothing itself; see `ARCHITECTURE.md` for who does.

pub mod cli;
pub mod client;
pub mod config;
pub mod output;
pub mod repl;
pub mod shell;

pub use onward_coordinator::{
    Coordinator, CoordinatorOptions, Execution, Prepared, QueryError, QueryProgress, ResultStream, Session,
    SessionOptions,
};
pub use onward_wire::{Config, ErrorKind, QueryId, WireError};
