//! `world` plays host, clients and clock, and checks every command, with what `ledger` knows; `hearing` is how the scheduler is told;
//! `random` lets anything happen in any order; `cases`, `placing`, `early`, `elastic` and `leaving` are the situations worth a name.

mod cases;
mod early;
mod elastic;
mod hearing;
mod leaving;
mod ledger;
mod placing;
mod random;
mod world;

pub use world::{limits, query};
