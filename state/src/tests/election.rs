//! Who leads, when all goes well.

use std::time::{Duration, Instant};

use futures::future::select_all;

use super::{announcement, candidate, client, is_deposed, lead, options, server, soon, until};
use crate::{Change, Etcd, StateError, StateOptions};

#[tokio::test]
async fn exactly_one_leads_and_all_know_who() {
    let Some(server) = server() else { return };
    let etcd = client(server.endpoint());
    let candidates = ["a", "b", "c"].map(|name| candidate(&etcd, name));
    let mut waiting: Vec<_> = candidates.iter().map(|candidate| Box::pin(candidate.lead())).collect();
    let mut last_epoch = 0;
    for left in (0..candidates.len()).rev() {
        let (leadership, at, others) = soon(select_all(waiting)).await;
        let leadership = leadership.expect("a leadership");
        assert!(leadership.epoch() > last_epoch, "{} after {last_epoch}", leadership.epoch());
        last_epoch = leadership.epoch();
        let mut told = Vec::new();
        for candidate in &candidates {
            let is_new = |info: &Option<crate::LeaderInfo>| info.as_ref().is_some_and(|info| info.epoch == last_epoch);
            told.push(until(&mut candidate.leader(), is_new).await);
        }
        assert!(told.windows(2).all(|pair| pair[0] == pair[1]), "{told:?}");
        waiting = others;
        if let Some(others) = (left > 0).then(|| select_all(waiting.iter_mut())) {
            let second = tokio::time::timeout(Duration::from_millis(300), others).await;
            assert!(second.is_err(), "one leads, and candidate {at} too");
        }
        assert!(leadership.is_valid());
        let begun = Instant::now();
        leadership.resign().await.expect("etcd is there");
        assert!(begun.elapsed() < super::TTL, "it does not wait for the lease");
    }
}

#[tokio::test]
async fn who_is_there_is_known_and_who_left_is_not() {
    let Some(server) = server() else { return };
    let etcd = client(server.endpoint());
    let first = candidate(&etcd, "first");
    let second = candidate(&etcd, "second");
    let both = until(&mut first.coordinators(), |there| there.len() == 2).await;
    assert_eq!(both, [announcement("first"), announcement("second")]);
    assert_eq!(until(&mut second.coordinators(), |there| there.len() == 2).await, both);
    let begun = Instant::now();
    drop(second);
    assert_eq!(until(&mut first.coordinators(), |there| there.len() == 1).await, [announcement("first")]);
    assert!(begun.elapsed() < super::TTL, "it does not wait for the lease");
}

/// Without keep-alives neither would be there for so long.
#[tokio::test]
async fn a_leadership_lasts() {
    let Some(server) = server() else { return };
    let ttl = Duration::from_secs(3);
    let etcd = Etcd::new(StateOptions { lease_ttl: ttl, ..options(server.endpoint()) }).expect("options");
    let candidate = candidate(&etcd, "a");
    let leadership = lead(&candidate).await;
    let is_over = tokio::time::timeout(ttl * 2, leadership.lost()).await.is_ok();
    assert!(!is_over && leadership.is_valid());
    assert_eq!(candidate.coordinators().borrow().len(), 1);
    leadership.state().get("key").await.expect("the key is there");
}

#[tokio::test]
async fn a_candidacy_that_is_given_up_does_not_lead() {
    let Some(server) = server() else { return };
    let etcd = client(server.endpoint());
    let (first, second) = (candidate(&etcd, "first"), candidate(&etcd, "second"));
    // Dropped at any point, also while the request is on its way.
    for step in 0..40 {
        let _ = tokio::time::timeout(Duration::from_micros(step * 100), first.lead()).await;
    }
    let begun = Instant::now();
    let leadership = lead(&second).await;
    assert!(leadership.is_valid());
    assert!(begun.elapsed() < super::TTL, "leases of those that were given up are revoked");
}

#[tokio::test]
async fn who_is_deposed_writes_and_reads_nothing() {
    let Some(server) = server() else { return };
    let etcd = client(server.endpoint());
    let (first, second) = (candidate(&etcd, "first"), candidate(&etcd, "second"));
    let leadership = lead(&first).await;
    let (old, old_epoch) = (leadership.state(), leadership.epoch());
    let put = |value: &str| vec![Change::Put { key: "key".to_owned(), value: value.into() }];
    old.write(put("old")).await.expect("it leads");
    drop(leadership);
    let leadership = lead(&second).await;
    let error = old.write(put("too late")).await.expect_err("it does not lead any more");
    let StateError::Deposed { epoch, by: Some(by) } = error else { panic!("{error}") };
    assert_eq!((epoch, by.epoch, &by.announcement), (old_epoch, leadership.epoch(), &announcement("second")));
    assert!(is_deposed(old.get("key").await) && is_deposed(old.list("").await));
    assert_eq!(leadership.state().get("key").await.expect("it leads"), Some(b"old".to_vec()));
}

/// Somebody deletes the key by hand: the leader learns of it, and does not wait for its next write.
#[tokio::test]
async fn a_leader_whose_key_is_gone_is_not_valid() {
    let Some(server) = server() else { return };
    let etcd = client(server.endpoint());
    let candidate = candidate(&etcd, "a");
    let leadership = lead(&candidate).await;
    let delete = crate::message::DeleteRangeRequest { key: etcd.key("leader") };
    let success = vec![crate::message::Operation::Delete(delete).into()];
    let request = crate::message::TxnRequest { compare: Vec::new(), success, failure: Vec::new() };
    etcd.call(&request).await.expect("etcd is there");
    soon(leadership.lost()).await;
    assert!(!leadership.is_valid());
    assert!(lead(&candidate).await.epoch() > leadership.epoch());
}

#[tokio::test]
async fn options_that_cannot_be_are_refused() {
    let some = || options("http://127.0.0.1:1".to_owned());
    let (mut prefix, mut endpoints, mut scheme, mut tls) = (some(), some(), some(), some());
    prefix.prefix = "onward/".to_owned();
    endpoints.endpoints.clear();
    scheme.endpoints = vec!["127.0.0.1:2379".to_owned()];
    tls.endpoints = vec!["https://127.0.0.1:2379".to_owned()];
    for options in [prefix, endpoints, scheme, tls] {
        let shown = format!("{options:?}");
        assert!(matches!(Etcd::new(options), Err(StateError::Invalid(_))), "{shown}");
    }
}
