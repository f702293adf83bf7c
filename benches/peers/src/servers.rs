//! Child processes that end with whoever started them.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::BoxError;

const THREADS: &str = "PEERS_THREADS";
/// A server that takes longer to listen has failed.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The threads that a worker was told to have.
pub fn threads_told() -> Result<usize, BoxError> {
    Ok(std::env::var(THREADS)?.parse()?)
}

/// This program with other arguments; killed when it is dropped.
pub fn start(arguments: &[&str], threads: usize) -> Result<Child, BoxError> {
    Ok(Command::new(std::env::current_exe()?)
        .args(arguments)
        .env(THREADS, threads.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()?)
}

/// Ports that nobody listens on now.
pub fn free_ports(count: usize) -> Result<Vec<u16>, BoxError> {
    let listeners = (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<Result<Vec<_>, _>>()?;
    Ok(listeners
        .iter()
        .map(|listener| listener.local_addr().map(|address| address.port()))
        .collect::<Result<_, _>>()?)
}

/// Waits until `port` accepts.
pub async fn listening(port: u16) -> Result<(), BoxError> {
    let accepts = async {
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(START_TIMEOUT, accepts).await.map_err(|_| format!("nobody listens on port {port}").into())
}

/// Ends children and waits for them.
pub async fn stop(children: Vec<Child>) {
    for mut child in children {
        // It is gone when that fails.
        let _ = child.kill().await;
    }
}

/// A path as an argument.
pub fn text(path: &Path) -> Result<&str, BoxError> {
    path.to_str().ok_or_else(|| "a path is no UTF-8".into())
}
