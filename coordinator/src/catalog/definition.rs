//! What the catalog keeps of a table or view.

use std::collections::BTreeMap;
use std::fmt;

use onward_wire::message::KeyValue;
use serde::{Deserialize, Serialize};

use super::formats::{Format, FormatOptions};
pub use super::json::{StoredConstraint, StoredSchema, StoredSort};

/// A table or view.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Definition {
    /// CREATE EXTERNAL TABLE: files of somebody else.
    External(External),
    /// CREATE TABLE: files of ours.
    Managed(Managed),
    /// CREATE VIEW.
    View(View),
}

impl Definition {
    /// For messages.
    pub fn what(&self) -> &'static str {
        match self {
            Self::External(_) | Self::Managed(_) => "table",
            Self::View(_) => "view",
        }
    }

    /// Files of ours, if it is that.
    pub fn managed(&self) -> Option<&Managed> {
        match self {
            Self::Managed(managed) => Some(managed),
            Self::External(_) | Self::View(_) => None,
        }
    }
}

/// Files of somebody else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct External {
    /// Absolute paths and URLs, as [`super::Location`] prints them; at least one.
    pub locations: Vec<String>,
    /// Their format.
    pub format: Format,
    /// Options of the format.
    #[serde(default)]
    pub options: FormatOptions,
    /// Options of the object store, credentials included.
    #[serde(default)]
    pub store_options: StoreOptions,
    /// Only files that end so are read; empty takes all.
    #[serde(default)]
    pub extension: String,
    /// Columns of the files.
    pub columns: StoredSchema,
    /// Hive partition columns, in the order of the directories.
    #[serde(default)]
    pub partitioned_by: StoredSchema,
    /// Orders that each file has.
    #[serde(default)]
    pub sorted_by: Vec<Vec<StoredSort>>,
    /// Declared keys.
    #[serde(default)]
    pub constraints: Vec<StoredConstraint>,
    /// Default values as SQL, by column.
    #[serde(default)]
    pub defaults: BTreeMap<String, String>,
}

/// Files of ours: Parquet below `<data-dir>/tables`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Managed {
    /// Directory below `<data-dir>/tables`. Never used twice.
    pub directory: String,
    /// Directories below it, one per statement that wrote; only these are read, so a statement's rows appear at once.
    #[serde(default)]
    pub parts: Vec<String>,
    /// Columns.
    pub columns: StoredSchema,
    /// Declared keys.
    #[serde(default)]
    pub constraints: Vec<StoredConstraint>,
    /// Default values as SQL, by column.
    #[serde(default)]
    pub defaults: BTreeMap<String, String>,
}

/// A query under a name, planned anew each time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct View {
    /// The whole CREATE VIEW statement.
    pub sql: String,
    /// The SQL dialect it is written in.
    pub dialect: String,
    /// The schema its unqualified names mean.
    pub default_schema: String,
    /// The directory its relative file names mean.
    pub directory: String,
    /// Columns when it was created, shown while it cannot be planned.
    pub columns: StoredSchema,
}

/// Options of an object store. Their values are in the catalog file and nowhere else.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreOptions(BTreeMap<String, String>);

impl StoreOptions {
    /// As they travel to functions.
    pub fn to_wire(&self) -> Vec<KeyValue> {
        self.0.iter().map(|(key, value)| KeyValue { key: key.clone(), value: value.clone() }).collect()
    }

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

impl From<Vec<KeyValue>> for StoreOptions {
    fn from(options: Vec<KeyValue>) -> Self {
        Self(options.into_iter().map(|option| (option.key, option.value)).collect())
    }
}

impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
