//! The stand-in's node: containers are processes of this machine.

use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    Pod, PodCondition, PodStatus,
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;

use super::cluster::Cluster;

/// The address of all pods.
const POD_IP: &str = "127.0.0.1";

/// A container that runs.
#[derive(Debug)]
pub(super) struct Process {
    pid: Pid,
    /// Tells it to end within a time; once.
    ending: Option<oneshot::Sender<Duration>>,
}

impl Process {
    pub(super) fn kill(&self) {
        // It may have ended just now.
        let _ = kill_process(self.pid, Signal::KILL);
    }

    pub(super) fn end_within(&mut self, grace: Duration) {
        if let Some(ending) = self.ending.take() {
            // It may have ended just now.
            let _ = ending.send(grace);
        }
    }
}

/// Runs the first container of a pod, if there is a node for it.
pub(super) async fn run(cluster: Arc<Cluster>, name: String, uid: String) {
    let container = cluster.look(&uid, |pod| pod.spec.as_ref().expect("a spec").containers[0].clone());
    let Some(container) = container else { return };
    if !cluster.has_nodes() {
        let condition = condition("False", Some("Unschedulable"), Some("0/3 nodes are available: 3 Insufficient cpu."));
        cluster.change(&uid, |pod| status(pod).conditions = Some(vec![condition]));
        return;
    }
    cluster.change(&uid, |pod| {
        pod.spec.as_mut().expect("a spec").node_name = Some("node-1".to_owned());
        status(pod).conditions = Some(vec![condition("True", None, None)]);
    });
    let program = match container.image.as_deref() {
        Some("sh") => "/bin/sh",
        _ => {
            let waiting = ContainerStateWaiting { reason: Some("ImagePullBackOff".to_owned()), ..Default::default() };
            let waiting = ContainerState { waiting: Some(waiting), ..ContainerState::default() };
            cluster.change(&uid, |pod| show(pod, &container, waiting));
            return;
        }
    };
    let arguments = container.args.iter().flatten().map(|argument| expanded(argument));
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true).process_group(0);
    let mut child = command.spawn().expect("a process");
    let (sender, ending) = oneshot::channel();
    let process = Process { pid: pid(&child), ending: Some(sender) };
    if !cluster.begins(&uid, process) {
        return;
    }
    cluster.change(&uid, |pod| {
        let running = ContainerState { running: Some(ContainerStateRunning::default()), ..ContainerState::default() };
        show(pod, &container, running);
        let status = status(pod);
        (status.phase, status.pod_ip) = (Some("Running".to_owned()), Some(POD_IP.to_owned()));
    });
    let ended = tokio::select! {
        ended = child.wait() => ended,
        Ok(grace) = ending => ended_within(&mut child, grace).await,
    };
    cluster.ended(&name, &uid, |pod| has_ended(pod, &container, ended.expect("a status")));
}

async fn ended_within(child: &mut Child, grace: Duration) -> std::io::Result<ExitStatus> {
    // It was not waited for: the number is still its own.
    let _ = kill_process(pid(child), Signal::TERM);
    match tokio::time::timeout(grace, child.wait()).await {
        Ok(ended) => ended,
        Err(_) => {
            child.start_kill().expect("it runs");
            child.wait().await
        }
    }
}

fn pid(child: &Child) -> Pid {
    let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    pid.expect("it was not waited for")
}

/// `$(NAME)` is the value of a variable, if there is one, and `$$` a `$`.
fn expanded(argument: &str) -> String {
    let parts = argument.split("$$").map(|part| part.replace("$(POD_IP)", POD_IP));
    parts.collect::<Vec<_>>().join("$")
}

fn status(pod: &mut Pod) -> &mut PodStatus {
    pod.status.get_or_insert_default()
}

fn condition(is_so: &str, reason: Option<&str>, message: Option<&str>) -> PodCondition {
    PodCondition {
        type_: "PodScheduled".to_owned(),
        status: is_so.to_owned(),
        reason: reason.map(str::to_owned),
        message: message.map(str::to_owned),
        ..PodCondition::default()
    }
}

fn show(pod: &mut Pod, container: &Container, state: ContainerState) {
    status(pod).container_statuses = Some(vec![ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        state: Some(state),
        ..ContainerStatus::default()
    }]);
}

fn has_ended(pod: &mut Pod, container: &Container, ended: ExitStatus) {
    let exit_code = ended.code().unwrap_or_else(|| 128 + ended.signal().unwrap_or_default());
    let (phase, reason) = match exit_code {
        0 => ("Succeeded", "Completed"),
        _ => ("Failed", "Error"),
    };
    let terminated = ContainerStateTerminated { exit_code, reason: Some(reason.to_owned()), ..Default::default() };
    show(pod, container, ContainerState { terminated: Some(terminated), ..ContainerState::default() });
    status(pod).phase = Some(phase.to_owned());
}
