//! Which partition each row goes to.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::common::Result;
use datafusion::common::hash_utils::create_hashes;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr_common::utils::evaluate_expressions_to_arrays;
use datafusion::physical_plan::repartition::REPARTITION_RANDOM_STATE;

use super::measure::{Measured, measure};

/// The rows of one batch, grouped by partition.
#[derive(Debug)]
pub(super) struct Assignment {
    /// Row numbers, grouped by partition, ascending within one. Empty when all rows go to one partition in their order.
    pub order: Vec<u32>,
    /// Partitions that get rows, ascending.
    pub groups: Vec<Group>,
}

/// Rows of one partition: `order[start..end]`, or rows `start..end` when `order` is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub partition: u32,
    pub start: u32,
    pub end: u32,
}

impl Assignment {
    fn all(partition: u32, rows: usize) -> Self {
        Self { order: Vec::new(), groups: vec![Group { partition, start: 0, end: rows as u32 }] }
    }

    /// All rows of `batch` go to `partition`, in their order; with the sizes of `batch`.
    pub fn whole(partition: u32, batch: &RecordBatch) -> (Self, Measured) {
        let assignment = Self::all(partition, batch.num_rows());
        let measured = measure(batch, &[], &assignment.groups, &mut []);
        (assignment, measured)
    }
}

/// Assigns rows to `hash(exprs) % partitions`, exactly as DataFusion's `RepartitionExec` does: joins and aggregates rely
/// on both sides of an exchange agreeing, in whatever process they are computed.
#[derive(Debug)]
pub(super) struct HashAssigner {
    exprs: Vec<Arc<dyn PhysicalExpr>>,
    remainder: Remainder,
    hashes: Vec<u64>,
    targets: Vec<u32>,
    counts: Vec<u32>,
    bytes: Vec<usize>,
}

impl HashAssigner {
    pub fn new(exprs: Vec<Arc<dyn PhysicalExpr>>, partitions: usize) -> Self {
        let partitions = partitions.max(1);
        Self {
            exprs,
            remainder: Remainder::new(partitions as u64),
            hashes: Vec::new(),
            targets: Vec::new(),
            counts: vec![0; partitions],
            bytes: vec![0; partitions],
        }
    }

    /// Groups and measures the rows of `batch`.
    pub fn assign(&mut self, batch: &RecordBatch) -> Result<(Assignment, Measured)> {
        let keys = evaluate_expressions_to_arrays(self.exprs.iter(), batch)?;
        self.hashes.clear();
        self.hashes.resize(batch.num_rows(), 0);
        create_hashes(&keys, REPARTITION_RANDOM_STATE.random_state(), &mut self.hashes)?;
        self.targets.clear();
        self.targets.extend(self.hashes.iter().map(|hash| self.remainder.of(*hash) as u32));
        let assignment = group(&self.targets, &mut self.counts);
        let measured = measure(batch, &self.targets, &assignment.groups, &mut self.bytes);
        Ok((assignment, measured))
    }
}

/// A counting sort of the row numbers by partition. `counts` is scratch with one place per partition.
pub(super) fn group(targets: &[u32], counts: &mut [u32]) -> Assignment {
    counts.fill(0);
    for target in targets {
        counts[*target as usize] += 1;
    }
    let mut groups = Vec::new();
    let mut start = 0;
    for (partition, count) in counts.iter_mut().enumerate() {
        if *count > 0 {
            groups.push(Group { partition: partition as u32, start, end: start + *count });
        }
        // From here on the count is the place of the partition's next row.
        start += std::mem::replace(count, start);
    }
    let mut order = vec![0; targets.len()];
    for (row, target) in targets.iter().enumerate() {
        let place = &mut counts[*target as usize];
        order[*place as usize] = row as u32;
        *place += 1;
    }
    Assignment { order, groups }
}

/// `value % divisor` without a division: the divisor is fixed for millions of rows.
#[derive(Clone, Copy, Debug)]
enum Remainder {
    Mask(u64),
    /// `ceil(2^128 / divisor)`: exact for all 64-bit values, since the error is below 2^-64 of the divisor.
    Reciprocal {
        divisor: u64,
        reciprocal: u128,
    },
}

impl Remainder {
    fn new(divisor: u64) -> Self {
        match divisor.is_power_of_two() {
            true => Self::Mask(divisor - 1),
            false => Self::Reciprocal { divisor, reciprocal: u128::MAX / u128::from(divisor) + 1 },
        }
    }

    #[inline]
    fn of(self, value: u64) -> u64 {
        match self {
            Self::Mask(mask) => value & mask,
            Self::Reciprocal { divisor, reciprocal } => {
                // The upper 64 bits of the 192-bit product are the quotient.
                let low = ((reciprocal & u128::from(u64::MAX)) * u128::from(value)) >> 64;
                let high = (reciprocal >> 64) * u128::from(value);
                value - ((high + low) >> 64) as u64 * divisor
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remainders_are_exact_at_the_edges() {
        for divisor in [1, 2, 3, 5, 7, 64, 100, 1_000_003, u64::from(u32::MAX)] {
            for value in [0, 1, 2, divisor - 1, divisor, divisor + 1, u64::MAX - 1, u64::MAX, 0x0123_4567_89ab_cdef] {
                assert_eq!(Remainder::new(divisor).of(value), value % divisor, "{value} % {divisor}");
            }
        }
    }
}
