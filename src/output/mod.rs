//! Results as text or Parquet, batch by batch.
//!
//! ```text
//! batches --> Writer (one per result, of one Format) --> Target (standard output, or a file, visible when complete)
//! ```
//!
//! Guarantees: no row is left out unless the text says so; memory is bounded whatever the size of the result (a table's
//! columns are as wide as its first [`table::SAMPLE_ROWS`] rows need); a reader that closes the pipe is not an error.

mod cells;
mod csv;
mod json;
mod markdown;
mod names;
mod parquet;
pub mod table;
mod target;
mod vertical;

use std::path::PathBuf;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::error::ArrowError;
use datafusion::parquet::errors::ParquetError;

pub use self::target::Target;

/// How results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Boxes, for people.
    Table,
    /// One `column | value` line per column: for wide rows.
    Vertical,
    /// RFC 4180 with a header line; NULL is empty, nested values are text.
    Csv,
    /// One array of objects.
    Json,
    /// One object per line.
    Ndjson,
    /// One Parquet file, zstd; one result per file.
    Parquet,
    /// A Markdown table.
    Markdown,
}

/// What went wrong on the way out.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The reader of our output is gone: nothing to tell anybody.
    #[error("the output was closed")]
    Closed,
    /// The output cannot be written.
    #[error("cannot write {target}: {source}")]
    Write {
        /// `standard output` or the path.
        target: String,
        /// Why.
        source: std::io::Error,
    },
    /// The format cannot hold the result's types.
    #[error("this result cannot be written as {format}: {reason}")]
    Unsupported {
        /// The format.
        format: &'static str,
        /// What it cannot hold.
        reason: String,
    },
    /// Binary data would garble the terminal.
    #[error("Parquet is not for terminals: redirect standard output or give --output FILE")]
    ParquetToTerminal,
    /// A Parquet file holds one result.
    #[error("{} already holds the result of an earlier statement: a Parquet file holds one", .0.display())]
    SecondResult(PathBuf),
}

/// Writes one result.
pub trait Writer {
    /// Writes a batch of the schema the writer was opened with.
    ///
    /// # Errors
    /// [`OutputError`]; nothing may be written after one.
    fn write(&mut self, batch: &RecordBatch) -> Result<(), OutputError>;

    /// Writes what ends the result, and flushes.
    ///
    /// # Errors
    /// [`OutputError`].
    fn finish(self: Box<Self>) -> Result<(), OutputError>;
}

/// Starts a result of `schema` on `target`. `has_footer` lets formats for people say how many rows there were.
///
/// # Errors
/// [`OutputError::ParquetToTerminal`], [`OutputError::SecondResult`] and [`OutputError::Unsupported`].
pub fn open(
    format: Format,
    schema: SchemaRef,
    target: &Target,
    has_footer: bool,
) -> Result<Box<dyn Writer>, OutputError> {
    let target = target.clone();
    Ok(match format {
        Format::Table => Box::new(table::TableWriter::new(schema, target, has_footer)),
        Format::Vertical => Box::new(vertical::VerticalWriter::new(schema, target, has_footer)),
        Format::Csv => Box::new(csv::CsvWriter::new(schema, target)),
        Format::Json => Box::new(json::JsonWriter::array(&schema, target)),
        Format::Ndjson => Box::new(json::JsonWriter::lines(&schema, target)),
        Format::Parquet => Box::new(parquet::ParquetWriter::new(&schema, target)?),
        Format::Markdown => Box::new(markdown::MarkdownWriter::new(schema, target)),
    })
}

/// Tells errors of the target, which it remembers, from errors of the data.
fn explain(target: &Target, format: &'static str, error: &ArrowError) -> OutputError {
    target.take_error().unwrap_or_else(|| OutputError::Unsupported { format, reason: error.to_string() })
}

fn explain_parquet(target: &Target, error: &ParquetError) -> OutputError {
    let unsupported = || OutputError::Unsupported { format: "Parquet", reason: error.to_string() };
    target.take_error().unwrap_or_else(unsupported)
}

#[cfg(test)]
mod tests;
