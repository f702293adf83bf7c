//! Parquet footers: read once per version of a file, kept in the column tier as they lie in the file.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::array::{Array, AsArray, BinaryArray};
use datafusion::common::{DataFusionError, Result, internal_err};
use datafusion::parquet::errors::ParquetError;
use datafusion::parquet::file::FOOTER_SIZE;
use datafusion::parquet::file::metadata::{FooterTail, ParquetMetaData, ParquetMetaDataReader};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use onward_wire::columns::{ColumnId, ObjectVersion, WantedColumn};
use parking_lot::Mutex;

use super::stream::wire;
use crate::columns::layout::Stored;
use crate::columns::{CachedColumn, ColumnClient, Lookup};

/// Bytes read from a file's end in the hope that the footer is in them, as DataFusion does.
const HINT_BYTES: u64 = 512 << 10;
/// Parsed footers of one process; past it all are parsed again.
const MOST_PARSED_BYTES: usize = 64 << 20;

/// Parsed footers of this process.
#[derive(Debug, Default)]
pub struct Footers {
    parsed: Mutex<Parsed>,
}

#[derive(Debug, Default)]
struct Parsed {
    footers: HashMap<Arc<ObjectVersion>, Arc<ParquetMetaData>>,
    bytes: usize,
}

/// A file and where it is.
pub(super) struct File<'a> {
    pub(super) store: &'a dyn ObjectStore,
    pub(super) path: &'a Path,
    pub(super) bytes: u64,
    pub(super) object: &'a Arc<ObjectVersion>,
}

impl Footers {
    /// The footer of a file: from this process, the cache, or the file. `None` when it is encrypted.
    pub(super) async fn get(
        &self,
        client: &Arc<dyn ColumnClient>,
        file: &File<'_>,
    ) -> Result<Option<Arc<ParquetMetaData>>> {
        if let Some(parsed) = self.parsed.lock().footers.get(file.object) {
            return Ok(Some(Arc::clone(parsed)));
        }
        let Some(bytes) = footer_bytes(client, file).await? else { return Ok(None) };
        let footer = Arc::new(ParquetMetaDataReader::decode_metadata(&bytes).map_err(|error| named(file, error))?);
        self.keep(file.object, Arc::clone(&footer));
        Ok(Some(footer))
    }

    /// Keeps a footer for whoever opens the file next, instead of the one that was kept.
    pub(super) fn keep(&self, object: &Arc<ObjectVersion>, footer: Arc<ParquetMetaData>) {
        let mut parsed = self.parsed.lock();
        if parsed.bytes > MOST_PARSED_BYTES {
            *parsed = Parsed::default();
        }
        parsed.bytes += footer.memory_size();
        if let Some(old) = parsed.footers.insert(Arc::clone(object), footer) {
            parsed.bytes -= old.memory_size();
        }
    }
}

async fn footer_bytes(client: &Arc<dyn ColumnClient>, file: &File<'_>) -> Result<Option<Bytes>> {
    // Small beside any column, so its size is not asked about.
    let column = WantedColumn { column: ColumnId::footer(), bytes: 0, is_ordered: true, is_partial: false };
    let found = Arc::clone(client).find(file.object, std::slice::from_ref(&column)).await.map_err(wire)?;
    let Some(mut lookup) = found.into_iter().next() else { return internal_err!("a look-up without an answer") };
    if let Lookup::Busy = lookup {
        lookup = Arc::clone(client).wait(file.object, &column).await.map_err(wire)?;
    }
    let claim = match lookup {
        Lookup::Hit(cached) => return value(&cached).map(Some),
        Lookup::Claimed(claim) => claim,
        Lookup::Refused => return read_footer(file).await,
        Lookup::Busy => return internal_err!("a footer that is still being read after it was waited for"),
    };
    let Some(bytes) = read_footer(file).await? else { return Ok(None) };
    let stored = Stored::plain(vec![Arc::new(BinaryArray::from_vec(vec![&bytes]))]);
    claim.keep(stored, "(footer)", 1).await.map_err(wire)?;
    Ok(Some(bytes))
}

fn value(cached: &CachedColumn) -> Result<Bytes> {
    if cached.batch_count() == 0 {
        return internal_err!("a cached footer without a value");
    }
    let array = cached.compact(0);
    match array.as_binary_opt::<i32>().filter(|array| array.len() == 1) {
        Some(array) => Ok(Bytes::copy_from_slice(array.value(0))),
        None => internal_err!("a cached footer that is no binary value"),
    }
}

/// The serialized metadata of a file, without its length and magic. `None` when it is encrypted.
async fn read_footer(file: &File<'_>) -> Result<Option<Bytes>> {
    let tail_bytes = FOOTER_SIZE as u64;
    let corrupt = |detail: String| named(file, ParquetError::General(format!("Invalid Parquet file. {detail}")));
    if file.bytes < tail_bytes {
        return Err(corrupt(format!("Size is smaller than footer: {} bytes", file.bytes)));
    }
    let start = file.bytes.saturating_sub(HINT_BYTES);
    let end = file.store.get_range(file.path, start..file.bytes).await?;
    let tail = end.len().checked_sub(FOOTER_SIZE).map(|at| end.slice(at..));
    let tail = tail.ok_or_else(|| corrupt("Its end could not be read".to_owned()))?;
    let tail = FooterTail::try_from(tail.as_ref()).map_err(|error| named(file, error))?;
    if tail.is_encrypted_footer() {
        return Ok(None);
    }
    let length = tail.metadata_length() as u64;
    let Some(from) = file.bytes.checked_sub(tail_bytes + length) else {
        return Err(corrupt(format!("Its metadata of {length} bytes is larger than the file of {}", file.bytes)));
    };
    let until = file.bytes - tail_bytes;
    let bytes = match from.checked_sub(start) {
        Some(at) => end.slice(at as usize..(until - start) as usize),
        None => file.store.get_range(file.path, from..until).await?,
    };
    Ok(Some(bytes))
}

fn named(file: &File<'_>, error: ParquetError) -> DataFusionError {
    DataFusionError::ParquetError(Box::new(error)).context(format!("`{}` cannot be read", file.object.url))
}
