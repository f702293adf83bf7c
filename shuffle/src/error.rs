//! Errors keep their type on their way through DataFusion: a [`WireError`] inside `DataFusionError::External`.

use datafusion::error::DataFusionError;
use onward_segment::SegmentError;
use onward_wire::WireError;

/// A wire error as DataFusion carries it.
pub(crate) fn wire_error(error: WireError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// A segment error as DataFusion carries it: its kind decides whether the attempt is tried again.
pub(crate) fn segment_error(error: SegmentError) -> DataFusionError {
    wire_error(error.into())
}
