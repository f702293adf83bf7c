//! An etcd of one server, of its own: on free ports, in a directory that goes with it.

#![allow(dead_code, reason = "those who start one need different parts of it")]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What installs it.
pub const INSTALL: &str = "apt-get install -y --no-install-recommends etcd-server";
const PROGRAM: &str = "/usr/bin/etcd";
/// However slow the machine.
const PATIENCE: Duration = Duration::from_secs(60);
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);
/// Somebody else may take a port that was free a moment ago.
const ATTEMPTS: usize = 5;

/// With what it speaks TLS to its clients: files in PEM.
#[derive(Clone)]
pub struct Tls {
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Clients need a certificate of this authority.
    pub client_ca: Option<PathBuf>,
}

/// A running etcd; killed when it is dropped.
pub struct Etcd {
    dir: tempfile::TempDir,
    tls: Option<Tls>,
    client_port: u16,
    peer_port: u16,
    /// Where it says in plain text how it is.
    health_port: u16,
    server: Option<Child>,
}

impl Etcd {
    /// Starts one, and waits until it answers.
    ///
    /// # Errors
    /// Why there can be none here.
    pub fn start() -> Result<Self, String> {
        Self::start_with(None)
    }

    /// Starts one that speaks TLS where it is given something for it.
    ///
    /// # Errors
    /// Those of [`Self::start`].
    pub fn start_with(tls: Option<Tls>) -> Result<Self, String> {
        if !Path::new(PROGRAM).exists() {
            return Err(format!("{PROGRAM} is not installed: {INSTALL}"));
        }
        let free = || TcpListener::bind("127.0.0.1:0")?.local_addr().map(|address| address.port());
        let mut failure = String::new();
        for _ in 0..ATTEMPTS {
            let failed = |error: std::io::Error| format!("etcd: {error}");
            let dir = tempfile::tempdir().map_err(failed)?;
            let [client_port, peer_port, health_port] = [(); 3].map(|()| free());
            let mut etcd = Self {
                dir,
                tls: tls.clone(),
                client_port: client_port.map_err(failed)?,
                peer_port: peer_port.map_err(failed)?,
                health_port: health_port.map_err(failed)?,
                server: None,
            };
            match etcd.restart() {
                Ok(()) => return Ok(etcd),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Where clients reach it: the same after a restart.
    pub fn endpoint(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.client_port)
    }

    /// Its process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(Child::id)
    }

    /// Kills it.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            // It may have ended by itself.
            let _ = server.kill();
            let _ = server.wait();
        }
    }

    /// Kills it if it runs, and starts it with what it had stored.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn restart(&mut self) -> Result<(), String> {
        self.kill();
        let plain = |port: u16| format!("http://127.0.0.1:{port}");
        let (client, peer, health) = (self.endpoint(), plain(self.peer_port), plain(self.health_port));
        let log = File::options().create(true).append(true).open(self.dir.path().join("log"));
        let log = log.map_err(|error| format!("its log: {error}"))?;
        let mut command = Command::new(PROGRAM);
        command.arg("--data-dir").arg(self.dir.path().join("data"));
        for (flag, value) in [
            ("--listen-client-urls", &client),
            ("--advertise-client-urls", &client),
            ("--listen-peer-urls", &peer),
            ("--initial-advertise-peer-urls", &peer),
            ("--initial-cluster", &format!("default={peer}")),
            ("--listen-metrics-urls", &health),
        ] {
            command.arg(flag).arg(value);
        }
        if let Some(Tls { cert, key, client_ca }) = &self.tls {
            command.arg("--cert-file").arg(cert).arg("--key-file").arg(key);
            if let Some(ca) = client_ca {
                command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(ca);
            }
        }
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        self.server = Some(spawned.map_err(|error| format!("{PROGRAM}: {error}"))?);
        self.wait_until_healthy()
    }

    fn wait_until_healthy(&mut self) -> Result<(), String> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if self.health().is_ok_and(|answer| answer.contains("\"true\"")) {
                return Ok(());
            }
            if !matches!(self.server.as_mut().map(Child::try_wait), Some(Ok(None))) {
                break;
            }
            std::thread::park_timeout(BETWEEN_LOOKS);
        }
        let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        Err(format!("etcd does not answer: {log}"))
    }

    fn health(&self) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.health_port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}
