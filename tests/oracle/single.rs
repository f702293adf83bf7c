//! Plain DataFusion in this process: what every distributed result is compared with.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::FutureExt;

/// Something that runs SQL.
#[async_trait]
pub trait Engine: Send + Sync {
    /// All rows of one statement, or what its user reads.
    async fn run(&self, sql: &str) -> Result<(SchemaRef, Vec<RecordBatch>), String>;
}

/// DataFusion with its defaults, on two threads.
pub fn single_process() -> SessionContext {
    SessionContext::new_with_config(SessionConfig::new().with_information_schema(true).with_target_partitions(2))
}

#[async_trait]
impl Engine for SessionContext {
    async fn run(&self, sql: &str) -> Result<(SchemaRef, Vec<RecordBatch>), String> {
        let running = async {
            let frame = self.sql(sql).await.map_err(|error| error.to_string())?;
            let schema = Arc::new(Schema::clone(frame.schema().as_arrow()));
            let batches = frame.collect().await.map_err(|error| error.to_string())?;
            Ok((schema, batches))
        };
        // DataFusion 55.2 panics in sort-merge joins with some filters (index out of bounds in `get_filter_columns`).
        AssertUnwindSafe(running).catch_unwind().await.unwrap_or_else(|_| Err("it panicked".to_owned()))
    }
}
