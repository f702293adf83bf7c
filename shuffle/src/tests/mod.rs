//! Tests of the crate as its users see it: rows in, segments, rows out.

mod agreement;
mod exchange;
mod harness;
mod paths;
mod remote;
#[path = "../../../segment/src/tests/samples.rs"]
mod samples;
