//! What tests and benches stand on: parts of the world outside Onward.

pub mod network;
pub mod s3_proxy;
