//! Who leads and what is stored, when the network or etcd is away.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::proxy::{Link, Proxy};
use super::{SHORT_TTL, candidate, client, hasty_client, is_deposed, lead, server, soon, until};
use crate::message::Call;
use crate::{Change, LeaderInfo, Leadership, StateError};

fn put(key: impl Into<String>, value: impl Into<Vec<u8>>) -> Change {
    Change::Put { key: key.into(), value: value.into() }
}

/// Two that are valid at the same time, if there are. What is not valid never is again: one that is valid before and after another one
/// is seen valid was so at that time.
fn two_at_once(leaderships: &[Arc<Leadership>]) -> Option<(u64, u64)> {
    let valid: Vec<_> = leaderships.iter().filter(|leadership| leadership.is_valid()).collect();
    let still = valid.iter().rev().skip(1).find(|leadership| leadership.is_valid())?;
    valid.last().map(|last| (still.epoch(), last.epoch()))
}

#[tokio::test]
async fn a_leader_without_network_is_not_valid_before_the_next_one_leads() {
    let Some(server) = server() else { return };
    let proxy = Proxy::start(&server.endpoint()).await;
    let (first, second) =
        (candidate(&hasty_client(proxy.endpoint()), "first"), candidate(&hasty_client(server.endpoint()), "second"));
    let leadership = lead(&first).await;
    assert!(leadership.is_valid());
    proxy.set(Link::Cut);
    let next = lead(&second).await;
    assert!(!leadership.is_valid() && next.is_valid());
    soon(leadership.lost()).await;
    proxy.set(Link::Up);
    assert!(is_deposed(leadership.state().write(vec![put("key", "")]).await));
    let is_new = |info: &Option<LeaderInfo>| info.as_ref().is_some_and(|info| info.epoch == next.epoch());
    until(&mut first.leader(), is_new).await;
    next.resign().await.expect("etcd is there");
    assert!(lead(&first).await.is_valid());
}

#[tokio::test]
async fn a_candidacy_whose_answer_is_lost_leads() {
    let Some(server) = server() else { return };
    let proxy = Proxy::start(&server.endpoint()).await;
    let (first, second) =
        (candidate(&client(proxy.endpoint()), "first"), candidate(&client(server.endpoint()), "second"));
    for candidate in [&first, &second] {
        until(&mut candidate.coordinators(), |there| there.len() == 2).await;
    }
    proxy.lose_answer("/test/leader");
    let (leadership, info) = tokio::join!(lead(&first), async {
        proxy.lost_an_answer().await;
        let info = until(&mut second.leader(), Option::is_some).await;
        proxy.hang_up();
        info.expect("somebody leads")
    });
    assert_eq!((leadership.epoch(), &info.announcement.name[..]), (info.epoch, "first"));
    leadership.state().write(vec![put("key", "")]).await.expect("it leads");
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_done_once() {
    let Some(server) = server() else { return };
    let proxy = Proxy::start(&server.endpoint()).await;
    let candidate = candidate(&client(proxy.endpoint()), "a");
    let leadership = lead(&candidate).await;
    let state = leadership.state();
    let direct = client(server.endpoint());
    proxy.lose_answer("lost-answer");
    let (written, ()) = tokio::join!(state.write(vec![put("key", "lost-answer")]), async {
        proxy.lost_an_answer().await;
        let (start, end) = (direct.key("state/"), direct.key("state0"));
        let looking = async {
            while direct.read(&start, &end, &[]).await.expect("etcd is there").expect("no guard").found.is_empty() {}
        };
        soon(looking).await;
        proxy.hang_up();
    });
    written.expect("it was done");
    let found = direct.read(&direct.key("state/key"), &[], &[]).await.expect("etcd is there").expect("no guard").found;
    assert_eq!(found[0].create_revision, found[0].mod_revision, "written once");
}

/// The network keeps a request, and delivers it when its writer has long written something else.
#[tokio::test]
async fn a_request_that_comes_late_undoes_nothing() {
    let Some(server) = server() else { return };
    let proxy = Proxy::start(&server.endpoint()).await;
    let candidate = candidate(&client(proxy.endpoint()), "a");
    let leadership = lead(&candidate).await;
    let state = leadership.state();
    proxy.withhold("withheld-value");
    state.write(vec![put("key", "withheld-value")]).await.expect("it is sent again");
    state.write(vec![put("key", "newer")]).await.expect("it leads");
    proxy.release().await;
    // etcd has read what was released when it answers on another connection later; that takes it some time.
    for n in 0..50_u8 {
        assert_eq!(state.get("key").await.expect("it leads"), Some(b"newer".to_vec()), "look {n}");
    }
}

/// The same of a write that failed: what was read after that stays so.
#[tokio::test]
async fn a_write_in_doubt_is_done_before_the_next_read_or_never() {
    let Some(server) = server() else { return };
    let proxy = Proxy::start(&server.endpoint()).await;
    let mut options = super::options(proxy.endpoint());
    options.timeout = Duration::from_millis(500);
    let candidate = candidate(&crate::Etcd::new(options).expect("options"), "a");
    let leadership = lead(&candidate).await;
    let state = leadership.state();
    proxy.withhold("withheld-value");
    let (written, ()) = tokio::join!(state.write(vec![put("key", "withheld-value")]), async {
        proxy.has_withheld().await;
        proxy.set(Link::Cut);
    });
    assert!(matches!(written, Err(StateError::Unavailable(_))), "{written:?}");
    proxy.set(Link::Up);
    let read = async {
        loop {
            match state.get("key").await {
                Err(error) if error.is_retryable() => (),
                read => return read.expect("it leads"),
            }
        }
    };
    assert_eq!(soon(read).await, None);
    proxy.release().await;
    for n in 0..50_u8 {
        assert_eq!(state.get("key").await.expect("it leads"), None, "look {n}");
    }
}

#[tokio::test]
async fn watches_and_leases_survive_a_restart_of_etcd() {
    let Some(mut server) = server() else { return };
    let etcd = client(server.endpoint());
    let (first, second) = (candidate(&etcd, "first"), candidate(&etcd, "second"));
    until(&mut first.coordinators(), |there| there.len() == 2).await;
    let leadership = lead(&first).await;
    server.restart().expect("etcd starts again");
    let third = candidate(&etcd, "third");
    until(&mut second.coordinators(), |there| there.len() == 3).await;
    leadership.state().write(vec![put("key", "")]).await.expect("it leads");
    assert!(leadership.is_valid());
    drop(leadership);
    let next = lead(&second).await;
    let is_new = |info: &Option<LeaderInfo>| info.as_ref().is_some_and(|info| info.epoch == next.epoch());
    until(&mut third.leader(), is_new).await;
}

/// One that is not there, one that says nothing, and one that answers.
#[tokio::test]
async fn servers_are_tried_in_turn() {
    let Some(server) = server() else { return };
    let silent = Proxy::start(&server.endpoint()).await;
    silent.set(Link::Deaf);
    let mut options = super::options(server.endpoint());
    options.endpoints = vec!["http://127.0.0.1:1".to_owned(), silent.endpoint(), server.endpoint()];
    options.timeout = Duration::from_secs(6);
    let candidate = candidate(&crate::Etcd::new(options).expect("options"), "a");
    let leadership = lead(&candidate).await;
    until(&mut candidate.coordinators(), |there| there.len() == 1).await;
    assert!(leadership.is_valid());
}

#[tokio::test]
async fn without_etcd_the_leader_stops_and_candidates_wait() {
    let Some(mut server) = server() else { return };
    let mut options = super::options(server.endpoint());
    (options.timeout, options.lease_ttl) = (Duration::from_millis(500), SHORT_TTL);
    let etcd = crate::Etcd::new(options).expect("options");
    let (first, second) = (candidate(&etcd, "first"), candidate(&etcd, "second"));
    let leadership = lead(&first).await;
    server.kill();
    let error = leadership.state().write(vec![put("key", "")]).await.expect_err("nobody is there");
    assert!(matches!(error, StateError::Unavailable(_)) && error.is_retryable(), "{error}");
    soon(leadership.lost()).await;
    assert!(!leadership.is_valid());
    let mut leading = Box::pin(second.lead());
    assert!(tokio::time::timeout(Duration::from_secs(1), &mut leading).await.is_err());
    server.restart().expect("etcd starts again");
    drop(leadership);
    assert!(soon(leading).await.expect("a leadership").is_valid());
}

#[derive(Clone, PartialEq, prost::Message)]
struct Compact {
    #[prost(int64, tag = "1")]
    revision: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Nothing {}

impl Call for Compact {
    const PATH: &'static str = "/etcdserverpb.KV/Compact";
    type Answer = Nothing;
}

/// What happened while a candidate was away is not in etcd any more.
#[tokio::test]
async fn what_was_compacted_is_read_anew() {
    let Some(server) = server() else { return };
    let proxy = Proxy::start(&server.endpoint()).await;
    let direct = client(server.endpoint());
    let (far, near) = (candidate(&client(proxy.endpoint()), "far"), candidate(&direct, "near"));
    until(&mut far.coordinators(), |there| there.len() == 2).await;
    proxy.set(Link::Cut);
    let leadership = lead(&near).await;
    drop(near);
    leadership.state().write(vec![put("key", "1")]).await.expect("it leads");
    leadership.state().write(vec![put("key", "2")]).await.expect("it leads");
    let snapshot = direct.read(b"/", b"0", &[]).await.expect("etcd is there").expect("no guard");
    direct.call(&Compact { revision: snapshot.revision }).await.expect("etcd is there");
    proxy.set(Link::Up);
    let is_new = |info: &Option<LeaderInfo>| info.as_ref().is_some_and(|info| info.epoch == leadership.epoch());
    until(&mut far.leader(), is_new).await;
    until(&mut far.coordinators(), |there| there.iter().all(|other| other.name != "near")).await;
}

/// Leaders count, while networks and etcd come and go. Each step writes the count, and a key of its own, in one write: as many keys as
/// the count says, and every step that was acknowledged among them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_step_is_lost_or_done_twice_and_never_do_two_lead() {
    const STEPS: u64 = 400;
    const FAULTS: usize = 8;
    let Some(mut server) = server() else { return };
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (leaderships, acknowledged) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
    let identities = Arc::new(AtomicU64::new(0));
    let mut proxies = Vec::new();
    let mut counters = tokio::task::JoinSet::new();
    for name in ["a", "b", "c"] {
        let proxy = Proxy::start(&server.endpoint()).await;
        let mut options = super::options(proxy.endpoint());
        (options.timeout, options.lease_ttl) = (Duration::from_secs(1), SHORT_TTL);
        let etcd = crate::Etcd::new(options).expect("options");
        proxies.push(proxy);
        let (leaderships, acknowledged) = (Arc::clone(&leaderships), Arc::clone(&acknowledged));
        let identities = Arc::clone(&identities);
        counters.spawn(async move {
            let candidate = candidate(&etcd, name);
            loop {
                let leadership = Arc::new(lead(&candidate).await);
                leaderships.lock().push(Arc::clone(&leadership));
                let state = leadership.state();
                loop {
                    let count = match state.get("count").await {
                        Ok(count) => {
                            count.map_or(0, |text| String::from_utf8(text).expect("text").parse().expect("a number"))
                        }
                        Err(StateError::Deposed { .. }) => break,
                        Err(error) => {
                            assert!(error.is_retryable(), "{error}");
                            continue;
                        }
                    };
                    let identity = identities.fetch_add(1, Ordering::Relaxed);
                    let next: u64 = count + 1;
                    let step = vec![put("count", next.to_string()), put(format!("step/{identity}"), "")];
                    match state.write(step).await {
                        Ok(()) => acknowledged.lock().push(identity),
                        Err(StateError::Deposed { .. }) => break,
                        // It may be done; what is read next tells.
                        Err(error) => assert!(error.is_retryable(), "{error}"),
                    }
                }
            }
        });
    }
    let mut looks = tokio::time::interval(Duration::from_millis(2));
    let mut faults = 0;
    let mut next_fault = 0;
    let running = async {
        while faults < FAULTS || (acknowledged.lock().len() as u64) < STEPS {
            looks.tick().await;
            let pair = two_at_once(&leaderships.lock());
            assert_eq!(pair, None, "two at once, seed {seed}");
            let done = acknowledged.lock().len();
            if done < next_fault || faults == FAULTS {
                continue;
            }
            next_fault = done + 20;
            faults += 1;
            for proxy in &proxies {
                proxy.set(Link::Up);
            }
            match random.u8(0..8) {
                0 => server.restart().expect("etcd starts again"),
                1..=3 => proxies.iter().for_each(Proxy::hang_up),
                4..=5 => proxies[random.usize(..proxies.len())].set(Link::Deaf),
                _ => proxies[random.usize(..proxies.len())].set(Link::Cut),
            }
        }
    };
    soon(running).await;
    counters.shutdown().await;
    drop(leaderships);
    let direct = client(server.endpoint());
    let candidate = candidate(&direct, "last");
    let leadership = lead(&candidate).await;
    let state = leadership.state();
    let count = state.get("count").await.expect("it leads").expect("somebody counted");
    let steps = state.list("step/").await.expect("it leads");
    assert_eq!(String::from_utf8(count).expect("text"), steps.len().to_string(), "seed {seed}");
    for identity in acknowledged.lock().iter() {
        assert!(steps.contains_key(&format!("step/{identity}")), "step {identity} is lost, seed {seed}");
    }
}
