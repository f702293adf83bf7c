//! Onward: the warm columnar cache.
