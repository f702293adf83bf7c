//! Inputs on their way from the coordinator to a host. What all tasks of a stage are told alike of another stage is encoded once and
//! copied; what differs is one byte for each partition that a task reads of each attempt.
//!
//! A thousand producers and a hundred readers are a hundred thousand pairs: a byte each, not a message.

use std::sync::LazyLock;

use bytes::Bytes;
use prost::Message;

use crate::error::{ErrorKind, WireError};
use crate::exchange::{InputAttempt, StageInputs};
use crate::message::PartitionStats;

/// Attempts as they are encoded.
#[derive(Clone, PartialEq, Message)]
pub struct Attempts {
    /// One per producer task, without partitions.
    #[prost(message, repeated, tag = "1")]
    pub attempts: Vec<InputAttempt>,
}

/// Attempts of a producer stage, and the sizes of the partitions that a task reads.
#[derive(Clone, PartialEq, Message)]
pub struct Packed {
    /// Encoded [`Attempts`].
    #[prost(bytes = "bytes", tag = "1")]
    pub attempts: Bytes,
    /// A [code](size_code) for every partition of [`StageInputs::partitions`] of the first attempt, then of the second, ...
    #[prost(bytes = "bytes", tag = "2")]
    pub sizes: Bytes,
}

impl StageInputs {
    /// Puts [`Self::attempts`] in the place of what is packed.
    ///
    /// # Errors
    /// Internal when it is none, or not of as many attempts and partitions as it says.
    pub fn unpack(&mut self) -> Result<(), WireError> {
        let Some(Packed { attempts, sizes }) = self.packed.take() else { return Ok(()) };
        let wrong =
            |what: String| WireError::new(ErrorKind::Internal, format!("inputs of stage {}: {what}", self.stage));
        let Attempts { attempts } = Attempts::decode(attempts).map_err(|error| wrong(error.to_string()))?;
        let partitions: usize =
            self.partitions.iter().map(|range| range.end.saturating_sub(range.start) as usize).sum();
        if attempts.len().checked_mul(partitions) != Some(sizes.len()) {
            return Err(wrong(format!("{} sizes of {} attempts, {partitions} each", sizes.len(), attempts.len())));
        }
        let read: Vec<u32> = self.partitions.iter().flat_map(|range| range.start..range.end).collect();
        self.attempts = attempts;
        for (at, attempt) in self.attempts.iter_mut().enumerate() {
            let codes = &sizes[at * read.len()..(at + 1) * read.len()];
            let stats = |(partition, code): (&u32, &u8)| {
                Some(PartitionStats { partition: *partition, rows: 0, bytes: size_of_code(*code)? })
            };
            attempt.output.partitions = read.iter().zip(codes).filter_map(stats).collect();
        }
        Ok(())
    }
}

/// Of code 1, 2, ...: the powers of 1.1, rounded up.
static SIZES: LazyLock<[u64; 255]> =
    LazyLock::new(|| std::array::from_fn(|power| 1.1_f64.powi(power as i32).ceil() as u64));

/// The size of a partition that has rows, in one byte: see [`size_of_code`].
pub fn size_code(bytes: u64) -> u8 {
    SIZES.partition_point(|size| *size < bytes).min(254) as u8 + 1
}

/// About as many bytes as were coded: at most a tenth more, up to 32 GB. `None` for 0: no rows.
pub fn size_of_code(code: u8) -> Option<u64> {
    SIZES.get(usize::from(code.checked_sub(1)?)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::PartitionRange;
    use crate::message::{Attempt, AttemptOutput, SegmentRef};

    #[test]
    fn a_size_is_kept_within_a_tenth() {
        for bytes in (0..100).chain((7..35).map(|power| (1 << power) - 3)) {
            let kept = size_of_code(size_code(bytes)).unwrap();
            assert!(kept >= bytes && kept as f64 <= bytes as f64 * 1.1 + 1.0, "{kept} for {bytes}");
        }
        assert_eq!((size_of_code(0), size_code(u64::MAX)), (None, 255));
    }

    #[test]
    fn what_is_packed_is_what_comes_out() {
        let attempt = |task| InputAttempt {
            attempt: Attempt { query: 7, stage: 1, task, attempt: 2 },
            output: AttemptOutput {
                segments: vec![SegmentRef { segment: 99, length_bytes: 1_000, rows: 10 }],
                ..AttemptOutput::default()
            },
            host: 3,
        };
        let attempts = Attempts { attempts: vec![attempt(0), attempt(1)] }.encode_to_vec().into();
        let sizes = Bytes::from(vec![size_code(1), 0, 0, size_code(500)]);
        let packed = |sizes: &Bytes| StageInputs {
            stage: 1,
            partitions: PartitionRange::cover([4, 9]),
            packed: Some(Packed { attempts: Bytes::clone(&attempts), sizes: sizes.clone() }),
            ..StageInputs::default()
        };
        let mut inputs = packed(&sizes);
        inputs.unpack().unwrap();
        let stats = |at: usize| inputs.attempts[at].output.partitions.clone();
        let about_500 = size_of_code(size_code(500)).unwrap();
        assert_eq!(stats(0), [PartitionStats { partition: 4, rows: 0, bytes: 1 }]);
        assert_eq!(stats(1), [PartitionStats { partition: 9, rows: 0, bytes: about_500 }]);
        inputs.attempts.iter_mut().for_each(|attempt| attempt.output.partitions.clear());
        assert_eq!(inputs.attempts, [attempt(0), attempt(1)]);
        assert!(packed(&sizes.slice(1..)).unpack().unwrap_err().message.contains("3 sizes of 2 attempts, 2 each"));
    }
}
