//! [`SharedCatalog`]: definitions where several coordinators find them.
//!
//! ```text
//!   catalog/version                     of the form, as in `catalog.json`
//!   catalog/directory                   of the data directory where tables have their files: what its `cluster` file says
//!   catalog/schemas/SCHEMA              SCHEMA
//!   catalog/tables/SCHEMA/TABLE         schema, table, definition
//! ```
//!
//! Names in keys are percent-encoded; what counts is in the values. Only the coordinator that leads writes; one that leads no longer is
//! refused, and nothing was changed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use onward_state::{Change, Etcd, Fenced, StateError};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::definition::Definition;
use super::directory::{DataDirectory, cluster_of};
use super::error::CatalogError;
use super::store::{FILE_VERSION, Tables};
use super::table_files::random_name;

type Result<T, E = CatalogError> = std::result::Result<T, E>;
type Schemas = BTreeMap<String, Tables>;

const PREFIX: &str = "catalog/";
const VERSION: &str = "catalog/version";
const DIRECTORY: &str = "catalog/directory";
const SCHEMAS: &str = "catalog/schemas/";
const TABLES: &str = "catalog/tables/";
/// Between two tries of a change that the store did not answer.
const RETRY: Duration = Duration::from_millis(200);

/// See the [module](self).
#[derive(Clone, Debug)]
pub(super) struct SharedCatalog {
    state: Fenced,
    /// Where the store's connections live: changes are made by whoever has to wait for them.
    runtime: Handle,
}

#[derive(Serialize, Deserialize)]
struct Stored<D> {
    schema: String,
    table: String,
    definition: D,
}

impl SharedCatalog {
    /// To be called where the store's connections live.
    pub(super) fn new(state: Fenced) -> Self {
        Self { state, runtime: Handle::current() }
    }

    /// Sees to it that all coordinators have one data directory.
    ///
    /// # Errors
    /// [`CatalogError::OtherDirectory`].
    pub(super) fn claim(&self, directory: &DataDirectory) -> Result<()> {
        let claimed = self.wait(async || self.state.get(DIRECTORY).await)?;
        if let Some(claimed) = claimed {
            return is_of(&claimed, directory.path(), directory.cluster().as_deref());
        }
        let id = directory.cluster().unwrap_or_else(random_name);
        directory.set_cluster(&id)?;
        let change = Change::Put { key: DIRECTORY.to_owned(), value: id.into_bytes() };
        self.wait(async || self.state.write_in_order(vec![change.clone()]).await)
    }

    /// All there is; `None`: no coordinator has kept anything yet.
    pub(super) fn load(&self) -> Result<Option<Schemas>> {
        let found = self.wait(async || self.state.list(PREFIX).await)?;
        let corrupt =
            |key: &str, why: &dyn std::fmt::Display| CatalogError::Shared(format!("`{key}` cannot be read: {why}"));
        let Some(version) = found.get(VERSION) else { return Ok(None) };
        let version: u32 = serde_json::from_slice(version).map_err(|error| corrupt(VERSION, &error))?;
        if version > FILE_VERSION {
            return Err(corrupt(VERSION, &format!("version {version} was written by a newer Onward")));
        }
        let mut schemas = Schemas::new();
        for (key, value) in &found {
            if key.starts_with(SCHEMAS) {
                let name = serde_json::from_slice(value).map_err(|error| corrupt(key, &error))?;
                schemas.entry(name).or_default();
            } else if key.starts_with(TABLES) {
                let stored: Stored<Definition> = serde_json::from_slice(value).map_err(|error| corrupt(key, &error))?;
                schemas.entry(stored.schema).or_default().insert(stored.table, Arc::new(stored.definition));
            }
        }
        Ok(Some(schemas))
    }

    /// Writes what is in `new` and not in `old`, and removes what is not in it any more. Small changes are made as one.
    pub(super) fn save(&self, old: &Schemas, new: &Schemas) -> Result<()> {
        let mut changes = Vec::new();
        for (schema, tables) in new {
            let before = old.get(schema);
            if before.is_none() {
                changes.push(put(format!("{SCHEMAS}{}", encode(schema)), schema)?);
            }
            for (table, definition) in tables {
                let before = before.and_then(|tables| tables.get(table));
                if !before.is_some_and(|before| Arc::ptr_eq(before, definition)) {
                    let (schema, table) = (schema.clone(), table.clone());
                    let key = table_key(&schema, &table);
                    changes.push(put(key, &Stored { schema, table, definition: &**definition })?);
                }
            }
        }
        for (schema, tables) in old {
            let after = new.get(schema);
            let gone = tables.keys().filter(|table| !after.is_some_and(|tables| tables.contains_key(*table)));
            changes.extend(gone.map(|table| Change::Delete { key: table_key(schema, table) }));
            if after.is_none() {
                changes.push(Change::Delete { key: format!("{SCHEMAS}{}", encode(schema)) });
            }
        }
        changes.push(put(VERSION.to_owned(), &FILE_VERSION)?);
        self.wait(async || self.state.write_in_order(changes.clone()).await)
    }

    /// The answer of the store. While it does not answer nobody knows whether a change was made, so the same is asked again, until
    /// another coordinator leads.
    fn wait<T>(&self, ask: impl AsyncFn() -> Result<T, StateError>) -> Result<T> {
        let answer = async {
            loop {
                match ask().await {
                    Err(error) if error.is_retryable() => {
                        tracing::warn!(%error, "the catalog waits");
                        tokio::time::sleep(RETRY).await;
                    }
                    answer => return answer,
                }
            }
        };
        // Not Tokio's own way to wait: on a thread that runs a future with `block_on` it takes what wakes that future for what wakes the
        // answer.
        let answer = tokio::task::block_in_place(|| {
            let _inside = self.runtime.enter();
            futures::executor::block_on(answer)
        });
        answer.map_err(|error| match error {
            StateError::Deposed { .. } => CatalogError::Deposed(error.to_string()),
            error => CatalogError::Shared(error.to_string()),
        })
    }
}

/// Looks whether a coordinator with this data directory may lead, as far as etcd answers; it is looked again when it leads.
///
/// # Errors
/// [`CatalogError::OtherDirectory`]; [`CatalogError::Shared`] when etcd will never answer what is asked like this.
pub async fn check_directory(etcd: &Etcd, data_dir: &Path) -> Result<()> {
    match etcd.peek(DIRECTORY).await {
        Ok(Some(claimed)) => is_of(&claimed, data_dir, cluster_of(data_dir).as_deref()),
        Ok(None) => Ok(()),
        Err(error) if !error.is_retryable() => Err(CatalogError::Shared(error.to_string())),
        Err(error) => {
            tracing::debug!(%error, "the data directory is looked at when this coordinator leads");
            Ok(())
        }
    }
}

fn is_of(claimed: &[u8], directory: &Path, own: Option<&str>) -> Result<()> {
    let is_same = own.is_some_and(|own| own.as_bytes() == claimed);
    if is_same { Ok(()) } else { Err(CatalogError::OtherDirectory(directory.to_owned())) }
}

fn put(key: String, value: &impl Serialize) -> Result<Change> {
    let value = serde_json::to_vec(value);
    let value = value.map_err(|error| CatalogError::Invalid(format!("the definition cannot be kept: {error}")))?;
    Ok(Change::Put { key, value })
}

fn table_key(schema: &str, table: &str) -> String {
    format!("{TABLES}{}/{}", encode(schema), encode(table))
}

fn encode(name: &str) -> String {
    url::form_urlencoded::byte_serialize(name.as_bytes()).collect()
}
