//! [`WriteTarget`]: where rows go, and in which form.

use datafusion::common::Result;
use datafusion::datasource::listing::ListingTableUrl;
use datafusion::error::DataFusionError;
use onward_cache::paths::local_path_of_url;
use onward_wire::message::KeyValue;
use url::Url;

/// Where rows go, and in which form. Travels inside the encoded plan.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct WriteTarget {
    /// The final file, or the directory of the final files (ends in `/`).
    #[prost(string, tag = "1")]
    pub url: String,
    /// `url` is a file: one task writes it, in the order of its input.
    #[prost(bool, tag = "2")]
    pub is_single_file: bool,
    /// URL of the local directory for staged files (ends in `/`), made by the coordinator; empty where uploads are
    /// completed later instead.
    #[prost(string, tag = "3")]
    pub staging: String,
    /// `parquet`, `csv`, `json` or `arrow`.
    #[prost(string, tag = "4")]
    pub format: String,
    /// Options of the format, as DataFusion names them (`format.compression`).
    #[prost(message, repeated, tag = "5")]
    pub options: Vec<KeyValue>,
    /// Hive partition columns: `dir/a=1/b=x/file`.
    #[prost(string, repeated, tag = "6")]
    pub partition_by: Vec<String>,
    /// Partition columns are in the files too.
    #[prost(bool, tag = "7")]
    pub keeps_partition_columns: bool,
    /// What file names end with, without the first dot: `csv.gz`.
    #[prost(string, tag = "8")]
    pub extension: String,
    /// What file names in a directory begin with. Unique per statement, so that nothing is ever overwritten.
    #[prost(string, tag = "9")]
    pub file_prefix: String,
    /// A directory gets at least one file, without rows, so that it can be read back with its columns.
    #[prost(bool, tag = "10")]
    pub writes_empty_file: bool,
    /// Columns in which a NULL is an error.
    #[prost(string, repeated, tag = "11")]
    pub not_null: Vec<String>,
}

impl WriteTarget {
    /// For listing and for the sink.
    pub(super) fn table_url(&self) -> Result<ListingTableUrl> {
        ListingTableUrl::try_new(parse(&self.url)?, None)
    }

    /// Of the staging directory; `None`: uploads are completed later.
    pub(super) fn staging_url(&self) -> Result<Option<Url>> {
        if self.staging.is_empty() { Ok(None) } else { parse(&self.staging).map(Some) }
    }

    /// The path or URL as users know it.
    pub fn display(&self) -> String {
        let path = Url::parse(&self.url).ok().and_then(|url| local_path_of_url(&url));
        path.map_or_else(|| self.url.clone(), |path| path.display().to_string())
    }
}

fn parse(url: &str) -> Result<Url> {
    Url::parse(url).map_err(|error| DataFusionError::External(Box::new(error)))
}
