//! Flags of every subcommand.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Args;
use onward_wire::Config;
use tracing_subscriber::EnvFilter;

use super::Failure;
use crate::config::{Flags, load};

/// Settings and logging.
#[derive(Debug, Args)]
#[command(next_help_heading = "Settings (all commands)")]
pub(super) struct GlobalArgs {
    /// File with settings (TOML); `onward config` prints one
    #[arg(long, global = true, value_name = "FILE", env = "ONWARD_CONFIG")]
    config: Option<PathBuf>,
    /// Memory for everything, such as 8GiB [default: 3/4 of the machine]
    #[arg(long, global = true, value_name = "SIZE")]
    memory: Option<String>,
    /// Functions per query: auto, or a number to force it [default: auto]
    #[arg(long, global = true, value_name = "N|auto", value_parser = functions)]
    functions: Option<u32>,
    /// Directory for spills, sockets and segments that do not fit in memory [default: the system's temporary directory]
    #[arg(long, global = true, value_name = "DIR")]
    spill_dir: Option<PathBuf>,
    /// Any other setting; may be repeated
    #[arg(long, global = true, value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// What to log to standard error: error, warn, info, debug, trace, or a filter such as warn,onward_planner=debug
    /// [default: info for serve, else warn]
    #[arg(long, global = true, value_name = "LEVEL", env = "ONWARD_LOG")]
    log: Option<String>,
}

fn functions(text: &str) -> Result<u32, String> {
    let forced: onward_tpch::Functions = text.parse()?;
    Ok(match forced {
        onward_tpch::Functions::Auto => 0,
        onward_tpch::Functions::Exactly(count) => count,
    })
}

impl GlobalArgs {
    /// The settings from all sources.
    pub(super) fn config(&self) -> Result<Config, Failure> {
        let mut set = self.set.clone();
        set.extend(self.memory.iter().map(|size| format!("memory_bytes={size}")));
        set.extend(self.functions.iter().map(|count| format!("functions={count}")));
        if let Some(dir) = &self.spill_dir {
            let dir = dir.to_str().ok_or_else(|| Failure::Message(format!("--spill-dir {dir:?} is not UTF-8")))?;
            set.push(format!("spill_dir={dir}"));
        }
        Ok(load(&Flags { file: self.config.clone(), set })?)
    }

    /// The flag as given: a server cannot be told by our settings, only by `SET`.
    pub(super) fn forced_functions(&self) -> Option<u32> {
        self.functions
    }

    /// Starts logging to standard error.
    pub(super) fn start_log(&self, default: &str) -> Result<(), Failure> {
        let filter = self.log.as_deref().unwrap_or(default);
        let filter = EnvFilter::try_new(filter).map_err(|error| {
            Failure::Message(format!("--log {filter}: {error}; give a level such as debug, or a filter"))
        })?;
        let is_terminal = std::io::stderr().is_terminal();
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(is_terminal).init();
        Ok(())
    }
}
