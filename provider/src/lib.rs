//! What launches hosts: the engines that users already run.
//!
//! ```text
//!   what queries want --> Scaler --> start, stop --> Provider --> processes of this machine, Slurm, Kubernetes, ...
//!                           ^                           |
//!   hosts that joined ------+<----- list ---------------+
//! ```
//!
//! A provider starts and stops; which host runs what is the scheduler's business, and hosts join by themselves. Names are
//! given here, not by the launcher: whoever starts a host knows its name before the launcher answers, so an answer that is
//! lost leaves nothing behind that nobody knows of. Everything is idempotent, and nothing is kept in memory that
//! [`Provider::list`] does not tell again: a coordinator that restarts goes on with the hosts that are there.
//!
//! [`Process`] starts processes of this machine, [`Kubernetes`] pods, and [`Command`] whatever the commands of another launcher start.
//!
//! It is not: a place for functions. They are forked by hosts, in milliseconds.

mod command;
#[cfg(test)]
mod conformance;
mod kubernetes;
mod lambda;
mod name;
mod process;
mod scaler;
mod template;

use std::fmt;

use async_trait::async_trait;

pub use self::command::{Command, CommandOptions};
pub use self::kubernetes::{Kubernetes, KubernetesOptions, Owner, OwnerError, PodTemplate, PodTemplateError};
pub use self::lambda::{Lambda, LambdaOptions, Members};
pub use self::name::{ClusterName, HostName, NameError};
pub use self::process::{Process, ProcessOptions};
pub use self::scaler::{Observed, Order, Scaler, ScalerLimits, Unjoined};
pub use self::template::{Template, TemplateError, words};

/// A host to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostSpec {
    /// Its name, with which it joins.
    pub name: HostName,
    /// vCPUs it is given.
    pub vcpus: u32,
    /// Memory it is given, in bytes.
    pub memory_bytes: u64,
    /// What the program `onward` is run with: `host --join URL --name NAME ...`.
    pub arguments: Vec<String>,
}

/// Where a host is, as its launcher says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostState {
    /// The launcher took it, and has not started it.
    Pending,
    /// Its process runs; whether it joined is another question.
    Running,
    /// It ended, and the launcher still knows of it.
    Over {
        /// Why, as far as the launcher knows.
        reason: String,
    },
}

/// A host that the launcher knows of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: HostName,
    /// Where it is.
    pub state: HostState,
}

/// Why a launcher did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    /// There is no room, or a quota or rate is used up: later it may work. Nothing was started.
    #[error("{0}")]
    Full(String),
    /// It failed. A host that was asked for may be there or not: [`Provider::list`] tells.
    #[error("{0}")]
    Failed(String),
}

/// What launches hosts. One instance serves one cluster; hosts of others are not its business.
///
/// All calls may be repeated, in any order, by any instance of the same cluster: after a restart, or because an answer was lost.
#[async_trait]
pub trait Provider: fmt::Debug + Send + Sync {
    /// What the setting `provider` calls it.
    fn kind(&self) -> &'static str;

    /// Where people read what its hosts print.
    fn output(&self) -> &'static str;

    /// Starts a host. One of that name that is there is left alone. Returns when the launcher took it, which may be long before it runs.
    ///
    /// # Errors
    /// [`ProviderError::Full`]: nothing was started.
    async fn start(&self, host: &HostSpec) -> Result<(), ProviderError>;

    /// Asks a host to leave: it gets the time that the launcher gives (a signal, a grace period) to finish what it runs, and is
    /// ended after that. Returns when the launcher took the order. No host of that name: fine. One that is over is forgotten.
    ///
    /// # Errors
    /// Those of the launcher.
    async fn stop(&self, name: &HostName) -> Result<(), ProviderError>;

    /// All hosts of the cluster that the launcher knows of. One that is not listed does not run; one that was started a moment ago is
    /// listed.
    ///
    /// # Errors
    /// Those of the launcher. Then nothing is known.
    async fn list(&self) -> Result<Vec<Listed>, ProviderError>;
}
