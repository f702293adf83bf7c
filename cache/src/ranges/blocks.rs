//! [`Blocks`]: blocks in memory and on disk, kept by foyer.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use foyer::{
    BlockEngineConfig, Code, DeviceBuilder, FsDeviceBuilder, HybridCache, HybridCacheBuilder, HybridCachePolicy,
    PsyncIoEngineConfig, RecoverMode, S3FifoConfig,
};
use onward_wire::columns::ObjectTag;

use super::BLOCK_BYTES;
use super::place::Place;

/// Bytes that wait to be written to disk; what comes faster is not kept there.
const QUEUED_BYTES: usize = 64 << 20;

/// One block of one version of one object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct BlockKey {
    object: Arc<str>,
    block: u32,
}

/// The version of an object as part of keys.
pub(super) fn object_key(tag: &ObjectTag) -> Arc<str> {
    // Stores give times more exactly in listings than with objects: where there are etags, they decide.
    let modified = if tag.e_tag.is_some() { 0 } else { tag.modified_ns };
    let e_tag = tag.e_tag.as_deref().unwrap_or_default();
    // No URL has a line break.
    format!("{}{}\n{e_tag}\n{}\n{modified}", tag.store, tag.path, tag.bytes).into()
}

impl BlockKey {
    pub(super) fn new(object: &Arc<str>, block: u32) -> Self {
        Self { object: Arc::clone(object), block }
    }
}

impl Code for BlockKey {
    fn encode(&self, writer: &mut impl Write) -> foyer::Result<()> {
        self.block.encode(writer)?;
        (self.object.len() as u32).encode(writer)?;
        writer.write_all(self.object.as_bytes()).map_err(foyer::Error::io_error)
    }

    fn decode(reader: &mut impl Read) -> foyer::Result<Self> {
        let block = u32::decode(reader)?;
        let length = u64::from(u32::decode(reader)?);
        let mut object = String::new();
        reader.take(length).read_to_string(&mut object).map_err(foyer::Error::io_error)?;
        Ok(Self { object: object.into(), block })
    }

    fn estimated_size(&self) -> usize {
        2 * size_of::<u32>() + self.object.len()
    }
}

/// Blocks by key.
#[derive(Debug)]
pub(super) struct Blocks {
    kept: HybridCache<BlockKey, Bytes>,
}

impl Blocks {
    /// Blocks below `directory`, with those that are there already; at most `disk_bytes`, and not all of a nearly full disk.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub(super) async fn open(directory: &Path, disk_bytes: u64, memory_bytes: usize) -> foyer::Result<Self> {
        let place = Place::below(directory, disk_bytes);
        let name = place.name();
        remove_others(directory, &name);
        // foyer panics where it cannot make it.
        std::fs::create_dir_all(directory.join(&name)).map_err(foyer::Error::io_error)?;
        let device = FsDeviceBuilder::new(directory.join(name)).with_capacity(place.bytes() as usize).build()?;
        let engine = BlockEngineConfig::new(device)
            .with_block_size(place.file_bytes() as usize)
            .with_buffer_pool_size(QUEUED_BYTES)
            .with_submit_queue_size_threshold(QUEUED_BYTES);
        let kept = HybridCacheBuilder::new()
            .with_name("ranges")
            // Written when they are read, not when memory is full: a crash loses little.
            .with_policy(HybridCachePolicy::WriteOnInsertion)
            .with_flush_on_close(false)
            .memory(memory_bytes)
            .with_eviction_config(S3FifoConfig::default())
            .with_weighter(|key: &BlockKey, block: &Bytes| key.estimated_size() + block.len())
            .storage()
            .with_io_engine_config(PsyncIoEngineConfig::new())
            .with_engine_config(engine)
            .with_recover_mode(RecoverMode::Quiet)
            .build()
            .await?;
        Ok(Self { kept })
    }

    /// A block, from memory or disk. What cannot be read is not there.
    pub(super) async fn get(&self, key: &BlockKey, length: usize) -> Option<Bytes> {
        match self.kept.get(key).await {
            Ok(entry) => entry.map(|entry| entry.value().clone()).filter(|block| block.len() == length),
            Err(error) => {
                tracing::warn!(%error, "a block of the range tier cannot be read, its store is asked instead");
                None
            }
        }
    }

    /// Keeps a block.
    pub(super) fn insert(&self, key: BlockKey, block: Bytes) {
        self.kept.insert(key, block);
    }

    /// Writes what waits.
    pub(super) async fn close(&self) {
        if let Err(error) = self.kept.close().await {
            tracing::warn!(%error, "the range tier could not be written to its end");
        }
    }
}

/// Removes what was kept with other sizes.
fn remove_others(directory: &Path, name: &str) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name() != name) {
        // What stays takes disk and is never read.
        if let Err(error) = std::fs::remove_dir_all(entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "cannot be removed");
        }
    }
}

/// The blocks that `range` lies in.
pub(super) fn blocks_of(range: &std::ops::Range<u64>) -> std::ops::Range<u32> {
    if range.is_empty() {
        return 0..0;
    }
    (range.start / BLOCK_BYTES) as u32..range.end.div_ceil(BLOCK_BYTES) as u32
}
