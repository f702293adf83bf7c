//! [`S3Fifo`]: eviction that a scan cannot flush.
//!
//! Yang et al., "FIFO Queues are All You Need for Cache Eviction" (SOSP 2023), weighted by bytes. New entries enter a
//! small queue with a tenth of the budget. Those read again before they reach its end move to the main queue; the others
//! leave, and a ghost remembers their names: an entry that comes back while its ghost lives enters the main queue at once.
//! A scan of a cold giant therefore passes through the small queue and leaves the main one alone.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// Share of the budget for entries seen once: 1/10, as in the paper.
const SMALL_DIVISOR: u64 = 10;
/// Reads that count; an entry survives as many rounds of the main queue.
const MOST_READS: u8 = 3;

/// An order of eviction over keys with a weight in bytes. It holds no values.
#[derive(Debug)]
pub struct S3Fifo<K> {
    capacity: u64,
    entries: HashMap<K, Entry>,
    small: VecDeque<K>,
    main: VecDeque<K>,
    ghost: VecDeque<(K, u64)>,
    /// The last number under which a key is in `ghost`; older places of it are stale.
    ghosts: HashMap<K, u64>,
    ghosted: u64,
    small_bytes: u64,
    bytes: u64,
    pinned_bytes: u64,
}

#[derive(Debug)]
struct Entry {
    bytes: u64,
    reads: u8,
    is_main: bool,
    is_pinned: bool,
}

impl<K: Clone + Eq + Hash> S3Fifo<K> {
    /// Keeps at most `capacity` bytes, pinned ones included.
    pub fn new(capacity: u64) -> Self {
        Self {
            capacity,
            entries: HashMap::new(),
            small: VecDeque::new(),
            main: VecDeque::new(),
            ghost: VecDeque::new(),
            ghosts: HashMap::new(),
            ghosted: 0,
            small_bytes: 0,
            bytes: 0,
            pinned_bytes: 0,
        }
    }

    /// Bytes of all entries.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The most bytes.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Notes that `key` was read.
    pub fn read(&mut self, key: &K) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.reads = entry.reads.saturating_add(1).min(MOST_READS);
        }
    }

    /// Adds `key`, and gives what must go for it, in order. A key that is there already only counts as read.
    pub fn insert(&mut self, key: K, bytes: u64) -> Vec<K> {
        if self.entries.contains_key(&key) {
            self.read(&key);
            return vec![];
        }
        let is_main = self.ghosts.remove(&key).is_some();
        match is_main {
            true => self.main.push_back(key.clone()),
            false => {
                self.small.push_back(key.clone());
                self.small_bytes += bytes;
            }
        }
        self.bytes += bytes;
        self.entries.insert(key, Entry { bytes, reads: 0, is_main, is_pinned: false });
        let mut evicted = Vec::new();
        while self.bytes > self.capacity {
            match self.evict() {
                Some(key) => evicted.push(key),
                None => break,
            }
        }
        evicted
    }

    /// There is room for `bytes` more.
    pub fn has_room(&self, bytes: u64) -> bool {
        self.bytes + bytes <= self.capacity
    }

    /// Whether `key` is worth that others go for it: it was wanted before, not long ago. It was, from now on.
    pub fn was_wanted(&mut self, key: &K) -> bool {
        let was_wanted = self.ghosts.contains_key(key);
        if !was_wanted {
            self.remember(key.clone());
        }
        was_wanted
    }

    /// Takes `key` out; nothing when it is not there. Its place in a queue is skipped later.
    pub fn remove(&mut self, key: &K) {
        if let Some(entry) = self.entries.remove(key) {
            self.forget(&entry);
        }
        // An entry of the same name that is added again must not be found through the old place.
        self.small.retain(|queued| queued != key);
        self.main.retain(|queued| queued != key);
    }

    /// Keeps `key` from being evicted, or lets it go again. False when it is not there, or when pinning would leave less
    /// than half of the budget for the rest.
    pub fn set_pinned(&mut self, key: &K, is_pinned: bool) -> bool {
        let Some(entry) = self.entries.get_mut(key) else { return false };
        match (entry.is_pinned, is_pinned) {
            (false, true) if self.pinned_bytes + entry.bytes > self.capacity / 2 => return false,
            (false, true) => self.pinned_bytes += entry.bytes,
            (true, false) => self.pinned_bytes -= entry.bytes,
            _ => {}
        }
        entry.is_pinned = is_pinned;
        true
    }

    /// `key` is kept whatever comes.
    pub fn is_pinned(&self, key: &K) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.is_pinned)
    }

    /// Takes out the entry that should go first; `None` when there is none but pinned ones.
    pub fn evict(&mut self) -> Option<K> {
        // Every step either evicts, moves an entry to the main queue (once each), lowers a count of reads, or passes a
        // pinned entry: a bound on the last makes it end.
        let mut pinned_left = self.entries.values().filter(|entry| entry.is_pinned).count();
        loop {
            let from_small = self.small_bytes > self.capacity / SMALL_DIVISOR || self.main.is_empty();
            let key = match from_small {
                true => self.small.pop_front().or_else(|| self.main.pop_front()),
                false => self.main.pop_front(),
            }?;
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            if entry.is_pinned {
                if !entry.is_main {
                    entry.is_main = true;
                    self.small_bytes -= entry.bytes;
                }
                self.main.push_back(key);
                match pinned_left.checked_sub(1) {
                    // All that is left in both queues may be pinned.
                    None if self.entries.values().all(|entry| entry.is_pinned) => return None,
                    left => pinned_left = left.unwrap_or(0),
                }
                continue;
            }
            if entry.reads > 0 {
                match entry.is_main {
                    true => entry.reads -= 1,
                    false => {
                        entry.is_main = true;
                        entry.reads = 0;
                        self.small_bytes -= entry.bytes;
                    }
                }
                self.main.push_back(key);
                continue;
            }
            let was_small = !entry.is_main;
            if let Some(entry) = self.entries.remove(&key) {
                self.forget(&entry);
            }
            if was_small {
                self.remember(key.clone());
            }
            return Some(key);
        }
    }

    fn forget(&mut self, entry: &Entry) {
        self.bytes -= entry.bytes;
        if !entry.is_main {
            self.small_bytes -= entry.bytes;
        }
        if entry.is_pinned {
            self.pinned_bytes -= entry.bytes;
        }
    }

    /// As many ghosts as there are entries, and a few for a start.
    fn remember(&mut self, key: K) {
        self.ghosted += 1;
        self.ghosts.insert(key.clone(), self.ghosted);
        self.ghost.push_back((key, self.ghosted));
        while self.ghost.len() > self.entries.len().max(64) {
            if let Some((key, number)) = self.ghost.pop_front()
                && self.ghosts.get(&key) == Some(&number)
            {
                self.ghosts.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Hot keys that are read all the time survive a scan of ten times the budget, which a plain LRU would lose them to.
    #[test]
    fn a_scan_of_a_cold_giant_does_not_flush_hot_columns() {
        let mut policy = S3Fifo::new(1000);
        let hot: Vec<u32> = (0..50).collect();
        for key in &hot {
            policy.insert(*key, 10);
        }
        let (mut hits, mut reads) = (0, 0);
        for cold in 1000..2000 {
            policy.insert(cold, 10);
            // One hot read per cold one: in an LRU of 100 entries each hot key would come back after 50 cold and 50 hot.
            let key = hot[(cold as usize * 7) % hot.len()];
            reads += 1;
            match policy.entries.contains_key(&key) {
                true => hits += 1,
                false => drop(policy.insert(key, 10)),
            }
            policy.read(&key);
        }
        assert!(hits * 100 >= reads * 90, "{hits} of {reads}");
        assert!(policy.bytes() <= 1000);
    }

    /// What left the small queue and comes back soon is worth the main queue.
    #[test]
    fn an_entry_that_comes_back_stays() {
        let mut policy = S3Fifo::new(100);
        policy.insert(1, 10);
        (2..20).for_each(|key| drop(policy.insert(key, 10)));
        assert!(!policy.entries.contains_key(&1), "seen once");
        policy.insert(1, 10);
        assert!(policy.entries[&1].is_main, "its ghost was there");
    }

    #[test]
    fn pinned_entries_stay_and_leave_room_for_others() {
        let mut policy = S3Fifo::new(100);
        policy.insert(1, 40);
        policy.insert(2, 40);
        assert!(policy.set_pinned(&1, true));
        assert!(!policy.set_pinned(&2, true), "more than half of the budget");
        for key in 3..100 {
            policy.insert(key, 20);
        }
        assert!(policy.is_pinned(&1) && policy.bytes() <= 100);
        assert_eq!(policy.evict().map(|key| key == 1), Some(false), "others go first");
        while policy.evict().is_some() {}
        assert!(policy.is_pinned(&1), "and it stays when all others are gone");
        policy.set_pinned(&1, false);
        assert_eq!(policy.evict(), Some(1));
    }

    #[test]
    fn what_is_wanted_once_makes_nobody_go() {
        let mut policy = S3Fifo::new(100);
        assert!(policy.has_room(60));
        policy.insert(1, 60);
        assert!(!policy.has_room(60) && !policy.was_wanted(&2));
        assert!(policy.was_wanted(&2));
        assert_eq!(policy.insert(2, 60), [1]);
    }

    proptest! {
        /// Whatever comes: the sum of bytes is right, stays within the budget, and every key given back is gone.
        #[test]
        fn bytes_are_counted_and_bounded(steps in prop::collection::vec((0u8..4, 0u32..40, 1u64..60), 1..400)) {
            let mut policy = S3Fifo::new(200);
            for (step, key, bytes) in steps {
                match step {
                    0 | 1 => {
                        for gone in policy.insert(key, bytes) {
                            prop_assert!(!policy.entries.contains_key(&gone));
                        }
                    }
                    2 => policy.read(&key),
                    _ if bytes % 3 == 0 => policy.remove(&key),
                    _ => drop(policy.set_pinned(&key, bytes % 2 == 0)),
                }
                let sum: u64 = policy.entries.values().map(|entry| entry.bytes).sum();
                let small: u64 = policy.entries.values().filter(|e| !e.is_main).map(|e| e.bytes).sum();
                prop_assert_eq!(sum, policy.bytes());
                prop_assert_eq!(small, policy.small_bytes);
                prop_assert!(policy.bytes() <= 200);
                prop_assert!(policy.ghost.len() <= policy.entries.len().max(64));
            }
        }
    }
}
