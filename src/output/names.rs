//! Column names that objects and files can have.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;

/// The same schema with distinct names: the second `a` of a join becomes `a_2`, since an object keeps one of two keys.
pub(super) fn distinct(schema: &Schema) -> SchemaRef {
    let mut taken: HashSet<String> = HashSet::new();
    let reserved: HashSet<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let fields = schema.fields().iter().map(|field| {
        let mut name = field.name().clone();
        let mut number = 2;
        while taken.contains(&name) || (name != *field.name() && reserved.contains(name.as_str())) {
            name = format!("{}_{number}", field.name());
            number += 1;
        }
        taken.insert(name.clone());
        field.as_ref().clone().with_name(name)
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// `batch` under the names of `schema`.
pub(super) fn rename(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), batch.columns().to_vec(), &options)
}
