//! The pod of a host, as it is asked for.

use std::collections::BTreeMap;

use k8s_openapi::DeepMerge;
use k8s_openapi::api::core::v1::{
    Capabilities, Container, EmptyDirVolumeSource, EnvVar, EnvVarSource, ObjectFieldSelector, Pod, PodSecurityContext,
    PodSpec, ResourceRequirements, SeccompProfile, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::KubernetesOptions;
use crate::{ClusterName, HostSpec};

/// The container that the host runs in.
pub(super) const CONTAINER: &str = "host";
/// Hosts and their functions share memory there; container runtimes give 64 MiB.
const SHARED_MEMORY: &str = "/dev/shm";

/// Labels that all hosts of a cluster have, and no other pod.
fn labels(cluster: &ClusterName) -> [(&'static str, String); 4] {
    [
        ("app.kubernetes.io/name", "onward".to_owned()),
        ("app.kubernetes.io/component", "host".to_owned()),
        ("app.kubernetes.io/instance", cluster.to_string()),
        ("app.kubernetes.io/managed-by", "onward".to_owned()),
    ]
}

/// What selects them.
pub(super) fn selector(cluster: &ClusterName) -> String {
    labels(cluster).map(|(name, value)| format!("{name}={value}")).join(",")
}

/// Whether a pod has the labels of a host of this cluster.
pub(super) fn is_host(pod: &Pod, cluster: &ClusterName) -> bool {
    let has = pod.metadata.labels.as_ref();
    labels(cluster).iter().all(|(name, value)| has.and_then(|has| has.get(*name)) == Some(value))
}

/// The pod of a host: what hosts have by default, under what the template says, under what makes it this host.
pub(super) fn of(options: &KubernetesOptions, host: &HostSpec, owner: Option<OwnerReference>) -> Pod {
    let mut pod = defaults(host);
    pod.merge_from(options.template.pod());
    pod.merge_from(this_host(options, host, owner));
    pod
}

fn bytes(bytes: u64) -> Quantity {
    Quantity(bytes.to_string())
}

/// Without privileges, and with memory to share. What it writes there counts as memory of the container.
fn defaults(host: &HostSpec) -> Pod {
    let volume = "shared-memory".to_owned();
    let memory = EmptyDirVolumeSource { medium: Some("Memory".to_owned()), size_limit: Some(bytes(host.memory_bytes)) };
    let container = Container {
        name: CONTAINER.to_owned(),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), ..Capabilities::default() }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(vec![VolumeMount {
            name: volume.clone(),
            mount_path: SHARED_MEMORY.to_owned(),
            ..VolumeMount::default()
        }]),
        ..Container::default()
    };
    let spec = PodSpec {
        // Hosts do not talk to the API server.
        automount_service_account_token: Some(false),
        // A service called `onward` would set `ONWARD_PORT`, which reads like a setting.
        enable_service_links: Some(false),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
            ..PodSecurityContext::default()
        }),
        containers: vec![container],
        volumes: Some(vec![Volume { name: volume, empty_dir: Some(memory), ..Volume::default() }]),
        ..PodSpec::default()
    };
    Pod { spec: Some(spec), ..Pod::default() }
}

fn this_host(options: &KubernetesOptions, host: &HostSpec, owner: Option<OwnerReference>) -> Pod {
    // Requests as limits: the node keeps for the host what the host was told that it has.
    let resources = BTreeMap::from([
        ("cpu".to_owned(), Quantity(host.vcpus.to_string())),
        ("memory".to_owned(), bytes(host.memory_bytes)),
    ]);
    let container = Container {
        name: CONTAINER.to_owned(),
        image: Some(options.image.clone()),
        // Kubernetes puts variables in the places of `$(NAME)`: `$(POD_IP)` is where others find this host.
        args: Some(host.arguments.clone()),
        env: Some(vec![pod_ip()]),
        resources: Some(ResourceRequirements {
            requests: Some(resources.clone()),
            limits: Some(resources),
            ..ResourceRequirements::default()
        }),
        ..Container::default()
    };
    let grace = options.grace.as_millis().div_ceil(1_000).max(1);
    let spec = PodSpec {
        restart_policy: Some("Never".to_owned()),
        termination_grace_period_seconds: Some(i64::try_from(grace).unwrap_or(i64::MAX)),
        containers: vec![container],
        ..PodSpec::default()
    };
    let metadata = ObjectMeta {
        name: Some(host.name.to_string()),
        labels: Some(labels(&options.cluster).into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
        owner_references: owner.map(|owner| vec![owner]),
        ..ObjectMeta::default()
    };
    Pod { metadata, spec: Some(spec), status: None }
}

fn pod_ip() -> EnvVar {
    let field = ObjectFieldSelector { field_path: "status.podIP".to_owned(), api_version: None };
    let from = EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() };
    EnvVar { name: "POD_IP".to_owned(), value_from: Some(from), ..EnvVar::default() }
}
