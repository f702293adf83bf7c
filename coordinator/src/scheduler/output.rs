//! What the scheduler keeps of an attempt's output. Of every partition one byte: ten thousand producers of ten thousand
//! partitions are a hundred megabytes.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use onward_wire::exchange::{InputAttempt, PartitionRange, StageInputs};
use onward_wire::message::{AttemptOutput, PartitionStats, SegmentRef};
use onward_wire::packed::{Attempts, Packed, size_code, size_of_code};
use onward_wire::{AttemptId, HostId, SegmentId};
use prost::Message;

/// A task that reads more partitions than these of outputs that have few of them is told of each that is there.
const MOST_SPARSE: usize = 64;

/// A committed attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Committed {
    /// Which.
    pub attempt: AttemptId,
    /// The host whose store has its segments.
    pub host: HostId,
    /// A whole segment, when the output is small; else empty.
    pub inline: Bytes,
    /// Segment files, in write order.
    pub segments: Vec<SegmentRef>,
    /// Rows of all partitions.
    pub rows: u64,
    /// Encoded bytes of all partitions.
    pub bytes: u64,
    /// How large its partitions are.
    pub sizes: PartitionSizes,
}

impl Committed {
    /// The output that lies on `host`.
    pub(super) fn new(attempt: AttemptId, host: HostId, output: AttemptOutput) -> Self {
        let (rows, bytes) = (output.rows(), output.bytes());
        let AttemptOutput { inline, segments, partitions } = output;
        Self { attempt, host, inline, segments, rows, bytes, sizes: PartitionSizes::new(&partitions) }
    }

    /// Its segments and where they lie.
    pub(super) fn segments(&self) -> impl Iterator<Item = (HostId, SegmentId)> + '_ {
        self.segments.iter().map(|segment| (self.host, segment.id()))
    }

    /// It as a consumer is told, who reads `partitions` of it (ascending); `None`: all.
    pub fn input(&self, partitions: Option<&[u32]>) -> InputAttempt {
        let stats = |(partition, bytes)| PartitionStats { partition, rows: 0, bytes };
        let partitions = match partitions {
            None => self.sizes.iter().map(stats).collect(),
            Some(read) => read.iter().filter_map(|at| Some(stats((*at, self.sizes.get(*at)?)))).collect(),
        };
        let output = AttemptOutput { inline: self.inline.clone(), segments: self.segments.clone(), partitions };
        InputAttempt { attempt: self.attempt.into(), output, host: self.host.0 }
    }
}

/// Committed attempts of a stage, by task: all, or those of the first tasks, or those of the tasks that follow on what was told
/// before.
#[derive(Clone, Debug, PartialEq)]
pub struct StageOutput {
    /// The stage.
    pub stage: u32,
    /// One per task.
    pub attempts: Vec<Arc<Committed>>,
    /// More follow.
    pub is_open: bool,
    /// Sizes that are known of all partitions of all attempts.
    pub sizes: usize,
    /// Encoded [`Attempts`], once somebody on another host is told.
    encoded: OnceLock<Bytes>,
}

impl StageOutput {
    /// Of these attempts of `stage`.
    pub fn new(stage: u32, attempts: Vec<Arc<Committed>>, is_open: bool) -> Self {
        let sizes = attempts.iter().map(|committed| committed.sizes.len()).sum();
        Self { stage, attempts, is_open, sizes, encoded: OnceLock::new() }
    }

    /// As a task is told that reads `partitions` of it (ascending).
    pub fn told(&self, partitions: &[u32]) -> StageInputs {
        StageInputs {
            stage: self.stage,
            attempts: self.attempts.iter().map(|committed| committed.input(Some(partitions))).collect(),
            partitions: PartitionRange::cover(partitions.iter().copied()),
            is_open: self.is_open,
            ..StageInputs::default()
        }
    }

    /// The same for a task on another host: [packed](Packed), unless that would be larger.
    pub fn told_afar(&self, partitions: &[u32]) -> StageInputs {
        let is_sparse = |committed: &Arc<Committed>| matches!(committed.sizes, PartitionSizes::Sparse { .. });
        if partitions.len() > MOST_SPARSE && self.attempts.iter().any(is_sparse) {
            return self.told(partitions);
        }
        let encoded = || {
            let attempts = self.attempts.iter().map(|committed| committed.input(Some(&[]))).collect();
            Bytes::from(Attempts { attempts }.encode_to_vec())
        };
        let attempts = Bytes::clone(self.encoded.get_or_init(encoded));
        let mut sizes = Vec::with_capacity(self.attempts.len() * partitions.len());
        for committed in &self.attempts {
            sizes.extend(partitions.iter().map(|at| committed.sizes.code(*at)));
        }
        StageInputs {
            stage: self.stage,
            partitions: PartitionRange::cover(partitions.iter().copied()),
            is_open: self.is_open,
            packed: Some(Packed { attempts, sizes: sizes.into() }),
            ..StageInputs::default()
        }
    }
}

/// Sizes of partitions, each within a tenth: see [`size_code`].
#[derive(Clone, Debug, PartialEq)]
pub enum PartitionSizes {
    /// From the first partition with rows to the last one; 0 = no rows.
    Dense {
        /// Number of the first.
        first: u32,
        /// A code for each.
        codes: Box<[u8]>,
    },
    /// Those that have rows, where they are few.
    Sparse {
        /// Their numbers, ascending.
        partitions: Box<[u32]>,
        /// A code for each.
        codes: Box<[u8]>,
    },
}

impl PartitionSizes {
    /// Of partitions with rows; ascending, as their writer gives them.
    pub fn new(stats: &[PartitionStats]) -> Self {
        if !stats.is_sorted_by(|a, b| a.partition < b.partition) {
            let mut sorted = stats.to_vec();
            sorted.sort_by_key(|stats| stats.partition);
            sorted.dedup_by_key(|stats| stats.partition);
            return Self::new(&sorted);
        }
        let (Some(first), Some(last)) = (stats.first(), stats.last()) else {
            return Self::Sparse { partitions: Box::default(), codes: Box::default() };
        };
        let span = (last.partition - first.partition) as usize + 1;
        // A number takes four bytes.
        if span > stats.len() * 5 {
            let partitions = stats.iter().map(|stats| stats.partition).collect();
            return Self::Sparse { partitions, codes: stats.iter().map(|stats| size_code(stats.bytes)).collect() };
        }
        let mut codes = vec![0; span].into_boxed_slice();
        for stats in stats {
            codes[(stats.partition - first.partition) as usize] = size_code(stats.bytes);
        }
        Self::Dense { first: first.partition, codes }
    }

    /// About as many bytes as the partition has; `None` when it has no rows.
    pub fn get(&self, partition: u32) -> Option<u64> {
        size_of_code(self.code(partition))
    }

    /// Its code; 0 when it has no rows.
    fn code(&self, partition: u32) -> u8 {
        let code = match self {
            Self::Dense { first, codes } => partition.checked_sub(*first).and_then(|at| codes.get(at as usize)),
            Self::Sparse { partitions, codes } => partitions.binary_search(&partition).ok().map(|at| &codes[at]),
        };
        code.copied().unwrap_or(0)
    }

    /// Partitions that have rows, and about how many bytes.
    pub fn iter(&self) -> Box<dyn Iterator<Item = (u32, u64)> + '_> {
        match self {
            Self::Dense { first, codes } => {
                Box::new((*first..).zip(codes).filter_map(|(partition, code)| Some((partition, size_of_code(*code)?))))
            }
            Self::Sparse { partitions, codes } => Box::new(
                partitions.iter().zip(codes).filter_map(|(partition, code)| Some((*partition, size_of_code(*code)?))),
            ),
        }
    }

    /// Partitions between the first and the last one that has rows.
    pub fn len(&self) -> usize {
        match self {
            Self::Dense { codes, .. } | Self::Sparse { codes, .. } => codes.len(),
        }
    }

    /// No partition has rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that this takes.
    pub fn memory_bytes(&self) -> usize {
        let own = size_of::<Self>();
        match self {
            Self::Dense { codes, .. } => own + codes.len(),
            Self::Sparse { partitions, codes } => own + partitions.len() * 4 + codes.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_kept_within_a_tenth_in_a_byte_each() {
        let stats = |partitions: &mut dyn Iterator<Item = (u32, u64)>| {
            partitions.map(|(partition, bytes)| PartitionStats { partition, rows: 1, bytes }).collect::<Vec<_>>()
        };
        let many = stats(&mut (3..1_003).filter(|at| at % 7 != 0).map(|at| (at, u64::from(at).pow(3))));
        let few = stats(&mut [(0, 1), (500, 1 << 33), (100_000, 64)].into_iter());
        for stats in [many, few] {
            let sizes = PartitionSizes::new(&stats);
            assert_eq!(
                sizes.iter().map(|(at, _)| at).collect::<Vec<_>>(),
                stats.iter().map(|s| s.partition).collect::<Vec<_>>()
            );
            for stats in &stats {
                let kept = sizes.get(stats.partition).unwrap();
                assert!(kept >= stats.bytes && kept as f64 <= stats.bytes as f64 * 1.1 + 1.0, "{kept} for {stats:?}");
            }
            assert_eq!([7, 2_000, u32::MAX].map(|none| sizes.get(none)), [None; 3]);
            assert!(sizes.memory_bytes() < 50 + stats.len() * 5);
        }
        assert!(PartitionSizes::new(&[]).is_empty());
    }
}
