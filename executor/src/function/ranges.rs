//! Bytes of remote objects, read by the host.

use std::fs::File;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::Result;
use onward_cache::ranges::{RangeClient, RangesRead};
use onward_wire::columns::ObjectTag;
use onward_wire::ranges::{MAX_RANGES, MAX_READ_BYTES, PrefetchRanges};
use onward_wire::{ErrorKind, WireError};

use super::link::Link;

/// Parts of one read on their way at once.
const MOST_PARTS: usize = 4;

/// Remote objects, as this process sees them: the host reads them.
#[derive(Debug)]
pub(super) struct Ranges {
    link: Arc<Link>,
    /// Past the host's range tier.
    is_direct: bool,
}

impl Ranges {
    pub(super) fn new(link: Arc<Link>, is_direct: bool) -> Arc<Self> {
        Arc::new(Self { link, is_direct })
    }

    async fn read_part(&self, object: &ObjectTag, part: &[Range<u64>]) -> Result<RangesRead> {
        let (read, file) = self.link.read_ranges(object, part, self.is_direct).await.map_err(failed)?;
        let bytes = take(file, part).map_err(|error| failed(WireError::new(ErrorKind::Internal, error)))?;
        let (store_requests, store_bytes, kept_bytes) = (read.store_requests, read.store_bytes, read.kept_bytes);
        Ok(RangesRead { bytes, store_requests, store_bytes, kept_bytes })
    }
}

#[async_trait]
impl RangeClient for Ranges {
    async fn read(&self, object: &ObjectTag, ranges: &[Range<u64>]) -> Result<RangesRead> {
        let parts = parts(ranges);
        let reads = stream::iter(parts).map(async |part| self.read_part(object, &part).await).buffered(MOST_PARTS);
        let reads: Vec<RangesRead> = reads.try_collect().await?;
        let mut whole = RangesRead::default();
        let mut pieces = Vec::new();
        for read in reads {
            pieces.extend(read.bytes);
            whole.store_requests += read.store_requests;
            whole.store_bytes += read.store_bytes;
            whole.kept_bytes += read.kept_bytes;
        }
        whole.bytes = join(pieces, ranges);
        Ok(whole)
    }

    fn reads_unversioned(&self) -> bool {
        true
    }

    fn prefetch(&self, object: &ObjectTag, ranges: &[Range<u64>]) {
        if self.is_direct {
            return;
        }
        for ranges in ranges.chunks(MAX_RANGES) {
            let ranges = ranges.iter().map(Into::into).collect();
            // A lost host ends the function by itself.
            let _ = self.link.send(PrefetchRanges { object: object.clone(), ranges });
        }
    }
}

/// `ranges` in parts that one request may ask for: a large range is cut.
fn parts(ranges: &[Range<u64>]) -> Vec<Vec<Range<u64>>> {
    let (mut parts, mut bytes) = (vec![vec![]], 0);
    for range in ranges {
        let mut range = range.clone();
        loop {
            let room = MAX_READ_BYTES - bytes;
            let cut = range.end.min(range.start.saturating_add(room));
            if let Some(part) = parts.last_mut() {
                part.push(range.start..cut);
                bytes += cut - range.start;
                if bytes == MAX_READ_BYTES || part.len() == MAX_RANGES {
                    parts.push(vec![]);
                    bytes = 0;
                }
            }
            range.start = cut;
            if range.is_empty() {
                break;
            }
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

/// What [`parts`] cut, whole again.
fn join(pieces: Vec<Bytes>, ranges: &[Range<u64>]) -> Vec<Bytes> {
    let mut pieces = pieces.into_iter();
    let whole = |range: &Range<u64>| {
        let length = (range.end - range.start) as usize;
        let first = pieces.next().unwrap_or_default();
        if first.len() >= length {
            return first;
        }
        let mut whole = BytesMut::with_capacity(length);
        whole.extend_from_slice(&first);
        while whole.len() < length
            && let Some(piece) = pieces.next()
        {
            whole.extend_from_slice(&piece);
        }
        whole.freeze()
    };
    ranges.iter().map(whole).collect()
}

/// The ranges of `part`, as they lie in `file`.
fn take(file: OwnedFd, part: &[Range<u64>]) -> std::io::Result<Vec<Bytes>> {
    let file = File::from(file);
    let length: u64 = part.iter().map(|range| range.end - range.start).sum();
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, 0)?;
    let bytes = Bytes::from(bytes);
    let mut at = 0;
    let slice = |range: &Range<u64>| {
        let from = at;
        at += (range.end - range.start) as usize;
        bytes.slice(from..at)
    };
    Ok(part.iter().map(slice).collect())
}

fn failed(error: WireError) -> object_store::Error {
    object_store::Error::Generic { store: "range tier", source: Box::new(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_ranges_are_cut_and_put_together_again() {
        let most = MAX_READ_BYTES;
        let ranges = [0..10, 20..20, 100..100 + 2 * most, 5..7];
        let parts = parts(&ranges);
        let bytes = |part: &Vec<Range<u64>>| part.iter().map(|range| range.end - range.start).sum::<u64>();
        assert!(parts.iter().all(|part| bytes(part) <= most), "{parts:?}");
        assert_eq!(parts.len(), 3);
        let pieces = parts.iter().flatten().map(|range| Bytes::from(vec![1; (range.end - range.start) as usize]));
        let joined = join(pieces.collect(), &ranges);
        assert_eq!(joined.iter().map(|bytes| bytes.len() as u64).collect::<Vec<_>>(), [10, 0, 2 * most, 2]);
    }
}
