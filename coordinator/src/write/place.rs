//! [`Place`]: the file or directory a write goes to.

use std::path::PathBuf;

use datafusion::common::Result;
use onward_cache::StoreError;
use onward_cache::paths::{directory_url, local_path_of_url};
use onward_executor::write::WriteTarget;
use onward_wire::message::KeyValue;
use url::Url;

use super::journal::staging_in;
use crate::catalog::{CatalogError, Format, FormatOptions, Location, random_name};

/// Where a statement writes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The final file, or the directory of the final files (ends in `/`).
    pub url: Url,
    /// `url` is a file.
    pub is_single_file: bool,
    /// The local directory of the final files; `None` in object stores.
    pub directory: Option<PathBuf>,
    /// Names this statement's files: unique.
    pub id: String,
}

impl Place {
    /// A file or a directory of files.
    ///
    /// # Errors
    /// When the location is a pattern, or in a store that cannot be written.
    pub fn new(location: &Location, is_single_file: bool) -> Result<Self> {
        if location.pattern().is_some() {
            return Err(CatalogError::Invalid(format!("`{location}` is a pattern: name one file or directory")).into());
        }
        if matches!(location.url().scheme(), "http" | "https") {
            let reason = "http servers have no common way to write; use a file, s3://, gs:// or az://";
            return Err(StoreError::ReadOnly { url: location.to_string(), reason }.into());
        }
        let mut url = location.url().clone();
        if !is_single_file && !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        let path = local_path_of_url(&url);
        let directory = match (is_single_file, path) {
            (true, Some(path)) => path.parent().map(PathBuf::from),
            (false, path) => path,
            (true, None) => None,
        };
        Ok(Self { url, is_single_file, directory, id: random_name() })
    }

    /// The local directory for staged files: hidden, next to the final ones, so that a rename moves no bytes.
    pub fn staging(&self) -> Option<PathBuf> {
        self.directory.as_ref().map(|directory| staging_in(directory, &self.id))
    }

    /// The target of a plan.
    ///
    /// # Errors
    /// When files with these options can be read only: what was written could not be read with them.
    pub fn target(&self, format: Format, options: &FormatOptions) -> Result<WriteTarget> {
        if let Some((option, instead)) = format.read_only_option(options) {
            let error = format!("{format} files with the option `{option}` can be read and not be written: {instead}");
            return Err(CatalogError::Invalid(error).into());
        }
        let staging = self.staging().and_then(|staging| directory_url(&staging));
        let option = |(key, value): (&str, &str)| KeyValue { key: key.to_owned(), value: value.to_owned() };
        Ok(WriteTarget {
            url: self.url.to_string(),
            is_single_file: self.is_single_file,
            staging: staging.map(String::from).unwrap_or_default(),
            format: format.extension().to_owned(),
            options: options.iter().map(option).collect(),
            partition_by: vec![],
            keeps_partition_columns: false,
            extension: format.file_extension(options),
            file_prefix: self.id.clone(),
            writes_empty_file: false,
            not_null: vec![],
        })
    }
}
