//! Reads of remote objects past the tier.

use std::ops::Range;
use std::sync::Arc;

use datafusion::error::Result;
use datafusion::execution::object_store::ObjectStoreRegistry;
use object_store::ObjectStore;
use onward_wire::columns::ObjectTag;
use url::Url;

use super::client::RangesRead;
use crate::error::StoreError;
use crate::paths::store_path;
use crate::registry::StoreRegistry;
use crate::versions::ExpectedVersions;

/// Ranges of an object as its store has them.
///
/// # Errors
/// When it is another version than `object` says, or cannot be read.
pub async fn read_direct(stores: &Arc<StoreRegistry>, object: &ObjectTag, ranges: &[Range<u64>]) -> Result<RangesRead> {
    let unknown = || StoreError::UnknownScheme { url: object.store.clone(), scheme: object.store.clone() };
    let url = Url::parse(&object.store).map_err(|_| unknown())?;
    let view = stores.expecting(Arc::new(ExpectedVersions::new(std::slice::from_ref(object))));
    let bytes = view.get_store(&url)?.get_ranges(&store_path(&object.path)?, ranges).await?;
    let took = view.counters().snapshot();
    Ok(RangesRead { bytes, store_requests: took.table, store_bytes: took.table_bytes, kept_bytes: 0 })
}
