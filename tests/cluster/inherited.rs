//! What a coordinator leaves to the next one when it is lost in the middle of something.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::available::{BINARY, PATIENCE, client, is_retryable, leader, led_by_another, start, until};
use crate::flight::server::text;

/// A query that ran when its coordinator was lost is one that failed, with the reason.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_was_lost_with_its_coordinator_is_in_the_history() {
    // It takes longer than the functions of some runs of this test live.
    let Some(coordinators) = start(2, &["function_lifetime_ms=0"]) else { return };
    let first = leader(&coordinators).await;
    let standby = coordinators.processes[1 - first].url.clone();
    let endless = "SELECT count(*) AS endless FROM generate_series(1, 1000000) AS a(x), generate_series(1, 1000000) AS b(y) WHERE x * y = 7";
    let mut runs = client(&standby).await;
    let running = tokio::spawn(async move { runs.query(endless).await.map(|_| ()) });
    let mut asks = client(&standby).await;
    // It is written down two seconds after it came, at the latest.
    let long = "SELECT count(*) FROM system.queries WHERE state = 'running' AND elapsed_ms > 4000 AND sql LIKE '%endless%' \
                AND sql NOT LIKE '%system.queries%'";
    until("it runs", async || asks.rows(long).await == ["1"]).await;
    coordinators.processes[first].signal(Signal::KILL);
    let error = running.await.expect("no panic").expect_err("its coordinator is gone");
    assert!(is_retryable(&error), "{error}");
    let lost = "SELECT state, error FROM system.queries WHERE sql LIKE '%endless%' AND sql NOT LIKE '%system.queries%'";
    let mut found = Vec::new();
    let asking = async || match asks.query(lost).await {
        Ok(rows) => {
            found = text(&rows);
            true
        }
        Err(error) => {
            assert!(is_retryable(&error), "{error}");
            false
        }
    };
    until("another one leads", asking).await;
    assert_eq!(found, ["failed|the coordinator that ran it was lost before it said how it ended"]);
}

/// Tables have their files in one directory: a coordinator with another one would lead without them.
#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_with_another_data_directory_is_refused() {
    let Some(coordinators) = start(1, &[]) else { return };
    client(&coordinators.processes[0].url).await.rows("SELECT 1").await;
    let other = coordinators.root.path().join("other");
    let mut command = Command::new(BINARY);
    command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(&other);
    command.arg("--spill-dir").arg(coordinators.root.path());
    command.arg("--set").arg(format!("etcd_endpoints={}", coordinators.etcd.endpoint()));
    let refused = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("it starts");
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && text.contains("is not the data directory of the other coordinators"),
        "{text}"
    );
    assert!(text.contains(&*other.to_string_lossy()) && text.contains("--data-dir"), "{text}");
}

/// Between a coordinator and etcd: from the first request on that says `needle`, once it is armed, nothing passes any more, but for that
/// request.
struct Lossy {
    needle: &'static [u8],
    is_armed: AtomicBool,
    is_cut: AtomicBool,
    /// That request is there, and passes when this is given: then nothing is lost.
    is_held: Option<(Notify, Notify)>,
}

impl Lossy {
    async fn start(target: String, needle: &'static str, is_held: Option<(Notify, Notify)>) -> (Arc<Self>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (is_armed, is_cut) = Default::default();
        let lossy = Arc::new(Self { needle: needle.as_bytes(), is_armed, is_cut, is_held });
        let shared = Arc::clone(&lossy);
        tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                let Ok(to) = TcpStream::connect(&target).await else { continue };
                let ((from, answers), (replies, to)) = (from.into_split(), to.into_split());
                tokio::spawn(Arc::clone(&shared).pass(from, to, true));
                tokio::spawn(Arc::clone(&shared).pass(replies, answers, false));
            }
        });
        (lossy, url)
    }

    async fn pass(self: Arc<Self>, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, is_request: bool) {
        let (mut bytes, mut is_dead) = (vec![0; 1 << 16], false);
        while let Ok(read @ 1..) = from.read(&mut bytes).await {
            let passed = &bytes[..read];
            // A connection that lost something once is of no use any more.
            is_dead |= self.is_cut.load(Ordering::SeqCst);
            if is_dead {
                continue;
            }
            let is_it = is_request
                && self.is_armed.load(Ordering::SeqCst)
                && passed.windows(self.needle.len()).any(|window| window == self.needle);
            match &self.is_held {
                Some((is_there, may_pass)) if is_it => {
                    self.is_armed.store(false, Ordering::SeqCst);
                    is_there.notify_one();
                    may_pass.notified().await;
                }
                None if is_it => self.is_cut.store(true, Ordering::SeqCst),
                _ => {}
            }
            if to.write_all(passed).await.is_err() {
                return;
            }
        }
    }
}

/// etcd carried out the commit of an INSERT, whose coordinator never heard of it and leads no longer: the rows are there, and stay.
#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_commit_that_nobody_heard_of_stay() {
    let Some(mut coordinators) = start(0, &[]) else { return };
    let target = coordinators.etcd.endpoint().replace("http://", "");
    let (lossy, through) = Lossy::start(target, "catalog/tables/public/log", None).await;
    let first = coordinators.add_over(&through).url.clone();
    let mut asks = client(&first).await;
    asks.rows("CREATE TABLE log (id BIGINT)").await;
    let second = coordinators.add().url.clone();
    lossy.is_armed.store(true, Ordering::SeqCst);
    let inserting = tokio::spawn(async move { asks.query("INSERT INTO log VALUES (7)").await.map(|_| ()) });
    assert_eq!(led_by_another(&second, &first).await, second);
    assert!(lossy.is_cut.load(Ordering::SeqCst), "the commit was sent");
    // The first one hears of all that now.
    lossy.is_armed.store(false, Ordering::SeqCst);
    lossy.is_cut.store(false, Ordering::SeqCst);
    let error = inserting.await.expect("no panic").expect_err("nobody told that it was done");
    assert!(is_retryable(&error), "{error}");
    let log = coordinators.root.path().join("coordinator-0.log");
    let stands_by = || std::fs::read_to_string(&log).unwrap_or_default().matches("standing by").count() > 1;
    until("the first one has cleaned up and stands by", async || stands_by()).await;
    assert_eq!(client(&second).await.rows("SELECT id FROM log").await, ["7"]);
}

/// Who comes while a coordinator begins to lead, and waits for etcd, is let in meanwhile, and answered when it leads.
#[tokio::test(flavor = "multi_thread")]
async fn who_comes_while_the_catalog_is_read_is_let_in() {
    let Some(mut coordinators) = start(0, &[]) else { return };
    let target = coordinators.etcd.endpoint().replace("http://", "");
    // Where the range of all keys that begin with `catalog/` ends.
    let (etcd, through) = Lossy::start(target, "catalog0", Some(Default::default())).await;
    etcd.is_armed.store(true, Ordering::SeqCst);
    let url = coordinators.add_over(&through).url.clone();
    let (is_there, may_pass) = etcd.is_held.as_ref().expect("it holds it");
    is_there.notified().await;
    // What a client of HTTP/2 begins with. A server says its settings as soon as it looks.
    let greeting = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let mut comes = TcpStream::connect(url.trim_start_matches("grpc://")).await.expect("it listens");
    comes.write_all(greeting).await.expect("it is there");
    let looks = tokio::time::timeout(PATIENCE, comes.read_u8()).await;
    looks.expect("it looks while it waits for etcd").expect("settings");
    let mut early = client(&url).await;
    may_pass.notify_one();
    let answer = tokio::time::timeout(PATIENCE, early.rows("SELECT 1")).await;
    assert_eq!(answer.expect("it is answered"), ["1"]);
}
