//! Where hosts join: each opens a stream, and is a member while it lasts.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use arrow_flight::FlightData;
use futures::StreamExt;
use onward_executor::host::{Exchange, HostEvent, MemberStream};
use onward_shuffle::flight::parse_address;
use onward_wire::cluster::{FunctionLost, FunctionReady, Heartbeat, Join, Leader, ToCoordinator, to_coordinator};
use onward_wire::message::AttemptDone;
use onward_wire::{ErrorKind, FunctionId, HostId, QueryId, WireError};
use prost::Message;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::Request;
use super::fleet::{MOST_QUEUED, Say};
use crate::cluster::{UNKNOWN, announce};

/// A host says who it is within this time.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);

/// A host that wants in.
pub(super) struct Joining {
    pub(super) join: Join,
    pub(super) say: Say,
    pub(super) reply: oneshot::Sender<HostId>,
}

/// What a member said.
#[derive(Debug)]
pub(super) enum MemberEvent {
    /// Something happened there.
    Host(HostEvent),
    /// An attempt there is prepared, and its output lies on another host.
    Given(FunctionId, HostId, Box<AttemptDone>),
    /// It lives.
    Heartbeat(Heartbeat),
    /// A function there began an upload.
    Upload(QueryId, String, String),
    /// No function there works for the query of this request any more.
    QueryEnded(u64),
    /// It wants to leave.
    Leaving,
    /// Another coordinator leads: its epoch.
    Deposed(u64),
    /// Its stream ended.
    Left(String),
}

/// Lets hosts in.
pub(super) struct Door {
    pub(super) requests: mpsc::UnboundedSender<Request>,
    /// Bounded: a coordinator that is behind reads no more from the network.
    pub(super) events: mpsc::Sender<(HostId, MemberEvent)>,
    /// For those who ask.
    pub(super) leader: watch::Receiver<Leader>,
}

impl Exchange for Door {
    fn exchange(
        &self,
        messages: Streaming<FlightData>,
        is_known: bool,
    ) -> Pin<Box<dyn Future<Output = Result<MemberStream, WireError>> + Send + '_>> {
        Box::pin(self.let_in(messages, is_known))
    }
}

impl Door {
    async fn let_in(&self, mut messages: Streaming<FlightData>, is_known: bool) -> Result<MemberStream, WireError> {
        let denied = |why: String| WireError::new(ErrorKind::Denied, why);
        if !is_known {
            return Err(denied(UNKNOWN.to_owned()));
        }
        let first = tokio::time::timeout(JOIN_TIMEOUT, messages.message()).await;
        let join = match first.ok().and_then(Result::ok).flatten().map(|first| parse(&first)) {
            Some(Ok(to_coordinator::Body::Join(join))) => join,
            Some(Ok(to_coordinator::Body::Follow(_))) => return Ok(announce(self.leader.clone(), messages)),
            _ => return Err(denied("a host's first message must be Join or Follow".to_owned())),
        };
        if !join.is_outbound {
            parse_address(&join.address)?;
        }
        let ending = || WireError::new(ErrorKind::Unavailable, "the coordinator is shutting down");
        let (say, said) = mpsc::channel(MOST_QUEUED);
        let (reply, joined) = oneshot::channel();
        let joining = Request::Join(Box::new(Joining { join, say, reply }));
        self.requests.send(joining).map_err(|_| ending())?;
        let host = joined.await.map_err(|_| ending())?;
        tokio::spawn(listen(host, messages, self.events.clone()));
        Ok(ReceiverStream::new(said).boxed())
    }
}

/// Hands on what a member says until its stream ends.
async fn listen(host: HostId, mut messages: Streaming<FlightData>, events: mpsc::Sender<(HostId, MemberEvent)>) {
    let reason = loop {
        let message = match messages.message().await {
            Ok(Some(message)) => message,
            Ok(None) => break "it left".to_owned(),
            Err(status) => break status.message().to_owned(),
        };
        let event = match parse(&message).map(understand) {
            Ok(Some(event)) => event,
            _ => break "it sent what this version does not know".to_owned(),
        };
        if events.send((host, event)).await.is_err() {
            return;
        }
    };
    // The driver may have ended: then nobody asks.
    let _ = events.send((host, MemberEvent::Left(reason))).await;
}

fn parse(data: &FlightData) -> Result<to_coordinator::Body, WireError> {
    let unknown = || WireError::new(ErrorKind::Internal, "a host sent what this version does not know");
    ToCoordinator::decode(data.app_metadata.clone()).ok().and_then(|message| message.body).ok_or_else(unknown)
}

fn understand(message: to_coordinator::Body) -> Option<MemberEvent> {
    Some(match message {
        to_coordinator::Body::Heartbeat(heartbeat) => MemberEvent::Heartbeat(heartbeat),
        to_coordinator::Body::FunctionReady(FunctionReady { function, pid }) => {
            MemberEvent::Host(HostEvent::FunctionReady { function: FunctionId(function), pid })
        }
        to_coordinator::Body::FunctionLost(FunctionLost { function, reason }) => {
            MemberEvent::Host(HostEvent::FunctionLost { function: FunctionId(function), reason })
        }
        to_coordinator::Body::Report(report) => {
            let home = report.host.map(HostId);
            match (HostEvent::from_report(report)?, home) {
                (HostEvent::Prepared { function, done }, Some(home)) => {
                    MemberEvent::Given(function, home, Box::new(done))
                }
                (event, _) => MemberEvent::Host(event),
            }
        }
        to_coordinator::Body::UploadNoted(noted) => MemberEvent::Upload(QueryId(noted.query), noted.path, noted.upload),
        to_coordinator::Body::QueryEnded(ended) => MemberEvent::QueryEnded(ended.request),
        to_coordinator::Body::Leaving(_) => MemberEvent::Leaving,
        to_coordinator::Body::Deposed(deposed) => MemberEvent::Deposed(deposed.by),
        to_coordinator::Body::Join(_) | to_coordinator::Body::Follow(_) => return None,
    })
}
