//! Hosts by the commands of another launcher: `sbatch`, `ray`, `nomad`, `ssh`, ...

#[cfg(test)]
mod slurm;

use std::fmt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::template::Values;
use crate::{ClusterName, HostName, HostSpec, HostState, Listed, Provider, ProviderError, Template};

/// What a command may print; the rest is not looked at.
const MOST_OUTPUT: u64 = 4 << 20;
/// `EX_TEMPFAIL`: a start command that exits with it had no room.
const NO_ROOM: i32 = 75;
/// States that say that a host waits for its turn: of Slurm, and of others.
const PENDING: [&str; 12] = [
    "pending",
    "pd",
    "configuring",
    "cf",
    "requeued",
    "requeue_fed",
    "requeue_hold",
    "queued",
    "waiting",
    "starting",
    "created",
    "scheduled",
];
/// And that it runs, or is about to end.
const RUNNING: [&str; 14] = [
    "running",
    "r",
    "completing",
    "cg",
    "signaling",
    "stopped",
    "suspended",
    "s",
    "stage_out",
    "resizing",
    "active",
    "up",
    "alive",
    "healthy",
];

/// See [`Command`].
#[derive(Clone, Debug)]
pub struct CommandOptions {
    /// Whose hosts.
    pub cluster: ClusterName,
    /// Submits a host and returns.
    pub start: Template,
    /// Ends `{name}`, in a way that lets it finish first.
    pub stop: Template,
    /// Prints a line for each host: its name and its state.
    pub list: Template,
    /// The program `onward`, where hosts run.
    pub program: PathBuf,
    /// A command that takes longer is killed, and has failed.
    pub timeout: Duration,
}

/// Launches hosts by commands: one that submits and returns, one that ends, one that lists.
///
/// The lines of the list are a name and a state, with white space between them; lines that begin with something else are not looked at. A
/// state that says neither that the host waits nor that it runs says that it is over; a name alone says that it runs.
#[derive(Debug)]
pub struct Command(CommandOptions);

impl Command {
    /// Runs no command yet.
    pub fn new(options: CommandOptions) -> Self {
        Self(options)
    }

    async fn run(&self, template: &Template, name: &str, host: Option<&HostSpec>) -> Result<String, ProviderError> {
        let cluster = self.0.cluster.to_string();
        let words: Option<Vec<_>> = host.map(|host| {
            let program = self.0.program.to_string_lossy().into_owned();
            std::iter::once(program).chain(host.arguments.iter().cloned()).collect()
        });
        let host = host.zip(words.as_deref());
        let words = template.fill(Values { cluster: &cluster, name, host });
        let shown = &words[0];
        let failed = |why: String| ProviderError::Failed(format!("`{shown}`: {why}"));
        let mut command = tokio::process::Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().map_err(|error| failed(format!("cannot be started: {error}")))?;
        let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let running = async {
            // What it started may hold its pipes for long: it is over when it has ended itself.
            tokio::select! {
                biased;
                ((), ()) = async { tokio::join!(read(stdout, &mut out), read(stderr, &mut err)) } => {}
                _ = child.wait() => {}
            }
            child.wait().await
        };
        let status = tokio::time::timeout(self.0.timeout, running).await;
        let said = |of: &dyn fmt::Display| {
            let said = String::from_utf8_lossy(if err.is_empty() { &out } else { &err });
            match said.trim().lines().last() {
                Some(said) => format!("{said} ({of})"),
                None => of.to_string(),
            }
        };
        let Ok(status) = status else {
            if let Some(group) = group {
                // It may have ended just now.
                let _ = kill_process_group(group, Signal::KILL);
            }
            // `sbatch` goes on trying for long when Slurm takes no more jobs, and says so when it begins.
            return Err(failed(said(&format_args!("it took more than {} ms", self.0.timeout.as_millis()))));
        };
        let status = status.map_err(|error| failed(error.to_string()))?;
        if status.success() {
            return Ok(String::from_utf8_lossy(&out).into_owned());
        }
        let why = said(&status);
        match status.code() {
            Some(NO_ROOM) => Err(ProviderError::Full(why)),
            _ => Err(failed(why)),
        }
    }
}

async fn read(from: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) {
    if let Some(from) = from {
        // What was read until then is what it said.
        let _ = from.take(MOST_OUTPUT).read_to_end(into).await;
    }
}

fn state(words: &str) -> HostState {
    let words = words.trim();
    let word = words.split_whitespace().next().unwrap_or("running").to_ascii_lowercase();
    let is_one_of = |states: &[&str]| states.contains(&word.as_str());
    match () {
        () if is_one_of(&PENDING) => HostState::Pending,
        () if is_one_of(&RUNNING) => HostState::Running,
        () => HostState::Over { reason: format!("its launcher says {words}") },
    }
}

#[async_trait]
impl Provider for Command {
    fn kind(&self) -> &'static str {
        "command"
    }

    fn output(&self) -> &'static str {
        "where provider_start sends it"
    }

    async fn start(&self, host: &HostSpec) -> Result<(), ProviderError> {
        let listed = self.list().await?;
        match listed.into_iter().find(|listed| listed.name == host.name).map(|listed| listed.state) {
            Some(HostState::Pending | HostState::Running) => return Ok(()),
            Some(HostState::Over { .. }) => self.stop(&host.name).await?,
            None => {}
        }
        self.run(&self.0.start, host.name.as_str(), Some(host)).await.map(drop)
    }

    async fn stop(&self, name: &HostName) -> Result<(), ProviderError> {
        // The launcher may know hosts of other clusters, and would end them.
        if HostName::of(&self.0.cluster, name.as_str()).is_none() {
            return Ok(());
        }
        match self.run(&self.0.stop, name.as_str(), None).await {
            Ok(_) => Ok(()),
            // Commands that end things differ in what they say of what is gone.
            Err(error) => match self.list().await?.iter().any(|listed| listed.name == *name) {
                true => Err(error),
                false => Ok(()),
            },
        }
    }

    async fn list(&self) -> Result<Vec<Listed>, ProviderError> {
        let out = self.run(&self.0.list, "", None).await?;
        let lines = out.lines().filter_map(|line| {
            let line = line.trim();
            let (name, words) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            Some(Listed { name: HostName::of(&self.0.cluster, name)?, state: state(words) })
        });
        let mut listed: Vec<Listed> = lines.collect();
        // A job that was requeued may have two lines: what runs counts.
        listed.sort_by_key(|listed| (listed.name.clone(), matches!(listed.state, HostState::Over { .. })));
        listed.dedup_by(|later, first| later.name == first.name);
        Ok(listed)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::conformance::{self, Bench};

    /// A launcher that keeps a file for each host.
    const LAUNCHER: &str = r#"
dir="$1"; what="$2"; name="$3"
case "$what" in
    start)
        [ "$(ls "$dir"/*.pid 2>/dev/null | wc -l)" -lt 4 ] || { echo "the queue is full" >&2; exit 75; }
        shift 3
        setsid "$@" >/dev/null 2>&1 &
        echo $! > "$dir/$name.pid" ;;
    stop)
        [ -e "$dir/$name.pid" ] || { echo "no such job: $name" >&2; exit 1; }
        pid="$(cat "$dir/$name.pid")"
        if kill -0 "$pid" 2>/dev/null; then kill -TERM "$pid"; touch "$dir/$name.told"; else rm -f "$dir/$name.pid" "$dir/$name.told"; fi ;;
    list)
        echo "JOBID STATE"
        for file in "$dir"/*.pid; do
            [ -e "$file" ] || continue
            name="$(basename "$file" .pid)"
            if kill -0 "$(cat "$file")" 2>/dev/null; then echo "$name RUNNING"
            elif [ -e "$dir/$name.told" ]; then rm -f "$file" "$dir/$name.told"
            else echo "$name NODE_FAIL gone"; fi
        done ;;
esac
"#;

    fn options(dir: &Path, cluster: ClusterName) -> CommandOptions {
        let launcher = dir.join("launcher");
        if !launcher.exists() {
            std::fs::write(&launcher, LAUNCHER).expect("a file");
            std::fs::set_permissions(&launcher, std::fs::Permissions::from_mode(0o700)).expect("permissions");
        }
        let (launcher, jobs) = (launcher.display(), dir.display());
        let template = |text: String| Template::parse(&text).expect("a template");
        CommandOptions {
            cluster,
            start: template(format!("sh {launcher} {jobs} start {{name}} {{command}}")),
            stop: template(format!("sh {launcher} {jobs} stop {{name}}")),
            list: template(format!("sh {launcher} {jobs} list")),
            program: "/bin/sh".into(),
            timeout: Duration::from_secs(20),
        }
    }

    struct Launcher(tempfile::TempDir);

    impl Bench for Launcher {
        fn provider(&self, cluster: &ClusterName) -> Arc<dyn Provider> {
            Arc::new(Command::new(options(self.0.path(), cluster.clone())))
        }

        fn most_hosts(&self) -> usize {
            4
        }

        fn kill(&self, name: &HostName) {
            let pid = std::fs::read_to_string(self.0.path().join(format!("{name}.pid"))).expect("a file");
            let pid = Pid::from_raw(pid.trim().parse().expect("a number")).expect("a process");
            rustix::process::kill_process(pid, Signal::KILL).expect("it runs");
        }
    }

    #[tokio::test]
    async fn a_launcher_of_commands_conforms() {
        let launcher = Launcher(tempfile::tempdir().expect("a directory"));
        conformance::check(&launcher, &conformance::random_cluster()).await;
    }

    #[tokio::test]
    async fn a_command_that_fails_hangs_or_is_missing_says_so() {
        let dir = tempfile::tempdir().expect("a directory");
        let cluster: ClusterName = "test".parse().expect("a name");
        let listing = |list: &str, timeout_ms| {
            let list = Template::parse(list).expect("a template");
            let timeout = Duration::from_millis(timeout_ms);
            Command::new(CommandOptions { list, timeout, ..options(dir.path(), cluster.clone()) })
        };
        let said = |error: ProviderError| error.to_string();
        let missing = listing("/no/such/program", 9_000).list().await.map_err(said);
        assert!(
            missing.as_ref().is_err_and(|error| error.contains("`/no/such/program`: cannot be started")),
            "{missing:?}"
        );
        let failed = listing("sh -c 'echo one; echo slurmctld is down >&2; exit 3'", 9_000).list().await.map_err(said);
        assert_eq!(failed, Err("`sh`: slurmctld is down (exit status: 3)".to_owned()));
        let hung = listing("sh -c 'read line < /dev/null; exec tail -f /dev/null'", 50).list().await.map_err(said);
        assert_eq!(hung, Err("`sh`: it took more than 50 ms".to_owned()));
    }

    #[tokio::test]
    async fn a_command_that_is_killed_is_quoted() {
        let dir = tempfile::tempdir().expect("a directory");
        let start =
            Template::parse("sh -c 'echo job queue full, retrying >&2; exec tail -f /dev/null'").expect("a template");
        let (cluster, timeout) = (conformance::random_cluster(), Duration::from_secs(2));
        let provider = Command::new(CommandOptions { start, timeout, ..options(dir.path(), cluster.clone()) });
        let refused = provider.start(&conformance::host(&cluster, dir.path())).await;
        let why = "`sh`: job queue full, retrying (it took more than 2000 ms)";
        assert_eq!(refused, Err(ProviderError::Failed(why.to_owned())));
    }

    /// A launcher that has hosts of several clusters ends whatever it is given a name of.
    #[tokio::test]
    async fn a_host_of_another_cluster_is_not_stopped() {
        let dir = tempfile::tempdir().expect("a directory");
        let (own, other) = (conformance::random_cluster(), conformance::random_cluster());
        let stop = Template::parse(&format!("touch {}/{{name}}", dir.path().display())).expect("a template");
        let provider = Command::new(CommandOptions { stop, ..options(dir.path(), own.clone()) });
        for (cluster, is_stopped) in [(own, true), (other, false)] {
            let name = HostName::random(&cluster, &mut fastrand::Rng::new());
            provider.stop(&name).await.expect("a stop");
            assert_eq!(dir.path().join(name.as_str()).exists(), is_stopped, "{name}");
        }
    }

    #[test]
    fn states_of_launchers_are_understood() {
        for (words, pending, running) in [
            ("PENDING", true, false),
            ("CF", true, false),
            ("RUNNING", false, true),
            ("COMPLETING", false, true),
            ("", false, true),
        ] {
            assert_eq!(state(words) == HostState::Pending, pending, "{words}");
            assert_eq!(state(words) == HostState::Running, running, "{words}");
        }
        assert_eq!(state("CANCELLED by 0"), HostState::Over { reason: "its launcher says CANCELLED by 0".to_owned() });
    }
}
