//! Against a stand-in for an API server.

mod access;
mod faults;
mod hosts;
mod standin;

use std::time::Duration;

use kube::Config;
use tokio::sync::OnceCell;

use self::standin::{NAMESPACE, Standin};
use super::{Connection, Kubernetes, KubernetesOptions, PodTemplate};
use crate::{ClusterName, HostName, HostSpec, HostState, Listed};

/// However slow the machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn options(cluster: &ClusterName) -> KubernetesOptions {
    KubernetesOptions {
        cluster: cluster.clone(),
        namespace: Some(NAMESPACE.to_owned()),
        image: "sh".to_owned(),
        template: PodTemplate::default(),
        owner: None,
        grace: Duration::from_secs(20),
        timeout: PATIENCE,
    }
}

/// Instead of what the environment says.
fn connected(options: KubernetesOptions, config: Config) -> Kubernetes {
    let connection = Connection::new(&options, config).expect("a client");
    Kubernetes { connection: OnceCell::new_with(Some(connection)), ..Kubernetes::new(options) }
}

fn provider(standin: &Standin, options: KubernetesOptions) -> Kubernetes {
    let url = format!("http://{}", standin.address).parse().expect("a URL");
    connected(options, Config::new(url))
}

/// Looks until it is so.
async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    let mut looks = tokio::time::interval(Duration::from_millis(5));
    let looking = async {
        while !is_so().await {
            looks.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.expect("it becomes so");
}

fn cluster() -> ClusterName {
    "blue".parse().expect("a name")
}

/// A host that runs a script.
fn spec(cluster: &ClusterName, script: &str) -> HostSpec {
    let name = HostName::random(cluster, &mut fastrand::Rng::new());
    HostSpec { name, vcpus: 2, memory_bytes: 64 << 20, arguments: vec!["-c".to_owned(), script.to_owned()] }
}

fn is_running(listed: &[Listed]) -> bool {
    listed.iter().any(|host| host.state == HostState::Running)
}
