//! What stands in for AWS Lambda: `cargo lambda watch`, which serves its two interfaces, and processes of `onward lambda` that wait there for
//! invocations.
//!
//! ```text
//!   Invoke --> 127.0.0.1:PORT/2015-03-31/functions/onward/invocations --> queue --> 127.0.0.1:PORT/.rt/onward <-- onward lambda, again and again
//! ```
//!
//! An invocation waits for its turn when all processes have one: there is no throttling, and no end by force. The deadline that it says was
//! in 1970.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The wheel holds the program.
const PACKAGE: &str = "cargo-lambda==1.9.2";
/// The function's name: it knows those that a package has as binaries.
pub const FUNCTION: &str = "onward";
/// However slow the machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A function with some environments. Ends when it is dropped.
pub struct Lambda {
    address: SocketAddr,
    emulator: Child,
    environments: Vec<Child>,
    _dir: tempfile::TempDir,
}

impl Lambda {
    /// Starts one in whose `environments` `binary lambda` runs.
    ///
    /// # Errors
    /// Why there can be none here.
    pub fn start(binary: &str, environments: usize) -> Result<Self, String> {
        let program = install()?;
        let failed = |error: std::io::Error| error.to_string();
        let dir = tempfile::tempdir().map_err(failed)?;
        fs::create_dir(dir.path().join("src")).map_err(failed)?;
        let package =
            format!("[package]\nname = \"{FUNCTION}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n");
        fs::write(dir.path().join("Cargo.toml"), package).map_err(failed)?;
        fs::write(dir.path().join("src/main.rs"), "fn main() {}\n").map_err(failed)?;
        let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).map_err(failed)?;
        let mut emulator = Command::new(program);
        emulator.args(["lambda", "watch", "--only-lambda-apis", "--ignore-changes", "--invoke-address", "127.0.0.1"]);
        emulator.args(["--invoke-port", &address.port().to_string()]).current_dir(&dir);
        let emulator = emulator.stdin(Stdio::null()).stdout(Stdio::null()).spawn().map_err(failed)?;
        let mut lambda = Self { address, emulator, environments: Vec::new(), _dir: dir };
        lambda.wait_until_it_listens()?;
        for _ in 0..environments {
            let mut environment = Command::new(binary);
            environment
                .args(["lambda", "--log", "warn"])
                .env("AWS_LAMBDA_RUNTIME_API", format!("http://{address}/.rt/{FUNCTION}"))
                .env("AWS_LAMBDA_FUNCTION_NAME", FUNCTION)
                .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
                .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "4096");
            let child = environment.stdin(Stdio::null()).stdout(Stdio::null()).spawn().map_err(failed)?;
            lambda.environments.push(child);
        }
        Ok(lambda)
    }

    /// Where it is invoked.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Processes that run in its environments beside the ones that wait for invocations.
    pub fn processes(&self) -> usize {
        let of_environment = |pid: &str| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // The name before may hold anything, parentheses and spaces too.
            let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
            let parent = fields.split_whitespace().nth(1).and_then(|parent| parent.parse().ok());
            self.environments.iter().any(|environment| Some(environment.id()) == parent)
        };
        let entries = fs::read_dir("/proc").expect("procfs");
        entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(of_environment)).count()
    }

    fn wait_until_it_listens(&mut self) -> Result<(), String> {
        let begun = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            if let Ok(Some(status)) = self.emulator.try_wait() {
                return Err(format!("cargo lambda watch: {status}"));
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("cargo lambda watch does not listen after {} s", PATIENCE.as_secs()));
            }
            std::thread::yield_now();
        }
        Ok(())
    }
}

impl Drop for Lambda {
    fn drop(&mut self) {
        for child in self.environments.iter_mut().chain([&mut self.emulator]) {
            // An error says that it ended before.
            let _ = kill_process(Pid::from_child(child), Signal::TERM);
            let _ = child.wait();
        }
    }
}

/// The program, after installing it when it is not there.
fn install() -> Result<PathBuf, String> {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(PACKAGE.replace("==", "-"));
    let (program, ready) = (root.join("bin/cargo-lambda"), root.join("ready"));
    let failed = |error: std::io::Error| error.to_string();
    fs::create_dir_all(&root).map_err(failed)?;
    // One test installs it, of this process or another; the others wait for it.
    let lock = File::create(root.join("lock")).map_err(failed)?;
    lock.lock().map_err(failed)?;
    if !ready.exists() {
        let mut make = Command::new("python3");
        make.args(["-m", "venv"]).arg(&root);
        let mut install = Command::new(root.join("bin/python"));
        install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", PACKAGE]);
        for mut command in [make, install] {
            let output = command.stdin(Stdio::null()).output().map_err(failed)?;
            if !output.status.success() {
                return Err(String::from_utf8_lossy(&output.stderr).into_owned());
            }
        }
        File::create(&ready).map_err(failed)?;
    }
    Ok(program)
}
