//! SQL to a graph of stages, and the plans of stages on their way to functions.
//!
//! ```text
//!   SQL -> statement::parse -> DataFusion -> plan_query -> StageGraph -> codec::encode      coordinator
//!   codec::decode -> slice -> bind_inputs -> narrow_decimals -> run                         function
//! ```
//!
//! Planning is pure: the same SQL, catalog, statistics and settings give the same stages, and golden files test that. The
//! planner opens no file itself; what DataFusion's table providers read to give statistics, they read.
//!
//! Guarantees: a query that DataFusion plans is planned here, as stages where its plan can be cut and sent and in the
//! coordinator otherwise. A plan names stages and partitions, never addresses. A fragment runs as several tasks only where
//! each task's partitions are independent of the others'.

pub mod adaptive;
pub mod bind;
pub mod cache_statement;
pub mod classes;
pub mod codec;
mod cut;
pub mod error;
pub mod explain;
#[cfg(test)]
mod golden;
pub mod graph;
pub mod json_array;
pub mod narrow;
mod placeholders;
pub mod plan;
pub mod rules;
pub mod runtime_filter;
pub mod scalar_subquery;
pub mod session;
#[cfg(test)]
mod simulate;
mod sizing;
pub mod slice;
pub mod stage_input;
pub mod statement;

pub use bind::bind_inputs;
pub use classes::{WorkerClass, choose_classes};
pub use graph::{Alternative, Estimate, KeySource, Sizing, Stage, StageGraph};
pub use narrow::narrow_decimals;
pub use plan::{PlanRequest, Planned, plan_query};
pub use runtime_filter::RuntimeFilterPlaces;
pub use slice::{reads, slice};
pub use stage_input::StageInputExec;
