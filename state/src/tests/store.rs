//! State, when all goes well.

use std::collections::BTreeMap;

use super::{candidate, client, is_deposed, lead, server};
use crate::message::Call;
use crate::{Change, MAX_CHANGES, MAX_WRITE_BYTES, StateError};

fn put(key: impl Into<String>, value: impl Into<Vec<u8>>) -> Change {
    Change::Put { key: key.into(), value: value.into() }
}

fn delete(key: &str) -> Change {
    Change::Delete { key: key.to_owned() }
}

#[tokio::test]
async fn what_is_written_is_read() {
    let Some(server) = server() else { return };
    let etcd = client(server.endpoint());
    let candidate = candidate(&etcd, "a");
    let leadership = lead(&candidate).await;
    let state = leadership.state();
    state.write(vec![put("a/1", "one"), put("a/2", ""), put("b", [0, 255])]).await.expect("it leads");
    assert_eq!(state.get("a/1").await.expect("it leads"), Some(b"one".to_vec()));
    assert_eq!(state.get("a").await.expect("it leads"), None);
    state.write(vec![delete("a/1"), delete("c"), put("ä", "x")]).await.expect("it leads");
    let expected = [("a/2", vec![]), ("b", vec![0, 255]), ("ä", b"x".to_vec())];
    let expected = BTreeMap::from(expected.map(|(key, value)| (key.to_owned(), value)));
    assert_eq!(state.list("").await.expect("it leads"), expected);
    assert_eq!(state.list("a").await.expect("it leads").into_keys().collect::<Vec<_>>(), ["a/2"]);
    state.write(Vec::new()).await.expect("nothing");
    let twice = state.write(vec![put("same", "x"), delete("same")]).await;
    assert!(matches!(twice, Err(StateError::Invalid(_))), "{twice:?}");
    // A write that was refused does not stand in the way of the next one.
    state.write(vec![put("b", "y")]).await.expect("it leads");
    // Nor do several at once.
    let writes = (0..20).map(|n| {
        let state = state.clone();
        async move { state.write(vec![put(format!("n/{n}"), "")]).await }
    });
    futures::future::try_join_all(writes).await.expect("it leads");
    assert_eq!(state.list("n/").await.expect("it leads").len(), 20);
    leadership.resign().await.expect("etcd is there");
    assert!(is_deposed(state.list("").await));
}

#[tokio::test]
async fn many_keys_are_written_in_parts_and_read_in_pages() {
    let Some(server) = server() else { return };
    let etcd = client(server.endpoint());
    let candidate = candidate(&etcd, "a");
    let leadership = lead(&candidate).await;
    let state = leadership.state();
    let keys: Vec<_> = (0..5_000).map(|n| format!("many/{n:05}")).collect();
    state.write_in_order(keys.iter().map(|key| put(key, key.as_bytes())).collect()).await.expect("it leads");
    state.write(vec![put("manz", "behind"), put("man", "before")]).await.expect("it leads");
    let listed = state.list("many/").await.expect("it leads");
    assert!(listed.keys().eq(keys.iter()) && listed.values().eq(keys.iter().map(String::as_bytes)));
    // 30 MB: more than one answer may have.
    let large = |n: usize| put(format!("large/{n}"), vec![b'x'; 1 << 20]);
    state.write_in_order((0..30).map(large).collect()).await.expect("it leads");
    let listed = state.list("large/").await.expect("it leads");
    assert!(listed.len() == 30 && listed.values().all(|value| value.len() == 1 << 20));
}

/// What we refuse etcd would have refused, and what we let through it takes.
#[tokio::test]
async fn limits_are_those_of_etcd() {
    let Some(server) = server() else { return };
    let etcd = client(server.endpoint());
    let candidate = candidate(&etcd, "a");
    let leadership = lead(&candidate).await;
    let state = leadership.state();
    let many = |count: usize| (0..count).map(|n| put(n.to_string(), "")).collect::<Vec<_>>();
    state.write(many(MAX_CHANGES)).await.expect("as many as allowed");
    let error = state.write(many(MAX_CHANGES + 1)).await.expect_err("one too many");
    assert!(
        matches!(error, StateError::TooLarge { changes: 128, .. }) && error.to_string().contains("at most 127"),
        "{error}"
    );
    let large = |bytes: usize| vec![put("large", vec![b'x'; bytes])];
    let StateError::TooLarge { bytes, .. } = state.write(large(MAX_WRITE_BYTES)).await.expect_err("too much") else {
        panic!("another error")
    };
    let most = MAX_WRITE_BYTES - (bytes - MAX_WRITE_BYTES);
    state.write(large(most)).await.expect("as much as allowed");
    let error = state.write(large(most + 1)).await.expect_err("a byte too much");
    assert!(matches!(error, StateError::TooLarge { changes: 1, .. }), "{error}");
    let error = state.write_in_order(large(MAX_WRITE_BYTES)).await.expect_err("a single change");
    assert!(matches!(error, StateError::TooLarge { .. }) && !error.is_retryable(), "{error}");
}

#[derive(Clone, PartialEq, prost::Message)]
struct AddUser {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    password: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct GrantRole {
    #[prost(string, tag = "1")]
    user: String,
    #[prost(string, tag = "2")]
    role: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct EnableAuth {}

#[derive(Clone, PartialEq, prost::Message)]
struct Nothing {}

impl Call for AddUser {
    const PATH: &'static str = "/etcdserverpb.Auth/UserAdd";
    type Answer = Nothing;
}

impl Call for GrantRole {
    const PATH: &'static str = "/etcdserverpb.Auth/UserGrantRole";
    type Answer = Nothing;
}

impl Call for EnableAuth {
    const PATH: &'static str = "/etcdserverpb.Auth/AuthEnable";
    type Answer = Nothing;
}

/// Tokens are asked for, and asked for again when etcd has forgotten them.
#[tokio::test]
async fn who_is_asked_for_a_password_gives_it() {
    let Some(mut server) = server() else { return };
    let anonymous = client(server.endpoint());
    let as_user = |name: &str, password: &str| {
        let user = Some((name.to_owned(), password.to_owned()));
        crate::Etcd::new(crate::StateOptions { user, ..super::options(server.endpoint()) }).expect("options")
    };
    let (root, wrong) = (as_user("root", "secret"), as_user("root", "guess"));
    let early = candidate(&root, "early");
    let leadership = lead(&early).await;
    leadership.state().write(vec![put("key", "before")]).await.expect("nobody is asked yet");
    for (name, password) in [("root", "secret"), ("guest", "guest")] {
        let user = AddUser { name: name.to_owned(), password: password.to_owned() };
        anonymous.call(&user).await.expect("etcd is there");
    }
    let grant = GrantRole { user: "root".to_owned(), role: "root".to_owned() };
    anonymous.call(&grant).await.expect("etcd is there");
    anonymous.call(&EnableAuth {}).await.expect("etcd is there");
    leadership.state().write(vec![put("key", "after")]).await.expect("it has a password");
    let shown = format!("{early:?} {leadership:?}");
    assert!(shown.contains("root") && !shown.contains("secret"), "{shown}");
    let guest = as_user("guest", "guest");
    for etcd in [&anonymous, &wrong, &guest] {
        let refused = candidate(etcd, "refused").lead().await;
        assert!(matches!(refused, Err(StateError::Denied(_))), "{refused:?}");
    }
    server.restart().expect("etcd starts again");
    leadership.state().write(vec![put("key", "later")]).await.expect("it asks for another token");
    let second = candidate(&root, "second");
    super::until(&mut early.coordinators(), |there| there.len() == 2).await;
    leadership.resign().await.expect("etcd is there");
    let leadership = lead(&second).await;
    assert_eq!(leadership.state().get("key").await.expect("it leads"), Some(b"later".to_vec()));
}
