//! The direct shuffle service.
pub mod transport;
pub use transport::*;
