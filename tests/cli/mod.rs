//! The real binary as users run it: exit codes, formats, errors, signals, the shell on a terminal, README's snippets.

mod crash;
mod embedding;
mod errors;
mod faults;
mod formats;
mod ranges;
mod readme;
mod scripts;
mod serve;
mod settings;
mod signals;
mod stores;
mod terminal;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

/// Longest wait for something that must happen; only a broken binary needs it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A sum nobody lives to see.
const ENDLESS: &str = "select sum(value) from generate_series(1, 9000000000000000)";

/// A directory to work in, with its own home, state and spill directories.
struct Workspace {
    dir: TempDir,
}

/// What a run of the binary left.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Workspace {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("spill")).expect("a directory");
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A program that sees this directory, small limits, and nothing of the user's settings.
    fn program(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            let name_text = name.to_string_lossy();
            if name_text.starts_with("ONWARD_") && name_text != "ONWARD_FUNCTION_LIFETIME_MS" {
                command.env_remove(name);
            }
        }
        command
            .current_dir(self.dir.path())
            .env("HOME", self.dir.path())
            .env("XDG_STATE_HOME", self.path("state"))
            .env("ONWARD_SPILL_DIR", self.path("spill"))
            .env("ONWARD_MEMORY_BYTES", "1GiB")
            .env("ONWARD_SEGMENT_MEMORY_BYTES", "32MiB")
            .env("ONWARD_SEGMENT_DISK_BYTES", "1GiB")
            .env("ONWARD_VCPUS", "2")
            .stdin(Stdio::null());
        command
    }

    fn onward(&self, arguments: &[&str]) -> Command {
        let mut command = self.program(env!("CARGO_BIN_EXE_onward"));
        command.args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.onward(arguments))
    }

    /// `onward sql -q -c SQL` with `arguments`, which must succeed.
    fn sql(&self, sql: &str, arguments: &[&str]) -> String {
        self.run(&[&["sql", "--quiet", "-c", sql][..], arguments].concat()).expect_success()
    }

    fn run_with_input(&self, arguments: &[&str], input: &str) -> Ran {
        let mut command = self.onward(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary");
        child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("input is read");
        child.wait_with_output().expect("an end").into()
    }

    /// A table of `rows` rows: `id` counts from 1, `name` repeats.
    fn parquet(&self, name: &str, rows: usize) -> PathBuf {
        let path = self.path(name);
        let sql = format!("select value as id, 'name ' || (value % 7) as name from generate_series(1, {rows})");
        self.sql(&sql, &["--format", "parquet", "--output", name]);
        path
    }

    /// Sockets, spills, catalogs and segments are gone when the process is.
    fn assert_nothing_left(&self) {
        assert_eq!(entries(&self.path("spill")), Vec::<PathBuf>::new());
    }
}

impl Ran {
    fn of(mut command: Command) -> Self {
        command.output().expect("the binary").into()
    }

    fn expect_success(self) -> String {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""), "{}", self.stdout);
        self.stdout
    }

    /// The run failed with exit code 1 and an error that has all `parts`.
    fn expect_error(&self, parts: &[&str]) {
        assert_eq!(self.code, Some(1), "{self:?}");
        assert!(self.stderr.starts_with("error: "), "{self:?}");
        for part in parts {
            assert!(self.stderr.contains(part), "{part} is not in {self:?}");
        }
    }
}

impl From<std::process::Output> for Ran {
    fn from(output: std::process::Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path()).collect()
}
