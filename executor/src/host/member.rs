//! A host that is a member of a cluster: joins, carries out what the coordinator says, tells what came of it.
//!
//! ```text
//!   join --> Joined --> serve: commands in, events and heartbeats out --+
//!    ^                                                                  | stream ended, silence, a later leader
//!    +---- wait ---- reset: functions killed and reaped, segments gone <+
//! ```
//!
//! A command of a leader that a later one has followed is refused: see [`super::coordinators`].
//!
//! Cached columns and bytes of remote objects stay: they are of tables, not of queries.

use std::sync::Arc;
use std::time::Duration;

use arrow_flight::FlightData;
use futures::StreamExt;
use onward_cache::OpenUploads;
use onward_shuffle::flight::{GrantKey, from_status};
use onward_wire::cluster::{
    AwaitQueryEnd, Deposed, Failed, FunctionLost, FunctionReady, Heartbeat, Join, Joined, Leaving, Order, QueryEnded,
    Report, StartFunction, ToCoordinator, ToMember, UploadNoted, order, report, to_member,
};
use onward_wire::exchange::StageInputs;
use onward_wire::message::{AttemptDone, ForgetQuery, SegmentRef};
use onward_wire::{AttemptId, Config, ENGINE_VERSION, ErrorKind, FunctionId, HostId, QueryId, SegmentId, WireError};
use prost::Message;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::coordinators::Coordinators;
use super::{Host, HostEvent, HostOptions};

/// Messages on their way to the coordinator; more wait.
const MOST_QUEUED: usize = 1_024;
/// Between two tries to join: doubled from the first to the second.
const RETRY: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(5);
/// A coordinator answers a join within this time.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);
/// A leader that a later one has followed is told so, when it says something within this time.
const FAREWELL: Duration = Duration::from_secs(60);
/// Times that a host is sent from one coordinator to another before it waits.
const MOST_REDIRECTIONS: u32 = 4;

/// How to be a member.
#[derive(Clone, Debug)]
pub struct MemberOptions {
    /// The cluster addresses of some coordinators, one at least, such as `grpc://coordinator:50053`; they tell of others.
    pub coordinators: Vec<String>,
    /// Where others reach this host's data plane; `None`: nobody does, and its output goes to a host that can be reached.
    pub advertise: Option<String>,
    /// The machine's name, for people.
    pub name: String,
}

/// A host that joins a coordinator, again and again until it is told to leave.
pub struct Member {
    host: Arc<Host>,
    config: Arc<Config>,
    options: MemberOptions,
    events: mpsc::UnboundedReceiver<HostEvent>,
    uploads: mpsc::UnboundedReceiver<UploadNoted>,
}

/// Why a stream to a coordinator ended.
enum Left {
    /// The coordinator ends or was never there: worth trying again.
    Lost(WireError),
    /// It does not want this host: trying again would not help.
    Refused(WireError),
    /// Another one leads.
    Elsewhere,
}

impl Member {
    /// Starts the host. It runs nothing before [`Member::run`].
    ///
    /// # Errors
    /// As [`Host::start`].
    pub fn start(
        config: Arc<Config>,
        program: std::path::PathBuf,
        ranges: Option<Arc<onward_cache::ranges::RangeTier>>,
        options: MemberOptions,
    ) -> Result<Self, WireError> {
        config.check()?;
        // Bounded by what functions may say: see Host::start.
        let (host_events, events) = mpsc::unbounded_channel();
        let (noted, uploads) = mpsc::unbounded_channel();
        let note = move |query: QueryId, path: object_store::path::Path, upload| {
            // Nobody listens any more when the member ends.
            let _ = noted.send(UploadNoted { query: query.0, path: path.to_string(), upload });
        };
        let options_of_host = HostOptions {
            config: Arc::clone(&config),
            program,
            uploads: Arc::new(OpenUploads::elsewhere(note)),
            stores: Arc::default(),
            ranges,
            key: GrantKey::random()?,
        };
        let host = Host::start(options_of_host, host_events);
        let host = host.map_err(|error| WireError::new(ErrorKind::Unavailable, error))?;
        Ok(Self { host, config, options, events, uploads })
    }

    /// The host.
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// Joins and serves until the coordinator refuses the host, or lets it go: once `leaving` is cancelled the host takes nothing
    /// new, and waits until nothing that it holds is needed, for `host_leave_timeout_ms`. To leave at once, drop the future. Either
    /// way, shut the host down then.
    ///
    /// # Errors
    /// Why it was refused, or that no coordinator was there for `host_orphan_timeout_ms`.
    pub async fn run(mut self, leaving: CancellationToken, mut on_joined: impl FnMut(HostId)) -> Result<(), WireError> {
        let mut wait = *RETRY.start();
        let mut alone_since = Instant::now();
        let orphaned_after = Duration::from_millis(self.config.host_orphan_timeout_ms);
        let given = self.options.coordinators.clone();
        let mut coordinators = Coordinators::new(given, Arc::clone(&self.host.shared.neighbours));
        let mut redirections = 0;
        loop {
            let (coordinator, epoch) = (coordinators.next(), coordinators.epoch());
            let joined = tokio::select! {
                joined = self.join(&coordinator, &coordinators) => joined,
                () = coordinators.elsewhere(&coordinator, epoch) => Err(Left::Elsewhere),
                () = leaving.cancelled() => return Ok(()),
            };
            let left = match joined {
                Ok(stream) => {
                    (wait, redirections) = (*RETRY.start(), 0);
                    let id = stream.id;
                    on_joined(id);
                    let left = self.serve(stream, &coordinators, &leaving).await;
                    if leaving.is_cancelled() {
                        return Ok(());
                    }
                    alone_since = Instant::now();
                    self.host.reset().await;
                    // What happened until then is about functions that are gone.
                    while self.events.try_recv().is_ok() {}
                    while self.uploads.try_recv().is_ok() {}
                    left
                }
                Err(left) => left,
            };
            match left {
                Left::Refused(error) => return Err(error),
                Left::Elsewhere if redirections < MOST_REDIRECTIONS => {
                    redirections += 1;
                    continue;
                }
                Left::Elsewhere => {
                    tracing::warn!(coordinator, "it does not lead, and says who does in vain: trying again")
                }
                Left::Lost(error) if !orphaned_after.is_zero() && alone_since.elapsed() >= orphaned_after => {
                    let message = format!("no coordinator for {} ms: {error}", orphaned_after.as_millis());
                    return Err(WireError::new(ErrorKind::Unavailable, message));
                }
                Left::Lost(error) => {
                    tracing::warn!(coordinator, %error, "not joined: trying again");
                    coordinators.did_not_answer(&coordinator);
                }
            }
            redirections = 0;
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = coordinators.later_than(epoch) => {}
                () = leaving.cancelled() => return Ok(()),
            }
            wait = (wait * 2).min(*RETRY.end());
        }
    }

    async fn join(&self, coordinator: &str, coordinators: &Coordinators) -> Result<Stream, Left> {
        let coordinator = coordinator.to_owned();
        let mut client = self.host.shared.neighbours.connector().client(&coordinator).map_err(Left::Refused)?;
        let (outgoing, queued) = mpsc::channel(MOST_QUEUED);
        let join = Join {
            engine_version: ENGINE_VERSION.to_owned(),
            address: self.options.advertise.clone().unwrap_or_default(),
            is_outbound: self.options.advertise.is_none(),
            vcpus: u32::try_from(self.config.vcpu_count()).unwrap_or(u32::MAX),
            operator_memory_bytes: self.config.operator_memory_limit_bytes(),
            max_functions: self.config.max_functions,
            name: self.options.name.clone(),
            labels: self.config.labels().map(str::to_owned).collect(),
        };
        let lost = |error| Left::Lost(error);
        outgoing.send(frame(&ToCoordinator::from(join))).await.map_err(|_| lost(ended(&coordinator)))?;
        let opening = async {
            let status = |status: tonic::Status| from_status(&coordinator, &status);
            let mut incoming = client.do_exchange(ReceiverStream::new(queued)).await.map_err(status)?.into_inner();
            let first = incoming.message().await.map_err(status)?.ok_or_else(|| ended(&coordinator))?;
            Ok((parse(&first)?, incoming))
        };
        let silent = || WireError::new(ErrorKind::Unavailable, format!("{coordinator} did not answer"));
        let opened = tokio::time::timeout(JOIN_TIMEOUT, opening).await.unwrap_or_else(|_| Err(silent()));
        let (first, incoming) = opened.map_err(|error: WireError| match error.kind() {
            ErrorKind::Denied | ErrorKind::InvalidQuery => Left::Refused(error),
            _ => Left::Lost(error),
        })?;
        let later = coordinators.epoch();
        match first.body.ok_or_else(|| lost(nothing()))? {
            to_member::Body::Leader(leader) => {
                let is_known = leader.epoch > 0 && leader.epoch >= later && leader.url != coordinator;
                coordinators.hear(leader);
                match is_known {
                    true => Err(Left::Elsewhere),
                    false => Err(lost(WireError::new(ErrorKind::Unavailable, format!("{coordinator}: nobody leads")))),
                }
            }
            to_member::Body::Joined(_) if first.epoch < later => {
                refuse(outgoing, incoming, later);
                Err(Left::Elsewhere)
            }
            to_member::Body::Joined(Joined { host, key, heartbeat_ms, silence_timeout_ms }) => {
                let id = HostId(host);
                self.host.shared.neighbours.join(id, GrantKey::from_bytes(key).map_err(lost)?);
                let heartbeat = Duration::from_millis(heartbeat_ms.max(10));
                let silence = Duration::from_millis(silence_timeout_ms).max(heartbeat * 2);
                Ok(Stream { coordinator, epoch: first.epoch, id, incoming, outgoing, heartbeat, silence })
            }
            to_member::Body::Refused(refused) => Err(Left::Refused(refused.error)),
            _ => Err(Left::Lost(WireError::new(
                ErrorKind::Internal,
                "the coordinator answered Join with something else",
            ))),
        }
    }

    async fn serve(&mut self, stream: Stream, coordinators: &Coordinators, leaving: &CancellationToken) -> Left {
        let Stream { coordinator, epoch, mut incoming, outgoing, heartbeat, silence, .. } = stream;
        let mut beats = tokio::time::interval(heartbeat);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let (mut waits, mut gifts) = (JoinSet::new(), JoinSet::new());
        let (is_outbound, mut home) = (self.options.advertise.is_none(), None);
        let leave_timeout = Duration::from_millis(self.config.host_leave_timeout_ms);
        let mut leave_by = None;
        loop {
            let is_late = async {
                match leave_by {
                    Some(leave_by) => tokio::time::sleep_until(leave_by).await,
                    None => std::future::pending().await,
                }
            };
            let say: Option<ToCoordinator> = tokio::select! {
                // Uploads come before the end of the attempts that began them.
                biased;
                later = coordinators.later_than(epoch) => {
                    tracing::info!(coordinator, epoch, later, "another coordinator leads now");
                    refuse(outgoing, incoming, later);
                    return Left::Elsewhere;
                }
                Some(noted) = self.uploads.recv() => Some(noted.into()),
                message = incoming.next() => {
                    heard = Instant::now();
                    let message = match message {
                        None => return Left::Lost(ended(&coordinator)),
                        Some(Err(status)) => return Left::Lost(from_status(&coordinator, &status)),
                        Some(Ok(message)) => message,
                    };
                    let message = match parse(&message) {
                        Ok(ToMember { body: Some(body), epoch: said }) if said == epoch => body,
                        Ok(_) => return Left::Lost(nothing()),
                        Err(error) => return Left::Lost(error),
                    };
                    match message {
                        to_member::Body::AwaitQueryEnd(AwaitQueryEnd { request, query }) => {
                            let ended = self.host.query_ended(QueryId(query));
                            waits.spawn(async move {
                                ended.await;
                                request
                            });
                            None
                        }
                        to_member::Body::Peers(peers) => {
                            home = peers.home.map(HostId);
                            let hosts = peers.hosts.into_iter().map(|peer| (HostId(peer.host), peer.address));
                            self.host.change_peers(hosts, peers.gone.into_iter().map(HostId));
                            None
                        }
                        to_member::Body::Leader(leader) => {
                            coordinators.hear(leader);
                            None
                        }
                        to_member::Body::Leave(_) => {
                            leaving.cancel();
                            None
                        }
                        to_member::Body::Shutdown(_) => return Left::Lost(ended(&coordinator)),
                        command => {
                            carry_out(&self.host, command);
                            None
                        }
                    }
                }
                Some(event) = self.events.recv() => match event {
                    HostEvent::Prepared { function, done } if is_outbound && !done.output.segments.is_empty() => {
                        gifts.spawn(give(Arc::clone(&self.host), home, function, done));
                        None
                    }
                    event => Some(told(event)),
                },
                Some(Ok(given)) = gifts.join_next() => Some(given),
                Some(Ok(request)) = waits.join_next() => {
                    // What it began and noted goes first.
                    while let Ok(noted) = self.uploads.try_recv() {
                        if outgoing.send(frame(&noted.into())).await.is_err() {
                            return Left::Lost(ended(&coordinator));
                        }
                    }
                    Some(QueryEnded { request }.into())
                }
                () = leaving.cancelled(), if leave_by.is_none() => {
                    leave_by = Some(Instant::now() + leave_timeout);
                    Some(Leaving {}.into())
                }
                () = is_late => {
                    let ms = leave_timeout.as_millis();
                    tracing::warn!("it was not let go within {ms} ms (host_leave_timeout_ms): what it ran runs again elsewhere");
                    return Left::Lost(ended(&coordinator));
                }
                _ = beats.tick() => Some(self.host.heartbeat().into()),
                () = tokio::time::sleep_until(heard + silence) => {
                    let message = format!("{coordinator} was not heard of for {} ms", silence.as_millis());
                    return Left::Lost(WireError::new(ErrorKind::Unavailable, message));
                }
            };
            if let Some(say) = say
                && outgoing.send_timeout(frame(&say), silence).await.is_err()
            {
                return Left::Lost(ended(&coordinator));
            }
        }
    }
}

/// An open stream to a coordinator.
struct Stream {
    coordinator: String,
    /// Of its leadership.
    epoch: u64,
    id: HostId,
    incoming: tonic::Streaming<FlightData>,
    outgoing: mpsc::Sender<FlightData>,
    heartbeat: Duration,
    silence: Duration,
}

fn ended(coordinator: &str) -> WireError {
    WireError::new(ErrorKind::Unavailable, format!("{coordinator} closed the connection"))
}

fn nothing() -> WireError {
    WireError::new(ErrorKind::Internal, "the coordinator sent what this version does not know")
}

/// Does nothing of what a leader says that a later one has followed, and tells it so.
fn refuse(outgoing: mpsc::Sender<FlightData>, mut incoming: tonic::Streaming<FlightData>, by: u64) {
    let farewell = async move {
        // It may be gone, or stopped: then it hears it when it goes on.
        let _ = outgoing.send(frame(&ToCoordinator::from(Deposed { by }))).await;
        while let Ok(Some(_)) = incoming.message().await {
            tracing::warn!(by, "a command of a leader that another one has followed: refused");
        }
    };
    tokio::spawn(tokio::time::timeout(FAREWELL, farewell));
}

pub(super) fn frame(message: &ToCoordinator) -> FlightData {
    FlightData { app_metadata: message.encode_to_vec().into(), ..FlightData::default() }
}

pub(super) fn parse(data: &FlightData) -> Result<ToMember, WireError> {
    let mut message = ToMember::decode(data.app_metadata.clone()).map_err(|_| nothing())?;
    if let Some(to_member::Body::Order(Order { body: Some(body), .. })) = &mut message.body {
        let inputs = match body {
            order::Body::RunAttempt(attempt) => attempt.inputs.as_mut_slice(),
            order::Body::MoreInputs(more) => more.inputs.as_mut_slice(),
            _ => &mut [],
        };
        inputs.iter_mut().try_for_each(StageInputs::unpack)?;
    }
    Ok(message)
}

fn carry_out(host: &Host, command: to_member::Body) {
    match command {
        to_member::Body::StartFunction(StartFunction { function, vcpus, memory_bytes }) => {
            host.start_function(FunctionId(function), vcpus as usize, memory_bytes);
        }
        to_member::Body::StopFunction(stop) => host.stop_function(FunctionId(stop.function)),
        to_member::Body::Order(Order { function, body }) => {
            let function = FunctionId(function);
            match body {
                Some(order::Body::DefineStage(stage)) => host.define_stage(function, stage),
                Some(order::Body::RunAttempt(attempt)) => host.run_attempt(function, attempt),
                Some(order::Body::CancelAttempt(cancel)) => host.cancel_attempt(function, cancel.attempt.into()),
                Some(order::Body::RuntimeFilters(filters)) => host.add_filters(function, filters),
                Some(order::Body::MoreInputs(more)) => host.more_inputs(function, more),
                None => tracing::warn!("an order without content"),
            }
        }
        to_member::Body::ForgetQuery(ForgetQuery { query, kept }) => {
            let kept: Vec<_> = kept.into_iter().map(SegmentId).collect();
            host.forget_query(QueryId(query), &kept);
        }
        to_member::Body::RemoveSegments(removed) => {
            let segments: Vec<_> = removed.segments.into_iter().map(SegmentId).collect();
            host.remove_segments(&segments);
        }
        to_member::Body::Alive(_) => {}
        other => tracing::warn!(?other, "a command that is none"),
    }
}

/// Gives the output of an attempt to `home`, where others can read it, and says that it is prepared there.
async fn give(host: Arc<Host>, home: Option<HostId>, function: FunctionId, mut done: AttemptDone) -> ToCoordinator {
    let attempt = AttemptId::from(done.attempt);
    let own: Vec<SegmentId> = done.output.segments.iter().map(SegmentRef::id).collect();
    let given = match home {
        Some(home) => host.shared.neighbours.give(home, attempt.task.stage, &done.output.segments).await,
        None => Err(WireError::new(ErrorKind::Unavailable, "no host that can be reached takes its output")),
    };
    host.remove_segments(&own);
    let body = match given {
        Ok(segments) => {
            done.output.segments = segments;
            report::Body::Prepared(done)
        }
        Err(error) => report::Body::Failed(Failed { attempt: attempt.into(), error, has_ended: true }),
    };
    Report { function: function.0, body: Some(body), host: home.map(|home| home.0) }.into()
}

/// An event as the coordinator hears it.
fn told(event: HostEvent) -> ToCoordinator {
    let report = |function: FunctionId, body| Report { function: function.0, body: Some(body), host: None }.into();
    match event {
        HostEvent::FunctionReady { function, pid } => FunctionReady { function: function.0, pid }.into(),
        HostEvent::FunctionLost { function, reason } => FunctionLost { function: function.0, reason }.into(),
        HostEvent::Progress { function, progress } => report(function, report::Body::Progress(progress)),
        HostEvent::Prepared { function, done } => report(function, report::Body::Prepared(done)),
        HostEvent::AttemptFailed { function, attempt, error, has_ended } => {
            report(function, report::Body::Failed(Failed { attempt: attempt.into(), error, has_ended }))
        }
        HostEvent::AttemptEnded { function, attempt } => {
            report(function, report::Body::Ended(onward_wire::message::AttemptEnded { attempt: attempt.into() }))
        }
    }
}

impl HostEvent {
    /// Whom it is about.
    pub fn function(&self) -> FunctionId {
        match self {
            Self::FunctionReady { function, .. }
            | Self::FunctionLost { function, .. }
            | Self::Progress { function, .. }
            | Self::Prepared { function, .. }
            | Self::AttemptFailed { function, .. }
            | Self::AttemptEnded { function, .. } => *function,
        }
    }

    /// What a member told; `None` when it is no event.
    pub fn from_report(report: Report) -> Option<Self> {
        let function = FunctionId(report.function);
        Some(match report.body? {
            report::Body::Progress(progress) => Self::Progress { function, progress },
            report::Body::Prepared(done) => Self::Prepared { function, done },
            report::Body::Failed(Failed { attempt, error, has_ended }) => {
                Self::AttemptFailed { function, attempt: AttemptId::from(attempt), error, has_ended }
            }
            report::Body::Ended(ended) => Self::AttemptEnded { function, attempt: ended.attempt.into() },
        })
    }
}

impl Host {
    /// What it holds now.
    pub fn heartbeat(&self) -> Heartbeat {
        let usage = self.shared.store.usage();
        Heartbeat {
            functions: self.shared.functions.lock().len() as u64,
            segments: usage.segments,
            segment_memory_bytes: usage.memory_bytes,
            segment_disk_bytes: usage.disk_bytes,
            column_bytes: self.shared.columns.store().usage().memory_bytes,
            fetched_bytes: self.shared.neighbours.fetched_bytes(),
            served_bytes: self.shared.data_plane.served_bytes(),
        }
    }
}
