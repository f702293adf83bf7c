//! Sizing v1: how many functions a query is worth, from the bytes its scans will read.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, Statistics};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::source::{DataSource, DataSourceExec};
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};

use crate::graph::{Estimate, Sizing};
use crate::plan::PlanRequest;

/// Bytes that the scans of `plan` read: of each file the share of the columns that are read, weighed by the columns'
/// statistics where there are some and by their types otherwise. `None` when a scan does not say what it reads.
pub(crate) fn scan_bytes(plan: &Arc<dyn ExecutionPlan>) -> Result<Option<u64>> {
    let mut total = Some(0);
    plan.apply(|node| {
        if let Some(scan) = node.downcast_ref::<DataSourceExec>() {
            total = total.zip(source_bytes(scan.data_source())).map(|(total, bytes)| total + bytes);
        } else if node.children().is_empty() && !is_without_input(node) {
            total = None;
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(total)
}

/// Leaves that make their rows. Such a series may be endless, which the coordinator streams as it comes; a function's
/// result is read once it is whole.
fn is_without_input(leaf: &Arc<dyn ExecutionPlan>) -> bool {
    use datafusion::physical_plan::memory::LazyMemoryExec;
    use datafusion::physical_plan::{empty::EmptyExec, placeholder_row::PlaceholderRowExec};
    leaf.is::<PlaceholderRowExec>() || leaf.is::<EmptyExec>() || leaf.is::<LazyMemoryExec>()
}

fn source_bytes(source: &Arc<dyn DataSource>) -> Option<u64> {
    if let Some(scan) = source.downcast_ref::<FileScanConfig>() {
        let bytes: u64 = group_bytes(scan).sum();
        // Rows of text files are read whole.
        let is_columnar = matches!(scan.file_source().file_type(), "parquet" | "arrow");
        return Some(if is_columnar { (bytes as f64 * read_share(scan)) as u64 } else { bytes });
    }
    source
        .downcast_ref::<MemorySourceConfig>()
        .map(|memory| memory.partitions().iter().flatten().map(|batch| batch.get_array_memory_size() as u64).sum())
}

/// Bytes of the files of each partition.
fn group_bytes(scan: &FileScanConfig) -> impl Iterator<Item = u64> + '_ {
    let file_bytes = |file: &PartitionedFile| match &file.range {
        Some(range) => (range.end - range.start).max(0) as u64,
        None => file.object_meta.size,
    };
    scan.file_groups.iter().map(move |group| group.iter().map(file_bytes).sum())
}

/// Which scans deal their rows out to all tasks.
#[derive(Clone, Copy, Debug)]
pub(crate) enum DealOut {
    /// Of files whose largest partition has more than so many bytes (0: none), and at least twice what each task would have if all
    /// had the same: its files could not be split as that takes.
    Skewed(u64),
    /// All: tasks shall be small, and a part of a file is no smaller than its largest row group.
    All,
}

impl DealOut {
    /// `node` is such a scan, for so many tasks.
    pub(crate) fn names(self, node: &Arc<dyn ExecutionPlan>, tasks: usize) -> bool {
        let skewed_bytes = match self {
            Self::All => return node.children().is_empty(),
            Self::Skewed(skewed_bytes) => skewed_bytes,
        };
        let source = node.downcast_ref::<DataSourceExec>().map(DataSourceExec::data_source);
        let Some(scan) = source.and_then(|source| source.downcast_ref::<FileScanConfig>()) else { return false };
        let (largest, all) = group_bytes(scan).fold((0, 0), |(largest, all), bytes| (bytes.max(largest), all + bytes));
        skewed_bytes > 0 && largest > skewed_bytes && largest >= all / tasks.max(1) as u64 * 2
    }
}

/// The share of a file's bytes in the columns that are read, for the projection and for the filter.
fn read_share(scan: &FileScanConfig) -> f64 {
    let Some(projection) = scan.file_source().projection() else {
        return 1.0;
    };
    let schema = scan.file_schema();
    let mut read: Vec<usize> =
        projection.iter().flat_map(|column| collect_columns(&column.expr)).map(|c| c.index()).collect();
    if let Some(filter) = scan.file_source().filter() {
        read.extend(collect_columns(&filter).iter().map(|column| column.index()));
    }
    read.sort_unstable();
    read.dedup();
    let statistics = scan.statistics();
    let all: f64 = (0..schema.fields().len()).map(|column| column_bytes(schema, &statistics, column)).sum();
    let read: f64 =
        read.into_iter().filter(|c| *c < schema.fields().len()).map(|c| column_bytes(schema, &statistics, c)).sum();
    if all > 0.0 { (read / all).clamp(0.0, 1.0) } else { 1.0 }
}

/// Weight of a column: its bytes where the statistics have them, else the width of its type over all rows.
fn column_bytes(schema: &Schema, statistics: &Statistics, column: usize) -> f64 {
    let rows = statistics.num_rows.get_value().copied().unwrap_or(1).max(1) as f64;
    let known = statistics.column_statistics.get(column).and_then(|column| column.byte_size.get_value().copied());
    known.map_or_else(|| rows * type_width(schema.field(column).data_type()), |bytes| bytes as f64)
}

/// Bytes of a typical value. Variable-width types are guesses.
fn type_width(data_type: &DataType) -> f64 {
    match data_type {
        DataType::Null => 0.0,
        DataType::Boolean => 0.125,
        DataType::Dictionary(key, _) => type_width(key),
        fixed if fixed.primitive_width().is_some() => fixed.primitive_width().map_or(16.0, |width| width as f64),
        DataType::FixedSizeBinary(width) => f64::from(*width),
        DataType::List(_) | DataType::LargeList(_) | DataType::Map(..) | DataType::Struct(_) => 64.0,
        _ => 24.0,
    }
}

/// Estimated rows and bytes that `plan` gives. Bytes follow from rows and the types of the columns where rows are known:
/// an operator's own count of bytes often still has the columns that a projection dropped.
pub(crate) fn estimate(plan: &Arc<dyn ExecutionPlan>) -> Estimate {
    // Statistics are advice: an operator that fails to give any is no reason not to run the query.
    let statistics = StatisticsContext::new().compute(plan.as_ref(), &StatisticsArgs::new());
    let statistics = statistics.unwrap_or_else(|_| Arc::new(Statistics::new_unknown(&plan.schema())));
    let rows = statistics.num_rows.get_value().map(|rows| *rows as u64);
    let width: f64 = plan.schema().fields().iter().map(|field| type_width(field.data_type())).sum();
    let bytes = match rows {
        Some(rows) => Some((rows as f64 * width) as u64),
        None => statistics.total_byte_size.get_value().map(|bytes| *bytes as u64),
    };
    Estimate { rows, bytes }
}

/// Functions and threads for `functions` forced, or for `input` bytes: one more function for each `bytes_per_function`, and
/// one on each of as many hosts as the input is worth.
pub(crate) fn size(request: &PlanRequest, input: Option<u64>) -> Sizing {
    let (vcpus, hosts) = (request.vcpus.max(1), request.hosts.max(1));
    let sizing = |functions: usize, reason| {
        let threads = (vcpus / functions.div_ceil(hosts)).max(1);
        let is_forced = request.functions.is_some() || request.finer > 1;
        Sizing { functions, threads, is_forced, reason }
    };
    if let Some(functions) = request.functions {
        return sizing(functions.max(1), "forced by onward.functions".to_owned());
    }
    let each = request.bytes_per_function.max(1);
    let Some(input) = input else {
        return sizing(1, "the size of the input is not known".to_owned());
    };
    let (input_text, each_text) = (display_bytes(input), display_bytes(each));
    let count = |each: u64| usize::try_from(input.div_ceil(each)).unwrap_or(usize::MAX).max(1);
    let (worth, worth_hosts) = (count(each), count(request.bytes_per_host.max(1)).min(hosts));
    match worth {
        _ if worth_hosts > worth => {
            let each = display_bytes(request.bytes_per_host.max(1));
            sizing(worth_hosts, format!("input {input_text} is worth {worth_hosts} of {hosts} hosts ({each} each)"))
        }
        1 => sizing(1, format!("input {input_text} fits one function ({each_text} each)")),
        _ if worth > request.max_functions.max(1) => sizing(
            request.max_functions.max(1),
            format!(
                "input {input_text} is worth {worth} functions ({each_text} each), max_functions allows {}",
                request.max_functions.max(1)
            ),
        ),
        _ => sizing(worth, format!("input {input_text} is worth {worth} functions ({each_text} each)")),
    }
}

/// `1.5 GiB`, `0 B`.
pub(crate) fn display_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(functions: Option<usize>) -> PlanRequest {
        PlanRequest {
            functions,
            vcpus: 4,
            hosts: 1,
            bytes_per_function: 1 << 30,
            bytes_per_host: 1 << 28,
            tiny_query_bytes: 0,
            max_functions: 8,
            skewed_bytes: 0,
            task_bytes: 0,
            finer: 1,
        }
    }

    #[test]
    fn functions_follow_the_input_up_to_the_limit() {
        let sizes: Vec<_> = [0, 1 << 30, (1 << 30) + 1, 100 << 30]
            .into_iter()
            .map(|bytes| size(&request(None), Some(bytes)))
            .map(|sizing| (sizing.functions, sizing.threads))
            .collect();
        assert_eq!(sizes, [(1, 4), (1, 4), (2, 2), (8, 1)]);
        assert_eq!(size(&request(None), None).functions, 1);
        assert_eq!(size(&request(Some(3)), Some(0)).threads, 1);
    }

    #[test]
    fn more_hosts_are_used_for_less_input_than_more_functions_of_one() {
        let of = |input: u64, hosts| {
            let sizing = size(&PlanRequest { hosts, ..request(None) }, Some(input));
            (sizing.functions, sizing.threads)
        };
        let sizes = [of(1 << 28, 4), of((1 << 28) + 1, 4), of(1 << 30, 4), of(8 << 30, 4), of(1 << 30, 1)];
        assert_eq!(sizes, [(1, 4), (2, 4), (4, 4), (8, 2), (1, 4)]);
        assert_eq!(size(&PlanRequest { hosts: 4, ..request(Some(6)) }, None).threads, 2);
    }
}
