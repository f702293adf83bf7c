//! A coordinator of this process and hosts that are the real binary.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use onward_coordinator::{ClusterOptions, Coordinator, CoordinatorOptions, Session, SessionOptions};
use onward_wire::Config;
use tempfile::TempDir;

use crate::oracle::single::Engine;
use crate::support::network::Network;

pub const BINARY: &str = env!("CARGO_BIN_EXE_onward");

/// A host process; killed when dropped.
pub struct HostProcess {
    child: Child,
    /// Its first line.
    pub ready: String,
    is_killed: bool,
    has_left: bool,
}

impl HostProcess {
    /// Joins `coordinator`, and waits until it has.
    fn start(
        network: Option<(&Network, usize)>,
        coordinator: &str,
        advertise: Option<&str>,
        config: &Config,
        directory: &Path,
    ) -> Self {
        let mut command = match network {
            None => Command::new(BINARY),
            Some((network, number)) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", network.of(number), BINARY]);
                command
            }
        };
        std::fs::create_dir_all(directory).expect("a directory");
        command.args(["host", "--join", coordinator, "--log", "warn"]);
        match advertise {
            Some(advertise) => command.args(["--advertise", advertise]),
            None => command.arg("--outbound"),
        };
        command.arg("--spill-dir").arg(directory);
        for (name, value) in changed(config) {
            command.arg("--set").arg(format!("{name}={value}"));
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("the binary starts");
        let mut ready = String::new();
        let stdout = child.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut ready).expect("its first line");
        assert!(ready.contains(" ready"), "{ready}");
        Self { child, ready, is_killed: false, has_left: false }
    }

    /// Addresses that it listens on, of all its network namespace.
    pub fn listens_on(&self) -> Vec<String> {
        let sockets = |table: &str| {
            std::fs::read_to_string(format!("/proc/{}/net/{table}", self.child.id())).expect("a table of sockets")
        };
        let (tcp, tcp6) = (sockets("tcp"), sockets("tcp6"));
        let lines = tcp.lines().chain(tcp6.lines()).map(|line| line.split_whitespace().collect::<Vec<_>>());
        // 0A is LISTEN.
        lines.filter(|fields| fields.get(3) == Some(&"0A")).map(|fields| fields[1].to_owned()).collect()
    }

    /// Without a chance to say goodbye.
    pub fn kill(&mut self) {
        self.child.kill().expect("it is a child of this process");
        self.child.wait().expect("it ends");
        self.is_killed = true;
    }

    /// As `kill` does it; returns when it is gone.
    pub fn terminate(&mut self) {
        if !self.is_killed && !std::mem::replace(&mut self.has_left, true) {
            let pid = rustix::process::Pid::from_child(&self.child);
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is a child of this process");
            let ended = self.child.wait().expect("it ends");
            assert!(ended.success(), "{ended}");
        }
    }
}

impl Drop for HostProcess {
    fn drop(&mut self) {
        // An error says that it was killed before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Settings that differ from the defaults, as `--set` takes them.
fn changed(config: &Config) -> Vec<(String, String)> {
    let values = |config: &Config| match serde_json::to_value(config).expect("settings are values") {
        serde_json::Value::Object(values) => values,
        other => panic!("{other}"),
    };
    let defaults = values(&Config::default());
    let text = |value: serde_json::Value| match value {
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    };
    let mine = values(config).into_iter().filter(|(name, value)| defaults[name] != *value && name != "spill_dir");
    mine.map(|(name, value)| (name, text(value))).collect()
}

/// A coordinator that runs no functions itself, and its hosts.
pub struct Hosts {
    pub coordinator: Arc<Coordinator>,
    pub processes: Vec<HostProcess>,
    /// Where hosts join.
    pub join: String,
    pub config: Config,
    pub root: TempDir,
}

impl Hosts {
    /// `count` hosts on loopback addresses, or in the namespaces of `network`, whose first one the calling thread is in.
    pub async fn start(network: Option<&Network>, count: usize, config: Config) -> Self {
        let root = tempfile::tempdir().expect("a directory");
        let config = Config {
            coordinator_functions: false,
            spill_dir: root.path().join("coordinator").to_string_lossy().into_owned(),
            ..config
        };
        std::fs::create_dir(&config.spill_dir).expect("a directory");
        let function_program = Some(PathBuf::from(BINARY));
        let options = CoordinatorOptions { config: config.clone(), function_program, ..CoordinatorOptions::default() };
        let coordinator = Coordinator::start(options).await.expect("the coordinator starts");
        let listen = match network {
            None => "127.0.0.1:0".to_owned(),
            Some(_) => format!("{}:0", Network::address(1)),
        };
        let options = ClusterOptions { listen: listen.parse().expect("an address"), advertise: None, insecure: false };
        let address = coordinator.serve_cluster(options).await.expect("a free port");
        let scheme = if config.cluster_dir.is_empty() { "grpc" } else { "grpc+tls" };
        let join = format!("{scheme}://{address}");
        let mut hosts = Self { coordinator, processes: Vec::new(), join, config, root };
        for number in 1..=count {
            hosts.add(network.map(|network| (network, number)));
        }
        hosts
    }

    /// One more host.
    pub fn add(&mut self, network: Option<(&Network, usize)>) -> &HostProcess {
        let advertise = match network {
            None => "127.0.0.1:0".to_owned(),
            Some((_, number)) => format!("{}:0", Network::address(number)),
        };
        self.start_process(network, Some(&advertise))
    }

    /// One more host, which nobody can reach.
    pub fn add_outbound(&mut self, network: Option<(&Network, usize)>) -> &HostProcess {
        self.start_process(network, None)
    }

    fn start_process(&mut self, network: Option<(&Network, usize)>, advertise: Option<&str>) -> &HostProcess {
        let directory = directory(&self.root, self.processes.len());
        let process = HostProcess::start(network, &self.join, advertise, &self.config, &directory);
        self.processes.push(process);
        self.processes.last().expect("the new one")
    }

    /// A new session, in which a query that hangs is an error with a name.
    pub async fn session(&self, settings: &[&str]) -> Arc<Session> {
        let session = self.coordinator.session(SessionOptions::default()).expect("a session");
        for setting in ["SET onward.statement_timeout_ms = 120000"].iter().chain(settings) {
            session.run(setting).await.unwrap_or_else(|error| panic!("{setting}: {error}"));
        }
        session
    }

    /// Ends all; hosts leave nothing behind.
    pub async fn stop(mut self) {
        self.coordinator.shutdown(Duration::ZERO).await;
        for (process, number) in self.processes.iter_mut().zip(0..) {
            process.terminate();
            let left: Vec<_> = std::fs::read_dir(directory(&self.root, number)).expect("a directory").collect();
            assert!(left.is_empty() || process.is_killed, "{left:?}");
        }
    }
}

fn directory(root: &TempDir, host: usize) -> PathBuf {
    root.path().join(format!("host-{host}"))
}
