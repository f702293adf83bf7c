//! RFC 4180.

use std::io::Write;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, StringBuilder};
use datafusion::arrow::csv;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};

use super::cells::is_flat;
use super::{OutputError, Target, Writer, explain};

/// Writes a header and rows; nested values, which CSV has no form for, as the text that tables show.
pub(super) struct CsvWriter {
    writer: csv::Writer<Target>,
    target: Target,
    schema: SchemaRef,
    is_started: bool,
}

impl CsvWriter {
    pub(super) fn new(schema: SchemaRef, target: Target) -> Self {
        let fields = schema.fields().iter().map(|field| match is_flat(field.data_type()) {
            true => field.as_ref().clone(),
            false => Field::new(field.name(), DataType::Utf8, true),
        });
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let writer = csv::WriterBuilder::new().with_header(true).build(target.clone());
        Self { writer, target, schema, is_started: false }
    }

    fn flatten(&self, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let columns = batch.columns().iter().map(|column| match is_flat(column.data_type()) {
            true => Ok(column.clone()),
            false => as_text(column),
        });
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(self.schema.clone(), columns.collect::<Result<_, _>>()?, &options)
    }
}

impl Writer for CsvWriter {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), OutputError> {
        self.is_started = true;
        let written = self.flatten(batch).and_then(|batch| self.writer.write(&batch));
        written.map_err(|error| explain(&self.target, "CSV", &error))
    }

    fn finish(mut self: Box<Self>) -> Result<(), OutputError> {
        if !self.is_started {
            // The header is written with the first batch, even an empty one.
            let empty = RecordBatch::new_empty(self.schema.clone());
            self.writer.write(&empty).map_err(|error| explain(&self.target, "CSV", &error))?;
        }
        (&self.target).flush().map_err(|error| self.target.describe(error))
    }
}

fn as_text(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let options = FormatOptions::new();
    let formatter = ArrayFormatter::try_new(column, &options)?;
    let mut text = StringBuilder::new();
    for row in 0..column.len() {
        if column.is_null(row) {
            text.append_null();
        } else {
            text.append_value(formatter.value(row).try_to_string()?);
        }
    }
    Ok(Arc::new(text.finish()))
}
