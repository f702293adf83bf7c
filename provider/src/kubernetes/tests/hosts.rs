//! What hosts are, and what becomes of them.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::standin::Standin;
use super::{cluster, is_running, options, provider, spec, until};
use crate::conformance::{self, Bench};
use crate::kubernetes::{KubernetesOptions, Owner, PodTemplate};
use crate::{ClusterName, HostName, HostState, Listed, Provider, ProviderError};

impl Bench for Standin {
    fn provider(&self, cluster: &ClusterName) -> Arc<dyn Provider> {
        Arc::new(provider(self, options(cluster)))
    }

    fn most_hosts(&self) -> usize {
        4
    }

    fn kill(&self, name: &HostName) {
        self.cluster.kill(name.as_str());
    }
}

async fn until_there_are_no_processes(standin: &Standin) {
    until(async || standin.cluster.processes() == 0).await;
}

#[tokio::test]
async fn pods_conform() {
    let standin = Standin::start(None).await;
    standin.cluster.rule(|rules| rules.quota = 4);
    conformance::check(&standin, &conformance::random_cluster()).await;
}

#[tokio::test]
async fn pods_conform_with_watches_that_end_and_forget() {
    let standin = Standin::start(None).await;
    standin.cluster.rule(|rules| (rules.quota, rules.watch_limit) = (4, Duration::from_millis(30)));
    let cluster = Arc::clone(&standin.cluster);
    let forgetting = async {
        let mut looks = tokio::time::interval(Duration::from_millis(70));
        loop {
            looks.tick().await;
            cluster.forget();
        }
    };
    let name = conformance::random_cluster();
    tokio::select! {
        () = conformance::check(&standin, &name) => {}
        () = forgetting => {}
    }
}

#[tokio::test]
async fn a_pod_is_what_the_host_and_the_template_say() {
    let standin = Standin::start(None).await;
    standin.cluster.rule(|rules| drop(rules.stateful_sets.insert("onward".to_owned(), "set-1".to_owned())));
    let template = "
metadata:
  labels: {team: data, app.kubernetes.io/component: coordinator}
  annotations: {sidecar.istio.io/inject: 'false'}
spec:
  runtimeClassName: gvisor
  serviceAccountName: reader
  nodeSelector: {disk: ssd}
  tolerations: [{key: spot, operator: Exists}]
  securityContext: {runAsUser: 1000}
  restartPolicy: Always
  containers:
  - name: host
    env: [{name: AWS_REGION, value: eu-central-1}]
    resources: {limits: {cpu: 1, ephemeral-storage: 10Gi}}
    volumeMounts: [{name: spill, mountPath: /spill}]
  volumes: [{name: spill, emptyDir: {}}]
";
    let template: PodTemplate = template.parse().expect("a template");
    let owner: Owner = "apps/v1/StatefulSet/onward".parse().expect("an owner");
    let grace = Duration::from_millis(20_001);
    let options = KubernetesOptions { template, owner: Some(owner), grace, ..options(&cluster()) };
    let provider = provider(&standin, options);
    let host = spec(&cluster(), "exec tail -f /dev/null");
    provider.start(&host).await.expect("a start");
    let pod = standin.cluster.pod(host.name.as_str()).expect("a pod");
    let shown = serde_json::to_value(&pod).expect("JSON");
    let is = |path: &str, value: Value| assert_eq!(shown.pointer(path), Some(&value), "{path} of {shown:#}");
    is(
        "/metadata/labels",
        json!({
            "app.kubernetes.io/name": "onward",
            "app.kubernetes.io/component": "host",
            "app.kubernetes.io/instance": "blue",
            "app.kubernetes.io/managed-by": "onward",
            "team": "data",
        }),
    );
    is("/metadata/annotations", json!({"sidecar.istio.io/inject": "false"}));
    let owner = json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "onward", "uid": "set-1"}]);
    is("/metadata/ownerReferences", owner);
    is("/spec/runtimeClassName", json!("gvisor"));
    is("/spec/serviceAccountName", json!("reader"));
    is("/spec/restartPolicy", json!("Never"));
    is("/spec/terminationGracePeriodSeconds", json!(21));
    is("/spec/enableServiceLinks", json!(false));
    let profile = json!({"type": "RuntimeDefault"});
    is("/spec/securityContext", json!({"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": profile}));
    is("/spec/containers/0/args", json!(host.arguments));
    let requests = json!({"cpu": "2", "memory": "67108864"});
    let limits = json!({"cpu": "2", "memory": "67108864", "ephemeral-storage": "10Gi"});
    is("/spec/containers/0/resources", json!({"requests": requests, "limits": limits}));
    is("/spec/containers/0/volumeMounts/0/mountPath", json!("/dev/shm"));
    is("/spec/containers/0/volumeMounts/1/mountPath", json!("/spill"));
    is("/spec/containers/0/env/0/name", json!("AWS_REGION"));
    is("/spec/containers/0/env/1/valueFrom/fieldRef/fieldPath", json!("status.podIP"));
    is("/spec/volumes/0/emptyDir", json!({"medium": "Memory", "sizeLimit": "67108864"}));
    provider.stop(&host.name).await.expect("a stop");
    until_there_are_no_processes(&standin).await;
}

#[tokio::test]
async fn a_host_is_told_where_its_pod_is() {
    let standin = Standin::start(None).await;
    let provider = provider(&standin, options(&cluster()));
    let host = spec(&cluster(), "test $(POD_IP) = 127.0.0.1 && exit 7");
    provider.start(&host).await.expect("a start");
    let over = HostState::Over { reason: "Error, exit code 7".to_owned() };
    conformance::until(&provider, |listed| listed.iter().any(|host| host.state == over)).await;
}

#[tokio::test]
async fn what_ends_a_host_is_said_and_its_name_is_free_again() {
    let standin = Standin::start(None).await;
    let provider = provider(&standin, options(&cluster()));
    let host = spec(&cluster(), "exec tail -f /dev/null");
    provider.start(&host).await.expect("a start");
    conformance::until(&provider, is_running).await;
    standin.cluster.evict(host.name.as_str());
    let over = HostState::Over { reason: "Evicted: The node was low on resource: memory.".to_owned() };
    conformance::until(&provider, |listed| listed.iter().any(|host| host.state == over)).await;
    // The pod that is over makes room.
    provider.start(&host).await.expect("a start");
    conformance::until(&provider, is_running).await;
    provider.stop(&host.name).await.expect("a stop");
    conformance::until(&provider, <[Listed]>::is_empty).await;
    assert_eq!(standin.cluster.requests("create"), 3, "the second start was refused once");
    until_there_are_no_processes(&standin).await;
}

#[tokio::test]
async fn a_host_that_does_not_leave_is_killed() {
    let standin = Standin::start(None).await;
    let provider = provider(&standin, KubernetesOptions { grace: Duration::from_millis(20), ..options(&cluster()) });
    let host = spec(&cluster(), "trap '' TERM; while :; do sleep 0.02; done");
    provider.start(&host).await.expect("a start");
    conformance::until(&provider, is_running).await;
    provider.stop(&host.name).await.expect("a stop");
    // The same name: it is there, and is left alone.
    provider.start(&host).await.expect("a start");
    assert_eq!(standin.cluster.requests("get"), 1);
    conformance::until(&provider, <[Listed]>::is_empty).await;
    until_there_are_no_processes(&standin).await;
}

#[tokio::test]
async fn a_host_without_a_place_or_an_image_is_pending_and_leaves_at_once() {
    let standin = Standin::start(None).await;
    standin.cluster.rule(|rules| rules.has_nodes = false);
    let without_place = provider(&standin, options(&cluster()));
    let host = spec(&cluster(), "exit 0");
    without_place.start(&host).await.expect("a start");
    let pending = vec![Listed { name: host.name.clone(), state: HostState::Pending }];
    assert_eq!(without_place.list().await, Ok(pending.clone()));
    without_place.stop(&host.name).await.expect("a stop");
    conformance::until(&without_place, <[Listed]>::is_empty).await;
    standin.cluster.rule(|rules| rules.has_nodes = true);
    let without_image = provider(&standin, KubernetesOptions { image: "none".to_owned(), ..options(&cluster()) });
    without_image.start(&host).await.expect("a start");
    assert_eq!(without_image.list().await, Ok(pending));
}

#[tokio::test]
async fn a_host_whose_node_is_lost_is_given_up() {
    let standin = Standin::start(None).await;
    let provider = provider(&standin, options(&cluster()));
    let host = spec(&cluster(), "exec tail -f /dev/null");
    provider.start(&host).await.expect("a start");
    conformance::until(&provider, is_running).await;
    standin.cluster.rule(|rules| rules.is_node_there = false);
    for _ in 0..2 {
        provider.stop(&host.name).await.expect("a stop");
        assert!(is_running(&provider.list().await.expect("a list")), "nobody says that it ended");
    }
    let long_ago = |pod: &mut Pod| {
        let at = pod.metadata.deletion_timestamp.as_mut().expect("it is to leave");
        at.0 -= Duration::from_secs(120);
    };
    standin.cluster.edit(host.name.as_str(), long_ago);
    provider.stop(&host.name).await.expect("a stop");
    conformance::until(&provider, <[Listed]>::is_empty).await;
    until_there_are_no_processes(&standin).await;
}

#[tokio::test]
async fn a_pod_that_is_no_host_is_not_touched() {
    let standin = Standin::start(None).await;
    let provider = provider(&standin, options(&cluster()));
    let host = spec(&cluster(), "exit 0");
    let metadata = json!({"name": host.name.as_str(), "uid": "1", "labels": {"app.kubernetes.io/name": "other"}});
    standin.cluster.put(serde_json::from_value(json!({ "metadata": metadata })).expect("a pod"));
    let failed = ProviderError::Failed(format!("the pod `{}` in namespace `queries` is no host", host.name));
    assert_eq!(provider.start(&host).await, Err(failed));
    assert_eq!(provider.list().await, Ok(vec![]));
}

#[tokio::test]
async fn a_thousand_hosts_are_read_once() {
    let standin = Standin::start(None).await;
    let provider = provider(&standin, options(&cluster()));
    let host = spec(&cluster(), "exec tail -f /dev/null");
    provider.start(&host).await.expect("a start");
    assert_eq!(provider.list().await.expect("a list").len(), 1);
    let pod = standin.cluster.pod(host.name.as_str()).expect("a pod");
    for at in 0..1_200 {
        let mut pod = pod.clone();
        (pod.metadata.name, pod.metadata.uid) = (Some(format!("onward-blue-{at:08x}")), Some(format!("put-{at}")));
        standin.cluster.put(pod);
    }
    let again = super::provider(&standin, options(&cluster()));
    for _ in 0..50 {
        assert_eq!(again.list().await.expect("a list").len(), 1_201);
    }
    assert_eq!(standin.cluster.requests("list"), 4, "three pages, and one of the instance before");
    conformance::until(&provider, |listed| listed.len() == 1_201).await;
    provider.stop(&host.name).await.expect("a stop");
    until_there_are_no_processes(&standin).await;
}
