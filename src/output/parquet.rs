//! One Parquet file, streamed: standard output need not be seekable.

use std::io::Write;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::basic::{Compression, ZstdLevel};
use datafusion::parquet::file::properties::WriterProperties;

use super::names::{distinct, rename};
use super::{OutputError, Target, Writer, explain, explain_parquet};

/// A row group is written once it holds this much, whatever its rows: it is what the writer keeps in memory.
const ROW_GROUP_BYTES: usize = 128 << 20;

/// Writes row groups as they fill.
pub(super) struct ParquetWriter {
    writer: ArrowWriter<Target>,
    target: Target,
    schema: SchemaRef,
}

impl ParquetWriter {
    pub(super) fn new(schema: &Schema, target: Target) -> Result<Self, OutputError> {
        if target.is_terminal() {
            return Err(OutputError::ParquetToTerminal);
        }
        target.claim()?;
        let schema = distinct(schema);
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
            .set_created_by(format!("onward {}", env!("CARGO_PKG_VERSION")))
            .build();
        let writer = ArrowWriter::try_new(target.clone(), schema.clone(), Some(properties))
            .map_err(|error| explain_parquet(&target, &error))?;
        Ok(Self { writer, target, schema })
    }
}

impl Writer for ParquetWriter {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), OutputError> {
        let batch = rename(batch, &self.schema).map_err(|error| explain(&self.target, "Parquet", &error))?;
        self.writer.write(&batch).map_err(|error| explain_parquet(&self.target, &error))
    }

    fn finish(self: Box<Self>) -> Result<(), OutputError> {
        self.writer.close().map_err(|error| explain_parquet(&self.target, &error))?;
        (&self.target).flush().map_err(|error| self.target.describe(error))
    }
}
