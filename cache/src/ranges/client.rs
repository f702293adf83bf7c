//! [`RangeClient`]: how a store reaches the range tier, over a socket or in the host's own process.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::Result;
use onward_wire::columns::ObjectTag;

use super::tier::RangeTier;

/// What a read gave and took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangesRead {
    /// The ranges, in the order asked for.
    pub bytes: Vec<Bytes>,
    /// Requests to the store.
    pub store_requests: u64,
    /// Bytes read from the store, in whole blocks.
    pub store_bytes: u64,
    /// Bytes asked for that were there already.
    pub kept_bytes: u64,
}

/// The range tier as a store sees it.
#[async_trait]
pub trait RangeClient: fmt::Debug + Send + Sync {
    /// Reads ranges, each within the object, of the version in `object`.
    async fn read(&self, object: &ObjectTag, ranges: &[Range<u64>]) -> Result<RangesRead>;

    /// It reads objects, too, whose store does not say which version they are.
    fn reads_unversioned(&self) -> bool {
        false
    }

    /// Says what will be read soon. It may be ignored.
    fn prefetch(&self, object: &ObjectTag, ranges: &[Range<u64>]);
}

#[async_trait]
impl RangeClient for RangeTier {
    async fn read(&self, object: &ObjectTag, ranges: &[Range<u64>]) -> Result<RangesRead> {
        let failed = |error| object_store::Error::Generic { store: "range tier", source: Box::new(error) };
        RangeTier::read(self, &Arc::new(object.clone()), ranges).await.map_err(failed)
    }

    fn prefetch(&self, object: &ObjectTag, ranges: &[Range<u64>]) {
        RangeTier::prefetch(self, &Arc::new(object.clone()), ranges);
    }
}
