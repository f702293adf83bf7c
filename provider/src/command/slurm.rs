//! Against a real Slurm of one node, by the commands that README.md has.

#[path = "../../../tests/support/slurm.rs"]
mod node;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use self::node::Slurm;
use super::{Command, CommandOptions};
use crate::conformance::{self, Bench};
use crate::{ClusterName, HostName, HostState, Listed, Provider, ProviderError, Template};

/// CPUs of the node. Hosts have one each.
const CPUS: usize = 4;

/// A Slurm, if there can be one.
pub(super) fn slurm() -> Option<Slurm> {
    let skipped = |why: &String| eprintln!("skipped: no Slurm here, so nothing was tested with one: {why}");
    Slurm::start(CPUS).inspect_err(skipped).ok()
}

fn provider(config: &Path, cluster: &ClusterName) -> Command {
    let template = |text: &str| {
        let text = format!("env SLURM_CONF={} {text}", config.display());
        Template::parse(&text).expect("a template")
    };
    Command::new(CommandOptions {
        cluster: cluster.clone(),
        start: template(
            "sbatch --job-name={name} --cpus-per-task={vcpus} --mem={memory_mib}M --output=/dev/null --wrap 'exec {command}'",
        ),
        stop: template("scancel --name={name}"),
        list: template("squeue --noheader --format='%j %T'"),
        program: "/bin/sh".into(),
        timeout: Duration::from_secs(20),
    })
}

impl Bench for Slurm {
    fn provider(&self, cluster: &ClusterName) -> Arc<dyn Provider> {
        Arc::new(provider(&self.config(), cluster))
    }

    fn most_hosts(&self) -> usize {
        CPUS
    }

    fn has_a_queue(&self) -> bool {
        true
    }

    fn kill(&self, name: &HostName) {
        // Without `--batch` it is an order to leave, like any other.
        self.command("scancel", &["--signal=KILL", "--batch", &format!("--name={name}")]);
    }
}

#[tokio::test]
async fn slurm_conforms() {
    let Some(slurm) = slurm() else { return };
    conformance::check(&slurm, &conformance::random_cluster()).await;
}

/// Whoever took that for an empty list would start all hosts once more.
#[tokio::test]
async fn a_controller_that_is_away_is_an_error_and_its_hosts_are_there_afterwards() {
    let Some(mut slurm) = slurm() else { return };
    let cluster = conformance::random_cluster();
    let there = provider(&slurm.config(), &cluster);
    let dir = tempfile::tempdir().expect("a directory");
    let host = conformance::host(&cluster, dir.path());
    there.start(&host).await.expect("a start");
    let runs =
        |listed: &[Listed]| matches!(listed, [only] if only.name == host.name && only.state == HostState::Running);
    conformance::until(&there, runs).await;
    slurm.stop_controller();

    // The same, for commands that ask less patiently.
    let config = dir.path().join("slurm.conf");
    let text = std::fs::read_to_string(slurm.config()).expect("a file");
    std::fs::write(&config, text + "MessageTimeout=1\n").expect("a file");
    let away = provider(&config, &cluster);
    let why = "Unable to contact slurm controller (connect failure) (exit status: 1)";
    let failed = || ProviderError::Failed(format!("`env`: slurm_load_jobs error: {why}"));
    assert_eq!(away.list().await, Err(failed()));
    assert_eq!(away.start(&host).await, Err(failed()));
    assert_eq!(away.stop(&host.name).await, Err(failed()));

    slurm.start_controller().expect("a process");
    while there.list().await.is_err() {}
    conformance::until(&there, runs).await;
    there.stop(&host.name).await.expect("a stop");
    conformance::until(&there, <[Listed]>::is_empty).await;
}

/// `sbatch` goes on trying; who reads the log learns why.
#[tokio::test]
async fn a_slurm_that_takes_no_more_jobs_says_so() {
    let Some(mut slurm) = slurm() else { return };
    slurm.stop_controller();
    let text = std::fs::read_to_string(slurm.config()).expect("a file");
    // It takes one less.
    std::fs::write(slurm.config(), text + "MaxJobCount=2\n").expect("a file");
    slurm.start_controller().expect("a process");
    let (cluster, dir) = (conformance::random_cluster(), tempfile::tempdir().expect("a directory"));
    let Command(options) = provider(&slurm.config(), &cluster);
    let hasty = Command::new(CommandOptions { timeout: Duration::from_secs(4), ..options.clone() });
    let provider = Command::new(options);
    while provider.list().await.is_err() {}
    let [first, second] = [(); 2].map(|()| conformance::host(&cluster, dir.path()));
    provider.start(&first).await.expect("a place in the queue");
    let refused = hasty.start(&second).await;
    let why =
        "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying (it took more than 4000 ms)";
    assert_eq!(refused, Err(ProviderError::Failed(format!("`env`: {why}"))));
    assert!(matches!(&provider.list().await.expect("a list")[..], [only] if only.name == first.name));
    provider.stop(&first.name).await.expect("a stop");
    conformance::until(&provider, <[Listed]>::is_empty).await;
}
