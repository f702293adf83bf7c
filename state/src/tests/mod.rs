//! Against a real etcd, and through a network that does what it likes.

mod election;
#[path = "../../../tests/support/etcd.rs"]
mod etcd;
mod faults;
mod proxy;
mod settings;
mod stopped;
mod store;
mod tls;

use std::time::Duration;

use tokio::sync::watch;

use crate::{Announcement, Candidate, Etcd, Leadership, StateError, StateOptions};

/// However slow the machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// So long that no lease is lost because the machine is slow.
const TTL: Duration = Duration::from_secs(10);
/// Where leases are to be lost: the shortest that etcd grants.
const SHORT_TTL: Duration = Duration::from_secs(2);

/// An etcd, if there can be one.
fn server() -> Option<etcd::Etcd> {
    etcd::Etcd::start().inspect_err(|reason| eprintln!("skipped: {reason}")).ok()
}

fn options(endpoint: String) -> StateOptions {
    StateOptions {
        endpoints: vec![endpoint],
        prefix: "/onward/test".to_owned(),
        user: None,
        tls: None,
        timeout: Duration::from_secs(10),
        lease_ttl: TTL,
    }
}

fn client(endpoint: String) -> Etcd {
    Etcd::new(options(endpoint)).expect("options")
}

/// See [`SHORT_TTL`].
fn hasty_client(endpoint: String) -> Etcd {
    Etcd::new(StateOptions { lease_ttl: SHORT_TTL, ..options(endpoint) }).expect("options")
}

fn announcement(name: &str) -> Announcement {
    let url = |port: u16| format!("grpc://{name}:{port}");
    Announcement { name: name.to_owned(), client_url: url(1), cluster_url: url(2), version: "0.1.0".to_owned() }
}

fn candidate(etcd: &Etcd, name: &str) -> Candidate {
    Candidate::start(etcd.clone(), announcement(name))
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it does not take so long")
}

async fn lead(candidate: &Candidate) -> Leadership {
    soon(candidate.lead()).await.expect("a leadership")
}

async fn until<T: Clone>(told: &mut watch::Receiver<T>, is_so: impl FnMut(&T) -> bool) -> T {
    soon(told.wait_for(is_so)).await.expect("somebody tells").clone()
}

fn is_deposed<T: std::fmt::Debug>(result: Result<T, StateError>) -> bool {
    matches!(result, Err(StateError::Deposed { .. }))
}
