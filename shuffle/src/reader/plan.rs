//! What a task reads, and what it must ask other hosts for.
//!
//! ```text
//!   attempts in task order     0 (here)   1 (h-2)   2 (h-1)   3 (h-2)        asked of h-2 at once:
//!   partition 4                Here       Fetched   Fetched   Fetched          attempts 1, 3 x partitions 4, 5
//!   partition 5                Here       Fetched   -         Fetched        (as many partitions as fetch_bytes hold)
//! ```
//!
//! The own host is asked like another one when there is little in each of many segments: it copies that together.
//!
//! A host is asked for all partitions of the task at once, in parts of `fetch_bytes`: requests grow with hosts and bytes, not
//! with producers or partitions. A part is asked for when the first partition comes to it, by which time the one before it
//! is being read, and its memory goes when the last partition has passed it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use onward_segment::MappedSegment;
use onward_wire::exchange::{PartitionRange, SegmentGroup, Signed, StageInputs};
use onward_wire::message::AttemptOutput;
use onward_wire::{ErrorKind, HostId, WireError};
use tokio::sync::OnceCell;

use crate::flight::{MAX_PAIRS, MAX_SEGMENTS};
use crate::transport::{Fetch, SegmentSource};

/// Fewer segments are mapped, however little is read of them.
const SCATTERED_SEGMENTS: u64 = 64;
/// A mapping and its page faults cost about as much as copying this.
const SCATTERED_BYTES: u64 = 32 << 10;

/// What a partition reads next.
#[derive(Debug)]
pub(super) enum Piece {
    /// The entries of the partition in an attempt's output that lies here, or in its inline image.
    Here {
        /// Position of the attempt.
        attempt: usize,
    },
    /// The entries of `partition` of what was fetched.
    Fetched {
        /// The request.
        part: Arc<Part>,
        /// The partition's number there.
        partition: u32,
    },
}

/// One request at another host, made at most once.
#[derive(Debug)]
pub(super) struct Part {
    fetch: Fetch,
    fetched: OnceCell<Arc<MappedSegment>>,
}

impl Part {
    /// It was asked for, and is here.
    pub(super) fn is_fetched(&self) -> bool {
        self.fetched.initialized()
    }

    /// The segment; asked for by whoever comes first.
    pub(super) async fn get(&self, source: &dyn SegmentSource) -> Result<Arc<MappedSegment>, WireError> {
        self.fetched.get_or_try_init(|| source.fetch(&self.fetch)).await.cloned()
    }
}

/// The pieces of each of `partitions` (ascending), in the order of the reading rule.
///
/// # Errors
/// Internal when an attempt lies on another host and the task came without a grant.
pub(super) fn pieces(
    inputs: &StageInputs,
    partitions: &[u32],
    here: HostId,
    fetch_bytes: u64,
) -> Result<Vec<VecDeque<Piece>>, WireError> {
    let is_told = |partition: u32| {
        let range = PartitionRange { start: partition, end: partition + 1 };
        inputs.partitions.is_empty() || range.is_within(&inputs.partitions)
    };
    // Taken for one without rows it would be lost without a word.
    if let Some(partition) = partitions.iter().find(|partition| !is_told(**partition)) {
        let message = format!("the task was told nothing of partition {partition} of stage {}", inputs.stage);
        return Err(WireError::new(ErrorKind::Internal, message));
    }
    let mut pieces: Vec<BTreeMap<(usize, usize), Piece>> = partitions.iter().map(|_| BTreeMap::new()).collect();
    let mut remote: BTreeMap<HostId, Vec<usize>> = BTreeMap::new();
    let is_scattered = is_scattered(inputs, partitions, here);
    for (position, attempt) in inputs.attempts.iter().enumerate() {
        if attempt.output.inline.is_empty() && (is_scattered || attempt.host() != here) {
            if !attempt.output.segments.is_empty() {
                remote.entry(attempt.host()).or_default().push(position);
            }
            continue;
        }
        for (at, partition) in partitions.iter().enumerate() {
            if bytes_of(&attempt.output, *partition).is_some() {
                pieces[at].insert((position, 0), Piece::Here { attempt: position });
            }
        }
    }
    for (host, attempts) in remote {
        let Some(grant) = &inputs.grant else {
            let message = format!("stage {} lies on {host}, and nothing allows the task to read it", inputs.stage);
            return Err(WireError::new(ErrorKind::Internal, message));
        };
        let plan = HostPlan { inputs, partitions, host, grant, attempts: &attempts, fetch_bytes };
        plan.fetch_all(&mut pieces);
    }
    Ok(pieces.into_iter().map(|pieces| pieces.into_values().collect()).collect())
}

/// What lies here lies in so many segments, with so little of the task's partitions in each, that mapping them costs more
/// than having the host copy it together.
fn is_scattered(inputs: &StageInputs, partitions: &[u32], here: HostId) -> bool {
    let (mut segments, mut bytes) = (0, 0);
    for attempt in inputs.attempts.iter().filter(|attempt| attempt.host() == here) {
        segments += attempt.output.segments.len() as u64;
        bytes += partitions.iter().filter_map(|partition| bytes_of(&attempt.output, *partition)).sum::<u64>();
    }
    inputs.grant.is_some() && segments >= SCATTERED_SEGMENTS && bytes / segments < SCATTERED_BYTES
}

/// Encoded bytes of the partition; `None` when it has no rows.
fn bytes_of(output: &AttemptOutput, partition: u32) -> Option<u64> {
    let found = output.partitions.binary_search_by_key(&partition, |stats| stats.partition).ok()?;
    Some(output.partitions[found].bytes)
}

/// What is asked of one host.
struct HostPlan<'a> {
    inputs: &'a StageInputs,
    partitions: &'a [u32],
    host: HostId,
    grant: &'a Signed,
    attempts: &'a [usize],
    fetch_bytes: u64,
}

/// Segments of an attempt that are asked for together.
#[derive(Clone)]
struct Asked {
    attempt: usize,
    /// Among the parts of the attempt.
    part: usize,
    segments: Vec<u64>,
}

impl HostPlan<'_> {
    fn fetch_all(&self, pieces: &mut [BTreeMap<(usize, usize), Piece>]) {
        let most_partitions = (MAX_PAIRS / self.attempts.len().max(1)).max(1);
        let (mut first, mut bytes) = (0, 0_u64);
        for at in 0..self.partitions.len() {
            let more = self.partition_bytes(at);
            if at > first && (bytes + more > self.fetch_bytes || at - first >= most_partitions) {
                self.fetch_partitions(first..at, pieces);
                (first, bytes) = (at, 0);
            }
            bytes += more;
        }
        self.fetch_partitions(first..self.partitions.len(), pieces);
    }

    fn partition_bytes(&self, at: usize) -> u64 {
        let bytes = |attempt: &usize| bytes_of(&self.inputs.attempts[*attempt].output, self.partitions[at]);
        self.attempts.iter().filter_map(bytes).sum()
    }

    /// The partitions at `range`, in one request where they are small enough.
    fn fetch_partitions(&self, range: std::ops::Range<usize>, pieces: &mut [BTreeMap<(usize, usize), Piece>]) {
        let (mut asked, mut bytes, mut segments) = (Vec::new(), 0_u64, 0);
        for attempt in self.attempts.iter().copied() {
            let output = &self.inputs.attempts[attempt].output;
            let more: u64 = range.clone().filter_map(|at| bytes_of(output, self.partitions[at])).sum();
            if more == 0 {
                continue;
            }
            let parts = self.split(output, more);
            let each = more / parts.len() as u64;
            for (part, part_segments) in parts.into_iter().enumerate() {
                let is_full = bytes + each > self.fetch_bytes || segments + part_segments.len() > MAX_SEGMENTS;
                if is_full && !asked.is_empty() {
                    self.request(&range, std::mem::take(&mut asked), pieces);
                    (bytes, segments) = (0, 0);
                }
                bytes += each;
                segments += part_segments.len();
                asked.push(Asked { attempt, part, segments: part_segments });
            }
        }
        if !asked.is_empty() {
            self.request(&range, asked, pieces);
        }
    }

    /// The segments of an attempt in parts of about `fetch_bytes`, as if each had the same share of `bytes`.
    fn split(&self, output: &AttemptOutput, bytes: u64) -> Vec<Vec<u64>> {
        let ids: Vec<u64> = output.segments.iter().map(|segment| segment.segment).collect();
        let parts = usize::try_from(bytes.div_ceil(self.fetch_bytes.max(1))).unwrap_or(usize::MAX).clamp(1, ids.len());
        let each = ids.len().div_ceil(parts).min(MAX_SEGMENTS);
        ids.chunks(each).map(<[u64]>::to_vec).collect()
    }

    fn request(
        &self,
        range: &std::ops::Range<usize>,
        asked: Vec<Asked>,
        pieces: &mut [BTreeMap<(usize, usize), Piece>],
    ) {
        let fetch = Fetch {
            host: self.host,
            grant: self.grant.clone(),
            groups: asked.iter().map(|asked| SegmentGroup { segments: asked.segments.clone() }).collect(),
            partitions: PartitionRange::cover(self.partitions[range.clone()].iter().copied()),
            is_shared: self.inputs.is_shared,
        };
        let part = Arc::new(Part { fetch, fetched: OnceCell::new() });
        let groups = asked.len() as u32;
        for (group, asked) in (0..).zip(asked) {
            for at in range.clone() {
                if bytes_of(&self.inputs.attempts[asked.attempt].output, self.partitions[at]).is_some() {
                    let partition = (at - range.start) as u32 * groups + group;
                    let piece = Piece::Fetched { part: Arc::clone(&part), partition };
                    pieces[at].insert((asked.attempt, asked.part), piece);
                }
            }
        }
    }
}
