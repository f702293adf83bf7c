//! `world` plays host, clients and clock, and checks every command; `random` lets anything happen in any order; `cases`
//! are the situations worth a name.

mod cases;
mod early;
mod random;
mod world;

pub use world::{limits, query};
