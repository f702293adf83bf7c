//! What a pod's status says of the host in it.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod, PodStatus};
use k8s_openapi::jiff::Timestamp;

use super::pod::CONTAINER;
use crate::HostState;

/// A pod that should have ended this long ago has no node that could say so. Clocks of machines differ by less.
const OVERDUE: Duration = Duration::from_secs(60);

/// Where the host is. One that is leaving runs until it has ended; one whose container has ended is over, whatever else runs in the pod.
pub(super) fn of(pod: &Pod) -> HostState {
    let Some(status) = &pod.status else { return HostState::Pending };
    let terminated = terminated(status);
    match status.phase.as_deref() {
        Some("Succeeded" | "Failed") => HostState::Over { reason: reason(status, terminated) },
        _ if terminated.is_some() => HostState::Over { reason: reason(status, terminated) },
        None | Some("Pending") => HostState::Pending,
        // `Unknown` too: its node does not answer, and it may well run.
        Some(_) => HostState::Running,
    }
}

/// Whether its node had more than enough time to say that it ended.
pub(super) fn is_overdue(pod: &Pod) -> bool {
    let deadline = pod.metadata.deletion_timestamp.as_ref();
    deadline
        .is_some_and(|deadline| Timestamp::now().duration_since(deadline.0) > OVERDUE.try_into().unwrap_or_default())
}

/// Why a pod that has not begun to run has not, if it is more than a matter of time.
pub(super) fn obstacle(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref().filter(|_| of(pod) == HostState::Pending)?;
    let conditions = status.conditions.iter().flatten();
    let unscheduled =
        conditions.into_iter().find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    if let Some(condition) = unscheduled {
        return Some(said(condition.reason.as_deref(), condition.message.as_deref()));
    }
    let states = status.container_statuses.iter().flatten().filter_map(|container| container.state.as_ref());
    let waiting = states
        .filter_map(|state| state.waiting.as_ref())
        .find(|waiting| !matches!(waiting.reason.as_deref(), None | Some("ContainerCreating" | "PodInitializing")))?;
    Some(said(waiting.reason.as_deref(), waiting.message.as_deref()))
}

fn terminated(status: &PodStatus) -> Option<&ContainerStateTerminated> {
    let mut containers = status.container_statuses.iter().flatten();
    containers.find(|container| container.name == CONTAINER)?.state.as_ref()?.terminated.as_ref()
}

/// Of the pod (`Evicted: ...`), else of its container (`OOMKilled, exit code 137`).
fn reason(status: &PodStatus, terminated: Option<&ContainerStateTerminated>) -> String {
    if status.reason.is_some() || status.message.is_some() {
        return said(status.reason.as_deref(), status.message.as_deref());
    }
    match terminated {
        Some(ended) => format!("{}, exit code {}", ended.reason.as_deref().unwrap_or("it ended"), ended.exit_code),
        None => "its pod ended".to_owned(),
    }
}

fn said(reason: Option<&str>, message: Option<&str>) -> String {
    [reason, message].into_iter().flatten().collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(status: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({ "status": status })).expect("a pod")
    }

    #[test]
    fn a_pod_is_over_when_its_host_is_and_says_why() {
        let ended = |name: &str| {
            let state = serde_json::json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
            serde_json::json!([{"name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}])
        };
        for (status, expected) in [
            (serde_json::json!({}), HostState::Pending),
            (serde_json::json!({"phase": "Pending"}), HostState::Pending),
            (serde_json::json!({"phase": "Running"}), HostState::Running),
            (serde_json::json!({"phase": "Unknown", "reason": "NodeLost"}), HostState::Running),
            (serde_json::json!({"phase": "Running", "containerStatuses": ended("proxy")}), HostState::Running),
        ] {
            assert_eq!(of(&pod(status.clone())), expected, "{status}");
        }
        for (status, expected) in [
            (
                serde_json::json!({"phase": "Failed", "reason": "Evicted", "message": "low on memory"}),
                "Evicted: low on memory",
            ),
            (serde_json::json!({"phase": "Failed", "containerStatuses": ended("host")}), "OOMKilled, exit code 137"),
            (serde_json::json!({"phase": "Running", "containerStatuses": ended("host")}), "OOMKilled, exit code 137"),
            (serde_json::json!({"phase": "Succeeded"}), "its pod ended"),
        ] {
            assert_eq!(of(&pod(status.clone())), HostState::Over { reason: expected.to_owned() }, "{status}");
        }
    }

    #[test]
    fn what_keeps_a_pod_from_running_is_told() {
        let condition = serde_json::json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}]);
        assert_eq!(
            obstacle(&pod(serde_json::json!({ "conditions": condition }))).as_deref(),
            Some("Unschedulable: 0/3 nodes")
        );
        let waiting = |reason: &str| {
            let state = serde_json::json!({"waiting": {"reason": reason}});
            let container = serde_json::json!({"name": "host", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state});
            pod(serde_json::json!({"containerStatuses": [container]}))
        };
        assert_eq!(obstacle(&waiting("ImagePullBackOff")).as_deref(), Some("ImagePullBackOff"));
        assert_eq!(obstacle(&waiting("ContainerCreating")), None, "it takes its time");
    }

    #[test]
    fn a_pod_is_overdue_long_after_its_grace_period() {
        let deleted = |seconds_ago: i64| {
            let at = Timestamp::from_second(Timestamp::now().as_second() - seconds_ago).expect("a time");
            serde_json::from_value::<Pod>(serde_json::json!({"metadata": {"deletionTimestamp": at.to_string()}}))
                .expect("a pod")
        };
        assert!(!is_overdue(&Pod::default()) && !is_overdue(&deleted(-30)) && !is_overdue(&deleted(50)));
        assert!(is_overdue(&deleted(90)));
    }
}
