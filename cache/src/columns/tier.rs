//! [`ColumnTier`]: the host's cached columns, who decodes which, and what is evicted.
//!
//! All calls are synchronous and short: file-system metadata and maps, no data.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use onward_segment::{SegmentError, SegmentStore, WritableFile};
use onward_wire::columns::{ColumnId, ObjectVersion, WantedColumn};
use onward_wire::message::SegmentRef;
use onward_wire::{FunctionId, SegmentId};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::policy::{S3Fifo, Seen};

/// Part of the store's memory that stays free for columns that are being written or on their way out: 1/8.
const SLACK_DIVISOR: u64 = 8;

/// Columns of which few rows were needed once, of the last so many: about 200 bytes each.
const MOST_PARTIAL: usize = 64 << 10;

/// One column of one row group of one version of an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ColumnKey {
    /// The object and its version.
    pub object: Arc<ObjectVersion>,
    /// The column, and its type.
    pub column: ColumnId,
}

/// What a look-up came to.
#[derive(Debug)]
pub enum Found {
    /// It is cached: a read-only descriptor, leased to the caller.
    Hit(OwnedFd, SegmentRef),
    /// It is the caller's to decode.
    Claimed,
    /// Somebody decodes it.
    Busy,
    /// It is not cached, and would not be: there is no room and others are worth more, or few of its rows are needed.
    Refused,
}

/// A cached column, for people.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnInfo {
    /// What it is a column of.
    pub key: ColumnKey,
    /// Its name.
    pub name: String,
    /// Its rows.
    pub rows: u64,
    /// Bytes of shared memory.
    pub bytes: u64,
    /// Reads since it was decoded.
    pub hits: u64,
    /// Since its last read, or since it was decoded.
    pub idle_ms: u64,
    /// It is kept whatever comes.
    pub is_pinned: bool,
}

/// What the tier holds and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TierUsage {
    /// Cached columns.
    pub columns: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The most bytes.
    pub capacity_bytes: u64,
    /// Columns evicted, ever.
    pub evicted: u64,
    /// Columns decoded and kept, ever.
    pub published: u64,
    /// Claims that are open.
    pub claims: u64,
}

/// Hears which segments were evicted, so that functions let go of their mappings.
pub type OnEvict = Box<dyn Fn(&[SegmentId]) + Send + Sync>;

/// The cached columns of one host.
pub struct ColumnTier {
    store: Arc<SegmentStore>,
    state: Mutex<State>,
    on_evict: OnEvict,
}

struct State {
    columns: HashMap<ColumnKey, Cached>,
    by_segment: HashMap<SegmentId, ColumnKey>,
    claims: HashMap<ColumnKey, Claimed>,
    policy: S3Fifo<ColumnKey>,
    /// Columns of which few rows were needed.
    partial: Seen<ColumnKey>,
    evicted: u64,
    published: u64,
}

struct Cached {
    segment: SegmentRef,
    name: String,
    rows: u64,
    bytes: u64,
    hits: u64,
    used: Instant,
}

struct Claimed {
    holder: FunctionId,
    /// Others go for it.
    is_wanted: bool,
    /// The file it is written to.
    opened: Option<(SegmentId, u64)>,
    waiters: Vec<oneshot::Sender<()>>,
}

impl ColumnTier {
    /// Columns in `store`, which is the tier's alone.
    pub fn new(store: Arc<SegmentStore>, on_evict: OnEvict) -> Self {
        let memory_bytes = store.options().memory_bytes;
        let state = State {
            columns: HashMap::new(),
            by_segment: HashMap::new(),
            claims: HashMap::new(),
            policy: S3Fifo::new(memory_bytes - memory_bytes / SLACK_DIVISOR),
            partial: Seen::new(MOST_PARTIAL),
            evicted: 0,
            published: 0,
        };
        Self { store, state: Mutex::new(state), on_evict }
    }

    /// Its segments.
    pub fn store(&self) -> &Arc<SegmentStore> {
        &self.store
    }

    /// Looks up columns of one object for `holder`, in order. What nobody has or decodes is claimed, if it would be kept.
    pub fn find(&self, holder: FunctionId, object: &Arc<ObjectVersion>, columns: &[WantedColumn]) -> Vec<Found> {
        let mut state = self.state.lock();
        columns.iter().map(|wanted| state.find(&self.store, holder, object, wanted)).collect()
    }

    /// Resolves (also by an error) when the claim on a column that was busy ended; at once when it has.
    pub fn wait(&self, object: &Arc<ObjectVersion>, column: &ColumnId) -> oneshot::Receiver<()> {
        let (waiter, ended) = oneshot::channel();
        let key = ColumnKey { object: Arc::clone(object), column: column.clone() };
        if let Some(claim) = self.state.lock().claims.get_mut(&key) {
            claim.waiters.push(waiter);
        }
        ended
    }

    /// A file for a column that `holder` claimed. Makes room first.
    ///
    /// # Errors
    /// `Exhausted` when there is no room now, `Unknown` when the column is not claimed by `holder`.
    pub fn open(
        &self,
        holder: FunctionId,
        object: &Arc<ObjectVersion>,
        column: &ColumnId,
        capacity_bytes: u64,
    ) -> Result<WritableFile, SegmentError> {
        let key = ColumnKey { object: Arc::clone(object), column: column.clone() };
        let unclaimed = || SegmentError::Unknown { id: SegmentId(0), expected: "a claimed column" };
        {
            let mut state = self.state.lock();
            let claim = state.claims.get(&key).filter(|claim| claim.holder == holder).ok_or_else(unclaimed)?;
            let is_wanted = claim.is_wanted;
            if capacity_bytes > state.policy.capacity() / 2 {
                return Err(SegmentError::Exhausted {
                    needed_bytes: capacity_bytes,
                    used_bytes: state.policy.bytes(),
                    limit_bytes: state.policy.capacity() / 2,
                    setting: "cache_memory_bytes",
                });
            }
            // There was room when it was claimed, by an estimate.
            if !is_wanted && !state.policy.has_room(capacity_bytes) && !state.policy.was_wanted(&key) {
                return Err(SegmentError::Exhausted {
                    needed_bytes: capacity_bytes,
                    used_bytes: state.policy.bytes(),
                    limit_bytes: state.policy.capacity(),
                    setting: "cache_memory_bytes",
                });
            }
            // What is written now is counted when it is published; here the room for it is made.
            let mut evicted = Vec::new();
            while state.policy.bytes() + capacity_bytes > state.policy.capacity() {
                match state.policy.evict() {
                    Some(key) => evicted.push(key),
                    None => break,
                }
            }
            self.drop_columns(&mut state, evicted);
        }
        let file = self.store.create(holder, capacity_bytes)?;
        let mut state = self.state.lock();
        match state.claims.get_mut(&key).filter(|claim| claim.holder == holder && claim.opened.is_none()) {
            Some(claim) => claim.opened = Some((file.id, file.capacity_bytes)),
            None => {
                drop(state);
                self.store.discard(file.id);
                self.store.release(file.id, holder);
                return Err(unclaimed());
            }
        }
        Ok(file)
    }

    /// Verifies a column that its holder wrote and unmapped, makes it visible, and leases it to the holder.
    ///
    /// # Errors
    /// When it is not the holder's or is not whole; the claim is over either way.
    pub fn publish(
        &self,
        holder: FunctionId,
        object: &Arc<ObjectVersion>,
        column: &ColumnId,
        segment: SegmentRef,
        name: String,
        rows: u64,
    ) -> Result<(OwnedFd, SegmentRef), SegmentError> {
        let key = ColumnKey { object: Arc::clone(object), column: column.clone() };
        let opened = {
            let state = self.state.lock();
            let claim = state.claims.get(&key).filter(|claim| claim.holder == holder);
            claim.and_then(|claim| claim.opened).filter(|(id, _)| *id == segment.id())
        };
        let Some((id, bytes)) = opened else {
            self.abandon(holder, object, std::slice::from_ref(column));
            return Err(SegmentError::Unknown { id: segment.id(), expected: "the file of a claimed column" });
        };
        let leased = self.store.commit(&segment).and_then(|()| self.store.lease(id, holder));
        let leased = match leased {
            Ok(leased) => leased,
            Err(error) => {
                // The writer handed its lease over.
                self.abandon(holder, object, std::slice::from_ref(column));
                self.store.release(id, holder);
                return Err(error);
            }
        };
        let mut state = self.state.lock();
        state.claims.remove(&key);
        let cached = Cached { segment, name, rows, bytes, hits: 0, used: Instant::now() };
        state.columns.insert(key.clone(), cached);
        state.by_segment.insert(id, key.clone());
        state.published += 1;
        let evicted = state.policy.insert(key, bytes);
        self.drop_columns(&mut state, evicted);
        Ok(leased)
    }

    /// Gives up claims of `holder`. A file that was opened for one is discarded.
    pub fn abandon(&self, holder: FunctionId, object: &Arc<ObjectVersion>, columns: &[ColumnId]) {
        let mut state = self.state.lock();
        for column in columns {
            let key = ColumnKey { object: Arc::clone(object), column: column.clone() };
            if state.claims.get(&key).is_some_and(|claim| claim.holder == holder)
                && let Some(Claimed { opened: Some((id, _)), .. }) = state.claims.remove(&key)
            {
                self.store.discard(id);
            }
        }
    }

    /// Takes back everything that `holder`, whose process was reaped, claimed or had mapped.
    pub fn release_holder(&self, holder: FunctionId) {
        self.state.lock().claims.retain(|_, claim| claim.holder != holder);
        self.store.release_holder(holder);
    }

    /// Counts reads that went through mappings a function kept.
    pub fn note_uses(&self, segments: impl IntoIterator<Item = SegmentId>) {
        let mut state = self.state.lock();
        for segment in segments {
            if let Some(key) = state.by_segment.get(&segment).cloned() {
                state.note_use(&key);
            }
        }
    }

    /// Pins what is cached of the columns that `is_meant` names, or lets them go. Gives how many it pinned, or let go.
    pub fn set_pinned(&self, is_pinned: bool, mut is_meant: impl FnMut(&ColumnKey, &str) -> bool) -> usize {
        let mut state = self.state.lock();
        let keys: Vec<_> = (state.columns.iter())
            .filter(|(key, cached)| is_meant(key, &cached.name))
            .map(|(key, _)| key.clone())
            .collect();
        keys.iter().filter(|key| state.policy.set_pinned(key, is_pinned)).count()
    }

    /// Evicts the columns that `is_meant` names. Gives how many.
    pub fn remove(&self, mut is_meant: impl FnMut(&ColumnKey, &str) -> bool) -> usize {
        let mut state = self.state.lock();
        let keys: Vec<_> = (state.columns.iter())
            .filter(|(key, cached)| is_meant(key, &cached.name))
            .map(|(key, _)| key.clone())
            .collect();
        keys.iter().for_each(|key| state.policy.remove(key));
        let count = keys.len();
        self.drop_columns(&mut state, keys);
        count
    }

    /// All cached columns, in no order.
    pub fn columns(&self) -> Vec<ColumnInfo> {
        let state = self.state.lock();
        let info = |(key, cached): (&ColumnKey, &Cached)| ColumnInfo {
            key: key.clone(),
            name: cached.name.clone(),
            rows: cached.rows,
            bytes: cached.bytes,
            hits: cached.hits,
            idle_ms: cached.used.elapsed().as_millis() as u64,
            is_pinned: state.policy.is_pinned(key),
        };
        state.columns.iter().map(info).collect()
    }

    /// What it holds and did.
    pub fn usage(&self) -> TierUsage {
        let state = self.state.lock();
        TierUsage {
            columns: state.columns.len() as u64,
            bytes: state.policy.bytes(),
            capacity_bytes: state.policy.capacity(),
            evicted: state.evicted,
            published: state.published,
            claims: state.claims.len() as u64,
        }
    }

    /// The policy gave these up: their segments go as soon as nobody has them mapped.
    fn drop_columns(&self, state: &mut State, keys: Vec<ColumnKey>) {
        let mut segments = Vec::with_capacity(keys.len());
        for key in keys {
            if let Some(cached) = state.columns.remove(&key) {
                let id = cached.segment.id();
                state.by_segment.remove(&id);
                self.store.remove(id);
                segments.push(id);
            }
        }
        state.evicted += segments.len() as u64;
        if !segments.is_empty() {
            (self.on_evict)(&segments);
        }
    }
}

impl State {
    fn find(
        &mut self,
        store: &SegmentStore,
        holder: FunctionId,
        object: &Arc<ObjectVersion>,
        wanted: &WantedColumn,
    ) -> Found {
        let key = ColumnKey { object: Arc::clone(object), column: wanted.column.clone() };
        if let Some(cached) = self.columns.get(&key) {
            let id = cached.segment.id();
            match store.lease(id, holder) {
                Ok((file, segment)) => {
                    self.note_use(&key);
                    return Found::Hit(file, segment);
                }
                Err(error) => {
                    // Its file is gone, by whoever removed it: decode it again.
                    tracing::warn!(%error, segment = %id, "a cached column cannot be opened");
                    self.columns.remove(&key);
                    self.by_segment.remove(&id);
                    self.policy.remove(&key);
                    store.remove(id);
                }
            }
        }
        match self.claims.get(&key) {
            Some(_) => Found::Busy,
            None => {
                let has_room = self.policy.has_room(wanted.bytes);
                if wanted.is_partial && !wanted.is_ordered && !self.partial.note(&key) {
                    return Found::Refused;
                }
                let is_wanted = wanted.is_ordered || (!has_room && self.policy.was_wanted(&key));
                if !has_room && !is_wanted {
                    return Found::Refused;
                }
                self.claims.insert(key, Claimed { holder, is_wanted, opened: None, waiters: vec![] });
                Found::Claimed
            }
        }
    }

    fn note_use(&mut self, key: &ColumnKey) {
        self.policy.read(key);
        if let Some(cached) = self.columns.get_mut(key) {
            cached.hits += 1;
            cached.used = Instant::now();
        }
    }
}

impl std::fmt::Debug for ColumnTier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ColumnTier").field("usage", &self.usage()).finish_non_exhaustive()
    }
}
