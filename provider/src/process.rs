//! Hosts as processes of this machine.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, geteuid, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::{ClusterName, HostName, HostSpec, HostState, Listed, Provider, ProviderError};

/// How a host is told its name, and how it is found again.
const NAME_ARGUMENT: &str = "--name";

/// See [`Process`].
#[derive(Clone, Debug)]
pub struct ProcessOptions {
    /// Whose hosts.
    pub cluster: ClusterName,
    /// The program `onward`.
    pub program: PathBuf,
    /// The most processes at once.
    pub most_hosts: usize,
    /// A host that is told to leave is killed after this long.
    pub grace: Duration,
}

/// Launches hosts as processes of this machine, which outlive the coordinator: one that restarts finds them by the names on their
/// command lines.
#[derive(Debug)]
pub struct Process {
    options: ProcessOptions,
    children: Arc<Mutex<Children>>,
}

/// Of hosts that this instance started.
#[derive(Debug, Default)]
struct Children {
    /// Those that run. A process has no command line in the moment after its start.
    running: BTreeMap<HostName, Started>,
    /// Those that ended by themselves, and how.
    ended: BTreeMap<HostName, String>,
}

#[derive(Debug)]
struct Started {
    process: Arc<OwnedFd>,
    /// It was told to leave: nobody need hear how it ends.
    was_told: bool,
}

impl Process {
    /// Starts nothing yet.
    pub fn new(options: ProcessOptions) -> Self {
        Self { options, children: Arc::default() }
    }

    /// The processes of all hosts, by name.
    fn running(&self) -> Result<BTreeMap<HostName, Pid>, ProviderError> {
        let failed = |error: io::Error| ProviderError::Failed(format!("/proc: {error}"));
        let (mut found, user) = (BTreeMap::new(), geteuid().as_raw());
        for entry in fs::read_dir("/proc").map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
            let Some(pid) = pid else { continue };
            // It may end while it is looked at.
            if let Ok(metadata) = entry.metadata()
                && metadata.uid() == user
                && let Some(name) = name_of(&self.options.cluster, pid)
            {
                found.insert(name, pid);
            }
        }
        Ok(found)
    }

    /// The process of a host that is about to be told to leave.
    fn leaving(&self, name: &HostName) -> Result<Option<Arc<OwnedFd>>, ProviderError> {
        if let Some(started) = self.children.lock().running.get_mut(name) {
            started.was_told = true;
            return Ok(Some(Arc::clone(&started.process)));
        }
        let Some(pid) = self.running()?.remove(name) else { return Ok(None) };
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(None) };
        // The number may have been given to another one in between.
        Ok((name_of(&self.options.cluster, pid).as_ref() == Some(name)).then(|| Arc::new(process)))
    }
}

/// The name on a command line; none of one that ended and was not waited for.
fn name_of(cluster: &ClusterName, pid: Pid) -> Option<HostName> {
    let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).ok()?;
    let mut words = line.split(|byte| *byte == 0).skip_while(|word| *word != NAME_ARGUMENT.as_bytes());
    HostName::of(cluster, std::str::from_utf8(words.nth(1)?).ok()?)
}

#[async_trait]
impl Provider for Process {
    fn kind(&self) -> &'static str {
        "process"
    }

    fn output(&self) -> &'static str {
        "standard error of this coordinator"
    }

    async fn start(&self, host: &HostSpec) -> Result<(), ProviderError> {
        let listed = self.list().await?;
        let running = listed.iter().filter(|listed| listed.state == HostState::Running);
        if running.clone().any(|running| running.name == host.name) {
            return Ok(());
        }
        let count = running.count();
        if count >= self.options.most_hosts {
            return Err(ProviderError::Full(format!("{count} hosts run on this machine")));
        }
        let mut command = tokio::process::Command::new(&self.options.program);
        // Its own group: Ctrl-C at a terminal is for the coordinator, which then tells it to leave.
        command.args(&host.arguments).stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
        let failed = |error| ProviderError::Failed(format!("{}: {error}", self.options.program.display()));
        let mut child = command.spawn().map_err(failed)?;
        let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let process =
            pid.ok_or(io::ErrorKind::NotFound.into()).and_then(|pid| Ok(pidfd_open(pid, PidfdFlags::empty())?));
        let started = Started { process: Arc::new(process.map_err(failed)?), was_told: false };
        {
            let mut children = self.children.lock();
            children.ended.remove(&host.name);
            children.running.insert(host.name.clone(), started);
        }
        let (children, name) = (Arc::clone(&self.children), host.name.clone());
        tokio::spawn(async move {
            let reason = match child.wait().await {
                Ok(status) => status.to_string(),
                Err(error) => error.to_string(),
            };
            let mut children = children.lock();
            if children.running.remove(&name).is_some_and(|started| !started.was_told) {
                children.ended.insert(name, reason);
            }
        });
        Ok(())
    }

    async fn stop(&self, name: &HostName) -> Result<(), ProviderError> {
        self.children.lock().ended.remove(name);
        let Some(process) = self.leaving(name)? else { return Ok(()) };
        // It may have ended just now.
        let _ = pidfd_send_signal(&process, Signal::TERM);
        // SAFETY: the descriptor is open, and the same, for as long as the `Arc` lives.
        let process = unsafe { AsyncFd::register_with_interest(process, Interest::READABLE) };
        let failed = |error: io::Error| ProviderError::Failed(format!("{name}: {error}"));
        let process = process.map_err(|error| failed(error.into()))?;
        let (grace, name) = (self.options.grace, name.clone());
        tokio::spawn(async move {
            if tokio::time::timeout(grace, process.readable()).await.is_err() {
                tracing::warn!(host = %name, "a host did not leave in time and is killed");
                // It may have ended just now.
                let _ = pidfd_send_signal(process.get_ref(), Signal::KILL);
            }
        });
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Listed>, ProviderError> {
        // Before the processes: one that ends in between is listed as running once more.
        let (ended, started): (_, Vec<_>) = {
            let children = self.children.lock();
            (children.ended.clone(), children.running.keys().cloned().collect())
        };
        let running: BTreeSet<HostName> = self.running()?.into_keys().chain(started).collect();
        let over = ended.into_iter().filter(|(name, _)| !running.contains(name));
        let over = over.map(|(name, reason)| Listed { name, state: HostState::Over { reason } });
        let running = running.iter().cloned().map(|name| Listed { name, state: HostState::Running });
        Ok(running.chain(over).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{self, Bench};

    struct Machine(ClusterName);

    impl Bench for Machine {
        fn provider(&self, cluster: &ClusterName) -> Arc<dyn Provider> {
            Arc::new(Process::new(options(cluster)))
        }

        fn most_hosts(&self) -> usize {
            4
        }

        fn kill(&self, name: &HostName) {
            let process = Process::new(options(&self.0)).leaving(name).expect("procfs").expect("it runs");
            pidfd_send_signal(process, Signal::KILL).expect("it runs");
        }
    }

    fn options(cluster: &ClusterName) -> ProcessOptions {
        let (program, grace) = ("/bin/sh".into(), Duration::from_secs(20));
        ProcessOptions { cluster: cluster.clone(), program, most_hosts: 4, grace }
    }

    #[tokio::test]
    async fn processes_conform() {
        let cluster = conformance::random_cluster();
        conformance::check(&Machine(cluster.clone()), &cluster).await;
    }

    #[tokio::test]
    async fn a_host_that_does_not_leave_is_killed() {
        let cluster = conformance::random_cluster();
        let provider = Process::new(ProcessOptions { grace: Duration::from_millis(20), ..options(&cluster) });
        let name = HostName::random(&cluster, &mut fastrand::Rng::new());
        let script = "trap '' TERM; sleep 120".to_owned();
        let arguments = vec!["-c".to_owned(), script, NAME_ARGUMENT.to_owned(), name.to_string()];
        provider
            .start(&HostSpec { name: name.clone(), vcpus: 1, memory_bytes: 1, arguments })
            .await
            .expect("a process");
        conformance::until(&provider, |listed| listed.iter().any(|host| host.state == HostState::Running)).await;
        provider.stop(&name).await.expect("an order");
        conformance::until(&provider, <[Listed]>::is_empty).await;
    }
}
