//! Reads through the tier equal reads of the store, whatever is kept.

#![allow(clippy::single_range_in_vec_init, reason = "a list of ranges may have one")]

use std::ops::Range;
use std::path::Path as FsPath;
use std::sync::Arc;

use bytes::Bytes;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use onward_wire::WireError;
use onward_wire::columns::ObjectTag;
use url::Url;

use super::*;
use crate::paths::store_path;
use crate::registry::StoreRegistry;
use crate::store::StoreHandle;
use crate::versions::tag_of;

const MIB: u64 = 1 << 20;

struct Bench {
    memory: Arc<InMemory>,
    tier: RangeTier,
}

impl Bench {
    fn with(memory: Arc<InMemory>, directory: &FsPath, disk_bytes: u64) -> Self {
        let stores = Arc::<StoreRegistry>::default();
        let handle = StoreHandle { store: memory.clone(), multipart: None, is_local: false };
        stores.register_handle(&Url::parse("memory://b/").unwrap(), handle);
        let options = RangeOptions { directory: directory.to_owned(), disk_bytes, memory_bytes: MIB };
        Self { memory, tier: RangeTier::new(options, stores) }
    }

    fn new(directory: &FsPath) -> Self {
        Self::with(Arc::default(), directory, 64 * MIB)
    }

    async fn put(&self, path: &str, bytes: Vec<u8>) -> Arc<ObjectTag> {
        let path = store_path(path).unwrap();
        self.memory.put(&path, bytes.into()).await.unwrap();
        Arc::new(tag_of("memory://b/", &self.memory.head(&path).await.unwrap()))
    }

    async fn read(&self, tag: &Arc<ObjectTag>, ranges: &[Range<u64>]) -> RangesRead {
        self.tier.read(tag, ranges).await.unwrap()
    }
}

fn bytes(length: u64, seed: u64) -> Vec<u8> {
    (0..length).map(|at| (at.wrapping_mul(31).wrapping_add(seed) % 251) as u8).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_are_those_of_the_object_and_are_read_once() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::new(directory.path());
    let content = bytes(3 * MIB + 17, 1);
    let tag = bench.put("t/a", content.clone()).await;
    let (end, block) = (tag.bytes, BLOCK_BYTES);
    let cases: [&[Range<u64>]; 6] = [
        &[end - 8..end],
        &[0..1],
        &[5..5, block - 1..block + 1, 2 * block..3 * block],
        &[100..2 * MIB, 10..20],
        &[0..end],
        &[],
    ];
    for ranges in cases {
        let read = bench.read(&tag, ranges).await;
        let expected: Vec<_> = ranges.iter().map(|range| &content[range.start as usize..range.end as usize]).collect();
        assert_eq!(read.bytes, expected, "{ranges:?}");
    }
    let again = bench.read(&tag, &[0..end]).await;
    assert_eq!((again.store_requests, again.store_bytes, again.kept_bytes), (0, 0, end));
    let uses = bench.tier.objects();
    assert_eq!(uses.len(), 1);
    assert_eq!(uses[0].store_bytes, end, "every block was read once");
}

#[tokio::test(flavor = "multi_thread")]
async fn neighbours_come_in_one_request_and_large_reads_in_some() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::new(directory.path());
    let tag = bench.put("t/a", bytes(32 * MIB, 2)).await;
    let block = BLOCK_BYTES;
    let read = bench.read(&tag, &[0..10, block..block + 10, 3 * block..3 * block + 1]).await;
    assert_eq!((read.store_requests, read.store_bytes), (1, 4 * block), "a gap of one block is read with them");
    let read = bench.read(&tag, &[16 * MIB..32 * MIB]).await;
    assert_eq!((read.store_requests, read.store_bytes), (4, 16 * MIB), "4 MiB each");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_at_once_shares_a_request() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::new(directory.path());
    let tag = bench.put("t/a", bytes(MIB, 3)).await;
    let ranges = [0..MIB];
    let reads = (0..8).map(|_| bench.tier.read(&tag, &ranges));
    let reads = futures::future::try_join_all(reads).await.unwrap();
    assert_eq!(reads.iter().map(|read| read.store_requests).sum::<u64>(), 1);
    assert!(reads.iter().all(|read| read.bytes == reads[0].bytes));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_was_overwritten_is_never_mixed() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::new(directory.path());
    let old = bench.put("t/a", bytes(2 * MIB, 4)).await;
    bench.read(&old, &[0..10]).await;
    let new = bench.put("t/a", bytes(2 * MIB, 5)).await;
    let error = bench.tier.read(&old, &[MIB..2 * MIB]).await.unwrap_err();
    let stale = stale_of(error.as_ref());
    assert!(stale.is_some_and(|error| error.is_stale && error.message.contains("memory://b/t/a")), "{error}");
    let read = bench.read(&new, &[0..10]).await;
    assert_eq!((read.bytes, read.store_requests), (vec![Bytes::from(bytes(10, 5))], 1));
    // What was kept of the old version may still be read by who planned with it.
    assert_eq!(bench.read(&old, &[0..10]).await.bytes, [bytes(10, 4)]);
    bench.memory.delete(&store_path("t/a").unwrap()).await.unwrap();
    let error = bench.tier.read(&new, &[MIB..2 * MIB]).await.unwrap_err();
    assert!(stale_of(error.as_ref()).is_some(), "{error}");
}

fn stale_of<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a WireError> {
    std::iter::successors(Some(error), |error| error.source()).find_map(|error| error.downcast_ref())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::new(directory.path());
    let content = bytes(8 * MIB, 6);
    let tag = bench.put("t/a", content.clone()).await;
    bench.read(&tag, &[0..8 * MIB]).await;
    bench.tier.close().await;
    let Bench { memory, tier } = bench;
    drop(tier);
    let bench = Bench::with(memory, directory.path(), 64 * MIB);
    let read = bench.read(&tag, &[0..8 * MIB]).await;
    assert_eq!((read.store_requests, read.kept_bytes), (0, 8 * MIB));
    assert_eq!(read.bytes, [content]);
    bench.tier.close().await;
    // With another size it begins anew, and what it had is removed.
    let Bench { memory, tier } = bench;
    drop(tier);
    let bench = Bench::with(memory, directory.path(), 32 * MIB);
    assert_eq!(bench.read(&tag, &[0..10]).await.store_requests, 1);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn disk_is_bounded_and_reads_past_it_are_right() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::with(Arc::default(), directory.path(), 8 * MIB);
    let content = bytes(32 * MIB, 7);
    let tag = bench.put("t/a", content.clone()).await;
    for _ in 0..2 {
        for start in (0..32 * MIB).step_by(MIB as usize) {
            let read = bench.read(&tag, &[start..start + MIB]).await;
            assert_eq!(read.bytes, [&content[start as usize..(start + MIB) as usize]]);
        }
    }
    bench.tier.close().await;
    let layout = std::fs::read_dir(directory.path()).unwrap().next().unwrap().unwrap().path();
    let files = std::fs::read_dir(layout).unwrap().map(|file| file.unwrap().metadata().unwrap().len());
    assert!(files.sum::<u64>() <= 8 * MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_ahead_is_counted_by_whoever_needs_it() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::new(directory.path());
    let tag = bench.put("t/a", bytes(4 * MIB, 8)).await;
    bench.tier.prefetch(&tag, &[0..MIB]);
    // Before it has come, or after: the same.
    let read = bench.read(&tag, &[0..MIB]).await;
    assert_eq!((read.store_requests, read.store_bytes), (1, MIB));
    let read = bench.read(&tag, &[0..MIB]).await;
    assert_eq!((read.store_requests, read.kept_bytes), (0, MIB));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_cannot_be_used_costs_reads_and_no_error() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a file");
    std::fs::write(&file, "x").unwrap();
    let bench = Bench::new(&file.join("ranges"));
    let content = bytes(MIB, 9);
    let tag = bench.put("t/a", content.clone()).await;
    for _ in 0..2 {
        let read = bench.read(&tag, &[0..MIB]).await;
        assert_eq!((read.bytes, read.store_requests), (vec![Bytes::from(content.clone())], 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_outside_of_the_object_are_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::new(directory.path());
    let tag = bench.put("t/a", bytes(10, 10)).await;
    assert!(bench.tier.read(&tag, &[5..11]).await.is_err());
    let wrong = Arc::new(ObjectTag { bytes: 20, ..ObjectTag::clone(&tag) });
    assert!(bench.tier.read(&wrong, &[0..20]).await.is_err(), "a tag with another size than the object's");
}
