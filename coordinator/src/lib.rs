//! Sessions, catalog, scheduler and fleet.
pub mod api;
pub use api::*;
