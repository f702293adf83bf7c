//! One Parquet file whose row groups are encoded by any thread, in any order, and written in order.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::datatypes::SchemaRef;
use parquet::arrow::ArrowSchemaConverter;
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use tpchgen_arrow::RecordBatchIterator;

use crate::error::{Error, Result};

/// A row group that waits for its predecessors.
struct Encoded {
    chunks: Vec<ArrowColumnChunk>,
}

struct State {
    /// `None` once the file is closed.
    writer: Option<SerializedFileWriter<BufWriter<File>>>,
    next: u32,
    waiting: BTreeMap<u32, Encoded>,
    rows: u64,
}

/// A file being written under a temporary name.
pub(crate) struct TableFile {
    path: PathBuf,
    schema: SchemaRef,
    row_groups: u32,
    factory: ArrowRowGroupWriterFactory,
    state: Mutex<State>,
}

impl TableFile {
    pub(crate) fn create(path: &Path, schema: SchemaRef, row_groups: u32) -> Result<Self> {
        // What tpchgen-cli writes: Snappy, dictionaries, statistics and page index on.
        let properties = Arc::new(WriterProperties::builder().set_compression(Compression::SNAPPY).build());
        let failed = parquet_error(path);
        let parquet_schema = ArrowSchemaConverter::new().convert(&schema).map_err(failed)?;
        let file = File::create(path).map_err(Error::io("create", path))?;
        let writer = SerializedFileWriter::new(BufWriter::new(file), parquet_schema.root_schema_ptr(), properties)
            .map_err(parquet_error(path))?;
        let factory = ArrowRowGroupWriterFactory::new(&writer, schema.clone());
        let state = State { writer: Some(writer), next: 0, waiting: BTreeMap::new(), rows: 0 };
        Ok(Self { path: path.to_owned(), schema, row_groups, factory, state: Mutex::new(state) })
    }

    /// Encodes one row group and writes it as soon as all before it are written. `on_rows` hears of every batch and says
    /// whether to go on.
    pub(crate) fn write_row_group(
        &self,
        index: u32,
        batches: Box<dyn RecordBatchIterator>,
        mut on_rows: impl FnMut(u64) -> bool,
    ) -> Result<()> {
        let mut rows = 0;
        let mut columns = self.factory.create_column_writers(index as usize).map_err(parquet_error(&self.path))?;
        for batch in batches {
            if !on_rows(batch.num_rows() as u64) {
                return Err(Error::Cancelled);
            }
            rows += batch.num_rows() as u64;
            let mut writers = columns.iter_mut();
            for (field, array) in self.schema.fields().iter().zip(batch.columns()) {
                for leaf in compute_leaves(field, array).map_err(parquet_error(&self.path))? {
                    if let Some(writer) = writers.next() {
                        writer.write(&leaf).map_err(parquet_error(&self.path))?;
                    }
                }
            }
        }
        let chunks = columns.into_iter().map(|column| column.close()).collect::<Result<Vec<_>, _>>();
        self.deliver(index, Encoded { chunks: chunks.map_err(parquet_error(&self.path))? }, rows)
    }

    fn deliver(&self, index: u32, encoded: Encoded, rows: u64) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.rows += rows;
        state.waiting.insert(index, encoded);
        let State { writer, next, waiting, .. } = &mut *state;
        while let (Some(writer), Some(encoded)) = (writer.as_mut(), waiting.remove(next)) {
            append(writer, encoded).map_err(parquet_error(&self.path))?;
            *next += 1;
        }
        if *next == self.row_groups
            && let Some(writer) = writer.take()
        {
            let file = writer.into_inner().map_err(parquet_error(&self.path))?;
            let file = file.into_inner().map_err(|error| Error::io("write", &self.path)(error.into_error()))?;
            file.sync_all().map_err(Error::io("write", &self.path))?;
        }
        Ok(())
    }

    /// Rows written; final once every row group was delivered.
    pub(crate) fn rows(&self) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).rows
    }
}

fn append(writer: &mut SerializedFileWriter<BufWriter<File>>, encoded: Encoded) -> Result<(), ParquetError> {
    let mut row_group = writer.next_row_group()?;
    for chunk in encoded.chunks {
        chunk.append_to_row_group(&mut row_group)?;
    }
    row_group.close()?;
    Ok(())
}

/// Parquet wraps I/O errors: take them out, so that a full disk is told from a broken encoder.
fn parquet_error(path: &Path) -> impl FnOnce(ParquetError) -> Error {
    let path = path.to_owned();
    move |source| match source {
        ParquetError::External(inner) => match inner.downcast::<std::io::Error>() {
            Ok(io) => Error::Io { action: "write", path, source: *io },
            Err(inner) => Error::Parquet { path, source: ParquetError::External(inner) },
        },
        source => Error::Parquet { path, source },
    }
}
