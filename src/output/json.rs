//! One array of objects, or one object per line. NULL is written, so that every object has every key.

use std::io::Write;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::arrow::json::WriterBuilder;
use datafusion::arrow::json::writer::{JsonArray, JsonFormat, LineDelimited, Writer as ArrowWriter};

use super::names::{distinct, rename};
use super::{OutputError, Target, Writer, explain};

/// Writes JSON of either shape.
pub(super) struct JsonWriter<F: JsonFormat> {
    writer: ArrowWriter<Target, F>,
    target: Target,
    schema: SchemaRef,
    /// Written behind the last byte.
    end: &'static str,
}

impl JsonWriter<JsonArray> {
    pub(super) fn array(schema: &Schema, target: Target) -> Self {
        Self::new(schema, target, "\n")
    }
}

impl JsonWriter<LineDelimited> {
    pub(super) fn lines(schema: &Schema, target: Target) -> Self {
        Self::new(schema, target, "")
    }
}

impl<F: JsonFormat> JsonWriter<F> {
    fn new(schema: &Schema, target: Target, end: &'static str) -> Self {
        let writer = WriterBuilder::new().with_explicit_nulls(true).build(target.clone());
        Self { writer, target, schema: distinct(schema), end }
    }
}

impl<F: JsonFormat> Writer for JsonWriter<F> {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), OutputError> {
        let written = rename(batch, &self.schema).and_then(|batch| self.writer.write(&batch));
        written.map_err(|error| explain(&self.target, "JSON", &error))
    }

    fn finish(mut self: Box<Self>) -> Result<(), OutputError> {
        self.writer.finish().map_err(|error| explain(&self.target, "JSON", &error))?;
        let mut out = &self.target;
        out.write_all(self.end.as_bytes()).and_then(|()| out.flush()).map_err(|error| self.target.describe(error))
    }
}
