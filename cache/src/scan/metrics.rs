//! What a warm scan measures, in the metrics of its source.

use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder, Time};

/// Bytes of columns that were read from the cache.
pub const HIT_BYTES: &str = "cache_hit_bytes";
/// Bytes of columns that had to be decoded.
pub const MISS_BYTES: &str = "cache_miss_bytes";

/// The counters of one partition of a scan.
#[derive(Clone, Debug)]
pub(super) struct ScanMetrics {
    pub(super) hit_bytes: Count,
    pub(super) miss_bytes: Count,
    pub(super) decode_time: Time,
    pub(super) filter_time: Time,
    pub(super) batches_pruned: Count,
    pub(super) rows_filtered: Count,
}

impl ScanMetrics {
    pub(super) fn new(metrics: &ExecutionPlanMetricsSet, partition: usize) -> Self {
        let counter = |name: &'static str| MetricBuilder::new(metrics).counter(name, partition);
        Self {
            hit_bytes: counter(HIT_BYTES),
            miss_bytes: counter(MISS_BYTES),
            decode_time: MetricBuilder::new(metrics).subset_time("cache_decode_time", partition),
            filter_time: MetricBuilder::new(metrics).subset_time("cache_filter_time", partition),
            batches_pruned: counter("cache_batches_pruned"),
            rows_filtered: counter("cache_rows_filtered"),
        }
    }
}
