//! A leader whose process is stopped, or killed.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use super::{candidate, hasty_client, lead, server, soon};

/// Where the process of a test finds etcd.
const ENDPOINT: &str = "ONWARD_STATE_TEST_ENDPOINT";

/// Not a test: the process of one. It leads, and says whether it is valid each time that it is asked.
#[test]
#[ignore = "the process of another test"]
fn leader() {
    let Ok(endpoint) = std::env::var(ENDPOINT) else { return };
    // Its tasks run while it waits for the leadership, and not after that: no task helps it to know.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (_candidate, leadership) = runtime.block_on(async {
        let candidate = candidate(&hasty_client(endpoint), "child");
        let leadership = lead(&candidate).await;
        (candidate, leadership)
    });
    eprintln!("valid {}", leadership.is_valid());
    eprintln!("epoch {}", leadership.epoch());
    for _ in std::io::stdin().lines() {
        eprintln!("valid {}", leadership.is_valid());
    }
}

/// Killed when it is dropped.
struct Leader {
    process: Child,
    said: std::io::Lines<BufReader<std::process::ChildStderr>>,
    epoch: u64,
}

impl Leader {
    fn start(endpoint: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("a program"));
        command.args(["--exact", "tests::stopped::leader", "--ignored", "--nocapture"]).env(ENDPOINT, endpoint);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().expect("a process");
        let said = BufReader::new(process.stderr.take().expect("a pipe")).lines();
        let mut leader = Self { process, said, epoch: 0 };
        assert_eq!(leader.hear("valid "), "true");
        leader.epoch = leader.hear("epoch ").parse().expect("a number");
        leader
    }

    fn hear(&mut self, what: &str) -> String {
        let mut lines = self.said.by_ref().map(|line| line.expect("text"));
        lines.find_map(|line| line.strip_prefix(what).map(str::to_owned)).expect("it says that")
    }

    fn ask(&mut self) {
        self.process.stdin.as_mut().expect("a pipe").write_all(b"?\n").expect("it runs");
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).expect("it runs");
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn a_leader_that_was_stopped_knows_at_once_that_it_is_not_valid() {
    let Some(server) = server() else { return };
    let mut child = Leader::start(&server.endpoint());
    child.signal(Signal::STOP);
    let candidate = candidate(&hasty_client(server.endpoint()), "next");
    let leadership = lead(&candidate).await;
    assert!(leadership.epoch() > child.epoch);
    child.ask();
    child.signal(Signal::CONT);
    assert_eq!(child.hear("valid "), "false");
    assert!(leadership.is_valid());
}

#[tokio::test]
async fn a_leader_that_was_killed_is_replaced_when_its_lease_is_over() {
    let Some(server) = server() else { return };
    let child = Leader::start(&server.endpoint());
    let candidate = candidate(&hasty_client(server.endpoint()), "next");
    let mut leader = candidate.leader();
    super::until(&mut leader, |info| info.as_ref().is_some_and(|info| info.epoch == child.epoch)).await;
    let leading = tokio::spawn(async move {
        let leadership = lead(&candidate).await;
        (candidate, leadership)
    });
    child.signal(Signal::KILL);
    let begun = Instant::now();
    let (_candidate, leadership) = soon(leading).await.expect("a leadership");
    let took = begun.elapsed();
    eprintln!("replaced after {} ms", took.as_millis());
    assert!(leadership.is_valid());
    // etcd looks every half second which leases are over. The rest is for slow machines; without a watch it would take 10 s.
    assert!(took < super::SHORT_TTL * 3, "{took:?}");
}
