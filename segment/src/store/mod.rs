//! [`SegmentStore`]: the files of one host, who holds them, and what they may use.
//!
//! ```text
//!              create                 commit                    remove
//!   (pool) ------------> writing ----------------> committed ----------> removed --- no lease left ---> (pool)
//!                           |  discard, or the writer was reaped            ^
//!                           +---------------------------------------------- +
//! ```
//!
//! A lease says that a process may have the file mapped: `create` gives the writer one, `lease` gives readers theirs. A
//! file is used again only when its segment is removed and no lease is left, because a stopped process that still has the
//! file mapped would read (or write) somebody else's bytes. A lease ends when its holder says so or was reaped.

mod file;
mod options;
mod pool;
mod prefault;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use onward_wire::message::SegmentRef;
use onward_wire::{Config, FunctionId, SegmentId};
use parking_lot::Mutex;

use crate::error::{Result, SegmentError};
use crate::mapped::MappedSegment;
use crate::scratch::ScratchDir;
pub use options::{StoreOptions, free_bytes};
use pool::{Pool, size_class};
use prefault::Prefaulter;

/// Directories of stores: one per tier.
const DIRECTORY_PREFIX: &str = "onward-segments-";
/// Who writes what is fetched for functions: it may use all of the memory.
pub const FETCHER: FunctionId = FunctionId(u64::MAX - 1);
/// The holder of the host's own mappings.
const HOST: FunctionId = FunctionId(u64::MAX);

/// A new segment's file, for its writer.
#[derive(Debug)]
pub struct WritableFile {
    /// The segment.
    pub id: SegmentId,
    /// Read-write descriptor.
    pub file: OwnedFd,
    /// Bytes of the file, at least those asked for.
    pub capacity_bytes: u64,
}

/// What the store holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreUsage {
    /// Segments that are not free for reuse: writing, committed, or removed with leases left.
    pub segments: u64,
    /// Leases of all holders.
    pub leases: u64,
    /// Bytes of segment files in the first tier, without idle ones.
    pub memory_bytes: u64,
    /// Bytes of idle files kept for reuse.
    pub pooled_bytes: u64,
    /// Bytes of segment files in the second tier.
    pub disk_bytes: u64,
    /// Files that were taken from the pool, ever.
    pub reused_files: u64,
    /// Files that were made anew, ever.
    pub created_files: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tier {
    Memory,
    Disk,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Writing { writer: FunctionId },
    Committed(SegmentRef),
    Removed,
}

#[derive(Debug)]
struct Slot {
    file: u64,
    tier: Tier,
    bytes: u64,
    /// Who wrote it.
    writer: FunctionId,
    phase: Phase,
    leases: HashMap<FunctionId, u32>,
}

#[derive(Debug, Default)]
struct State {
    slots: HashMap<SegmentId, Slot>,
    pool: Pool,
    /// Bytes of first-tier files in slots or about to be.
    memory_bytes: u64,
    /// Of those in slots or about to be, by who wrote them.
    written_bytes: HashMap<FunctionId, u64>,
    disk_bytes: u64,
    last_id: u64,
    last_file: u64,
    reused_files: u64,
    created_files: u64,
}

/// The segments of one host. All calls are synchronous and short (file-system metadata, no data); share it by `Arc`.
///
/// Dropping it removes its directories. Segments that are still mapped stay readable.
#[derive(Debug)]
pub struct SegmentStore {
    shared: Arc<Shared>,
    prefaulter: Prefaulter,
}

/// What the pre-fault thread shares with the store.
#[derive(Debug)]
struct Shared {
    options: StoreOptions,
    memory: ScratchDir,
    disk: ScratchDir,
    state: Mutex<State>,
}

impl SegmentStore {
    /// Makes the directories and removes what crashed processes left in them.
    pub fn open(options: StoreOptions) -> Result<Arc<Self>> {
        let scratch = |dir: &Path| {
            ScratchDir::create(dir, DIRECTORY_PREFIX).map_err(SegmentError::io("create a directory in", dir.display()))
        };
        let (memory, disk) = (scratch(&options.memory_dir)?, scratch(&options.disk_dir)?);
        let state = State { last_id: options.ids_after, ..State::default() };
        let shared = Arc::new(Shared { options, memory, disk, state: Mutex::new(state) });
        let prefaulter = Prefaulter::new(Arc::downgrade(&shared));
        Ok(Arc::new(Self { shared, prefaulter }))
    }

    /// Removes what crashed processes left wherever a store may be with `config`.
    pub fn remove_leftovers(config: &Config) {
        for dir in StoreOptions::dirs(config) {
            ScratchDir::remove_leftovers(&dir, DIRECTORY_PREFIX, |_| true);
        }
    }

    /// A file of at least `capacity_bytes` for a new segment, leased to `writer`. Errors with `Exhausted` when neither
    /// tier has room.
    pub fn create(&self, writer: FunctionId, capacity_bytes: u64) -> Result<WritableFile> {
        let size = size_class(capacity_bytes);
        let may_use_memory = self.shared.state.lock().reserve(writer, size, self.shared.options.function_bytes);
        let created = match self.create_of_size(size, may_use_memory) {
            // Better than an error: it is in nobody's way that the disk has no room, or cannot be used.
            Err(_) if !may_use_memory => self.create_of_size(size, true),
            created => created,
        };
        let mut state = self.shared.state.lock();
        if may_use_memory {
            // What it took may be larger, or not be there, or on disk.
            state.give_back(writer, size);
        }
        let (number, tier, bytes, file) = created?;
        if tier == Tier::Memory {
            *state.written_bytes.entry(writer).or_default() += bytes;
        }
        state.last_id += 1;
        let id = SegmentId(state.last_id);
        let leases = HashMap::from([(writer, 1)]);
        state.slots.insert(id, Slot { file: number, tier, bytes, writer, phase: Phase::Writing { writer }, leases });
        Ok(WritableFile { id, file, capacity_bytes: bytes })
    }

    /// Its number, tier, and bytes.
    fn create_of_size(&self, size: u64, may_use_memory: bool) -> Result<(u64, Tier, u64, OwnedFd)> {
        let taken = if may_use_memory { self.shared.state.lock().take(size) } else { None };
        Ok(match taken {
            Some((number, bytes)) => match file::open_writable(self.shared.memory.path(), number) {
                Ok(file) => (number, Tier::Memory, bytes, file),
                Err(error) => {
                    // Out of descriptors, most likely. A file that no slot and no pool knows would use memory unseen.
                    file::remove(self.shared.memory.path(), number);
                    self.shared.state.lock().memory_bytes -= bytes;
                    return Err(error);
                }
            },
            None => {
                let (number, tier, file) = self.shared.create_file(size, may_use_memory)?;
                if tier == Tier::Memory {
                    self.prefaulter.want(size);
                }
                (number, tier, size, file)
            }
        })
    }

    /// Verifies a segment that its writer finished and unmapped, and ends the writer's lease. From here on it can be
    /// leased and never changes. Errors leave it writing, to be discarded.
    pub fn commit(&self, segment: &SegmentRef) -> Result<()> {
        let id = segment.id();
        let unknown = SegmentError::Unknown { id, expected: "being written" };
        let (number, tier, bytes, writer) = match self.shared.state.lock().slots.get(&id) {
            Some(Slot { file, tier, bytes, phase: Phase::Writing { writer }, .. }) => (*file, *tier, *bytes, *writer),
            _ => return Err(unknown),
        };
        if segment.length_bytes > bytes {
            let detail = format!("{} bytes were reported, its file has {bytes}", segment.length_bytes);
            return Err(SegmentError::Torn { id, detail });
        }
        let file = file::open_readable(self.shared.dir(tier), number)?;
        let mapped = MappedSegment::open(id, file, segment.length_bytes)?;
        if mapped.rows() != segment.rows {
            let detail = format!("it has {} rows, {} were reported", mapped.rows(), segment.rows);
            return Err(SegmentError::Corrupt { id, detail });
        }
        let mut state = self.shared.state.lock();
        match state.slots.get_mut(&id) {
            Some(slot) if slot.phase == Phase::Writing { writer } => slot.phase = Phase::Committed(*segment),
            _ => return Err(unknown),
        }
        self.shared.end_leases(&mut state, id, writer, 1);
        Ok(())
    }

    /// Gives up a segment that was not committed. Its file is used again once the writer released it or was reaped.
    pub fn discard(&self, id: SegmentId) {
        self.remove(id);
    }

    /// Removes a segment: no new leases. Its file is used again once nobody holds it. Unknown ids are ignored.
    pub fn remove(&self, id: SegmentId) {
        let mut state = self.shared.state.lock();
        if let Some(slot) = state.slots.get_mut(&id) {
            slot.phase = Phase::Removed;
            self.shared.recycle_if_free(&mut state, id);
        }
    }

    /// A read-only descriptor of a committed segment, and its verified length. Each call is one lease of `holder`.
    pub fn lease(&self, id: SegmentId, holder: FunctionId) -> Result<(OwnedFd, SegmentRef)> {
        let (number, tier, segment) = {
            let mut state = self.shared.state.lock();
            match state.slots.get_mut(&id) {
                Some(Slot { file, tier, phase: Phase::Committed(segment), leases, .. }) => {
                    *leases.entry(holder).or_default() += 1;
                    (*file, *tier, *segment)
                }
                _ => return Err(SegmentError::Unknown { id, expected: "committed" }),
            }
        };
        match file::open_readable(self.shared.dir(tier), number) {
            Ok(file) => Ok((file, segment)),
            Err(error) => {
                self.release(id, holder);
                Err(error)
            }
        }
    }

    /// Ends one lease. Unknown ones are ignored: a reaped holder has none.
    pub fn release(&self, id: SegmentId, holder: FunctionId) {
        self.shared.end_leases(&mut self.shared.state.lock(), id, holder, 1);
    }

    /// Ends all leases of `holder`, whose process was *reaped* (a closed connection is not enough: it may still have
    /// files mapped). What it was writing is discarded.
    pub fn release_holder(&self, holder: FunctionId) {
        let mut state = self.shared.state.lock();
        let held: Vec<SegmentId> =
            state.slots.iter().filter(|(_, slot)| slot.leases.contains_key(&holder)).map(|(id, _)| *id).collect();
        for id in held {
            if let Some(slot) = state.slots.get_mut(&id).filter(|slot| slot.phase == Phase::Writing { writer: holder })
            {
                slot.phase = Phase::Removed;
            }
            self.shared.end_leases(&mut state, id, holder, u32::MAX);
        }
    }

    /// Maps a committed segment in this process. The lease ends with the last array.
    pub fn map(&self, id: SegmentId) -> Result<Arc<MappedSegment>> {
        let (file, segment) = self.lease(id, HOST)?;
        let shared = Arc::downgrade(&self.shared);
        let hook = Box::new(move || {
            if let Some(shared) = shared.upgrade() {
                shared.end_leases(&mut shared.state.lock(), id, HOST, 1);
            }
        });
        match MappedSegment::open_with(id, file, segment.length_bytes, Some(hook)) {
            Ok(mapped) => Ok(Arc::new(mapped)),
            Err(error) => {
                self.release(id, HOST);
                Err(error)
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn wait_for_prefault(&self) {
        self.prefaulter.stop();
    }

    /// The id is one of this store's, of a segment that is there or was.
    pub fn owns(&self, id: SegmentId) -> bool {
        id.0 > self.shared.options.ids_after
    }

    /// Where and how much it may keep.
    pub fn options(&self) -> &StoreOptions {
        &self.shared.options
    }

    /// What the store holds now.
    pub fn usage(&self) -> StoreUsage {
        let state = self.shared.state.lock();
        StoreUsage {
            segments: state.slots.len() as u64,
            leases: state.slots.values().flat_map(|slot| slot.leases.values()).map(|count| u64::from(*count)).sum(),
            memory_bytes: state.memory_bytes - state.pool.bytes(),
            pooled_bytes: state.pool.bytes(),
            disk_bytes: state.disk_bytes,
            reused_files: state.reused_files,
            created_files: state.created_files,
        }
    }
}

impl State {
    /// A pooled file of at least `size` bytes: number and size.
    fn take(&mut self, size: u64) -> Option<(u64, u64)> {
        let taken = self.pool.take(size)?;
        self.reused_files += 1;
        Some(taken)
    }

    /// Counts `size` bytes of the first tier for `writer`; false when it would have more than `most`.
    fn reserve(&mut self, writer: FunctionId, size: u64, most: u64) -> bool {
        let written = self.written_bytes.get(&writer).copied().unwrap_or(0);
        let fits = writer == FETCHER || written.saturating_add(size) <= most;
        if fits {
            self.written_bytes.insert(writer, written + size);
        }
        fits
    }

    fn give_back(&mut self, writer: FunctionId, size: u64) {
        if let Some(written) = self.written_bytes.get_mut(&writer) {
            *written -= size;
            if *written == 0 {
                self.written_bytes.remove(&writer);
            }
        }
    }

    fn next_file(&mut self) -> u64 {
        self.last_file += 1;
        self.created_files += 1;
        self.last_file
    }
}

impl Shared {
    fn dir(&self, tier: Tier) -> &Path {
        match tier {
            Tier::Memory => self.memory.path(),
            Tier::Disk => self.disk.path(),
        }
    }

    /// A new file of `size` bytes in the first tier that has room and may be used.
    fn create_file(&self, size: u64, may_use_memory: bool) -> Result<(u64, Tier, OwnedFd)> {
        let number = if may_use_memory { self.reserve_memory(size, self.options.memory_bytes) } else { None };
        if let Some(number) = number {
            match file::create(self.memory.path(), number, size) {
                Ok(file) => return Ok((number, Tier::Memory, file)),
                Err(error) => {
                    self.state.lock().memory_bytes -= size;
                    if !file::is_full(&error) {
                        return Err(error);
                    }
                    tracing::warn!(size, "the segment directory has no room: the segment goes to disk");
                }
            }
        }
        let number = {
            let mut state = self.state.lock();
            if state.disk_bytes + size > self.options.disk_bytes {
                return Err(SegmentError::Exhausted {
                    needed_bytes: size,
                    used_bytes: state.memory_bytes - state.pool.bytes() + state.disk_bytes,
                    limit_bytes: self.options.memory_bytes + self.options.disk_bytes,
                    setting: "segment_memory_bytes or segment_disk_bytes",
                });
            }
            state.disk_bytes += size;
            state.next_file()
        };
        file::create(self.disk.path(), number, size).map(|file| (number, Tier::Disk, file)).map_err(|error| {
            let mut state = self.state.lock();
            state.disk_bytes -= size;
            match file::is_full(&error) {
                true => SegmentError::Exhausted {
                    needed_bytes: size,
                    used_bytes: state.disk_bytes,
                    limit_bytes: self.options.disk_bytes,
                    setting: "spill_dir: its disk is full",
                },
                false => error,
            }
        })
    }

    /// Counts `size` bytes of the first tier, after removing idle files where that makes room. Gives a file number.
    fn reserve_memory(&self, size: u64, limit_bytes: u64) -> Option<u64> {
        let mut state = self.state.lock();
        if state.memory_bytes - state.pool.bytes() + size > limit_bytes {
            return None;
        }
        while state.memory_bytes + size > limit_bytes {
            let (number, bytes) = state.pool.take_largest()?;
            state.memory_bytes -= bytes;
            file::remove(self.memory.path(), number);
        }
        state.memory_bytes += size;
        Some(state.next_file())
    }

    fn end_leases(&self, state: &mut State, id: SegmentId, holder: FunctionId, count: u32) {
        let Some(slot) = state.slots.get_mut(&id) else { return };
        let Some(held) = slot.leases.get_mut(&holder) else { return };
        *held = held.saturating_sub(count);
        if *held == 0 {
            slot.leases.remove(&holder);
        }
        self.recycle_if_free(state, id);
    }

    fn recycle_if_free(&self, state: &mut State, id: SegmentId) {
        let is_free = |slot: &Slot| slot.phase == Phase::Removed && slot.leases.is_empty();
        if !state.slots.get(&id).is_some_and(is_free) {
            return;
        }
        let Some(slot) = state.slots.remove(&id) else { return };
        if slot.tier == Tier::Memory {
            state.give_back(slot.writer, slot.bytes);
        }
        match slot.tier {
            Tier::Memory if state.pool.bytes() + slot.bytes <= self.options.pool_bytes => {
                state.pool.put(slot.file, slot.bytes);
            }
            Tier::Memory => {
                state.memory_bytes -= slot.bytes;
                file::remove(self.memory.path(), slot.file);
            }
            // Disk blocks are not worth keeping: the page cache makes fresh ones at the same price.
            Tier::Disk => {
                state.disk_bytes -= slot.bytes;
                file::remove(self.disk.path(), slot.file);
            }
        }
    }
}
