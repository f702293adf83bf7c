//! The host and its function processes.

pub mod socket;
