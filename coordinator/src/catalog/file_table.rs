//! [`FileTable`]: files as a table.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{ScanArgs, ScanResult, Session, TableProvider};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Constraints, Result};
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig};
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::DataFusionError;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, SortExpr, TableProviderFilterPushDown, TableType};
use datafusion::object_store::path::{Path as StorePath, PathPart};
use datafusion::object_store::{self, ObjectStoreExt};
use datafusion::physical_plan::ExecutionPlan;
use futures::TryStreamExt;
use onward_planner::error::{classify, external};
use onward_planner::session::text_split_bytes;
use onward_wire::panics::caught;
use onward_wire::{ErrorKind, WireError};

use super::error::CatalogError;
use super::formats::{Format, FormatOptions, session_state};
use super::location::Location;
use super::mismatch;
use super::table_files::Lease;

/// Files looked at to find the extension and the Hive partitions of a directory.
const FILES_LOOKED_AT: usize = 1_000;

/// What a [`FileTable`] is made of.
#[derive(Clone, Debug)]
pub struct FileTableSpec {
    /// Where; at least one.
    pub locations: Vec<Location>,
    /// Their format.
    pub format: Format,
    /// Its options.
    pub options: FormatOptions,
    /// Only files that end so are read; empty takes all.
    pub extension: String,
    /// Hive partition columns (name, type), in the order of the directories.
    pub partitioned_by: SchemaRef,
    /// Orders that each file has.
    pub sorted_by: Vec<Vec<SortExpr>>,
    /// Declared keys.
    pub constraints: Constraints,
    /// Default values by column.
    pub defaults: HashMap<String, Expr>,
    /// For `SHOW CREATE TABLE`.
    pub definition: Option<String>,
}

/// Files as a table: listed anew by every scan, so that new, overwritten and removed files are seen.
#[derive(Debug)]
pub struct FileTable {
    listing: ListingTable,
    locations: Vec<Location>,
    format: Format,
    is_nested: bool,
    defaults: HashMap<String, Expr>,
    /// Of files of ours: they stay.
    _lease: Option<Lease>,
}

impl FileTableSpec {
    /// Files of one format and nothing else said.
    pub fn new(locations: Vec<Location>, format: Format, options: FormatOptions) -> Self {
        Self {
            locations,
            format,
            options,
            extension: String::new(),
            partitioned_by: Arc::new(datafusion::arrow::datatypes::Schema::empty()),
            sorted_by: vec![],
            constraints: Constraints::default(),
            defaults: HashMap::new(),
            definition: None,
        }
    }

    fn listing_options(&self, state: &SessionState) -> Result<ListingOptions> {
        let partitions = self.partitioned_by.fields().iter();
        let partitions = partitions.map(|field| (field.name().clone(), field.data_type().clone()));
        Ok(ListingOptions::new(self.format.build(state, &self.options)?)
            .with_file_extension(&self.extension)
            .with_table_partition_cols(partitions.collect())
            .with_file_sort_order(self.sorted_by.clone()))
    }

    fn is_nested(&self) -> bool {
        self.locations.iter().any(Location::is_nested)
    }

    /// Sets `extension` to what the format's files in the first directory end with; nothing when none does.
    ///
    /// # Errors
    /// [`CatalogError::NoFiles`] when there is no file at all and `must_exist`.
    pub async fn find_extension(&mut self, state: &SessionState, must_exist: bool) -> Result<()> {
        let Some(location) = self.locations.iter().find(|location| location.is_collection()) else {
            return Ok(());
        };
        let names = list_names(state, location).await?;
        if names.is_empty() && must_exist {
            return Err(no_files(location).into());
        }
        let matching = names.iter().find_map(|name| {
            let (format, options) = Format::of_file(name.as_ref())?;
            let compression = self.options.get("format.compression").map(str::to_lowercase);
            let fits = format == self.format
                && (compression.is_none() || options.get("format.compression") == compression.as_deref());
            fits.then(|| extension_of(name.as_ref(), options.get("format.compression").is_some()))
        });
        self.extension = matching.unwrap_or_default();
        Ok(())
    }

    /// The columns of the files, all files of all locations merged.
    ///
    /// # Errors
    /// Names the file that cannot be read, or the column and the two files that disagree.
    pub async fn infer_columns(&self, state: &SessionState) -> Result<SchemaRef> {
        let options = self.listing_options(state)?;
        let nested = self.is_nested().then(|| with_subdirectories(state));
        let state = nested.as_ref().unwrap_or(state);
        let mut merged: Option<SchemaRef> = None;
        for location in &self.locations {
            let url = location.listing_url()?;
            let store = state.runtime_env().object_store(&url)?;
            let files = async { url.list_all_files(state, store.as_ref(), &self.extension).await?.try_collect().await };
            let files: Vec<_> = files.await.map_err(|error| located(location, error))?;
            if files.is_empty() {
                return Err(no_files(location).into());
            }
            let filled: Vec<_> = files.into_iter().filter(|file| file.size > 0).collect();
            let schema = match mismatch::columns_of(options.format.as_ref(), state, &store, &filled).await {
                Ok(schema) => schema,
                Err(error) => {
                    let files = mismatch::Files { state, store: &store, url: &url, format: self.format };
                    let error = files.explain(options.format.as_ref(), &filled, error).await;
                    return Err(located(location, error));
                }
            };
            merged = Some(match merged {
                None => schema,
                Some(first) => mismatch::merge(&first, &schema, &self.locations[0], location)?,
            });
        }
        merged.ok_or_else(|| CatalogError::Invalid("a table of files needs a location".to_owned()).into())
    }

    /// The table. `columns` are those of the files, without the partition columns.
    pub fn build(self, state: &SessionState, columns: SchemaRef) -> Result<FileTable> {
        let options = self.listing_options(state)?;
        let is_nested = self.is_nested();
        let urls = self.locations.iter().map(Location::listing_url).collect::<Result<Vec<_>>>()?;
        let config = ListingTableConfig::new_with_multi_paths(urls).with_listing_options(options).with_schema(columns);
        let listing = ListingTable::try_new(config)?
            .with_cache(state.runtime_env().cache_manager.get_file_statistic_cache())
            .with_constraints(self.constraints)
            .with_definition(self.definition);
        let FileTableSpec { locations, format, defaults, .. } = self;
        Ok(FileTable { listing, locations, format, is_nested, defaults, _lease: None })
    }
}

impl FileTable {
    /// Its files stay on disk as long as this table, and so as long as any plan that scans it.
    pub fn with_lease(mut self, lease: Lease) -> Self {
        self._lease = Some(lease);
        self
    }

    /// Their format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Asks for the versions of its remote files, for whoever plans in the same [`VersionChecks::scope`]. Of partitioned
    /// tables, planning lists only what the filters leave.
    ///
    /// # Errors
    /// When a store does not answer. Any other error is planning's to meet and to explain.
    ///
    /// [`VersionChecks::scope`]: onward_cache::VersionChecks::scope
    pub async fn check_versions(&self, state: &SessionState) -> Result<()> {
        if !self.listing.options().table_partition_cols.is_empty() {
            return Ok(());
        }
        let nested = self.is_nested.then(|| with_subdirectories(state));
        let state = nested.as_ref().unwrap_or(state);
        for location in self.locations.iter().filter(|location| location.local_path().is_none()) {
            let url = location.listing_url()?;
            let store = state.runtime_env().object_store(&url)?;
            let extension = &self.listing.options().file_extension;
            let listed = async {
                url.list_all_files(state, store.as_ref(), extension).await?.try_for_each(|_| async { Ok(()) }).await
            };
            match listed.await {
                Err(error) if classify(&error).kind() == ErrorKind::Unavailable => {
                    return Err(located(location, error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// It has files behind a network.
    pub fn is_remote(&self) -> bool {
        self.locations.iter().any(|location| location.local_path().is_none())
    }

    /// A file that was named by itself must be there: DataFusion takes a missing one for an empty directory.
    async fn check_missing(&self, state: &dyn Session) -> Result<()> {
        for location in &self.locations {
            if let Some(path) = location.local_path()
                && location.is_collection()
                && !path.exists()
            {
                return Err(no_files(location).into());
            }
            if location.is_collection() {
                continue;
            }
            let url = location.listing_url()?;
            let store = state.runtime_env().object_store(&url)?;
            match store.head(url.prefix()).await {
                Err(object_store::Error::NotFound { .. }) => return Err(no_files(location).into()),
                Err(error) => return Err(error.into()),
                Ok(_) => {}
            }
        }
        Ok(())
    }
}

#[async_trait]
impl TableProvider for FileTable {
    fn schema(&self) -> SchemaRef {
        self.listing.schema()
    }

    fn constraints(&self) -> Option<&Constraints> {
        self.listing.constraints()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn get_table_definition(&self) -> Option<&str> {
        self.listing.get_table_definition()
    }

    fn get_column_default(&self, column: &str) -> Option<&Expr> {
        self.defaults.get(column)
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        self.listing.supports_filters_pushdown(filters)
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let args = ScanArgs::default()
            .with_projection(projection.map(Vec::as_slice))
            .with_filters(Some(filters))
            .with_limit(limit);
        Ok(self.scan_with_args(state, args).await?.into_inner())
    }

    async fn scan_with_args<'a>(&self, state: &dyn Session, args: ScanArgs<'a>) -> Result<ScanResult> {
        let scan = self.scan_files(state, args.clone()).await?;
        let is_whole = |split_bytes| bytes_of(scan.plan().as_ref()) < split_bytes as u64;
        if self.format == Format::Csv && text_split_bytes(state.config_options()).is_some_and(is_whole) {
            let mut state = session_state(state)?.clone();
            state.config_mut().options_mut().catalog.newlines_in_values = true;
            return self.scan_files(&state, args).await;
        }
        Ok(scan)
    }
}

impl FileTable {
    /// DataFusion lists only `k=<value>/` for a filter `k = value`, under the name that its own writer gives. Other writers
    /// encode fewer characters (`k=a~b/`), so their files would be missed: such filters are given in a form that is checked
    /// against every directory.
    fn without_guesses(&self, filters: &[Expr]) -> Result<Vec<Expr>> {
        let columns = &self.listing.options().table_partition_cols;
        let rewrite = |expr: Expr| match &expr {
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => {
                let (column, value) = match (left.as_ref(), right.as_ref()) {
                    (Expr::Column(column), Expr::Literal(value, _)) => (left, (column, value)),
                    (Expr::Literal(value, _), Expr::Column(column)) => (right, (column, value)),
                    _ => return Ok(Transformed::no(expr)),
                };
                let name = format!("{}={}", value.0.name, value.1);
                let is_partition = columns.iter().any(|(column, _)| *column == value.0.name);
                if !is_partition || PathPart::from(name.as_str()).as_ref() == name {
                    return Ok(Transformed::no(expr));
                }
                let list = vec![Expr::Literal(value.1.clone(), None)];
                Ok(Transformed::yes(Expr::InList(InList::new(column.clone(), list, false))))
            }
            _ => Ok(Transformed::no(expr)),
        };
        filters.iter().map(|filter| Ok(filter.clone().transform(rewrite)?.data)).collect()
    }

    async fn scan_files<'a>(&self, state: &dyn Session, args: ScanArgs<'a>) -> Result<ScanResult> {
        let nested = self.is_nested.then(|| session_state(state)).transpose()?.map(with_subdirectories);
        let state = nested.as_ref().map_or(state, |nested| nested as &dyn Session);
        let filters = args.filters().map(|filters| self.without_guesses(filters)).transpose()?;
        let args = args.with_filters(filters.as_deref());
        let result = caught(self.listing.scan_with_args(state, args)).await;
        match result.unwrap_or_else(|panic| Err(external(panic))) {
            Ok(result) if files_of(result.plan().as_ref()) >= self.locations.len() => Ok(result),
            // Fewer files than locations: a directory may be empty, a file may not.
            Ok(result) => {
                self.check_missing(state).await?;
                Ok(result)
            }
            Err(error) => {
                self.check_missing(state).await?;
                Err(mismatch::name_file(state, &self.locations, &self.listing, self.format, error).await)
            }
        }
    }
}

fn scan_config(plan: &dyn ExecutionPlan) -> Option<&FileScanConfig> {
    let scan = plan.downcast_ref::<DataSourceExec>().map(DataSourceExec::data_source);
    scan.and_then(|source| source.downcast_ref::<FileScanConfig>())
}

/// Files that a scan reads.
fn files_of(plan: &dyn ExecutionPlan) -> usize {
    scan_config(plan).map_or(0, |config| config.file_groups.iter().map(|group| group.len()).sum())
}

/// Bytes of the files that a scan reads.
fn bytes_of(plan: &dyn ExecutionPlan) -> u64 {
    let groups = scan_config(plan).map(|config| config.file_groups.iter());
    groups.into_iter().flatten().flat_map(|group| group.iter()).map(|file| file.object_meta.size).sum()
}

/// The session, reading files below subdirectories too.
pub(super) fn with_subdirectories(state: &SessionState) -> SessionState {
    let mut state = state.clone();
    state.config_mut().options_mut().execution.listing_table_ignore_subdirectory = false;
    state
}

/// Names of the first files of a location.
pub(super) async fn list_names(state: &SessionState, location: &Location) -> Result<Vec<StorePath>> {
    use futures::StreamExt;
    let nested = location.is_nested().then(|| with_subdirectories(state));
    let state = nested.as_ref().unwrap_or(state);
    let url = location.listing_url()?;
    let store = state.runtime_env().object_store(&url)?;
    let names = async {
        let files = url.list_all_files(state, store.as_ref(), "").await?;
        files.take(FILES_LOOKED_AT).map_ok(|file| file.location).try_collect().await
    };
    names.await.map_err(|error| located(location, error))
}

/// The error of a store with the location it was met at, which stores do not say.
fn located(location: &Location, error: DataFusionError) -> DataFusionError {
    let (wire, name) = (classify(&error), location.to_string());
    if !matches!(error.find_root(), DataFusionError::ObjectStore(_)) || wire.message.contains(&name) {
        return error;
    }
    external(WireError { message: format!("`{name}` cannot be read: {}", wire.message), ..wire })
}

/// `.csv.gz` of `dir/x.csv.gz`.
fn extension_of(name: &str, is_compressed: bool) -> String {
    let file = name.rsplit('/').next().unwrap_or(name);
    let dots = if is_compressed { 2 } else { 1 };
    match file.rmatch_indices('.').nth(dots - 1) {
        Some((at, _)) => file[at..].to_owned(),
        None => String::new(),
    }
}

/// The error for a location without files, with the nearest name in its directory.
pub(super) fn no_files(location: &Location) -> CatalogError {
    let advice = match location.local_path() {
        Some(path) if location.pattern().is_some() && path.is_dir() => {
            format!(": `{}` is there, but nothing in it has such a name", path.display())
        }
        Some(path) if path.is_dir() => match std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some()) {
            true => {
                ": files in subdirectories (but for `key=value/`) and hidden ones are not read; `**/*` reads the former"
                    .to_owned()
            }
            false => ": the directory is empty".to_owned(),
        },
        Some(path) => match path.parent() {
            Some(parent) if parent.is_dir() => {
                let names = std::fs::read_dir(parent).into_iter().flatten().flatten().take(FILES_LOOKED_AT);
                let names: Vec<_> = names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
                let wanted = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                super::names::did_you_mean(&wanted, names.iter().map(String::as_str))
            }
            Some(parent) => format!(": directory `{}` does not exist", parent.display()),
            None => String::new(),
        },
        None if location.pattern().is_some() => {
            "; check bucket, prefix and credentials; in a URL, `*`, `?` and `[` of a name are written %2A, %3F and %5B"
                .to_owned()
        }
        None => "; check bucket, prefix and credentials".to_owned(),
    };
    CatalogError::NoFiles { location: location.to_string(), advice }
}
