//! [`Seen`]: which keys were seen, of the last so many.

use std::collections::{HashSet, VecDeque};
use std::hash::Hash;

/// The last keys that were seen, in order.
#[derive(Debug)]
pub struct Seen<K> {
    most: usize,
    keys: HashSet<K>,
    order: VecDeque<K>,
}

impl<K: Clone + Eq + Hash> Seen<K> {
    /// Remembers `most` keys.
    pub fn new(most: usize) -> Self {
        Self { most, keys: HashSet::new(), order: VecDeque::new() }
    }

    /// Whether `key` was seen. It was, from now on.
    pub fn note(&mut self, key: &K) -> bool {
        if !self.keys.insert(key.clone()) {
            return true;
        }
        self.order.push_back(key.clone());
        if self.order.len() > self.most
            && let Some(oldest) = self.order.pop_front()
        {
            self.keys.remove(&oldest);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_first() {
        let mut seen = Seen::new(2);
        assert_eq!([1, 2, 1, 3, 2, 1].map(|key| seen.note(&key)), [false, false, true, false, true, false]);
    }
}
