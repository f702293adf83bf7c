//! Single-process DataFusion on the same files: the oracle where no answer is committed, and the mark benches compare with.

use datafusion::arrow::array::RecordBatch;
use datafusion::error::DataFusionError;
use datafusion::prelude::{SessionConfig, SessionContext};

use crate::answers::Answer;
use crate::compare::{order_columns, rows_of};
use crate::dataset::Dataset;
use crate::error::Result;
use crate::queries;

/// A plain DataFusion session with its defaults and the tables of one data set.
pub struct Oracle {
    context: SessionContext,
    scale: f64,
}

impl Oracle {
    /// Registers the tables, as the runner does with the server. `threads` is DataFusion's target_partitions.
    ///
    /// # Errors
    /// When a file is missing or not Parquet.
    pub async fn new(dataset: &Dataset, threads: usize) -> Result<Self> {
        let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(threads));
        for statement in dataset.registration()? {
            context.sql(&statement).await?.collect().await?;
        }
        Ok(Self { context, scale: dataset.scale })
    }

    /// Runs any statement; gives its batches.
    ///
    /// # Errors
    /// DataFusion's own.
    pub async fn run(&self, sql: &str) -> Result<Vec<RecordBatch>, DataFusionError> {
        self.context.sql(sql).await?.collect().await
    }

    /// The answer of query `number`. A query with LIMIT runs with one row more, which tells whether the limit cuts a tie.
    ///
    /// # Errors
    /// DataFusion's own.
    pub async fn answer(&self, number: u8) -> Result<Answer> {
        let sql = queries::sql(number, self.scale);
        let limit =
            sql.rsplit_once("\nlimit ").and_then(|(head, count)| Some((head, count.trim().parse::<usize>().ok()?)));
        let Some((head, limit)) = limit else {
            let rows = rows_of(&self.run(&sql).await?)?;
            return Ok(Answer { rows, is_cut_in_a_tie: false });
        };
        let mut rows = rows_of(&self.run(&format!("{head}\nlimit {}", limit + 1)).await?)?;
        let next = if rows.len() > limit { rows.pop() } else { None };
        let is_tied =
            |last: &Vec<String>, next: &Vec<String>| order_columns(number).iter().all(|key| last[*key] == next[*key]);
        let is_cut_in_a_tie = matches!((rows.last(), &next), (Some(last), Some(next)) if is_tied(last, next));
        Ok(Answer { rows, is_cut_in_a_tie })
    }
}
