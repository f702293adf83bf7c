//! [`RangeTier`]: reads blocks of remote objects once, and keeps them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::ops::{AddAssign, Range};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use datafusion::common::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::object_store::ObjectStoreRegistry;
use futures::future::{BoxFuture, FutureExt, Shared, join_all};
use object_store::{GetOptions, GetRange, ObjectStore};
use onward_wire::columns::ObjectTag;
use onward_wire::{ErrorKind, WireError};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{OnceCell, Semaphore};
use url::Url;

use super::BLOCK_BYTES;
use super::blocks::{BlockKey, Blocks, blocks_of, object_key};
use super::client::RangesRead;
use crate::paths::store_path;
use crate::registry::StoreRegistry;
use crate::versions::ExpectedVersions;

/// The most blocks that one GET reads: a stream of S3 gives 150 MB/s, so large reads are cut to run side by side.
const RUN_BLOCKS: u32 = 16;
/// Blocks that are read, and kept, although nobody asked for them, where that saves a request.
const GAP_BLOCKS: u32 = 1;
/// GETs at a time.
const MOST_GETS: usize = 64;
/// GETs at a time for what is read ahead; more are not begun.
const MOST_PREFETCHES: usize = 32;
/// Objects whose use is remembered, and blocks that were read ahead and not asked for yet.
const MOST_REMEMBERED: usize = 100_000;

/// Where and how much.
#[derive(Clone, Debug)]
pub struct RangeOptions {
    /// A directory of the tier's own; made when it is first needed.
    pub directory: PathBuf,
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Bytes of blocks that are in memory as well.
    pub memory_bytes: u64,
}

/// The host's blocks of remote objects.
pub struct RangeTier {
    inner: Arc<Inner>,
}

struct Inner {
    options: RangeOptions,
    stores: Arc<StoreRegistry>,
    /// Opened by the first read: who has local files only pays nothing. `None`: it cannot be used.
    blocks: OnceCell<Option<Blocks>>,
    gets: Semaphore,
    prefetches: Arc<Semaphore>,
    table: Mutex<Table>,
    runtime: Handle,
}

#[derive(Default)]
struct Table {
    /// Blocks that are being read.
    running: HashMap<BlockKey, Run>,
    /// What blocks took that nobody was given yet. Who is given one counts it.
    unread: HashMap<BlockKey, Cost>,
    objects: HashMap<Arc<str>, Uses>,
}

/// A GET on its way, whoever started it.
type Run = Shared<BoxFuture<'static, Result<Arc<Fetched>, Arc<DataFusionError>>>>;

/// Blocks of one GET, from `first` on.
struct Fetched {
    first: u32,
    blocks: Vec<Bytes>,
}

#[derive(Clone, Copy, Default)]
struct Cost {
    requests: u64,
    bytes: u64,
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.bytes += other.bytes;
    }
}

struct Uses {
    tag: Arc<ObjectTag>,
    store_bytes: u64,
    hits: u64,
    last_use: Instant,
}

/// What became of one version of one object, since the host started.
#[derive(Clone, Debug)]
pub struct ObjectUse {
    /// The object.
    pub object: Arc<ObjectTag>,
    /// Bytes read from its store.
    pub store_bytes: u64,
    /// Reads that the tier answered by itself.
    pub hits: u64,
    /// Since the last read.
    pub idle_ms: u64,
}

/// Blocks as they are needed: kept ones, and those that come with a run.
struct Found {
    kept: BTreeMap<u32, Bytes>,
    runs: Vec<Run>,
    /// What the kept ones took that nobody was given before.
    cost: Cost,
    /// Kept blocks that were given to somebody before.
    free: BTreeSet<u32>,
}

impl RangeTier {
    /// A tier over the stores of this process. GETs run on the current tokio runtime.
    pub fn new(options: RangeOptions, stores: Arc<StoreRegistry>) -> Self {
        let inner = Inner {
            options,
            stores,
            blocks: OnceCell::new(),
            gets: Semaphore::new(MOST_GETS),
            prefetches: Arc::new(Semaphore::new(MOST_PREFETCHES)),
            table: Mutex::default(),
            runtime: Handle::current(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Reads ranges of one version of an object.
    ///
    /// # Errors
    /// The store's; stale when the object has another version by now.
    pub async fn read(
        &self,
        object: &Arc<ObjectTag>,
        ranges: &[Range<u64>],
    ) -> Result<RangesRead, Arc<DataFusionError>> {
        if let Some(range) = ranges.iter().find(|range| range.start > range.end || range.end > object.bytes) {
            let message = format!("bytes {range:?} of `{}`, which has {}", object.path, object.bytes);
            let error = WireError::new(ErrorKind::Internal, message);
            return Err(Arc::new(DataFusionError::External(Box::new(error))));
        }
        let key = object_key(object);
        let wanted: BTreeSet<u32> = ranges.iter().flat_map(blocks_of).collect();
        let Found { kept: mut blocks, runs, mut cost, free } = self.inner.find(object, &key, &wanted, true).await;
        for run in runs {
            let fetched = run.await?;
            cost += self.inner.table.lock().charge(&key, &fetched);
            blocks.extend((fetched.first..).zip(fetched.blocks.iter().cloned()));
        }
        let bytes = ranges.iter().map(|range| assemble(&blocks, range)).collect::<Option<Vec<_>>>();
        let Some(bytes) = bytes else {
            let error = WireError::new(ErrorKind::Internal, "a block was read and is not there");
            return Err(Arc::new(DataFusionError::External(Box::new(error))));
        };
        self.inner.note_use(object, &key, cost);
        let kept_bytes = ranges.iter().map(|range| overlap(range, &free)).sum();
        Ok(RangesRead { bytes, store_requests: cost.requests, store_bytes: cost.bytes, kept_bytes })
    }

    /// Begins to read ranges, if there is room.
    pub fn prefetch(&self, object: &Arc<ObjectTag>, ranges: &[Range<u64>]) {
        let Ok(permit) = Arc::clone(&self.inner.prefetches).try_acquire_owned() else { return };
        let wanted: BTreeSet<u32> =
            ranges.iter().filter(|range| range.end <= object.bytes).flat_map(blocks_of).collect();
        let (inner, object) = (Arc::clone(&self.inner), Arc::clone(object));
        self.inner.runtime.spawn(async move {
            let key = object_key(&object);
            for run in inner.find(&object, &key, &wanted, false).await.runs {
                // An error is met again by whoever asks for these blocks.
                let _ = run.await;
            }
            drop(permit);
        });
    }

    /// Objects that were read since the host started.
    pub fn objects(&self) -> Vec<ObjectUse> {
        let table = self.inner.table.lock();
        let object = |uses: &Uses| ObjectUse {
            object: Arc::clone(&uses.tag),
            store_bytes: uses.store_bytes,
            hits: uses.hits,
            idle_ms: uses.last_use.elapsed().as_millis() as u64,
        };
        table.objects.values().map(object).collect()
    }

    /// Writes what is still to be written. Nothing is kept after it.
    pub async fn close(&self) {
        if let Some(Some(blocks)) = self.inner.blocks.get() {
            blocks.close().await;
        }
    }
}

impl fmt::Debug for RangeTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RangeTier").field("directory", &self.inner.options.directory).finish_non_exhaustive()
    }
}

impl Inner {
    async fn blocks(&self) -> Option<&Blocks> {
        let open = || async {
            let RangeOptions { directory, disk_bytes, memory_bytes } = &self.options;
            match Blocks::open(directory, *disk_bytes, *memory_bytes as usize).await {
                Ok(blocks) => Some(blocks),
                Err(error) => {
                    let directory = directory.display();
                    tracing::warn!(%directory, %error, "no bytes of remote objects are kept: the directory cannot be used");
                    None
                }
            }
        };
        self.blocks.get_or_init(open).await.as_ref()
    }

    /// Finds `wanted`, for somebody who is given it or only says what he will need, and begins to read what nobody has or reads.
    async fn find(
        self: &Arc<Self>,
        object: &Arc<ObjectTag>,
        key: &Arc<str>,
        wanted: &BTreeSet<u32>,
        is_given: bool,
    ) -> Found {
        let kept = self.kept(object, key, wanted.iter().copied()).await;
        let mut table = self.table.lock();
        let (mut cost, mut free) = (Cost::default(), BTreeSet::new());
        for block in kept.keys().filter(|_| is_given) {
            match table.unread.remove(&BlockKey::new(key, *block)) {
                Some(unread) => cost += unread,
                None => drop(free.insert(*block)),
            }
        }
        let mut runs: Vec<Run> = Vec::new();
        let mut missing: Vec<u32> = Vec::new();
        for block in wanted.iter().filter(|block| !kept.contains_key(block)) {
            match table.running.get(&BlockKey::new(key, *block)) {
                Some(run) if runs.last().is_some_and(|last| last.ptr_eq(run)) => {}
                Some(run) => runs.push(run.clone()),
                None => missing.push(*block),
            }
        }
        for run in coalesce(&missing) {
            let reads = Arc::clone(self).fetch(Arc::clone(object), Arc::clone(key), run.clone());
            // A task of its own: who waits for it may go away.
            let task = self.runtime.spawn(reads);
            let joined = async move {
                task.await.unwrap_or_else(|error| Err(Arc::new(DataFusionError::ExecutionJoin(Box::new(error)))))
            };
            let shared = joined.boxed().shared();
            for block in run {
                table.running.insert(BlockKey::new(key, block), shared.clone());
            }
            runs.push(shared);
        }
        Found { kept, runs, cost, free }
    }

    /// Those of `wanted` that are in memory or on disk.
    async fn kept(
        &self,
        object: &Arc<ObjectTag>,
        key: &Arc<str>,
        wanted: impl Iterator<Item = u32>,
    ) -> BTreeMap<u32, Bytes> {
        let Some(blocks) = self.blocks().await else { return BTreeMap::new() };
        let lookups = wanted.map(|block| async move {
            let found = blocks.get(&BlockKey::new(key, block), length_of(object, block)).await;
            found.map(|bytes| (block, bytes))
        });
        join_all(lookups).await.into_iter().flatten().collect()
    }

    /// One GET, or none: who looked for these blocks may have done so just before another read of them ended.
    async fn fetch(
        self: Arc<Self>,
        object: Arc<ObjectTag>,
        key: Arc<str>,
        run: Range<u32>,
    ) -> Result<Arc<Fetched>, Arc<DataFusionError>> {
        let _running = Running { inner: &self, key: &key, run: run.clone() };
        let kept = self.kept(&object, &key, run.clone()).await;
        if kept.len() == run.len() {
            return Ok(Arc::new(Fetched { first: run.start, blocks: kept.into_values().collect() }));
        }
        let bytes = self.get(&object, &run).await.map_err(Arc::new)?;
        let fetched = {
            let block = |block: u32| {
                let start = (u64::from(block - run.start) * BLOCK_BYTES) as usize;
                bytes.slice(start..start + length_of(&object, block))
            };
            Arc::new(Fetched { first: run.start, blocks: run.clone().map(block).collect() })
        };
        // Before anybody can be given a block.
        self.table.lock().leave_unread(&key, &fetched);
        if let Some(Some(kept)) = self.blocks.get() {
            for (number, block) in run.zip(&fetched.blocks) {
                // A copy: a block that stays would keep all bytes of the GET.
                kept.insert(BlockKey::new(&key, number), Bytes::copy_from_slice(block));
            }
        }
        Ok(fetched)
    }

    async fn get(&self, object: &ObjectTag, run: &Range<u32>) -> DataFusionResult<Bytes> {
        // Never closed.
        let _permit = self.gets.acquire().await;
        let url = Url::parse(&object.store).map_err(|error| DataFusionError::External(Box::new(error)))?;
        let path = store_path(&object.path)?;
        let expected = ExpectedVersions::new(std::slice::from_ref(object));
        let store = self.stores.expecting(Arc::new(expected)).get_store(&url)?;
        let range = u64::from(run.start) * BLOCK_BYTES..(u64::from(run.end) * BLOCK_BYTES).min(object.bytes);
        let length = range.end - range.start;
        let options = GetOptions {
            range: Some(GetRange::Bounded(range)),
            if_match: object.e_tag.clone(),
            ..GetOptions::default()
        };
        let bytes = store.get_opts(&path, options).await?.bytes().await?;
        if bytes.len() as u64 == length {
            return Ok(bytes);
        }
        let message = format!("`{}{}`: {} of {length} bytes came", object.store, object.path, bytes.len());
        Err(DataFusionError::External(Box::new(WireError::new(ErrorKind::Unavailable, message))))
    }

    fn note_use(&self, object: &Arc<ObjectTag>, key: &Arc<str>, cost: Cost) {
        let mut table = self.table.lock();
        if table.objects.len() >= MOST_REMEMBERED {
            table.objects.clear();
        }
        let uses = table.objects.entry(Arc::clone(key)).or_insert_with(|| Uses {
            tag: Arc::clone(object),
            store_bytes: 0,
            hits: 0,
            last_use: Instant::now(),
        });
        uses.store_bytes += cost.bytes;
        uses.hits += u64::from(cost.requests == 0);
        uses.last_use = Instant::now();
    }
}

/// A GET is on its way. Dropping it says that nobody can join it any more, also when it panicked.
struct Running<'a> {
    inner: &'a Inner,
    key: &'a Arc<str>,
    run: Range<u32>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut table = self.inner.table.lock();
        self.run.clone().for_each(|block| drop(table.running.remove(&BlockKey::new(self.key, block))));
    }
}

impl Table {
    fn leave_unread(&mut self, key: &Arc<str>, fetched: &Fetched) {
        if self.unread.len() >= MOST_REMEMBERED {
            self.unread.clear();
        }
        for (at, block) in (fetched.first..).zip(&fetched.blocks) {
            let cost = Cost { requests: u64::from(at == fetched.first), bytes: block.len() as u64 };
            self.unread.insert(BlockKey::new(key, at), cost);
        }
    }

    /// What blocks of a GET took, for the first one who is given them.
    fn charge(&mut self, key: &Arc<str>, fetched: &Fetched) -> Cost {
        let mut cost = Cost::default();
        for (at, _) in (fetched.first..).zip(&fetched.blocks) {
            cost += self.unread.remove(&BlockKey::new(key, at)).unwrap_or_default();
        }
        cost
    }
}

/// Bytes of a block.
fn length_of(object: &ObjectTag, block: u32) -> usize {
    let start = u64::from(block) * BLOCK_BYTES;
    object.bytes.saturating_sub(start).min(BLOCK_BYTES) as usize
}

/// Bytes of `range` that lie in `blocks`.
fn overlap(range: &Range<u64>, blocks: &BTreeSet<u32>) -> u64 {
    let inside = |block: u32| {
        let start = u64::from(block) * BLOCK_BYTES;
        (range.end.min(start + BLOCK_BYTES)).saturating_sub(range.start.max(start))
    };
    blocks_of(range).filter(|block| blocks.contains(block)).map(inside).sum()
}

/// GETs for `missing`, ascending: neighbours together, and those with a small gap between.
fn coalesce(missing: &[u32]) -> Vec<Range<u32>> {
    let mut runs: Vec<Range<u32>> = Vec::new();
    for block in missing {
        match runs.last_mut() {
            Some(run) if *block <= run.end + GAP_BLOCKS && block - run.start < RUN_BLOCKS => run.end = block + 1,
            _ => runs.push(*block..block + 1),
        }
    }
    runs
}

/// The bytes of `range`; no copy when they lie in one block.
fn assemble(blocks: &BTreeMap<u32, Bytes>, range: &Range<u64>) -> Option<Bytes> {
    let within = |block: u32| -> Option<Bytes> {
        let start = u64::from(block) * BLOCK_BYTES;
        let from = range.start.saturating_sub(start) as usize;
        let bytes = blocks.get(&block)?;
        let until = (range.end - start).min(bytes.len() as u64) as usize;
        (from <= until).then(|| bytes.slice(from..until))
    };
    let touched = blocks_of(range);
    match touched.len() {
        0 => return Some(Bytes::new()),
        1 => return within(touched.start),
        _ => {}
    }
    let mut bytes = BytesMut::with_capacity((range.end - range.start) as usize);
    for block in touched {
        bytes.extend_from_slice(&within(block)?);
    }
    Some(bytes.freeze())
}
