//! What API servers check of a pod before they take it.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, EnvVar, Pod, PodSpec, Volume};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Fields of a pod that its containers may be told.
const FIELDS: [&str; 6] =
    ["metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "status.podIP", "status.hostIP"];

/// What is wrong with it, with the paths that API servers name.
pub(super) fn problems(pod: &Pod) -> Vec<String> {
    let mut problems = Vec::new();
    check_metadata(&pod.metadata, &mut problems);
    match &pod.spec {
        Some(spec) => check_spec(spec, &mut problems),
        None => problems.push("spec: Required value".to_owned()),
    }
    problems
}

/// What the Pod Security Standard `restricted` does not allow.
pub(super) fn violations(spec: &PodSpec) -> Vec<String> {
    let mut violations = Vec::new();
    let mut demand = |is_so: bool, what: &str| {
        if !is_so {
            violations.push(what.to_owned());
        }
    };
    let pod = spec.security_context.as_ref();
    demand(pod.and_then(|pod| pod.run_as_non_root) == Some(true), "runAsNonRoot != true");
    let profile = pod.and_then(|pod| pod.seccomp_profile.as_ref());
    demand(profile.is_some_and(|profile| profile.type_ == "RuntimeDefault"), "seccompProfile");
    for container in &spec.containers {
        let context = container.security_context.as_ref();
        let drops = context.and_then(|context| context.capabilities.as_ref()?.drop.clone()).unwrap_or_default();
        demand(drops.iter().any(|capability| capability == "ALL"), "unrestricted capabilities");
        let may_escalate = context.and_then(|context| context.allow_privilege_escalation);
        demand(may_escalate == Some(false), "allowPrivilegeEscalation != false");
    }
    let volumes = spec.volumes.iter().flatten();
    demand(volumes.into_iter().all(|volume| volume.host_path.is_none()), "hostPath volumes");
    violations
}

/// A label of DNS (RFC 1123).
fn is_label(text: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| is_letter(byte) || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Labels of DNS with dots between them.
fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

/// The name of a label of an object, without its prefix, or its value.
fn is_word(text: &str) -> bool {
    let is_end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    text.len() <= 63
        && is_end(bytes.first())
        && is_end(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

fn check_metadata(metadata: &ObjectMeta, problems: &mut Vec<String>) {
    let name = metadata.name.as_deref().unwrap_or_default();
    if !is_subdomain(name) {
        problems.push(format!("metadata.name: Invalid value: `{name}`"));
    }
    for (key, value) in metadata.labels.iter().flatten() {
        let is_key = match key.split_once('/') {
            Some((prefix, word)) => is_subdomain(prefix) && is_word(word),
            None => is_word(key),
        };
        if !is_key || !(value.is_empty() || is_word(value)) {
            problems.push(format!("metadata.labels: Invalid value: `{key}={value}`"));
        }
    }
    for (at, owner) in metadata.owner_references.iter().flatten().enumerate() {
        if [&owner.api_version, &owner.kind, &owner.name, &owner.uid].iter().any(|text| text.is_empty()) {
            problems.push(format!("metadata.ownerReferences[{at}]: must not be empty"));
        }
    }
}

fn check_spec(spec: &PodSpec, problems: &mut Vec<String>) {
    let policy = spec.restart_policy.as_deref();
    if !matches!(policy, None | Some("Always" | "OnFailure" | "Never")) {
        problems.push(format!("spec.restartPolicy: Unsupported value: {policy:?}"));
    }
    if spec.termination_grace_period_seconds.is_some_and(|seconds| seconds < 0) {
        problems.push("spec.terminationGracePeriodSeconds: must be greater than or equal to 0".to_owned());
    }
    let mut volumes = BTreeSet::new();
    for volume in spec.volumes.iter().flatten() {
        check_volume(volume, problems);
        if !volumes.insert(volume.name.as_str()) {
            problems.push(format!("spec.volumes: Duplicate value: `{}`", volume.name));
        }
    }
    if spec.containers.is_empty() {
        problems.push("spec.containers: Required value".to_owned());
    }
    let mut names = BTreeSet::new();
    for container in &spec.containers {
        if !names.insert(&container.name) {
            problems.push(format!("spec.containers: Duplicate value: `{}`", container.name));
        }
        check_container(container, &volumes, problems);
    }
}

fn check_volume(volume: &Volume, problems: &mut Vec<String>) {
    let path = format!("spec.volumes[{}]", volume.name);
    if !is_label(&volume.name) {
        problems.push(format!("{path}.name: Invalid value"));
    }
    let sources = serde_json::to_value(volume).expect("JSON").as_object().expect("an object").len() - 1;
    if sources != 1 {
        problems.push(format!("{path}: must have one volume type, has {sources}"));
    }
    if let Some(memory) = &volume.empty_dir {
        if !matches!(memory.medium.as_deref(), None | Some("" | "Memory")) {
            problems.push(format!("{path}.emptyDir.medium: Unsupported value: {:?}", memory.medium));
        }
        if memory.size_limit.as_ref().is_some_and(|limit| thousandths(limit).is_none()) {
            problems.push(format!("{path}.emptyDir.sizeLimit: Invalid value"));
        }
    }
}

fn check_container(container: &Container, volumes: &BTreeSet<&str>, problems: &mut Vec<String>) {
    let path = format!("spec.containers[{}]", container.name);
    if !is_label(&container.name) {
        problems.push(format!("{path}.name: Invalid value"));
    }
    if container.image.as_deref().is_none_or(|image| image.trim() != image || image.is_empty()) {
        problems.push(format!("{path}.image: Required value"));
    }
    let mut mounts = BTreeSet::new();
    for mount in container.volume_mounts.iter().flatten() {
        if !volumes.contains(mount.name.as_str()) {
            problems.push(format!("{path}.volumeMounts: Not found: `{}`", mount.name));
        }
        if mount.mount_path.is_empty() || !mounts.insert(&mount.mount_path) {
            problems.push(format!("{path}.volumeMounts: must be unique: `{}`", mount.mount_path));
        }
    }
    for variable in container.env.iter().flatten() {
        check_variable(variable, &path, problems);
    }
    let none = BTreeMap::new();
    let resources = container.resources.clone().unwrap_or_default();
    let (requests, limits) = (resources.requests.as_ref().unwrap_or(&none), resources.limits.as_ref().unwrap_or(&none));
    for (name, quantity) in requests.iter().chain(limits) {
        let Some(amount) = thousandths(quantity) else {
            problems.push(format!("{path}.resources: `{}` is no quantity", quantity.0));
            continue;
        };
        if limits.get(name).and_then(thousandths).is_some_and(|limit| amount > limit) {
            problems.push(format!("{path}.resources.requests: must be less than or equal to {name} limit"));
        }
        if amount == 0 && name == "memory" {
            problems.push(format!("{path}.resources: memory must be greater than 0"));
        }
    }
    let context = container.security_context.clone().unwrap_or_default();
    if context.privileged == Some(true) && context.allow_privilege_escalation == Some(false) {
        problems.push(format!(
            "{path}.securityContext: cannot set `allowPrivilegeEscalation` to false and `privileged` to true"
        ));
    }
}

fn check_variable(variable: &EnvVar, container: &str, problems: &mut Vec<String>) {
    let path = format!("{container}.env[{}]", variable.name);
    if variable.name.is_empty() || variable.name.contains('=') {
        problems.push(format!("{path}.name: Invalid value"));
    }
    let Some(from) = &variable.value_from else { return };
    if variable.value.as_ref().is_some_and(|value| !value.is_empty()) {
        problems.push(format!("{path}.valueFrom: may not be specified when `value` is not empty"));
    }
    if from.field_ref.as_ref().is_some_and(|field| !FIELDS.contains(&field.field_path.as_str())) {
        problems.push(format!("{path}.valueFrom.fieldRef.fieldPath: Unsupported value"));
    }
}

/// A quantity, in thousandths. `None`: it is none, or negative.
fn thousandths(quantity: &Quantity) -> Option<u128> {
    let text = quantity.0.as_str();
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let unit = match suffix {
        "m" => 1,
        "" => 1_000,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "Ki" => 1_000 << 10,
        "Mi" => 1_000 << 20,
        "Gi" => 1_000 << 30,
        _ => return None,
    };
    Some(number.parse::<u128>().ok()? * unit)
}
