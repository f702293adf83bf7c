//! Hosts that are invocations of a function of AWS Lambda.

use onward_wire::Config;

use super::hosts::{BINARY, Hosts};
use super::provided::{STARTED, WORKED, provided};
use super::{JOIN, define, expected, rows, small, verify_tpch};
use crate::support::lambda::{FUNCTION, Lambda};

/// All queries of TPC-H on invocations that nobody can reach: the coordinator takes what they give. With the cluster they end, and with
/// them all that ran in their environments.
#[test]
fn hosts_are_invocations_of_lambda() {
    let lambda = match Lambda::start(BINARY, 2) {
        Ok(lambda) => lambda,
        Err(why) => {
            eprintln!("skipped: nothing stands in for Lambda here, so nothing was tested with it: {why}");
            return;
        }
    };
    tokio::runtime::Runtime::new().expect("threads").block_on(over_lambda(&lambda));
}

/// On hosts of `lambda`.
fn invoked(lambda: &Lambda, config: Config) -> Config {
    Config {
        provider: "lambda".to_owned(),
        // One that was invoked when the coordinator ended finds nobody.
        provider_arguments: "--log warn --set host_orphan_timeout_ms=2000".to_owned(),
        lambda_function: FUNCTION.to_owned(),
        lambda_endpoint: lambda.endpoint(),
        ..provided(config)
    }
}

async fn over_lambda(lambda: &Lambda) {
    let config = Config {
        provider_interval_ms: 200,
        min_hosts: 2,
        host_memory_bytes: 4 << 30,
        vcpus: 2,
        ..invoked(lambda, crate::support::config())
    };
    let hosts = Hosts::start(None, 0, config).await;
    let session = hosts.session(&[]).await;
    while rows(&session, STARTED).await.len() < 2 {
        tokio::task::yield_now().await;
    }
    verify_tpch(&hosts, 0.1).await;
    assert!(lambda.processes() >= 2, "what functions are forked from");
    hosts.stop().await;
    while lambda.processes() > 0 {
        tokio::task::yield_now().await;
    }

    // The same environments serve the next cluster, with hosts that leave when there is nothing to do.
    let hosts = Hosts::start(None, 0, invoked(lambda, small())).await;
    let data = define(&hosts).await;
    let right = expected(&data, JOIN).await;
    let session = hosts.session(&["SET onward.functions = 4"]).await;
    while rows(&session, WORKED).await == [["0"]] {
        assert_eq!(rows(&session, JOIN).await, right);
    }
    while !rows(&session, STARTED).await.is_empty() || lambda.processes() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(rows(&session, JOIN).await, right);
    hosts.stop().await;
    while lambda.processes() > 0 {
        tokio::task::yield_now().await;
    }
}
