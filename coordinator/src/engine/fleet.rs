//! The hosts of a coordinator: its own, and those that joined.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow_flight::FlightData;
use onward_executor::host::Host;
use onward_shuffle::flight::GrantKey;
use onward_wire::cluster::{
    Alive, AwaitQueryEnd, Heartbeat, Join, Joined, Leader, Leave, Order, Peer, Peers, RemoveSegments, StartFunction,
    StopFunction, ToMember, order,
};
use onward_wire::exchange::MoreInputs;
use onward_wire::filters::RuntimeFilters;
use onward_wire::message::{CancelAttempt, DefineStage, ForgetQuery, RunAttempt};
use onward_wire::{AttemptId, Config, ENGINE_VERSION, FunctionId, HostId, QueryId, SegmentId};
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tonic::Status;

use crate::scheduler::FunctionShape;
use crate::system::{HostRecord, HostTable};
use crate::term::Term;

/// What waits to be sent to a host; one that does not read is lost.
pub(super) const MOST_QUEUED: usize = 16_384;

/// The sending half of a host's stream.
pub(super) type Say = mpsc::Sender<Result<FlightData, Status>>;

/// What all hosts together can do: sizing asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Hosts that run functions.
    pub hosts: usize,
    /// vCPUs of the smallest of them.
    pub vcpus: usize,
    /// Memory for the operators of all functions on the smallest of them.
    pub operator_memory_bytes: u64,
    /// Worker classes that some of them offer, by number: ascending.
    pub classes: Vec<u16>,
}

/// Numbers of the worker classes that a host with these labels and vCPUs offers; the default one is 0. Classes are numbered from 1
/// in the order of their names.
fn offered<'a>(config: &Config, labels: impl Iterator<Item = &'a str> + Clone, vcpus: u32) -> Vec<u16> {
    let named = config.classes.values().zip(1..).filter(|(class, _)| class.is_offered_by(labels.clone(), vcpus));
    std::iter::once(0).chain(named.map(|(_, id)| id)).collect()
}

impl Capacity {
    /// Of the coordinator's own host.
    pub fn of(config: &Config) -> Self {
        let operator_memory_bytes = config.operator_memory_limit_bytes();
        let vcpus = config.vcpu_count();
        let classes = offered(config, config.labels(), vcpus as u32);
        Self { hosts: 1, vcpus, operator_memory_bytes, classes }
    }

    /// Memory for the operators of each of `functions` functions.
    pub fn function_memory_bytes(&self, config: &Config, functions: usize) -> u64 {
        match config.function_memory_bytes {
            0 => self.operator_memory_bytes / functions.div_ceil(self.hosts.max(1)).max(1) as u64,
            bytes => bytes,
        }
    }
}

struct Member {
    join: Join,
    say: Say,
    heard: Instant,
    /// Where it gives its output, when nobody can reach it.
    home: Option<HostId>,
    /// The home that it was told of, with the peers; `None`: it was told nothing.
    told: Option<Option<HostId>>,
    /// It wants to leave.
    is_leaving: bool,
    /// It may.
    was_let_go: bool,
}

impl Member {
    /// Plans of this coordinator are for functions of its own version.
    fn is_ours(&self) -> bool {
        self.join.engine_version == ENGINE_VERSION
    }
}

/// See the [module](self). Commands never wait: a host that cannot be told is noted as lost.
pub(super) struct Fleet {
    embedded: Arc<Host>,
    config: Arc<Config>,
    key: GrantKey,
    /// Of this coordinator's leadership.
    epoch: u64,
    /// Who leads, for hosts that may have to look for another leader.
    leader: watch::Receiver<Leader>,
    /// Where the coordinator's own data plane is, once it is served.
    address: Option<String>,
    members: BTreeMap<HostId, Member>,
    /// Hosts that can be reached, as all members know.
    peers: BTreeMap<HostId, String>,
    places: HashMap<FunctionId, HostId>,
    last_id: u32,
    lost: Vec<(HostId, String)>,
    table: Arc<HostTable>,
}

impl Fleet {
    pub(super) fn new(
        embedded: Arc<Host>,
        config: Arc<Config>,
        key: GrantKey,
        table: Arc<HostTable>,
        term: &Term,
    ) -> Self {
        let (epoch, leader) = (term.epoch, term.leader.clone());
        let fleet = Self {
            embedded,
            config,
            key,
            epoch,
            leader,
            address: None,
            members: BTreeMap::new(),
            peers: BTreeMap::new(),
            places: HashMap::new(),
            last_id: 0,
            lost: Vec::new(),
            table,
        };
        fleet.record(HostId::EMBEDDED, None);
        fleet
    }

    /// What signs grants.
    pub(super) fn key(&self) -> &GrantKey {
        &self.key
    }

    /// Others reach the coordinator's own segments at `address`.
    pub(super) fn set_address(&mut self, address: String) {
        self.address = Some(address);
        self.record(HostId::EMBEDDED, None);
        self.tell_peers();
    }

    /// There are other hosts.
    pub(super) fn has_members(&self) -> bool {
        !self.members.is_empty()
    }

    pub(super) fn capacity(&self) -> Capacity {
        let mut staying = self.members.values().filter(|member| member.is_ours() && !member.is_leaving).peekable();
        let is_alone = staying.peek().is_none();
        let own = (self.config.coordinator_functions || is_alone).then(|| Capacity::of(&self.config));
        let joined = staying.map(|member| Capacity {
            hosts: 1,
            vcpus: member.join.vcpus as usize,
            operator_memory_bytes: member.join.operator_memory_bytes,
            classes: self.classes_of(&member.join),
        });
        let together = own.into_iter().chain(joined).reduce(|all, one| Capacity {
            hosts: all.hosts + one.hosts,
            vcpus: all.vcpus.min(one.vcpus),
            operator_memory_bytes: all.operator_memory_bytes.min(one.operator_memory_bytes),
            classes: all.classes.into_iter().chain(one.classes).collect::<BTreeSet<_>>().into_iter().collect(),
        });
        together.unwrap_or_else(|| Capacity::of(&self.config))
    }

    /// Worker classes that a host offers.
    pub(super) fn classes_of(&self, join: &Join) -> Vec<u16> {
        offered(&self.config, join.labels.iter().map(String::as_str), join.vcpus.max(1))
    }

    /// Takes a host in; its id.
    pub(super) fn join(&mut self, join: Join, say: Say) -> HostId {
        self.last_id += 1;
        let id = HostId(self.last_id);
        let joined = Joined {
            host: id.0,
            key: self.key.bytes(),
            heartbeat_ms: self.config.heartbeat_ms,
            silence_timeout_ms: self.config.host_silence_timeout_ms,
        };
        let heard = Instant::now();
        let member = Member { join, say, heard, home: None, told: None, is_leaving: false, was_let_go: false };
        self.members.insert(id, member);
        self.say(id, joined);
        let leader = self.leader.borrow().clone();
        if leader.epoch > 0 {
            self.say(id, leader);
        }
        self.record(id, None);
        self.tell_peers();
        id
    }

    /// Members that can work, by the names they gave.
    pub(super) fn names(&self) -> impl Iterator<Item = (HostId, String)> + '_ {
        self.members.iter().filter(|(_, member)| member.is_ours()).map(|(id, member)| (*id, member.join.name.clone()))
    }

    /// A host wants to leave: nobody gives it output any more, if there is another one.
    pub(super) fn leaves(&mut self, host: HostId) {
        if let Some(member) = self.members.get_mut(&host) {
            member.is_leaving = true;
            self.tell_peers();
        }
    }

    /// Has members of this name leave, as a signal would.
    pub(super) fn tell_to_leave(&mut self, name: &str) {
        let named = |(id, member): (&HostId, &Member)| (member.join.name == name).then_some(*id);
        let ids: Vec<HostId> = self.members.iter().filter_map(named).collect();
        for id in ids {
            self.say(id, Leave {});
        }
    }

    /// Nothing of the host is needed: it may leave.
    pub(super) fn let_go(&mut self, host: HostId) {
        if let Some(member) = self.members.get_mut(&host) {
            member.was_let_go = true;
            self.say(host, onward_wire::message::Shutdown {});
        }
    }

    /// The host is of this coordinator's version: the scheduler knows of it.
    pub(super) fn is_ours(&self, host: HostId) -> bool {
        self.members.get(&host).is_some_and(Member::is_ours)
    }

    /// It wants to leave.
    pub(super) fn is_leaving(&self, host: HostId) -> bool {
        self.members.get(&host).is_some_and(|member| member.is_leaving)
    }

    pub(super) fn was_let_go(&self, host: HostId) -> bool {
        self.members.get(&host).is_some_and(|member| member.was_let_go)
    }

    /// A host is gone; its functions.
    pub(super) fn leave(&mut self, host: HostId) -> Option<Vec<FunctionId>> {
        self.members.remove(&host)?;
        self.table.remove(host);
        let functions: Vec<_> =
            self.places.iter().filter(|(_, place)| **place == host).map(|(function, _)| *function).collect();
        self.places.retain(|_, place| *place != host);
        self.tell_peers();
        Some(functions)
    }

    /// The host is the coordinator's own, or a member.
    pub(super) fn is_there(&self, host: HostId) -> bool {
        host == HostId::EMBEDDED || self.members.contains_key(&host)
    }

    /// Members that say they are at `address`.
    pub(super) fn at_address(&self, address: &str) -> Vec<(HostId, String)> {
        let there =
            self.members.iter().filter(|(_, member)| !member.join.is_outbound && member.join.address == address);
        there.map(|(id, _)| (*id, "another host joined at its address".to_owned())).collect()
    }

    /// A host was heard of; false when it is not one of ours any more.
    pub(super) fn heard(&mut self, host: HostId) -> bool {
        match self.members.get_mut(&host) {
            Some(member) => {
                member.heard = Instant::now();
                true
            }
            None => false,
        }
    }

    pub(super) fn record_heartbeat(&self, host: HostId, heartbeat: Heartbeat) {
        self.record(host, Some(heartbeat));
    }

    /// Hosts that could not be told something, or were not heard of for too long, since the last time.
    pub(super) fn take_lost(&mut self) -> Vec<(HostId, String)> {
        std::mem::take(&mut self.lost)
    }

    /// Says that the coordinator lives, and looks who else does.
    pub(super) fn beat(&mut self) {
        let ids: Vec<HostId> = self.members.keys().copied().collect();
        let silence = std::time::Duration::from_millis(self.config.host_silence_timeout_ms);
        // An error: it never changes.
        let news = self.leader.has_changed().unwrap_or(false).then(|| self.leader.borrow_and_update().clone());
        for id in ids {
            if let Some(leader) = &news {
                self.say(id, leader.clone());
            }
            if self.members[&id].heard.elapsed() > silence {
                self.lost.push((id, format!("it was not heard of for {} ms", silence.as_millis())));
            } else {
                self.say(id, Alive {});
            }
        }
        self.record(HostId::EMBEDDED, Some(self.embedded.heartbeat()));
    }

    /// All hosts end.
    pub(super) fn shut_down(&mut self) {
        let ids: Vec<HostId> = self.members.keys().copied().collect();
        for id in ids {
            self.say(id, onward_wire::message::Shutdown {});
        }
    }

    pub(super) fn place_of(&self, function: FunctionId) -> HostId {
        self.places.get(&function).copied().unwrap_or(HostId::EMBEDDED)
    }

    pub(super) fn start_function(&mut self, function: FunctionId, host: HostId, shape: FunctionShape) {
        self.places.insert(function, host);
        let FunctionShape { vcpus, memory_bytes, .. } = shape;
        match host {
            HostId::EMBEDDED => self.embedded.start_function(function, vcpus as usize, memory_bytes),
            _ => self.say(host, StartFunction { function: function.0, vcpus, memory_bytes }),
        }
    }

    pub(super) fn stop_function(&mut self, function: FunctionId) {
        match self.place_of(function) {
            HostId::EMBEDDED => self.embedded.stop_function(function),
            host => self.say(host, StopFunction { function: function.0 }),
        }
    }

    /// A function is gone.
    pub(super) fn forget_function(&mut self, function: FunctionId) {
        self.places.remove(&function);
    }

    pub(super) fn define_stage(&mut self, function: FunctionId, stage: DefineStage) {
        match self.place_of(function) {
            HostId::EMBEDDED => self.embedded.define_stage(function, stage),
            host => self.order(host, function, order::Body::DefineStage(stage)),
        }
    }

    pub(super) fn run_attempt(&mut self, function: FunctionId, attempt: RunAttempt) {
        match self.place_of(function) {
            HostId::EMBEDDED => self.embedded.run_attempt(function, attempt),
            host => self.order(host, function, order::Body::RunAttempt(attempt)),
        }
    }

    pub(super) fn cancel_attempt(&mut self, function: FunctionId, attempt: AttemptId) {
        match self.place_of(function) {
            HostId::EMBEDDED => self.embedded.cancel_attempt(function, attempt),
            host => {
                self.order(host, function, order::Body::CancelAttempt(CancelAttempt { attempt: attempt.into() }));
            }
        }
    }

    pub(super) fn add_filters(&mut self, function: FunctionId, filters: RuntimeFilters) {
        match self.place_of(function) {
            HostId::EMBEDDED => self.embedded.add_filters(function, filters),
            host => self.order(host, function, order::Body::RuntimeFilters(filters)),
        }
    }

    pub(super) fn more_inputs(&mut self, function: FunctionId, more: MoreInputs) {
        match self.place_of(function) {
            HostId::EMBEDDED => self.embedded.more_inputs(function, more),
            host => self.order(host, function, order::Body::MoreInputs(more)),
        }
    }

    /// A query is over: what it left on `hosts` goes, but for `kept`.
    pub(super) fn forget_query(&mut self, query: QueryId, hosts: &BTreeSet<HostId>, kept: &[(HostId, SegmentId)]) {
        let on = |host: HostId| kept.iter().filter(move |(holder, _)| *holder == host).map(|(_, segment)| *segment);
        self.embedded.forget_query(query, &on(HostId::EMBEDDED).collect::<Vec<_>>());
        for host in hosts {
            let kept = on(*host).map(|segment| segment.0).collect();
            self.say(*host, ForgetQuery { query: query.0, kept });
        }
    }

    pub(super) fn remove_segments(&mut self, segments: &[(HostId, SegmentId)]) {
        let mut by_host: BTreeMap<HostId, Vec<SegmentId>> = BTreeMap::new();
        for (host, segment) in segments {
            by_host.entry(*host).or_default().push(*segment);
        }
        for (host, segments) in by_host {
            match host {
                HostId::EMBEDDED => self.embedded.remove_segments(&segments),
                _ => self.say(host, RemoveSegments { segments: segments.iter().map(|segment| segment.0).collect() }),
            }
        }
    }

    /// `QueryEnded` follows, or the host is lost. False: the host is gone.
    pub(super) fn await_query_end(&mut self, host: HostId, query: QueryId, request: u64) -> bool {
        let is_there = self.members.contains_key(&host);
        self.say(host, AwaitQueryEnd { request, query: query.0 });
        is_there
    }

    fn order(&mut self, host: HostId, function: FunctionId, body: order::Body) {
        self.say(host, Order { function: function.0, body: Some(body) });
    }

    fn say(&mut self, host: HostId, message: impl Into<ToMember>) {
        // A host that is gone has no functions, and its segments went with it.
        let Some(member) = self.members.get(&host) else { return };
        let message = ToMember { epoch: self.epoch, ..message.into() }.encode_to_vec();
        let frame = FlightData { app_metadata: message.into(), ..FlightData::default() };
        match member.say.try_send(Ok(frame)) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.lost.push((host, format!("it does not read: {MOST_QUEUED} messages wait")));
            }
            Err(mpsc::error::TrySendError::Closed(_)) => self.lost.push((host, "its connection ended".to_owned())),
        }
    }

    /// Where the output of what runs on `host` lies: there, or on the host that one gives it to.
    pub(super) fn home_of(&self, host: HostId) -> HostId {
        self.members.get(&host).and_then(|member| member.home).unwrap_or(host)
    }

    /// Gives every outbound host a home: the one that can be reached and has the fewest of them.
    fn find_homes(&mut self, reachable: &[HostId]) {
        let outbound = |member: &&mut Member| member.join.is_outbound;
        for member in self.members.values_mut().filter(outbound) {
            member.home = member.home.filter(|home| reachable.contains(home));
        }
        let homeless: Vec<HostId> =
            self.members.iter().filter(|(_, m)| m.join.is_outbound && m.home.is_none()).map(|(id, _)| *id).collect();
        for id in homeless {
            let guests = |home: &HostId| self.members.values().filter(|member| member.home == Some(*home)).count();
            // The coordinator's own comes last: it has other things to do.
            let home = reachable.iter().copied().min_by_key(|home| (*home == HostId::EMBEDDED, guests(home), *home));
            if let Some(member) = self.members.get_mut(&id) {
                member.home = home;
            }
        }
    }

    /// Tells every host who is there: one that knows of the others hears what changed. A thousand hosts that join are a million
    /// addresses so, not a billion.
    fn tell_peers(&mut self) {
        let own = self.address.iter().map(|address| (HostId::EMBEDDED, address.clone()));
        let reachable = self.members.iter().filter(|(_, member)| member.is_ours() && !member.join.is_outbound);
        let now = own.chain(reachable.map(|(id, member)| (*id, member.join.address.clone()))).collect();
        let before = std::mem::replace(&mut self.peers, now);
        let is_new = |(id, address): &(&HostId, &String)| before.get(id) != Some(address);
        let peer = |(id, address): (&HostId, &String)| Peer { host: id.0, address: address.clone() };
        let joined: Vec<Peer> = self.peers.iter().filter(is_new).map(peer).collect();
        let gone: Vec<u32> = before.keys().filter(|id| !self.peers.contains_key(id)).map(|id| id.0).collect();
        let joined_here = joined.iter().map(|peer| (HostId(peer.host), peer.address.clone()));
        self.embedded.change_peers(joined_here, gone.iter().copied().map(HostId));
        let homes: Vec<_> = self.peers.keys().copied().filter(|host| !self.is_leaving(*host)).collect();
        self.find_homes(&homes);
        let all = || self.peers.iter().map(peer).collect();
        let is_same = joined.is_empty() && gone.is_empty();
        let news = |(id, member): (&HostId, &Member)| {
            let home = member.home.map(|home| home.0);
            match member.told {
                None => Some((*id, Peers { hosts: all(), gone: vec![], home })),
                Some(told) if is_same && told == member.home => None,
                Some(_) => Some((*id, Peers { hosts: joined.clone(), gone: gone.clone(), home })),
            }
        };
        let news: Vec<_> = self.members.iter().filter_map(news).collect();
        self.members.values_mut().for_each(|member| member.told = Some(member.home));
        for (id, peers) in news {
            self.say(id, peers);
        }
    }

    fn record(&self, host: HostId, heartbeat: Option<Heartbeat>) {
        let record = match self.members.get(&host) {
            Some(member) => HostRecord::new(host, &member.join),
            None if host == HostId::EMBEDDED => HostRecord::of_coordinator(&self.config, self.address.clone()),
            None => return,
        };
        self.table.record(record, heartbeat);
    }
}
