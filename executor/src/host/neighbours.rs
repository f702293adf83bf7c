//! What a host knows of its cluster, and how it brings here what other hosts hold.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use onward_segment::{FETCHER, SegmentStore};
use onward_shuffle::flight::{
    ClusterTls, Connector, Destination, GrantKey, fetch, gather, now_ms, parse_compression, put,
};
use onward_wire::exchange::{Compression, FetchSegments, Grant, ReadTicket};
use onward_wire::message::SegmentRef;
use onward_wire::{AttemptId, Config, ErrorKind, HostId, QueryId, StageId, WireError};
use parking_lot::{Mutex, RwLock};
use prost::Message;
use tokio::sync::{OnceCell, Semaphore};

use super::held::Held;

/// Queries that are over and whose late requests are told apart.
const MOST_FORGOTTEN: usize = 4_096;
/// Between two tries to reach a host: doubled from the first to the second.
const RETRY: std::ops::RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(1);

/// The other hosts, as this one sees them.
pub(super) struct Neighbours {
    store: Arc<SegmentStore>,
    held: Arc<Held>,
    connector: Connector,
    compression: Compression,
    at_once: usize,
    membership: RwLock<Membership>,
    shared: Mutex<SharedTable>,
    grant_lifetime_ms: u64,
    /// How long a host that cannot be read may still be given up by the coordinator.
    patience: Duration,
    fetched_bytes: AtomicU64,
}

/// What tasks of a query share: one cell for each request.
#[derive(Default)]
struct SharedTable {
    queries: HashMap<QueryId, HashMap<Vec<u8>, Arc<OnceCell<SegmentRef>>>>,
    /// The last ones that are over.
    forgotten: VecDeque<QueryId>,
}

struct Membership {
    id: HostId,
    key: GrantKey,
    peers: HashMap<HostId, Peer>,
}

#[derive(Clone)]
struct Peer {
    address: Arc<str>,
    permits: Arc<Semaphore>,
}

/// A segment that was brought here.
pub(super) struct Brought {
    pub(super) segment: SegmentRef,
    /// Others may read it until their query ends; else it goes with its reader.
    pub(super) is_shared: bool,
}

impl Neighbours {
    /// A host that is alone: the coordinator's own, or one that has not joined yet.
    pub(super) fn new(
        config: &Config,
        store: Arc<SegmentStore>,
        held: Arc<Held>,
        key: GrantKey,
    ) -> Result<Self, WireError> {
        let tls = ClusterTls::from_config(config)?;
        Ok(Self {
            store,
            held,
            connector: Connector::new(tls, config.max_message_bytes),
            compression: parse_compression(&config.compression)?,
            at_once: config.fetches_per_host.max(1) as usize,
            membership: RwLock::new(Membership { id: HostId::EMBEDDED, key, peers: HashMap::new() }),
            shared: Mutex::default(),
            grant_lifetime_ms: config.grant_lifetime_ms,
            // The host says nothing for one timeout; the coordinator notices a heartbeat later, and tells.
            patience: Duration::from_millis(config.host_silence_timeout_ms.saturating_mul(2)),
            fetched_bytes: AtomicU64::new(0),
        })
    }

    /// This host.
    pub(super) fn id(&self) -> HostId {
        self.membership.read().id
    }

    /// The key that grants are signed with.
    pub(super) fn key(&self) -> GrantKey {
        self.membership.read().key.clone()
    }

    /// Bytes that came from other hosts.
    pub(super) fn fetched_bytes(&self) -> u64 {
        self.fetched_bytes.load(Ordering::Relaxed)
    }

    /// Makes connections to other hosts and to the coordinator.
    pub(super) fn connector(&self) -> &Connector {
        &self.connector
    }

    /// Joined a cluster as `id`.
    pub(super) fn join(&self, id: HostId, key: GrantKey) {
        *self.membership.write() = Membership { id, key, peers: HashMap::new() };
    }

    /// Other hosts are there now, or elsewhere, or are gone.
    pub(super) fn change_peers(
        &self,
        joined: impl IntoIterator<Item = (HostId, String)>,
        gone: impl IntoIterator<Item = HostId>,
    ) {
        let mut membership = self.membership.write();
        for id in gone {
            membership.peers.remove(&id);
        }
        for (id, address) in joined {
            if membership.peers.get(&id).is_none_or(|peer| *peer.address != *address) {
                let permits = Arc::new(Semaphore::new(self.at_once));
                membership.peers.insert(id, Peer { address: address.into(), permits });
            }
        }
        let addresses: Vec<&str> = membership.peers.values().map(|peer| &*peer.address).collect();
        self.connector.keep_only(&addresses);
    }

    /// The query is over: what its tasks shared goes.
    pub(super) fn forget(&self, query: QueryId) {
        let shared = {
            let mut table = self.shared.lock();
            table.forgotten.push_back(query);
            if table.forgotten.len() > MOST_FORGOTTEN {
                table.forgotten.pop_front();
            }
            table.queries.remove(&query).unwrap_or_default()
        };
        for segment in shared.values().filter_map(|cell| cell.get()) {
            self.store.remove(segment.id());
        }
    }

    /// Everything that tasks shared goes.
    pub(super) fn forget_all(&self) {
        let queries: Vec<QueryId> = self.shared.lock().queries.keys().copied().collect();
        queries.into_iter().for_each(|query| self.forget(query));
        self.shared.lock().forgotten.clear();
    }

    /// Brings segments here; once, when several tasks read the same.
    ///
    /// # Errors
    /// Unavailable when the other host is gone; what it says; ResourceExhausted without room.
    pub(super) async fn fetch(&self, asked: &FetchSegments) -> Result<Brought, WireError> {
        let query = AttemptId::from(asked.attempt).query();
        let cell = {
            let mut table = self.shared.lock();
            // A function may not have heard yet that its query is over: nobody would let go of what it shares.
            match asked.is_shared && !table.forgotten.contains(&query) {
                true => {
                    let cells = table.queries.entry(query).or_default();
                    Some(Arc::clone(cells.entry(shared_key(asked)).or_default()))
                }
                false => None,
            }
        };
        let Some(cell) = cell else {
            return Ok(Brought { segment: self.fetch_patiently(asked).await?, is_shared: false });
        };
        let segment = *cell.get_or_try_init(|| self.fetch_patiently(asked)).await?;
        // The query may have ended meanwhile; then it goes with its readers.
        let table = self.shared.lock();
        let is_kept =
            table.queries.get(&query).is_some_and(|cells| cells.values().any(|kept| Arc::ptr_eq(kept, &cell)));
        Ok(Brought { segment, is_shared: is_kept })
    }

    /// A host that cannot be read may be about to be given up by the coordinator, which then stops whoever reads it. Until
    /// that is clear an error would only cost tries.
    async fn fetch_patiently(&self, asked: &FetchSegments) -> Result<SegmentRef, WireError> {
        let (begun, mut pause) = (Instant::now(), *RETRY.start());
        loop {
            match self.fetch_now(asked).await {
                Err(error) if error.kind() == ErrorKind::Unavailable && begun.elapsed() + pause < self.patience => {
                    tracing::debug!(host = asked.host, %error, "asking again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(*RETRY.end());
                }
                fetched => return fetched,
            }
        }
    }

    /// Where segments of other hosts go.
    pub(super) fn destination(&self) -> Destination {
        Destination { store: Arc::clone(&self.store), writer: FETCHER }
    }

    /// Gives segments of this host, the output of `stage`, to `home`; their names there.
    ///
    /// # Errors
    /// As [`Neighbours::fetch`].
    pub(super) async fn give(
        &self,
        home: HostId,
        stage: StageId,
        segments: &[SegmentRef],
    ) -> Result<Vec<SegmentRef>, WireError> {
        let peer = self.peer(home)?;
        let mut given = Vec::with_capacity(segments.len());
        for segment in segments {
            let _permit = peer.permits.acquire().await.map_err(|error| WireError::new(ErrorKind::Internal, error))?;
            let client = self.connector.client(&peer.address)?;
            let mapped = self.store.map(segment.id())?;
            let grant = Grant {
                query: stage.query.0,
                stage: stage.stage,
                partitions: vec![],
                expires_ms: now_ms().saturating_add(self.grant_lifetime_ms),
                may_write: true,
            };
            given.push(put(client, &peer.address, self.key().sign(&grant), self.compression, &mapped).await?);
        }
        Ok(given)
    }

    fn peer(&self, host: HostId) -> Result<Peer, WireError> {
        let peer = self.membership.read().peers.get(&host).cloned();
        peer.ok_or_else(|| WireError::new(ErrorKind::Unavailable, format!("host {host} is gone")))
    }

    async fn fetch_now(&self, asked: &FetchSegments) -> Result<SegmentRef, WireError> {
        let is_here = HostId(asked.host) == self.id();
        let compression = if is_here { Compression::None } else { self.compression };
        let ticket = ReadTicket {
            grant: asked.grant.clone(),
            groups: asked.groups.clone(),
            partitions: asked.partitions.clone(),
            compression: compression as i32,
        };
        if is_here {
            return gather(self.held.as_ref(), &self.key(), &ticket, &self.destination()).await;
        }
        let peer = self.peer(HostId(asked.host))?;
        let _permit = peer.permits.acquire().await.map_err(|error| WireError::new(ErrorKind::Internal, error))?;
        let client = self.connector.client(&peer.address)?;
        let segment = fetch(client, &peer.address, &ticket, &self.destination()).await?;
        self.fetched_bytes.fetch_add(segment.length_bytes, Ordering::Relaxed);
        Ok(segment)
    }
}

/// What makes two requests the same.
fn shared_key(asked: &FetchSegments) -> Vec<u8> {
    let alike =
        ReadTicket { groups: asked.groups.clone(), partitions: asked.partitions.clone(), ..ReadTicket::default() };
    let mut key = asked.host.to_le_bytes().to_vec();
    key.extend(alike.encode_to_vec());
    key
}
