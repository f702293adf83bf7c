//! Idle files by size.

use std::collections::BTreeMap;

const LEAST_BYTES: u64 = 64 << 10;

/// File sizes grow in quarters of powers of two (64, 80, 96, 112, 128, 160 KiB ...): a file serves many requests, and
/// less than a quarter of it is wasted.
pub(super) fn size_class(bytes: u64) -> u64 {
    let bytes = bytes.max(LEAST_BYTES);
    let step = (bytes.next_power_of_two() / 8).max(1);
    bytes.div_ceil(step).saturating_mul(step)
}

/// Idle, pre-faulted files.
#[derive(Debug, Default)]
pub(super) struct Pool {
    files: BTreeMap<u64, Vec<u64>>,
    bytes: u64,
}

impl Pool {
    /// Bytes of all idle files.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes the smallest file of at least `bytes`, unless that would waste more than half of it. Gives number and size.
    pub fn take(&mut self, bytes: u64) -> Option<(u64, u64)> {
        let size = *self.files.range(bytes..=bytes.saturating_mul(2).max(LEAST_BYTES)).next()?.0;
        self.take_of_size(size)
    }

    /// Takes the largest file, to make room.
    pub fn take_largest(&mut self) -> Option<(u64, u64)> {
        let size = *self.files.last_key_value()?.0;
        self.take_of_size(size)
    }

    fn take_of_size(&mut self, size: u64) -> Option<(u64, u64)> {
        let files = self.files.get_mut(&size)?;
        // The file used last: its pages are the likeliest to be in the caches.
        let number = files.pop();
        if files.is_empty() {
            self.files.remove(&size);
        }
        let number = number?;
        self.bytes -= size;
        Some((number, size))
    }

    /// Gives a file back.
    pub fn put(&mut self, number: u64, size: u64) {
        self.files.entry(size).or_default().push(number);
        self.bytes += size;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_waste_less_than_a_quarter() {
        for bytes in (1..2000).map(|n| n * 12_345).filter(|bytes| *bytes > LEAST_BYTES) {
            let size = size_class(bytes);
            assert!(size >= bytes && size < bytes + bytes / 4 + 1, "{bytes} -> {size}");
            assert_eq!(size, size_class(size));
        }
    }

    #[test]
    fn the_smallest_fitting_file_is_taken_and_a_far_too_large_one_is_not() {
        let mut pool = Pool::default();
        for (number, size) in [(1, 10 << 20), (2, 20 << 20), (3, 100 << 20)] {
            pool.put(number, size);
        }
        assert_eq!(pool.take(11 << 20), Some((2, 20 << 20)));
        assert_eq!(pool.take(11 << 20), None);
        assert_eq!(pool.take_largest(), Some((3, 100 << 20)));
        assert_eq!(pool.bytes(), 10 << 20);
    }
}
