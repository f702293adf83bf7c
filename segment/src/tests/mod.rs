//! Tests of the crate as its users see it.

mod damage;
mod roundtrip;
mod samples;
mod store;
