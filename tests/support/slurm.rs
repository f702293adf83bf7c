//! A Slurm of one node, of its own: controller, node daemon and munge, on free ports, in a directory that goes with it.

#![allow(dead_code, reason = "those who start one need different parts of it")]

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What installs it.
pub const INSTALL: &str = "apt-get install -y --no-install-recommends slurmctld slurmd slurm-client munge";
/// However slow the machine.
const PATIENCE: Duration = Duration::from_secs(60);
const CONTROLLER: &str = "slurmctld";

/// A running Slurm. Ends with what runs in it when it is dropped.
pub struct Slurm {
    dir: tempfile::TempDir,
    daemons: Vec<(&'static str, Child)>,
}

impl Slurm {
    /// Starts one with room for `cpus` CPUs, however many the machine has.
    ///
    /// # Errors
    /// Why there can be none here.
    pub fn start(cpus: usize) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("Slurm runs as root only".to_owned());
        }
        let missing =
            |program: &str| !["/usr/sbin", "/usr/bin"].iter().any(|dir| Path::new(dir).join(program).exists());
        if let Some(program) = ["munged", "slurmctld", "slurmd", "sbatch"].iter().find(|program| missing(program)) {
            return Err(format!("{program} is not installed: {INSTALL}"));
        }
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mut slurm = Self { dir, daemons: Vec::new() };
        slurm.configure(cpus).map_err(|error| format!("its files: {error}"))?;
        slurm.run().map_err(|error| format!("its daemons: {error}"))?;
        slurm.wait_until_idle()?;
        Ok(slurm)
    }

    /// The configuration, for `SLURM_CONF`.
    pub fn config(&self) -> PathBuf {
        self.dir.path().join("slurm.conf")
    }

    /// Runs one of its commands; what it prints.
    pub fn command(&self, program: &str, arguments: &[&str]) -> String {
        let output = Command::new(program).args(arguments).env("SLURM_CONF", self.config()).output();
        let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Ends the controller. Jobs run on.
    pub fn stop_controller(&mut self) {
        if let Some(at) = self.daemons.iter().position(|(name, _)| *name == CONTROLLER) {
            end(&mut self.daemons.remove(at).1);
        }
    }

    /// Starts the controller again, with what it knew.
    ///
    /// # Errors
    /// When it cannot be started. It answers a while later.
    pub fn start_controller(&mut self) -> std::io::Result<()> {
        self.start_daemon(CONTROLLER)
    }

    fn configure(&self, cpus: usize) -> std::io::Result<()> {
        let dir = self.dir.path();
        // The daemon of munge is another user, and wants to reach its socket.
        fs::set_permissions(dir, Permissions::from_mode(0o711))?;
        for name in ["state", "spool", "munge"] {
            fs::create_dir(dir.join(name))?;
        }
        let (munge, _) = munge_user()?;
        fs::set_permissions(dir.join("munge"), Permissions::from_mode(0o711))?;
        let mut key = vec![0; 1024];
        File::open("/dev/urandom").and_then(|mut random| std::io::Read::read_exact(&mut random, &mut key))?;
        fs::write(dir.join("munge/key"), key)?;
        fs::set_permissions(dir.join("munge/key"), Permissions::from_mode(0o400))?;
        for path in ["munge", "munge/key"] {
            std::os::unix::fs::chown(dir.join(path), Some(munge), None)?;
        }
        let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let node = node.split('.').next().unwrap_or("localhost").to_owned();
        let free = || -> std::io::Result<u16> { Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port()) };
        let mut file = File::create(self.config())?;
        let at = dir.display();
        write!(
            file,
            "ClusterName=test\nSlurmctldHost={node}(127.0.0.1)\nSlurmctldPort={}\nSlurmdPort={}\nSlurmUser=root\nSlurmdUser=root\n\
             AuthType=auth/munge\nAuthInfo=socket={at}/munge/socket\nCryptoType=crypto/munge\nMpiDefault=none\n\
             StateSaveLocation={at}/state\nSlurmdSpoolDir={at}/spool\nSlurmctldPidFile={at}/slurmctld.pid\n\
             SlurmdPidFile={at}/slurmd.pid\nProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\n\
             SelectType=select/cons_tres\nSelectTypeParameters=CR_Core\nJobAcctGatherType=jobacct_gather/none\n\
             AccountingStorageType=accounting_storage/none\nSlurmdParameters=config_overrides\nReturnToService=2\n\
             MinJobAge=2\nKillWait=20\nSchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0\n\
             NodeName={node} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=1000000 State=UNKNOWN\n\
             PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n",
            free()?,
            free()?,
        )
    }

    fn run(&mut self) -> std::io::Result<()> {
        let dir = self.dir.path().to_owned();
        let (uid, gid) = munge_user()?;
        let munge = |file: &str| dir.join("munge").join(file).into_os_string();
        let mut munged = Command::new("/usr/sbin/munged");
        for (flag, file) in [
            ("--key-file", "key"),
            ("--socket", "socket"),
            ("--pid-file", "pid"),
            ("--log-file", "log"),
            ("--seed-file", "seed"),
        ] {
            munged.arg(flag).arg(munge(file));
        }
        munged.arg("--foreground").uid(uid).gid(gid);
        self.spawn("munged", munged)?;
        let begun = Instant::now();
        while !dir.join("munge/socket").exists() && begun.elapsed() < PATIENCE {
            std::thread::yield_now();
        }
        self.start_daemon(CONTROLLER)?;
        self.start_daemon("slurmd")
    }

    fn start_daemon(&mut self, name: &'static str) -> std::io::Result<()> {
        let mut command = Command::new(Path::new("/usr/sbin").join(name));
        command.args(["-D", "-f"]).arg(self.config()).env("SLURM_CONF", self.config());
        self.spawn(name, command)
    }

    fn spawn(&mut self, name: &'static str, mut command: Command) -> std::io::Result<()> {
        let log = |name: &str| File::create(self.dir.path().join(format!("{name}.log")));
        let (stdout, stderr) = (log(name)?, log(&format!("{name}-errors"))?);
        let child = command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn()?;
        self.daemons.push((name, child));
        Ok(())
    }

    fn wait_until_idle(&mut self) -> Result<(), String> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let asked =
                Command::new("sinfo").args(["--noheader", "--format=%T"]).env("SLURM_CONF", self.config()).output();
            if asked.is_ok_and(|said| String::from_utf8_lossy(&said.stdout).trim() == "idle") {
                return Ok(());
            }
        }
        let logs = ["munged-errors", "slurmctld", "slurmctld-errors", "slurmd-errors"];
        let logs = logs.map(|name| fs::read_to_string(self.dir.path().join(format!("{name}.log"))).unwrap_or_default());
        Err(format!("its node is not idle after {} s: {}", PATIENCE.as_secs(), logs.join("\n")))
    }
}

impl Drop for Slurm {
    fn drop(&mut self) {
        // Only it ends jobs. When nothing of this works, an error at worst is what jobs end with.
        if !self.daemons.iter().any(|(name, _)| *name == CONTROLLER) {
            let _ = self.start_controller();
        }
        let ask = |program: &str, arguments: &[&str]| {
            Command::new(program).args(arguments).env("SLURM_CONF", self.config()).output()
        };
        let _ = ask("scancel", &["--signal=KILL", "--user=root"]);
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE && ask("squeue", &["--noheader"]).is_ok_and(|said| !said.stdout.is_empty()) {}
        for (_, daemon) in self.daemons.iter_mut().rev() {
            end(daemon);
        }
    }
}

fn end(daemon: &mut Child) {
    // It may have ended by itself.
    let _ = rustix::process::kill_process(rustix::process::Pid::from_child(daemon), rustix::process::Signal::TERM);
    let _ = daemon.wait();
}

/// User and group of munge's daemon.
fn munge_user() -> std::io::Result<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd")?;
    let line = users.lines().find_map(|line| line.strip_prefix("munge:"));
    let ids = line.and_then(|line| {
        let mut fields = line.split(':').skip(1);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    });
    ids.ok_or_else(|| std::io::Error::other("there is no user munge"))
}
