//! What datafusion-proto 55.2 leaves out when it encodes a scan of files, on the wire beside the scan.
//!
//! | lost | here |
//! | --- | --- |
//! | compression of text files; JSON as one array; Arrow IPC as a stream; the line terminator of CSV | carried |
//! | that a LIMIT needs the order of the files | carried |
//! | Parquet in object stores: how many bytes of a footer to read at once | carried; without it, one request more per file |
//! | virtual columns (`file_row_index()`), adapters of expressions, keys, extensions of files | refused |
//! | etags and versions of files | not needed: the stores check versions (`cache::versions`) |
//! | options of writers, per-file hints for planning | not needed to read |

use std::sync::Arc;

use datafusion::common::config::ParquetEncryptionOptions;
use datafusion::common::{Result, not_impl_err};
use datafusion::datasource::physical_plan::{
    ArrowSource, CsvSource, FileScanConfig, FileScanConfigBuilder, FileSource, ParquetSource,
};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::physical_plan::ExecutionPlan;

use crate::json_array::{JsonArraySource, projected_like};

/// What a decoded scan has lost.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct FileScanNode {
    /// DataFusion's name; empty when the files are not compressed.
    #[prost(string, tag = "1")]
    compression: String,
    #[prost(bool, tag = "2")]
    is_json_array: bool,
    #[prost(bool, tag = "3")]
    is_arrow_stream: bool,
    #[prost(uint32, optional, tag = "4")]
    csv_terminator: Option<u32>,
    /// Of a scan without a declared order, which keeps it anyway.
    #[prost(bool, tag = "5")]
    preserves_order: bool,
    #[prost(uint64, optional, tag = "6")]
    footer_bytes: Option<u64>,
}

/// The scan of files that `node` is.
pub(super) fn file_scan(node: &Arc<dyn ExecutionPlan>) -> Option<&FileScanConfig> {
    node.downcast_ref::<DataSourceExec>().and_then(|scan| scan.data_source().downcast_ref())
}

impl FileScanNode {
    /// Nothing when the scan's own encoding says it all.
    ///
    /// # Errors
    /// When the scan has something that cannot be carried either.
    pub(super) fn of(scan: &FileScanConfig) -> Result<Option<Self>> {
        let source = scan.file_source().as_ref();
        refuse(scan, source)?;
        let lost = Self {
            compression: scan.file_compression_type.get_variant().to_string(),
            is_json_array: source.is::<JsonArraySource>(),
            is_arrow_stream: source.file_type() == "arrow_stream",
            csv_terminator: source.downcast_ref::<CsvSource>().and_then(CsvSource::terminator).map(u32::from),
            preserves_order: scan.preserve_order && scan.output_ordering.is_empty(),
            footer_bytes: footer_bytes(scan),
        };
        Ok((lost != Self::default()).then_some(lost))
    }

    /// What datafusion-proto encodes of `scan`, in its own terms.
    pub(super) fn encodable(scan: &FileScanConfig) -> Arc<dyn ExecutionPlan> {
        let source = scan.file_source();
        let source = source.downcast_ref::<JsonArraySource>().map_or(source, JsonArraySource::datafusion);
        let builder = FileScanConfigBuilder::from(scan.clone()).with_source(Arc::clone(source));
        DataSourceExec::from_data_source(builder.build())
    }

    /// `decoded` with what it has lost.
    pub(super) fn restore(&self, decoded: &FileScanConfig) -> Result<Arc<dyn ExecutionPlan>> {
        let builder = FileScanConfigBuilder::from(decoded.clone())
            .with_source(self.restore_source(decoded.file_source())?)
            .with_file_compression_type(self.compression.parse()?)
            .with_preserve_order(decoded.preserve_order || self.preserves_order);
        Ok(DataSourceExec::from_data_source(builder.build()))
    }

    fn restore_source(&self, decoded: &Arc<dyn FileSource>) -> Result<Arc<dyn FileSource>> {
        if self.is_json_array {
            return Ok(Arc::new(JsonArraySource::in_place_of(decoded.as_ref())?));
        }
        if self.is_arrow_stream {
            let streams = ArrowSource::new_stream_file_source(decoded.table_schema().clone());
            return projected_like(Arc::new(streams), decoded.as_ref());
        }
        if let Some(csv) = decoded.downcast_ref::<CsvSource>() {
            let terminator = self.csv_terminator.and_then(|terminator| u8::try_from(terminator).ok());
            return Ok(Arc::new(csv.with_terminator(terminator)));
        }
        match (decoded.downcast_ref::<ParquetSource>(), self.footer_bytes) {
            (Some(parquet), Some(bytes)) => Ok(Arc::new(parquet.clone().with_metadata_size_hint(bytes as usize))),
            _ => Ok(Arc::clone(decoded)),
        }
    }
}

/// The bytes of a footer that `scan` reads at once; nothing where a second read costs nothing.
fn footer_bytes(scan: &FileScanConfig) -> Option<u64> {
    let is_local = scan.object_store_url == ObjectStoreUrl::local_filesystem();
    let parquet = scan.file_source().downcast_ref::<ParquetSource>().filter(|_| !is_local)?;
    parquet.table_parquet_options().global.metadata_size_hint.map(|bytes| bytes as u64)
}

fn refuse(scan: &FileScanConfig, source: &dyn FileSource) -> Result<()> {
    if !source.table_schema().virtual_columns().is_empty() {
        return not_impl_err!("a scan with virtual columns, such as file_row_index()");
    }
    if scan.expr_adapter_factory.is_some() {
        return not_impl_err!("a scan with an adapter of expressions");
    }
    if scan.file_groups.iter().flat_map(|group| group.iter()).any(|file| !file.extensions.is_empty()) {
        return not_impl_err!("a scan of files with extensions");
    }
    let parquet = source.downcast_ref::<ParquetSource>();
    if parquet.is_some_and(|parquet| parquet.table_parquet_options().crypto != ParquetEncryptionOptions::default()) {
        return not_impl_err!("a scan of encrypted Parquet files");
    }
    Ok(())
}
