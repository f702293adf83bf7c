//! A real S3 server over a directory of this machine: `s3s-fs`, installed once.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::BoxError;

/// The version that figures are measured with.
const VERSION: &str = "^0.14";
/// Whoever signs with these may read.
pub const ACCESS_KEY: &str = "onward";
/// Likewise.
pub const SECRET_KEY: &str = "onward-bench";
/// A server that starts takes far less.
const START_TRIES: usize = 500;
const START_INTERVAL: Duration = Duration::from_millis(20);

/// The process. It ends when this is dropped.
pub struct S3Server {
    process: Child,
    /// Where it listens.
    pub address: SocketAddr,
}

impl S3Server {
    /// Serves `root`, whose directories are buckets, after installing the server below `cache` when it is not there.
    pub async fn start(root: &Path, cache: &Path) -> Result<Self, BoxError> {
        let program = installed(&cache.join("s3s-fs"))?;
        // Free now, and nobody else asks for ports in this moment.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut command = Command::new(&program);
        command.args(["--host", "127.0.0.1", "--port", &address.port().to_string()]);
        command.args(["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY]).arg(root);
        let quiet = command.env("RUST_LOG", "off").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut server = Self { process: quiet.spawn()?, address };
        for _ in 0..START_TRIES {
            if tokio::net::TcpStream::connect(address).await.is_ok() {
                return Ok(server);
            }
            if let Some(status) = server.process.try_wait()? {
                return Err(format!("{} ended: {status}", program.display()).into());
            }
            tokio::time::sleep(START_INTERVAL).await;
        }
        Err(format!("{} does not listen on {address}", program.display()).into())
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        // An error means that it has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn installed(root: &Path) -> Result<PathBuf, BoxError> {
    let program = root.join("bin/s3s-fs");
    if !program.exists() {
        println!("installing s3s-fs {VERSION} into {}", root.display());
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut install = Command::new(cargo);
        install
            .args(["install", "s3s-fs", "--version", VERSION, "--features", "binary", "--quiet", "--root"])
            .arg(root);
        if !install.status()?.success() {
            return Err("s3s-fs cannot be installed".into());
        }
    }
    Ok(program)
}
