//! Zone maps: which batches of a row group may have rows for a predicate.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray};
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::{Column, ScalarValue};
use datafusion_pruning::PruningPredicate;

use crate::columns::CachedColumn;

/// The zones of a row group's columns, by name.
pub(super) struct RowGroupZones<'a> {
    columns: HashMap<&'a str, &'a CachedColumn>,
    batches: usize,
}

impl<'a> RowGroupZones<'a> {
    /// `columns` of a row group of `batches` batches.
    pub(super) fn new(columns: impl Iterator<Item = (&'a str, &'a Arc<CachedColumn>)>, batches: usize) -> Self {
        let columns = columns.filter(|(_, column)| column.zones().is_some_and(|zones| zones.least.len() == batches));
        Self { columns: columns.map(|(name, column)| (name, column.as_ref())).collect(), batches }
    }

    /// One flag per batch: it may have rows that match. What cannot be told is kept.
    pub(super) fn keep(&self, predicate: &PruningPredicate) -> Vec<bool> {
        match predicate.prune(self) {
            Ok(keep) if keep.len() == self.batches => keep,
            Ok(_) => vec![true; self.batches],
            Err(error) => {
                tracing::debug!(%error, "zones could not be compared: all batches are read");
                vec![true; self.batches]
            }
        }
    }
}

impl PruningStatistics for RowGroupZones<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.columns.get(column.name.as_str())?.zones().map(|zones| Arc::clone(&zones.least))
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.columns.get(column.name.as_str())?.zones().map(|zones| Arc::clone(&zones.greatest))
    }

    fn num_containers(&self) -> usize {
        self.batches
    }

    fn null_counts(&self, _: &Column) -> Option<ArrayRef> {
        None
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        None
    }

    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}
