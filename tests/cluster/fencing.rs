//! A leader that another one has followed has no power over hosts.

use std::future::Future;
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use arrow_flight::FlightData;
use futures::StreamExt;
use onward_executor::host::{Exchange, MemberStream, serve_exchange};
use onward_wire::WireError;
use onward_wire::cluster::{Joined, Leader, StartFunction, ToCoordinator, ToMember, to_coordinator};
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{UnboundedReceiverStream, WatchStream};
use tonic::Streaming;

/// However slow the machine.
const PATIENCE: Duration = Duration::from_secs(60);
const MOST_MESSAGE_BYTES: u64 = 1 << 20;

/// A coordinator as a host sees it: what it says is what the test says.
struct Actor {
    url: String,
    /// What those hear that follow it.
    leader: watch::Sender<Leader>,
    /// A host joined: what it is told, and what it says.
    joined: mpsc::UnboundedReceiver<(mpsc::UnboundedSender<ToMember>, mpsc::UnboundedReceiver<to_coordinator::Body>)>,
}

type Members = mpsc::UnboundedSender<(mpsc::UnboundedSender<ToMember>, mpsc::UnboundedReceiver<to_coordinator::Body>)>;

struct Stage {
    leader: watch::Receiver<Leader>,
    joined: Members,
}

fn frame(message: &ToMember) -> FlightData {
    FlightData { app_metadata: message.encode_to_vec().into(), ..FlightData::default() }
}

fn read(data: &FlightData) -> to_coordinator::Body {
    ToCoordinator::decode(data.app_metadata.clone()).expect("a message").body.expect("a body")
}

impl Exchange for Stage {
    fn exchange(
        &self,
        mut messages: Streaming<FlightData>,
        _: bool,
    ) -> Pin<Box<dyn Future<Output = Result<MemberStream, WireError>> + Send + '_>> {
        Box::pin(async move {
            let first = messages.message().await.expect("a stream").expect("a message");
            if let to_coordinator::Body::Follow(_) = read(&first) {
                let told = WatchStream::new(self.leader.clone()).map(move |leader| {
                    let _held = &messages;
                    Ok(frame(&ToMember { epoch: leader.epoch, ..leader.into() }))
                });
                return Ok(told.boxed());
            }
            let (say, told) = mpsc::unbounded_channel();
            let (heard, said) = mpsc::unbounded_channel();
            self.joined.send((say, said)).expect("the test goes on");
            tokio::spawn(async move {
                while let Ok(Some(message)) = messages.message().await {
                    let _ = heard.send(read(&message));
                }
            });
            Ok(UnboundedReceiverStream::new(told).map(|message| Ok(frame(&message))).boxed())
        })
    }
}

impl Actor {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("grpc://{}", listener.local_addr().expect("an address"));
        let (leader, told) = watch::channel(Leader::default());
        let (members, joined) = mpsc::unbounded_channel();
        let stage = Arc::new(Stage { leader: told, joined: members });
        tokio::spawn(async move {
            let served = serve_exchange(listener, None, stage, MOST_MESSAGE_BYTES, std::future::pending()).await;
            served.expect("it serves");
        });
        Self { url, leader, joined }
    }

    /// The next host that joins, which is told that it is taken in.
    async fn take_in(
        &mut self,
        epoch: u64,
    ) -> (mpsc::UnboundedSender<ToMember>, mpsc::UnboundedReceiver<to_coordinator::Body>) {
        let joined = tokio::time::timeout(PATIENCE, self.joined.recv()).await.expect("a host comes");
        let (say, said) = joined.expect("it serves");
        let joined = Joined { host: 1, key: vec![7; 32].into(), heartbeat_ms: 50, silence_timeout_ms: 60_000 };
        say.send(ToMember { epoch, ..joined.into() }).expect("it listens");
        (say, said)
    }
}

async fn until<T>(
    said: &mut mpsc::UnboundedReceiver<to_coordinator::Body>,
    is_it: impl Fn(to_coordinator::Body) -> Option<T>,
) -> T {
    let hearing = async {
        loop {
            if let Some(found) = is_it(said.recv().await.expect("the host is there")) {
                return found;
            }
        }
    };
    tokio::time::timeout(PATIENCE, hearing).await.expect("the host says it")
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn host(join: &str, directory: &tempfile::TempDir) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onward"));
    command.args(["host", "--join", join, "--advertise", "127.0.0.1:0", "--log", "warn"]);
    command.arg("--spill-dir").arg(directory.path()).stdin(Stdio::null()).stdout(Stdio::null());
    Process(command.spawn().expect("the binary starts"))
}

/// The host hears from another coordinator that it leads, goes there, and does nothing more of what the first one says.
#[tokio::test(flavor = "multi_thread")]
async fn commands_of_a_deposed_leader_are_refused() {
    let (mut first, mut second) = (Actor::start().await, Actor::start().await);
    let directory = tempfile::tempdir().expect("a directory");
    let _host = host(&format!("{},{}", first.url, second.url), &directory);
    let (old_say, mut old_said) = first.take_in(5).await;
    until(&mut old_said, |said| matches!(said, to_coordinator::Body::Heartbeat(_)).then_some(())).await;

    // The first one is silent from here on, as if it were stopped.
    second.leader.send_replace(Leader { epoch: 7, url: second.url.clone(), coordinators: vec![] });
    let (new_say, mut new_said) = second.take_in(7).await;
    let by = until(&mut old_said, |said| match said {
        to_coordinator::Body::Deposed(deposed) => Some(deposed.by),
        to_coordinator::Body::FunctionReady(_) | to_coordinator::Body::FunctionLost(_) => panic!("{said:?}"),
        _ => None,
    });
    assert_eq!(by.await, 7);

    // It goes on, and gives a command; the other one does so, too. Only one function is started.
    let start = |function| StartFunction { function, vcpus: 1, memory_bytes: 64 << 20 };
    let _ = old_say.send(ToMember { epoch: 5, ..start(1).into() });
    new_say.send(ToMember { epoch: 7, ..start(2).into() }).expect("it listens");
    let started = until(&mut new_said, |said| match said {
        to_coordinator::Body::FunctionReady(ready) => Some(ready.function),
        to_coordinator::Body::FunctionLost(lost) => panic!("{lost:?}"),
        _ => None,
    });
    assert_eq!(started.await, 2);
    let functions = until(&mut new_said, |said| match said {
        to_coordinator::Body::Heartbeat(heartbeat) if heartbeat.functions > 0 => Some(heartbeat.functions),
        _ => None,
    });
    assert_eq!(functions.await, 1);
    while let Ok(said) = old_said.try_recv() {
        assert!(!matches!(said, to_coordinator::Body::FunctionReady(_)), "{said:?}");
    }
}

/// A host that was left alone asks all coordinators it knows; one that does not know of the later leader cannot have it.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_heard_of_a_later_leader_joins_no_earlier_one() {
    let (mut first, mut second) = (Actor::start().await, Actor::start().await);
    let directory = tempfile::tempdir().expect("a directory");
    let _host = host(&first.url, &directory);
    let (say, _said) = first.take_in(7).await;
    // Of the second one it hears from the first one.
    let told = Leader { epoch: 7, url: first.url.clone(), coordinators: vec![first.url.clone(), second.url.clone()] };
    say.send(ToMember { epoch: 7, ..told.into() }).expect("it listens");
    drop(say);
    // The first one has lost it, and answers as what it was before.
    let (_say, mut refused) = first.take_in(5).await;
    let by = until(&mut refused, |said| match said {
        to_coordinator::Body::Deposed(deposed) => Some(deposed.by),
        _ => None,
    });
    assert_eq!(by.await, 7);
    second.leader.send_replace(Leader { epoch: 8, url: second.url.clone(), coordinators: vec![] });
    let (_say, mut said) = second.take_in(8).await;
    until(&mut said, |said| matches!(said, to_coordinator::Body::Heartbeat(_)).then_some(())).await;
}
