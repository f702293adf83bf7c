//! [`Format`]: file formats by name and by file name, and their options.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use datafusion::catalog::Session;
use datafusion::common::Result;
use datafusion::common::config::TableOptions;
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::json::JsonFormat;
use datafusion::execution::session_state::SessionState;
use onward_wire::message::KeyValue;
use serde::{Deserialize, Serialize};

use super::error::CatalogError;
use super::json_array::JsonArrayFormat;
use super::names::did_you_mean;

/// A file format that tables are read from and written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Apache Parquet.
    Parquet,
    /// Delimited text.
    Csv,
    /// One JSON object per line.
    Json,
    /// Arrow IPC, file or stream.
    Arrow,
}

/// Compressions of text files, by file extension.
const COMPRESSIONS: [(&str, &str); 5] =
    [("gz", "gzip"), ("gzip", "gzip"), ("bz2", "bzip2"), ("xz", "xz"), ("zst", "zstd")];

/// Prefixes of options that belong to the object store.
const STORE_PREFIXES: [&str; 8] = ["aws.", "s3.", "gcp.", "google.", "gs.", "azure.", "az.", "http."];

impl Format {
    /// By the name in STORED AS: `PARQUET`, `csv`, `ndjson` ...
    pub fn by_name(name: &str) -> Result<Self> {
        let names = ["parquet", "csv", "tsv", "json", "ndjson", "jsonl", "arrow"];
        match Self::of_extension(&name.to_ascii_lowercase()) {
            Some(format) => Ok(format),
            None => {
                let hint = did_you_mean(name, names);
                let error = format!("format `{name}` is not known{hint}; use PARQUET, CSV, JSON or ARROW");
                Err(CatalogError::Invalid(error).into())
            }
        }
    }

    /// By a file name: format and options (`x.tsv.gz` is CSV with tabs, compressed).
    pub fn of_file(name: &str) -> Option<(Self, FormatOptions)> {
        let name = name.to_ascii_lowercase();
        let mut options = FormatOptions::default();
        let (mut stem, mut extension) = name.rsplit_once('.')?;
        if let Some((_, compression)) = COMPRESSIONS.iter().find(|(known, _)| *known == extension) {
            options.set("format.compression", *compression);
            (stem, extension) = stem.rsplit_once('.').unwrap_or(("", stem));
        }
        let _ = stem;
        let format = Self::of_extension(extension)?;
        if matches!(extension, "tsv" | "tab") {
            options.set("format.delimiter", "\t");
        }
        Some((format, options))
    }

    fn of_extension(extension: &str) -> Option<Self> {
        Some(match extension {
            "parquet" | "parq" | "pq" => Self::Parquet,
            "csv" | "tsv" | "tab" => Self::Csv,
            "json" | "ndjson" | "jsonl" => Self::Json,
            "arrow" | "arrows" | "ipc" | "feather" => Self::Arrow,
            _ => return None,
        })
    }

    /// DataFusion's name, which is also the file extension that we write.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Csv => "csv",
            Self::Json => "json",
            Self::Arrow => "arrow",
        }
    }

    /// What names of files that are written with `options` end with, without the first dot: `csv.gz`.
    pub fn file_extension(self, options: &FormatOptions) -> String {
        let compression = options.get("format.compression").map(str::to_ascii_lowercase);
        let suffix =
            compression.and_then(|name| COMPRESSIONS.iter().find(|(short, long)| *short == name || *long == name));
        match (self, suffix) {
            // Compression of Parquet and Arrow is inside the file.
            (Self::Csv | Self::Json, Some((short, _))) => format!("{}.{short}", self.extension()),
            _ => self.extension().to_owned(),
        }
    }

    /// DataFusion's reader and writer with `options`.
    ///
    /// # Errors
    /// An option that the format does not have, with the nearest that it has.
    pub fn build(self, state: &SessionState, options: &FormatOptions) -> Result<Arc<dyn FileFormat>> {
        let factory = state
            .get_file_format_factory(self.extension())
            .ok_or_else(|| CatalogError::Invalid(format!("this build has no {self} support")))?;
        let options: HashMap<String, String> = options.0.clone().into_iter().collect();
        let format = factory.create(state, &options).map_err(|error| {
            let culprit = options.keys().find(|key| !self.has_option(state, key));
            match culprit {
                Some(key) => self.unknown_option(state, key).into(),
                None => error,
            }
        })?;
        match format.downcast_ref::<JsonFormat>() {
            Some(json) if !json.is_newline_delimited() => {
                Ok(Arc::new(JsonArrayFormat(JsonFormat::default().with_options(json.options().clone()))))
            }
            _ => Ok(format),
        }
    }

    /// An option with which DataFusion reads files that it does not write, and what it does write.
    pub fn read_only_option(self, options: &FormatOptions) -> Option<(&'static str, &'static str)> {
        let is_false = |value: &str| value.trim().eq_ignore_ascii_case("false");
        match self {
            Self::Json if options.get("format.newline_delimited").is_some_and(is_false) => {
                Some(("newline_delimited", "JSON is written as lines of objects"))
            }
            Self::Csv if options.get("format.terminator").is_some_and(|value| value != "\n") => {
                Some(("terminator", "lines of CSV are written with a line feed"))
            }
            _ => None,
        }
    }

    fn known_options(self, state: &SessionState) -> Vec<String> {
        let mut options: TableOptions = state.default_table_options();
        options.set_config_format(match self {
            Self::Parquet => datafusion::common::config::ConfigFileType::PARQUET,
            Self::Csv => datafusion::common::config::ConfigFileType::CSV,
            Self::Json | Self::Arrow => datafusion::common::config::ConfigFileType::JSON,
        });
        options.entries().into_iter().filter_map(|entry| Some(entry.key.strip_prefix("format.")?.to_owned())).collect()
    }

    fn has_option(self, state: &SessionState, key: &str) -> bool {
        let Some(name) = key.strip_prefix("format.") else { return false };
        // Parquet options may name a column: `compression::l_comment`.
        let name = name.split("::").next().unwrap_or(name);
        name.starts_with("metadata")
            || name.starts_with("crypto")
            || self.known_options(state).iter().any(|known| known == name)
    }

    fn unknown_option(self, state: &SessionState, key: &str) -> CatalogError {
        let name = key.strip_prefix("format.").unwrap_or(key);
        let known = self.known_options(state);
        let hint = did_you_mean(name, known.iter().map(String::as_str));
        CatalogError::Invalid(format!("option `{name}` is not known for {self} files{hint}"))
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Parquet => "Parquet",
            Self::Csv => "CSV",
            Self::Json => "JSON",
            Self::Arrow => "Arrow IPC",
        })
    }
}

/// Options of a format as DataFusion names them (`format.compression`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormatOptions(BTreeMap<String, String>);

impl FormatOptions {
    /// Divides a statement's OPTIONS into those of the format and those of the object store (never shown: credentials).
    pub fn split(options: &HashMap<String, String>) -> (Self, Vec<KeyValue>) {
        let mut format = Self::default();
        let mut store = Vec::new();
        for (key, value) in options {
            match STORE_PREFIXES.iter().any(|prefix| key.starts_with(prefix)) {
                true => store.push(KeyValue { key: key.clone(), value: value.clone() }),
                false => format.set(key, value),
            }
        }
        store.sort_by(|a, b| a.key.cmp(&b.key));
        (format, store)
    }

    /// Sets one option.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.0.insert(key.into(), value.into());
    }

    /// Adds those of `other` that are not set.
    pub fn or(mut self, other: Self) -> Self {
        for (key, value) in other.0 {
            self.0.entry(key).or_insert(value);
        }
        self
    }

    /// One option.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// All options, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

impl From<BTreeMap<String, String>> for FormatOptions {
    fn from(options: BTreeMap<String, String>) -> Self {
        Self(options)
    }
}

/// The options every format is built with come from the session, then from the table.
pub fn session_state(state: &dyn Session) -> Result<&SessionState> {
    state
        .as_any()
        .downcast_ref::<SessionState>()
        .ok_or_else(|| datafusion::common::internal_datafusion_err!("a session that is not DataFusion's"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_tell_format_and_compression() {
        let of = |name| {
            Format::of_file(name)
                .map(|(format, options)| (format, options.get("format.compression").map(str::to_owned)))
        };
        assert_eq!(of("lineitem.PARQUET"), Some((Format::Parquet, None)));
        assert_eq!(of("x.csv.gz"), Some((Format::Csv, Some("gzip".to_owned()))));
        assert_eq!(of("events.jsonl.zst"), Some((Format::Json, Some("zstd".to_owned()))));
        assert_eq!(of("README"), None);
        assert_eq!(of("x.exe"), None);
        assert_eq!(Format::of_file("x.tsv").unwrap().1.get("format.delimiter"), Some("\t"));
    }

    #[test]
    fn a_wrong_option_names_the_right_one() {
        let state = datafusion::prelude::SessionContext::new().state();
        let mut options = FormatOptions::default();
        options.set("format.delimeter", ";");
        let error = Format::Csv.build(&state, &options).unwrap_err().to_string();
        assert!(error.contains("`delimeter`") && error.contains("did you mean `delimiter`"), "{error}");
    }
}
