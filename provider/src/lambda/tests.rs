use rustix::process::Signal;

use super::stand_in::StandIn;
use super::*;
use crate::conformance::{self, Bench};

/// Long enough for whatever comes at once, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Shorter than anything: all requests are taken for accepted.
const AT_ONCE: Duration = Duration::ZERO;

impl StandIn {
    fn options(&self, cluster: &ClusterName, function: &str, accept_wait: Duration) -> LambdaOptions {
        LambdaOptions {
            cluster: cluster.clone(),
            function: function.to_owned(),
            qualifier: None,
            endpoint: Some(format!("http://{}", self.address)),
            region: None,
            most_hosts: 4,
            connect_timeout: PATIENCE,
            accept_wait,
            lifetime: Lambda::MOST_LIFETIME,
            members: Arc::clone(&self.region) as _,
        }
    }
}

impl Bench for StandIn {
    fn provider(&self, cluster: &ClusterName) -> Arc<dyn Provider> {
        Arc::new(Lambda::new(self.options(cluster, "onward", AT_ONCE)))
    }

    fn most_hosts(&self) -> usize {
        4
    }

    fn kill(&self, name: &HostName) {
        self.region.signal(name.as_str(), Signal::KILL);
    }
}

/// A host that runs until it is told to leave.
fn spec(cluster: &ClusterName) -> HostSpec {
    let name = HostName::random(cluster, &mut fastrand::Rng::new());
    let arguments = ["-c", "exec tail -f /dev/null", "host", "--name", name.as_str()].map(str::to_owned).to_vec();
    HostSpec { name, vcpus: 1, memory_bytes: 1, arguments }
}

fn over(reason: &str) -> HostState {
    HostState::Over { reason: reason.to_owned() }
}

async fn is_listed_as(provider: &Lambda, name: &HostName, state: HostState) {
    conformance::until(provider, |listed| *listed == [Listed { name: name.clone(), state: state.clone() }]).await;
}

#[tokio::test]
async fn invocations_conform() {
    let stand_in = StandIn::start(100).await;
    conformance::check(&stand_in, &conformance::random_cluster()).await;
}

#[tokio::test]
async fn what_lambda_refuses_at_once_is_an_error_and_asked_for_once() {
    let (stand_in, cluster) = (StandIn::start(0).await, conformance::random_cluster());
    let failed = |why: &str| ProviderError::Failed(why.to_owned());
    for (function, error) in [
        ("onward", ProviderError::Full("TooManyRequestsException: Rate Exceeded.".to_owned())),
        ("missing", failed("ResourceNotFoundException: Function not found: missing")),
        ("broken", failed("ServiceException: An error occurred and the request cannot be processed.")),
        ("strange", failed("HTTP 502: <html>Bad Gateway</html>")),
    ] {
        let before = stand_in.region.requests();
        let provider = Lambda::new(stand_in.options(&cluster, function, PATIENCE));
        assert_eq!(provider.start(&spec(&cluster)).await, Err(error), "{function}");
        assert_eq!(provider.list().await, Ok(vec![]), "{function}");
        assert_eq!(stand_in.region.requests(), before + 1, "{function}");
    }
}

#[tokio::test]
async fn what_it_refuses_later_is_over() {
    let (stand_in, cluster) = (StandIn::start(0).await, conformance::random_cluster());
    let provider = Lambda::new(stand_in.options(&cluster, "late", AT_ONCE));
    let host = spec(&cluster);
    provider.start(&host).await.expect("nothing is said yet");
    assert_eq!(provider.list().await.expect("a list")[0].state, HostState::Pending);
    stand_in.region.gate.add_permits(1);
    is_listed_as(&provider, &host.name, over("TooManyRequestsException: Rate Exceeded.")).await;
    provider.stop(&host.name).await.expect("a stop");
    assert_eq!(provider.list().await, Ok(vec![]));
}

#[tokio::test]
async fn the_end_of_a_function_has_its_reason() {
    let (stand_in, cluster) = (StandIn::start(1).await, conformance::random_cluster());
    let provider = Lambda::new(stand_in.options(&cluster, "slow", AT_ONCE));
    let host = spec(&cluster);
    provider.start(&host).await.expect("a start");
    let reason = "Sandbox.Timedout: RequestId: 1 Error: Task timed out after 900.00 seconds";
    is_listed_as(&provider, &host.name, over(reason)).await;

    let provider = Lambda::new(stand_in.options(&cluster, "onward", AT_ONCE));
    let leaves = HostSpec { arguments: ["-c", "exit 0"].map(str::to_owned).to_vec(), ..spec(&cluster) };
    provider.start(&leaves).await.expect("a start");
    is_listed_as(&provider, &leaves.name, over("it was told to leave")).await;
    let event =
        serde_json::json!({ "name": leaves.name.as_str(), "arguments": ["-c", "exit 0"], "lifetime_ms": 900_000 });
    assert_eq!(stand_in.region.event(), event);
}

#[tokio::test]
async fn a_host_whose_request_broke_is_known_when_it_joins() {
    let (stand_in, cluster) = (StandIn::start(9).await, conformance::random_cluster());
    let provider = Lambda::new(stand_in.options(&cluster, "cut", PATIENCE));
    let host = spec(&cluster);
    // It joined before the line went dead, or after.
    drop(provider.start(&host).await);
    is_listed_as(&provider, &host.name, HostState::Running).await;
    provider.start(&host).await.expect("it is there");
    assert_eq!(stand_in.region.requests(), 1);
    provider.stop(&host.name).await.expect("a stop");
    conformance::until(&provider, <[Listed]>::is_empty).await;
}

#[tokio::test]
async fn one_that_never_joins_is_waited_for_until_it_is_told_to_leave() {
    let (stand_in, cluster) = (StandIn::start(9).await, conformance::random_cluster());
    let provider = Lambda::new(stand_in.options(&cluster, "dead", PATIENCE));
    let host = spec(&cluster);
    let error = provider.start(&host).await;
    assert!(matches!(error, Err(ProviderError::Failed(_))), "{error:?}");
    is_listed_as(&provider, &host.name, HostState::Pending).await;
    provider.start(&host).await.expect("it may be there");
    assert_eq!(stand_in.region.requests(), 1, "a second one would have its name");
    provider.stop(&host.name).await.expect("a stop");
    assert_eq!(provider.list().await, Ok(vec![]));
}

#[tokio::test]
async fn what_cannot_be_sent_says_why() {
    let (stand_in, cluster) = (StandIn::start(9).await, conformance::random_cluster());
    let provider = Lambda::new(stand_in.options(&cluster, "onward", PATIENCE));
    let large = HostSpec { arguments: vec!["x".repeat(MOST_PAYLOAD_BYTES)], ..spec(&cluster) };
    let error = provider.start(&large).await.expect_err("it is too large").to_string();
    assert!(error.ends_with("bytes, and Lambda takes 6291456"), "{error}");
    assert_eq!(stand_in.region.requests(), 0);

    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = Some(format!("http://{}", gone.local_addr().expect("its address")));
    drop(gone);
    let provider = Lambda::new(LambdaOptions { endpoint, ..stand_in.options(&cluster, "onward", PATIENCE) });
    let error = provider.start(&spec(&cluster)).await.expect_err("nobody listens").to_string();
    assert!(error.contains("Connection refused"), "{error}");
    assert_eq!(provider.list().await, Ok(vec![]));
}
