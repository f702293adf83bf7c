//! SQL to a graph of stages.
pub mod graph;
pub mod stage_input;
pub use graph::*;
pub use stage_input::StageInputExec;
