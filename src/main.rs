//! The onward binary.
fn main() {}
