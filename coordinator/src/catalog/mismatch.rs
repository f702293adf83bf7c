//! Names the file behind an error of reading many: DataFusion's own errors name a column or a byte, not the file.

use std::sync::Arc;

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::Result;
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::json::JsonFormat;
use datafusion::datasource::listing::{ListingTable, ListingTableUrl};
use datafusion::error::DataFusionError;
use datafusion::object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use futures::TryStreamExt;
use onward_planner::error::{classify, external};
use onward_wire::ErrorKind;
use onward_wire::panics::caught;

use super::error::CatalogError;
use super::formats::{Format, session_state};
use super::location::Location;

/// Files looked at one by one to find the culprit; past it the reader's own error stands.
const MAX_SUSPECTS: usize = 2_000;

/// Files of one location.
pub struct Files<'a> {
    /// Session.
    pub state: &'a dyn Session,
    /// Their store.
    pub store: &'a Arc<dyn ObjectStore>,
    /// Their directory.
    pub url: &'a ListingTableUrl,
    /// Their format.
    pub format: Format,
}

impl Files<'_> {
    /// The error of reading all `files` together, as the error of one of them or of two that disagree.
    pub async fn explain(
        &self,
        format: &dyn FileFormat,
        files: &[ObjectMeta],
        error: DataFusionError,
    ) -> DataFusionError {
        // Credentials, a network: not the fault of a file.
        if !matches!(classify(&error).kind(), ErrorKind::InvalidQuery | ErrorKind::Internal) {
            return error;
        }
        let mut first: Option<(SchemaRef, &ObjectMeta)> = None;
        for file in files.iter().take(MAX_SUSPECTS) {
            let schema = match columns_of(format, self.state, self.store, std::slice::from_ref(file)).await {
                Ok(schema) => schema,
                Err(error) => return self.bad_file(format, file, &error).await.into(),
            };
            match &first {
                None => first = Some((schema, file)),
                Some((expected, first)) => {
                    if let Err(error) = merge_named(expected, &schema, &self.name(first), &self.name(file)) {
                        return error;
                    }
                }
            }
        }
        error
    }

    fn name(&self, file: &ObjectMeta) -> String {
        match self.url.scheme() {
            "file" => format!("/{}", file.location),
            _ => format!("{}{}", self.url.object_store(), file.location),
        }
    }

    async fn bad_file(&self, format: &dyn FileFormat, file: &ObjectMeta, error: &DataFusionError) -> CatalogError {
        let reason = match format.is::<JsonFormat>() && self.begins_with_array(file).await {
            // The reader's own message may quote the whole array.
            true => "it holds an array, not lines of objects: CREATE EXTERNAL TABLE ... STORED AS JSON ... \
                     OPTIONS ('format.newline_delimited' 'false') reads a file of one array"
                .to_owned(),
            false => classify(error).message,
        };
        CatalogError::BadFile { file: self.name(file), format: self.format.to_string(), reason }
    }

    async fn begins_with_array(&self, file: &ObjectMeta) -> bool {
        let beginning = self.store.get_range(&file.location, 0..file.size.min(64)).await;
        beginning.is_ok_and(|bytes| bytes.trim_ascii_start().starts_with(b"["))
    }
}

/// The columns of `files`. A reader that panics on one gives an error.
pub async fn columns_of(
    format: &dyn FileFormat,
    state: &dyn Session,
    store: &Arc<dyn ObjectStore>,
    files: &[ObjectMeta],
) -> Result<SchemaRef> {
    caught(format.infer_schema(state, store, files)).await.unwrap_or_else(|panic| Err(external(panic)))
}

/// The columns of two locations together.
pub fn merge(a: &SchemaRef, b: &SchemaRef, location_a: &Location, location_b: &Location) -> Result<SchemaRef> {
    merge_named(a, b, &location_a.to_string(), &location_b.to_string())
}

fn merge_named(a: &SchemaRef, b: &SchemaRef, file_a: &str, file_b: &str) -> Result<SchemaRef> {
    if let Ok(merged) = Schema::try_merge([a.as_ref().clone(), b.as_ref().clone()]) {
        return Ok(Arc::new(merged));
    }
    let differs = a.fields().iter().find_map(|field| {
        let other = b.field_with_name(field.name()).ok()?;
        (field.data_type() != other.data_type()).then(|| (field.clone(), other.clone()))
    });
    Err(match differs {
        Some((one, other)) => CatalogError::Mismatch {
            column: one.name().clone(),
            file_a: file_a.to_owned(),
            type_a: one.data_type().to_string(),
            file_b: file_b.to_owned(),
            type_b: other.data_type().to_string(),
        },
        None => CatalogError::Invalid(format!("the columns of `{file_a}` and `{file_b}` do not fit together")),
    }
    .into())
}

/// The error of planning a scan, as the error of the file that caused it.
pub async fn name_file(
    state: &dyn Session,
    locations: &[Location],
    listing: &ListingTable,
    format: Format,
    error: DataFusionError,
) -> DataFusionError {
    let find = async {
        let nested = locations.iter().any(Location::is_nested).then(|| session_state(state)).transpose()?;
        let nested = nested.map(super::file_table::with_subdirectories);
        for location in locations {
            let url = location.listing_url()?;
            let store = state.runtime_env().object_store(&url)?;
            let files = Files { state, store: &store, url: &url, format };
            let listed: Vec<_> = match &nested {
                Some(nested) => {
                    let list = url.list_all_files(nested, store.as_ref(), &listing.options().file_extension).await?;
                    list.try_collect().await?
                }
                None => {
                    let list = url.list_all_files(state, store.as_ref(), &listing.options().file_extension).await?;
                    list.try_collect().await?
                }
            };
            for file in listed.iter().filter(|file| file.size > 0).take(MAX_SUSPECTS) {
                let format = listing.options().format.as_ref();
                if let Err(error) = columns_of(format, state, &store, std::slice::from_ref(file)).await {
                    return Ok(Some(files.bad_file(format, file, &error).await));
                }
            }
        }
        Ok::<_, DataFusionError>(None)
    };
    if !matches!(classify(&error).kind(), ErrorKind::InvalidQuery | ErrorKind::Internal) {
        return error;
    }
    match find.await {
        Ok(Some(culprit)) => culprit.into(),
        _ => error,
    }
}
