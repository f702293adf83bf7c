//! What every provider does: one suite, run against each of them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::{ClusterName, HostName, HostSpec, HostState, Listed, Provider, ProviderError};

/// However slow the machine.
const PATIENCE: Duration = Duration::from_secs(60);
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// A host that takes a moment to leave when it is told to, and leaves a file that says so. From another file on it can. One that a failed
/// test forgot ends by itself.
const HOST: &str = r#"
trap 'echo drained > "$0"; exit 0' TERM
echo ready > "$0.ready"
left=6000
while [ "$left" -gt 0 ]; do sleep 0.02; left=$((left - 1)); done
"#;

/// A provider under test, and its launcher's other side.
pub(crate) trait Bench {
    /// A new instance, as of a coordinator that just started.
    fn provider(&self, cluster: &ClusterName) -> Arc<dyn Provider>;

    /// Hosts that the launcher has room for.
    fn most_hosts(&self) -> usize;

    /// Whether it takes more than it has room for, and lets them wait.
    fn has_a_queue(&self) -> bool {
        false
    }

    /// Ends a host of the cluster under test from outside, at once.
    fn kill(&self, name: &HostName);
}

pub(crate) fn random_cluster() -> ClusterName {
    format!("test-{:08x}", fastrand::u32(..)).parse().expect("a name")
}

/// A new host of the cluster, as [`HOST`] says: `DIR/NAME` says that it drained, `DIR/NAME.ready` that it would when it is told to.
pub(crate) fn host(cluster: &ClusterName, dir: &Path) -> HostSpec {
    let name = HostName::random(cluster, &mut fastrand::Rng::new());
    let file = dir.join(name.as_str()).display().to_string();
    let arguments = ["-c", HOST, &file, "host", "--name", name.as_str()].map(str::to_owned).to_vec();
    HostSpec { name, vcpus: 1, memory_bytes: 64 << 20, arguments }
}

/// Looks until a host wrote a file.
async fn until_there(file: &Path) {
    let mut looks = tokio::time::interval(BETWEEN_LOOKS);
    let looking = async {
        while !file.exists() {
            looks.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.expect("the host writes it");
}

/// Looks until what is listed is so.
pub(crate) async fn until(provider: &dyn Provider, is_so: impl Fn(&[Listed]) -> bool) -> Vec<Listed> {
    let mut looks = tokio::time::interval(BETWEEN_LOOKS);
    let mut last = Vec::new();
    let looking = async {
        loop {
            looks.tick().await;
            last = provider.list().await.expect("the launcher answers");
            if is_so(&last) {
                return;
            }
        }
    };
    let is_over = tokio::time::timeout(PATIENCE, looking).await.is_err();
    assert!(!is_over, "still {last:?}");
    last
}

fn is_running(listed: &[Listed], name: &HostName) -> bool {
    listed.iter().any(|host| host.name == *name && host.state == HostState::Running)
}

/// The suite.
pub(crate) async fn check(bench: &dyn Bench, cluster: &ClusterName) {
    let files = tempfile::tempdir().expect("a directory");
    let drained = |name: &HostName| files.path().join(name.as_str());
    let spec = |cluster: &ClusterName| host(cluster, files.path());
    let provider = bench.provider(cluster);
    assert_eq!(provider.list().await, Ok(vec![]), "{}", provider.kind());

    // Some are started; one twice.
    let hosts: Vec<HostSpec> = (0..3).map(|_| spec(cluster)).collect();
    for host in hosts.iter().chain(&hosts[..1]) {
        provider.start(host).await.expect("a start");
        let listed = provider.list().await.expect("a list");
        assert!(listed.iter().any(|listed| listed.name == host.name), "what was started is listed: {listed:?}");
    }
    let all_run = |listed: &[Listed]| hosts.iter().all(|host| is_running(listed, &host.name));
    let listed = until(&*provider, all_run).await;
    assert_eq!(listed.len(), 3, "a host that is there is not started again: {listed:?}");

    // Another cluster's are not seen, and not stopped.
    let other = random_cluster();
    let others = bench.provider(&other);
    assert_eq!(others.list().await, Ok(vec![]));
    others.stop(&hosts[0].name).await.expect("a name that it has not");
    assert!(is_running(&provider.list().await.expect("a list"), &hosts[0].name), "it is not the other's");

    // A coordinator that restarts knows them.
    drop(provider);
    let provider = bench.provider(cluster);
    assert_eq!(until(&*provider, all_run).await.len(), 3);

    // Past the limit nothing is started.
    let mut more: Vec<HostSpec> = (3..=bench.most_hosts()).map(|_| spec(cluster)).collect();
    let one_too_many = more.pop().expect("a host");
    for host in &more {
        provider.start(host).await.expect("there is room");
    }
    match bench.has_a_queue() {
        false => {
            let refused = provider.start(&one_too_many).await;
            assert!(matches!(refused, Err(ProviderError::Full(_))), "{refused:?}");
        }
        // One that waits is not submitted again, and may be told to leave before its turn.
        true => {
            until(&*provider, |listed| more.iter().all(|host| is_running(listed, &host.name))).await;
            let waits = |listed: &Listed| listed.name == one_too_many.name && listed.state == HostState::Pending;
            for _ in 0..2 {
                provider.start(&one_too_many).await.expect("a place in the queue");
                let listed = provider.list().await.expect("a list");
                assert!(listed.iter().any(waits) && listed.len() == bench.most_hosts() + 1, "{listed:?}");
            }
            provider.stop(&one_too_many.name).await.expect("a stop");
            until(&*provider, |listed| listed.len() == bench.most_hosts()).await;
        }
    }
    assert!(!drained(&one_too_many.name).exists(), "it never ran");
    assert_eq!(provider.list().await.expect("a list").len(), bench.most_hosts());

    // One that the launcher has just started may not be ready for what follows.
    for host in &hosts {
        until_there(&drained(&host.name).with_extension("ready")).await;
    }

    // One that is stopped drains, and is gone; again and again.
    let first = &hosts[0].name;
    for _ in 0..2 {
        provider.stop(first).await.expect("a stop");
    }
    until(&*provider, |listed| listed.iter().all(|host| host.name != *first)).await;
    assert!(drained(first).exists(), "it had time to drain");
    provider.stop(first).await.expect("none of that name");

    // One that is killed is not taken for running; when it is over, a stop forgets it.
    let second = &hosts[1].name;
    bench.kill(second);
    until(&*provider, |listed| !is_running(listed, second)).await;
    assert!(!drained(second).exists());
    provider.stop(second).await.expect("a stop");
    until(&*provider, |listed| listed.iter().all(|host| host.name != *second)).await;

    // Its name may be given again.
    provider.start(&hosts[1]).await.expect("a start");
    until(&*provider, |listed| is_running(listed, second)).await;

    for host in hosts.iter().chain(&more).chain([&one_too_many]) {
        provider.stop(&host.name).await.expect("a stop");
    }
    until(&*provider, <[Listed]>::is_empty).await;
}
