//! What the benches share: a server of their own process, and the conditions a figure needs beside it.

// Every bench uses a part of it.
#![allow(dead_code)]

pub mod pair;
pub mod s3_server;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use onward_coordinator::{Coordinator, CoordinatorOptions};
use onward_endpoint::{FlightServer, ServerOptions};
use onward_tpch::{Client, Dataset, GenerateOptions};
use onward_wire::Config;
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The allocator of the `onward` binary, so that both sides of a comparison have it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Anything a bench may fail with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Coordinator and endpoint in this process, function processes of the `onward` binary.
pub struct Server {
    coordinator: Arc<Coordinator>,
    url: String,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl Server {
    /// Starts it on a free port; statements may name files below `allowed`.
    pub async fn start(allowed: &Path) -> Result<Self, BoxError> {
        Self::start_in(allowed, None).await
    }

    /// [`Self::start`] with a data directory, which outlives it.
    pub async fn start_in(allowed: &Path, data_dir: Option<&Path>) -> Result<Self, BoxError> {
        // Functions stay between the queries of a bench: their start is measured by benches/startup.rs.
        let config = Config { function_idle_timeout_ms: 600_000, ..Config::default() };
        let function_program = Some(PathBuf::from(env!("CARGO_BIN_EXE_onward")));
        let options = CoordinatorOptions {
            config: config.clone(),
            data_dir: data_dir.map(Path::to_owned),
            function_program,
            ..CoordinatorOptions::default()
        };
        let coordinator = Coordinator::start(options).await?;
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let options =
            ServerOptions { listen, allow_paths: vec![allowed.to_owned()], config, ..ServerOptions::default() };
        let server = FlightServer::bind(options, Arc::clone(&coordinator)).await?;
        let url = format!("http://{}", server.local_addr());
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(async move {
            if let Err(error) = server.serve(async move { drop(stopped.await) }).await {
                eprintln!("the server ended: {error}");
            }
        });
        Ok(Self { coordinator, url, stop, serving })
    }

    /// A new connection, which is a new session.
    pub async fn connect(&self) -> Result<Client, BoxError> {
        Ok(Client::connect(&self.url).await?)
    }

    /// Ends functions and server.
    pub async fn stop(self) {
        drop(self.stop);
        drop(self.serving.await);
        self.coordinator.shutdown(Duration::ZERO).await;
    }
}

/// The tables of a scale in `parts` files each, made when they are not in `dir` (by default a cache of the user's).
pub fn dataset(scale: f64, parts: u32, dir: Option<PathBuf>) -> Result<Dataset, BoxError> {
    let dir = dir.unwrap_or_else(|| Dataset::default_dir(scale));
    Ok(Dataset::open_or_generate(&GenerateOptions { parts, progress: true, ..GenerateOptions::new(scale, dir) })?)
}

/// Cores that threads of this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// One line: processor, cores, load, versions.
pub fn conditions() -> String {
    let cpu_info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu_info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let model = model.map_or("unknown processor", |(_, name)| name.trim());
    format!(
        "{model}, {} cores, {}; onward {}, DataFusion {}, mimalloc, profile {}",
        cores(),
        load(),
        commit(),
        datafusion::DATAFUSION_VERSION,
        if cfg!(debug_assertions) { "debug (figures mean nothing)" } else { "release" }
    )
}

/// The commit that was measured, and whether it was changed since.
fn commit() -> String {
    let git = ["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty", "--abbrev=8"];
    let said = std::process::Command::new("git").args(git).output();
    let commit = said.map(|said| String::from_utf8_lossy(&said.stdout).trim().to_owned()).unwrap_or_default();
    format!("{} {commit}", env!("CARGO_PKG_VERSION"))
}

/// Load averages of the machine: figures of a busy machine mean little.
pub fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!("load {}", load.split_whitespace().take(3).collect::<Vec<_>>().join(" "))
}

/// The median; 0 of nothing.
pub fn median(samples: &[f64]) -> f64 {
    percentile(samples, 0.5)
}

/// The value below which `share` (0 to 1) of the samples lie.
pub fn percentile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        count => {
            let position = (count - 1) as f64 * share;
            let (below, above) = (sorted[position.floor() as usize], sorted[position.ceil() as usize]);
            below + (above - below) * position.fract()
        }
    }
}

/// Milliseconds of a duration.
pub fn milliseconds(elapsed: Duration) -> f64 {
    elapsed.as_secs_f64() * 1e3
}

/// Kills the function processes of this process; gives how many there were.
pub fn kill_functions() -> Result<usize, BoxError> {
    let mut processes = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw) else {
            continue;
        };
        // A process that has ended meanwhile has no files there.
        let read = |name: &str| std::fs::read(entry.path().join(name)).unwrap_or_default();
        let status = String::from_utf8_lossy(&read("status")).into_owned();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:\t")?.parse::<i32>().ok());
        let is_zygote = read("cmdline").split(|byte| *byte == 0).nth(1) == Some(b"zygote");
        processes.push((pid, parent, is_zygote));
    }
    let own = Some(std::process::id() as i32);
    let is_ours = |zygote: &&(Pid, Option<i32>, bool)| zygote.2 && zygote.1 == own;
    let zygotes: Vec<_> = processes.iter().filter(is_ours).map(|(pid, ..)| Some(pid.as_raw_nonzero().get())).collect();
    let functions: Vec<_> = processes.iter().filter(|(_, parent, _)| zygotes.contains(parent)).collect();
    for (pid, ..) in &functions {
        kill_process(*pid, Signal::KILL)?;
    }
    Ok(functions.len())
}
