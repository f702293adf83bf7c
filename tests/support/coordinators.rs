//! Several coordinators of the real binary, over an etcd of their own.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::etcd::Etcd;

/// One coordinator; killed when dropped.
pub struct CoordinatorProcess {
    child: Child,
    /// Where clients reach it, such as `grpc://127.0.0.1:4711`.
    pub url: String,
    /// Where hosts do.
    pub cluster_url: String,
}

impl CoordinatorProcess {
    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it is a child of this process");
    }

    /// Waits until it has ended; whether it said that all was well.
    pub fn wait(&mut self) -> bool {
        self.child.wait().expect("it ends").success()
    }
}

impl Drop for CoordinatorProcess {
    fn drop(&mut self) {
        // An error says that it was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Coordinators, and what they share.
pub struct Coordinators {
    /// Where their state is.
    pub etcd: Etcd,
    /// With their data directory, `data`.
    pub root: TempDir,
    /// Those there are.
    pub processes: Vec<CoordinatorProcess>,
    /// What the next ones run.
    pub binary: PathBuf,
    settings: Vec<String>,
}

impl Coordinators {
    /// `count` of them, with some `name=value` settings.
    ///
    /// # Errors
    /// Why there is no etcd here.
    pub fn start(binary: &Path, count: usize, settings: &[&str]) -> Result<Self, String> {
        let (etcd, root) = (Etcd::start()?, tempfile::tempdir().map_err(|error| error.to_string())?);
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let mut coordinators = Self { etcd, root, processes: Vec::new(), binary: binary.to_owned(), settings };
        for _ in 0..count {
            coordinators.add();
        }
        Ok(coordinators)
    }

    /// One more.
    pub fn add(&mut self) -> &CoordinatorProcess {
        self.add_over(&self.etcd.endpoint())
    }

    /// One that reaches etcd at `endpoint`.
    pub fn add_over(&mut self, endpoint: &str) -> &CoordinatorProcess {
        let mut command = Command::new(&self.binary);
        command.args(["serve", "--listen", "127.0.0.1:0", "--cluster-listen", "127.0.0.1:0", "--log", "info"]);
        command.arg("--data-dir").arg(self.root.path().join("data")).arg("--allow-path").arg(self.root.path());
        command.arg("--spill-dir").arg(self.root.path());
        command.arg("--set").arg(format!("etcd_endpoints={endpoint}"));
        for setting in &self.settings {
            command.args(["--set", setting]);
        }
        let log = self.root.path().join(format!("coordinator-{}.log", self.processes.len()));
        let log = std::fs::File::options().create(true).append(true).open(log).expect("a file");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().expect("the binary starts");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let (mut url, mut cluster_url) = (None, None);
        for line in stdout.lines() {
            let line = line.expect("text");
            let word = |before: &str| {
                line.split_once(before).and_then(|(_, rest)| rest.split([',', ' ']).next()).map(str::to_owned)
            };
            cluster_url = cluster_url.or_else(|| word("hosts may join on "));
            url = url.or_else(|| word("ready on "));
            if url.is_some() {
                break;
            }
        }
        let url = url.expect("it says where it is");
        let cluster_url = format!("grpc://{}", cluster_url.expect("it says where hosts join"));
        self.processes.push(CoordinatorProcess { child, url, cluster_url });
        &self.processes[self.processes.len() - 1]
    }

    /// Where clients reach them.
    pub fn urls(&self) -> Vec<String> {
        self.processes.iter().map(|process| process.url.clone()).collect()
    }

    /// Where hosts join: all of them.
    pub fn join(&self) -> String {
        let urls: Vec<_> = self.processes.iter().map(|process| process.cluster_url.as_str()).collect();
        urls.join(",")
    }

    /// What they logged.
    pub fn logs(&self) -> String {
        let files =
            (0..self.processes.len() + 8).map(|number| self.root.path().join(format!("coordinator-{number}.log")));
        files
            .filter_map(|path| Some(format!("== {}\n{}", path.display(), std::fs::read_to_string(&path).ok()?)))
            .collect()
    }
}

impl Drop for Coordinators {
    fn drop(&mut self) {
        // Who reads that a test failed wants to know what they said.
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
    }
}
