//! What goes wrong between a coordinator and an API server.

use std::time::Duration;

use serde_json::json;

use super::standin::{Fault, Standin};
use super::{cluster, is_running, options, provider, spec, until};
use crate::conformance;
use crate::kubernetes::{Kubernetes, KubernetesOptions, Owner};
use crate::{Listed, Provider, ProviderError};

const SHORT: Duration = Duration::from_millis(500);

fn failed<T>(result: Result<T, ProviderError>) -> String {
    match result {
        Err(ProviderError::Failed(why)) => why,
        Err(ProviderError::Full(why)) => panic!("full: {why}"),
        Ok(_) => panic!("it worked"),
    }
}

/// How the list fails, as soon as it does.
async fn until_it_fails(provider: &Kubernetes) -> String {
    let mut why = None;
    until(async || {
        why = provider.list().await.err();
        why.is_some()
    })
    .await;
    failed::<()>(why.map_or(Ok(()), Err))
}

#[tokio::test]
async fn a_watch_that_the_server_forgot_or_cut_is_begun_again() {
    let standin = Standin::start(None).await;
    let (here, there) = (provider(&standin, options(&cluster())), provider(&standin, options(&cluster())));
    assert_eq!(here.list().await, Ok(vec![]));
    for is_gone_a_status in [false, true] {
        standin.cluster.rule(|rules| rules.is_gone_a_status = is_gone_a_status);
        // What happens while nothing is heard is known afterwards, whether it is still told or has to be read.
        for is_forgotten in [false, true] {
            standin.cluster.fail_once("watch", Fault::Refuse(503, "ServiceUnavailable", "no leader"));
            standin.cluster.cut_watches();
            let host = spec(&cluster(), "exec tail -f /dev/null");
            there.start(&host).await.expect("a start");
            if is_forgotten {
                standin.cluster.forget();
            }
            let listed = conformance::until(&here, is_running).await;
            assert_eq!(listed.len(), 1);
            there.stop(&host.name).await.expect("a stop");
            conformance::until(&here, <[Listed]>::is_empty).await;
        }
    }
}

#[tokio::test]
async fn bookmarks_keep_quiet_watches_from_being_forgotten() {
    let standin = Standin::start(None).await;
    standin.cluster.rule(|rules| rules.watch_limit = Duration::from_millis(20));
    let provider = provider(&standin, options(&cluster()));
    assert_eq!(provider.list().await, Ok(vec![]));
    for at in 0..5 {
        // Of somebody else: no event of ours tells how far the server is.
        let metadata = json!({"name": format!("other-{at}"), "uid": format!("other-{at}")});
        standin.cluster.put(serde_json::from_value(json!({ "metadata": metadata })).expect("a pod"));
        let watches = standin.cluster.requests("watch");
        until(async || standin.cluster.requests("watch") >= watches + 2).await;
        standin.cluster.forget();
    }
    assert_eq!(standin.cluster.requests("list"), 1);
}

#[tokio::test]
async fn a_list_is_never_older_than_a_broken_watch_may_be() {
    let standin = Standin::start(None).await;
    let provider = provider(&standin, KubernetesOptions { timeout: SHORT, ..options(&cluster()) });
    until(async || provider.list().await == Ok(vec![])).await;
    for verb in ["list", "watch"] {
        standin.cluster.fail(verb, Fault::Refuse(500, "InternalError", "etcdserver: no leader"));
    }
    standin.cluster.cut_watches();
    let why = until_it_fails(&provider).await;
    assert_eq!(why, "cannot list pods in namespace `queries`: etcdserver: no leader");
    standin.cluster.heal();
    until(async || provider.list().await.is_ok()).await;
}

#[tokio::test]
async fn what_was_started_is_waited_for_when_the_watch_is_late() {
    let standin = Standin::start(None).await;
    let provider = provider(&standin, KubernetesOptions { timeout: SHORT, ..options(&cluster()) });
    standin.cluster.fail_once("watch", Fault::Hang);
    until(async || provider.list().await == Ok(vec![])).await;
    let host = spec(&cluster(), "exit 0");
    provider.start(&host).await.expect("a start");
    // Either it is there, or nothing is known.
    until(async || match provider.list().await {
        Ok(listed) => {
            assert_eq!(listed.len(), 1);
            true
        }
        Err(error) => {
            assert!(failed::<()>(Err(error)).contains("watch"), "it says what is late");
            false
        }
    })
    .await;
}

#[tokio::test]
async fn a_start_whose_answer_is_lost_is_listed_and_may_be_repeated() {
    let standin = Standin::start(None).await;
    let provider = provider(&standin, options(&cluster()));
    let host = spec(&cluster(), "exec tail -f /dev/null");
    standin.cluster.fail_once("create", Fault::LoseAnswer);
    let why = failed(provider.start(&host).await);
    assert!(why.starts_with("cannot create pods in namespace `queries`: "), "{why}");
    conformance::until(&provider, |listed| listed.iter().any(|listed| listed.name == host.name)).await;
    provider.start(&host).await.expect("it is there");
    assert_eq!(provider.list().await.expect("a list").len(), 1);
    standin.cluster.fail_once("delete", Fault::LoseAnswer);
    let why = failed(provider.stop(&host.name).await);
    assert!(why.starts_with("cannot delete pods in namespace `queries`: "), "{why}");
    provider.stop(&host.name).await.expect("a stop");
    conformance::until(&provider, <[Listed]>::is_empty).await;
}

#[tokio::test]
async fn who_is_second_to_start_a_host_leaves_it_alone() {
    let standin = Standin::start(None).await;
    let (here, there) = (provider(&standin, options(&cluster())), provider(&standin, options(&cluster())));
    let host = spec(&cluster(), "exec tail -f /dev/null");
    assert_eq!(tokio::join!(here.start(&host), there.start(&host)), (Ok(()), Ok(())));
    for provider in [&here, &there] {
        assert_eq!(provider.list().await.expect("a list").len(), 1, "the one that there is");
    }
    here.stop(&host.name).await.expect("a stop");
    conformance::until(&there, <[Listed]>::is_empty).await;
}

#[tokio::test]
async fn a_quota_or_rate_that_is_used_up_is_no_room() {
    let standin = Standin::start(None).await;
    let provider = provider(&standin, options(&cluster()));
    let host = spec(&cluster(), "exit 0");
    let quota = "Operation cannot be fulfilled on resourcequotas \"hosts\": the object has been modified";
    for (code, reason, message) in [
        (429, "TooManyRequests", "too many requests, please try again later"),
        (409, "Conflict", quota),
        (403, "Forbidden", "pods \"x\" is forbidden: exceeded quota: hosts, requested: pods=1"),
    ] {
        standin.cluster.fail_once("create", Fault::Refuse(code, reason, message));
        let full = ProviderError::Full(format!("cannot create pods in namespace `queries`: {message}"));
        assert_eq!(provider.start(&host).await, Err(full));
    }
    assert_eq!(standin.cluster.requests("create"), 3, "nothing is tried again behind the scaler's back");
    standin.cluster.fail_once("create", Fault::Refuse(500, "InternalError", "etcdserver: request timed out"));
    let why = failed(provider.start(&host).await);
    assert_eq!(why, "cannot create pods in namespace `queries`: etcdserver: request timed out");
}

#[tokio::test]
async fn what_a_role_lacks_is_said() {
    let standin = Standin::start(None).await;
    let owner: Option<Owner> = Some("apps/v1/StatefulSet/onward".parse().expect("an owner"));
    let options = KubernetesOptions { timeout: SHORT, ..options(&cluster()) };
    let with_owner = provider(&standin, KubernetesOptions { owner, ..options.clone() });
    let host = spec(&cluster(), "exit 0");
    let why = failed(with_owner.start(&host).await);
    assert_eq!(why, "cannot get statefulsets.apps in namespace `queries`: statefulsets.apps \"onward\" not found");
    let advice = |verb: &str, resource: &str| {
        format!(": give it a role with the verb `{verb}` on `{resource}` in namespace `queries`")
    };
    standin.cluster.rule(|rules| rules.denied = ["get", "create", "delete", "list"].into());
    let why = failed(with_owner.start(&host).await);
    assert!(why.ends_with(&advice("get", "statefulsets.apps")), "{why}");
    let provider = provider(&standin, options);
    for (verb, why) in [
        ("create", failed(provider.start(&host).await)),
        ("delete", failed(provider.stop(&host.name).await)),
        ("list", failed(provider.list().await)),
    ] {
        assert!(why.ends_with(&advice(verb, "pods")), "{why}");
        assert!(why.contains("User \"system:serviceaccount:queries:onward\" cannot"), "{why}");
    }
    standin.cluster.rule(|rules| rules.denied = ["watch"].into());
    until(async || until_it_fails(&provider).await.ends_with(&advice("watch", "pods"))).await;
}

#[tokio::test]
async fn a_pod_that_the_server_does_not_take_says_why() {
    let standin = Standin::start(None).await;
    let host = spec(&cluster(), "exit 0");
    let start = async |image: &str, template: &str| {
        let template = template.parse().expect("a template");
        let options = KubernetesOptions { image: image.to_owned(), template, ..options(&cluster()) };
        failed(provider(&standin, options).start(&host).await)
    };
    let why = start("", "").await;
    assert!(why.contains("is invalid: spec.containers[host].image: Required value"), "{why}");
    let why = start("sh", "spec: {containers: [{name: host, volumeMounts: [{name: disk, mountPath: /disk}]}]}").await;
    assert!(why.contains("is invalid: spec.containers[host].volumeMounts: Not found: `disk`"), "{why}");
    let why = start("sh", "metadata: {labels: {-a: b}}").await;
    assert!(why.contains("metadata.labels: Invalid value: `-a=b`"), "{why}");
    let why =
        start("sh", "spec: {containers: [{name: host, resources: {requests: {cpu: 3Q}}}, {name: x, image: other}]}")
            .await;
    assert!(why.contains("violates PodSecurity"), "what hosts have wins, and the other has no security: {why}");
    let disk = "{requests: {ephemeral-storage: 2Gi}, limits: {ephemeral-storage: 1500Mi}}";
    let why = start("sh", &format!("spec: {{containers: [{{name: host, resources: {disk}}}]}}")).await;
    assert!(why.contains("must be less than or equal to ephemeral-storage limit"), "{why}");
    let why = start("sh", "spec: {securityContext: {runAsNonRoot: false}}").await;
    assert!(why.contains("violates PodSecurity \"restricted:latest\": runAsNonRoot != true"), "{why}");
}

#[tokio::test]
async fn a_server_that_hangs_or_is_not_there_has_failed() {
    let standin = Standin::start(None).await;
    let options = KubernetesOptions { timeout: SHORT, ..options(&cluster()) };
    let hanging = provider(&standin, options.clone());
    for verb in ["create", "list", "delete"] {
        standin.cluster.fail(verb, Fault::Hang);
    }
    let host = spec(&cluster(), "exit 0");
    for why in
        [failed(hanging.start(&host).await), failed(hanging.stop(&host.name).await), until_it_fails(&hanging).await]
    {
        assert!(why.contains("500 ms"), "{why}");
    }
    let missing = {
        let gone = Standin::start(None).await;
        provider(&gone, options)
    };
    for why in
        [failed(missing.start(&host).await), failed(missing.stop(&host.name).await), until_it_fails(&missing).await]
    {
        assert!(why.starts_with("cannot ") && why.contains("onnect"), "{why}");
    }
}
