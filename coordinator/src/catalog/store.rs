//! [`Catalog`]: all definitions in memory, every change in `catalog.json` before it is seen.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use datafusion::catalog::SchemaProvider;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use super::definition::Definition;
use super::directory::{DataDirectory, io};
use super::error::CatalogError;
use super::names::{TableName, did_you_mean};
use super::provider::DEFAULT_SCHEMA;
use crate::write::Journal;

type Result<T, E = CatalogError> = std::result::Result<T, E>;

/// Version of the file's form; a newer one is refused.
const FILE_VERSION: u32 = 1;

/// All schemas, tables and views of a data directory. Shared by all sessions.
#[derive(Debug)]
pub struct Catalog {
    directory: DataDirectory,
    /// Replaced whole: readers never wait for a write to the disk.
    snapshot: RwLock<Arc<Snapshot>>,
    /// Held while a change is made and saved.
    change: Mutex<()>,
    /// Schemas that are made anew at each start (`system`).
    system: RwLock<BTreeMap<String, Arc<dyn SchemaProvider>>>,
}

type Tables = BTreeMap<String, Arc<Definition>>;

#[derive(Clone, Debug)]
struct Snapshot {
    schemas: BTreeMap<String, Tables>,
}

#[derive(Serialize, Deserialize)]
struct CatalogFile {
    version: u32,
    schemas: BTreeMap<String, BTreeMap<String, Definition>>,
}

/// What CREATE does when the name is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExists {
    /// Error.
    Fail,
    /// IF NOT EXISTS: keep what is there.
    Keep,
    /// OR REPLACE.
    Replace,
}

impl Catalog {
    /// Reads the catalog of `directory`, and removes parts of tables that a crash left behind.
    pub fn open(directory: DataDirectory) -> Result<Arc<Self>> {
        let path = directory.catalog_file();
        let schemas = match std::fs::read(&path) {
            Ok(bytes) => read_file(&bytes).map_err(|reason| CatalogError::Corrupt { path, reason })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(source) => return Err(CatalogError::Io { action: "reading", path, source }),
        };
        let mut snapshot = Snapshot { schemas };
        snapshot.schemas.entry(DEFAULT_SCHEMA.to_owned()).or_default();
        snapshot.remove_orphans(&directory.tables());
        Journal::new(directory.path()).recover();
        Ok(Arc::new(Self {
            directory,
            snapshot: RwLock::new(Arc::new(snapshot)),
            change: Mutex::default(),
            system: RwLock::default(),
        }))
    }

    /// The data directory.
    pub fn directory(&self) -> &DataDirectory {
        &self.directory
    }

    /// Adds a schema that is not kept, such as `system`.
    pub fn add_system_schema(&self, name: &str, schema: Arc<dyn SchemaProvider>) {
        self.system.write().insert(name.to_owned(), schema);
    }

    /// A schema added by [`Self::add_system_schema`].
    pub fn system_schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        self.system.read().get(name).cloned()
    }

    /// All schemas, by name.
    pub fn schema_names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.snapshot().schemas.keys().cloned().collect();
        names.extend(self.system.read().keys().cloned());
        names
    }

    /// The schema is kept here.
    pub fn has_schema(&self, schema: &str) -> bool {
        self.snapshot().schemas.contains_key(schema)
    }

    /// Tables and views of a schema, by name.
    pub fn table_names(&self, schema: &str) -> Vec<String> {
        self.snapshot().schemas.get(schema).map(|tables| tables.keys().cloned().collect()).unwrap_or_default()
    }

    /// A table or view.
    pub fn get(&self, name: &TableName) -> Option<Arc<Definition>> {
        self.snapshot().schemas.get(&name.schema)?.get(&name.table).cloned()
    }

    /// CREATE TABLE / VIEW. False: it was there and is kept.
    pub fn create(&self, name: &TableName, definition: Definition, on_exists: OnExists) -> Result<bool> {
        let mut replaced = None;
        let is_created = self.change(|snapshot| {
            let tables = snapshot.tables(&name.schema)?;
            match (tables.get(&name.table), on_exists) {
                (Some(_), OnExists::Keep) => return Ok(false),
                (Some(old), OnExists::Fail) => {
                    return Err(CatalogError::Exists { what: old.what(), name: name.to_string() });
                }
                (Some(old), OnExists::Replace) if old.what() != definition.what() => {
                    let (what, new) = (old.what(), definition.what());
                    return Err(CatalogError::Invalid(format!("`{name}` is a {what}: drop it to create a {new}")));
                }
                _ => {}
            }
            replaced = tables.insert(name.table.clone(), Arc::new(definition.clone()));
            Ok(true)
        })?;
        self.remove_files(replaced.as_deref());
        Ok(is_created)
    }

    /// DROP TABLE / VIEW (`what` says which). False: it was not there and `is_optional`.
    pub fn drop_table(&self, name: &TableName, what: &'static str, is_optional: bool) -> Result<bool> {
        let mut dropped = None;
        let is_dropped = self.change(|snapshot| {
            let Some(tables) = snapshot.schemas.get_mut(&name.schema) else {
                return if is_optional { Ok(false) } else { Err(snapshot.missing(what, name)) };
            };
            match tables.get(&name.table) {
                Some(old) if old.what() == what => dropped = tables.remove(&name.table),
                Some(old) => {
                    let is = old.what();
                    return Err(CatalogError::Invalid(format!("`{name}` is a {is}: use DROP {}", is.to_uppercase())));
                }
                None if is_optional => return Ok(false),
                None => return Err(snapshot.missing(what, name)),
            }
            Ok(true)
        })?;
        self.remove_files(dropped.as_deref());
        Ok(is_dropped)
    }

    /// Changes a definition in one step (the commit of INSERT INTO). Gives the new one.
    pub fn alter(
        &self,
        name: &TableName,
        alter: impl FnOnce(&Definition) -> Result<Definition>,
    ) -> Result<Arc<Definition>> {
        self.change(|snapshot| {
            let Some(old) = snapshot.schemas.get(&name.schema).and_then(|tables| tables.get(&name.table)) else {
                return Err(snapshot.missing("table", name));
            };
            let new = Arc::new(alter(old)?);
            snapshot.tables(&name.schema)?.insert(name.table.clone(), new.clone());
            Ok(new)
        })
    }

    /// CREATE SCHEMA. False: it was there and `is_optional`.
    pub fn create_schema(&self, name: &str, is_optional: bool) -> Result<bool> {
        let is_taken = self.system.read().contains_key(name) || name == "information_schema";
        self.change(|snapshot| {
            if is_taken || snapshot.schemas.contains_key(name) {
                let error = CatalogError::Exists { what: "schema", name: name.to_owned() };
                return if is_optional { Ok(false) } else { Err(error) };
            }
            snapshot.schemas.insert(name.to_owned(), BTreeMap::new());
            Ok(true)
        })
    }

    /// DROP SCHEMA. False: it was not there and `is_optional`.
    pub fn drop_schema(&self, name: &str, is_optional: bool, cascade: bool) -> Result<bool> {
        if self.system.read().contains_key(name) || name == DEFAULT_SCHEMA {
            return Err(CatalogError::Invalid(format!("schema `{name}` cannot be dropped")));
        }
        let mut dropped = Tables::new();
        let is_dropped = self.change(|snapshot| {
            let Some(tables) = snapshot.schemas.get(name) else {
                let hint = did_you_mean(name, snapshot.schemas.keys().map(String::as_str));
                let error = CatalogError::Missing { what: "schema", name: name.to_owned(), hint };
                return if is_optional { Ok(false) } else { Err(error) };
            };
            if !tables.is_empty() && !cascade {
                return Err(CatalogError::NotEmpty { name: name.to_owned(), tables: tables.len() });
            }
            dropped = snapshot.schemas.remove(name).unwrap_or_default();
            Ok(true)
        })?;
        dropped.values().for_each(|definition| self.remove_files(Some(definition)));
        Ok(is_dropped)
    }

    /// The error for a table that is not there, with the name that may have been meant.
    pub fn missing(&self, what: &'static str, name: &TableName) -> CatalogError {
        self.snapshot().missing(what, name)
    }

    /// The error for a schema that is not there.
    pub fn missing_schema(&self, name: &str) -> CatalogError {
        let names = self.schema_names();
        let hint = did_you_mean(name, names.iter().map(String::as_str));
        CatalogError::Missing { what: "schema", name: name.to_owned(), hint }
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.read().clone()
    }

    /// Applies `change` to a copy, saves the copy, then shows it. Nothing changes on an error.
    fn change<T>(&self, change: impl FnOnce(&mut Snapshot) -> Result<T>) -> Result<T> {
        let _one_at_a_time = self.change.lock();
        let mut snapshot = Snapshot::clone(&self.snapshot());
        let value = change(&mut snapshot)?;
        snapshot.save(&self.directory.catalog_file(), self.directory.path())?;
        *self.snapshot.write() = Arc::new(snapshot);
        Ok(value)
    }

    /// Removes the files of a managed table that is gone. What cannot be removed now goes at the next start.
    fn remove_files(&self, definition: Option<&Definition>) {
        if let Some(Definition::Managed(managed)) = definition {
            let path = self.directory.tables().join(&managed.directory);
            if let Err(error) = std::fs::remove_dir_all(&path) {
                tracing::warn!(path = %path.display(), %error, "files of a dropped table are left until the next start");
            }
        }
    }
}

impl Snapshot {
    fn tables(&mut self, schema: &str) -> Result<&mut Tables> {
        if !self.schemas.contains_key(schema) {
            let hint = did_you_mean(schema, self.schemas.keys().map(String::as_str));
            return Err(CatalogError::Missing { what: "schema", name: schema.to_owned(), hint });
        }
        Ok(self.schemas.entry(schema.to_owned()).or_default())
    }

    fn missing(&self, what: &'static str, name: &TableName) -> CatalogError {
        let names = self.schemas.get(&name.schema).into_iter().flat_map(|tables| tables.keys());
        let hint = did_you_mean(&name.table, names.map(String::as_str));
        CatalogError::Missing { what, name: name.to_string(), hint }
    }

    fn save(&self, path: &Path, directory: &Path) -> Result<()> {
        let tables = |tables: &Tables| tables.iter().map(|(name, table)| (name.clone(), (**table).clone())).collect();
        let schemas = self.schemas.iter().map(|(name, schema)| (name.clone(), tables(schema))).collect();
        let file = CatalogFile { version: FILE_VERSION, schemas };
        let bytes = serde_json::to_vec_pretty(&file)
            .map_err(|error| CatalogError::Invalid(format!("the definition cannot be kept: {error}")))?;
        // A temporary file is made with mode 0600, and the rename keeps it.
        let mut temporary = tempfile::NamedTempFile::new_in(directory).map_err(io("writing", path))?;
        temporary.write_all(&bytes).map_err(io("writing", path))?;
        temporary.as_file().sync_all().map_err(io("writing", path))?;
        temporary.persist(path).map_err(|error| io("writing", path)(error.error))?;
        std::fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(io("writing", directory))
    }

    /// Removes what a crash left between writing files and naming them here.
    fn remove_orphans(&self, tables: &Path) {
        let mut kept = HashSet::new();
        for definition in self.schemas.values().flat_map(|tables| tables.values()) {
            if let Definition::Managed(managed) = definition.as_ref() {
                let directory = tables.join(&managed.directory);
                kept.extend(managed.parts.iter().map(|part| directory.join(part)));
                remove_all_but(&directory, &kept);
                kept.insert(directory);
            }
        }
        remove_all_but(tables, &kept);
    }
}

fn remove_all_but(directory: &Path, kept: &HashSet<std::path::PathBuf>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if !kept.contains(&path) {
            tracing::info!(path = %path.display(), "removing what an unfinished statement left behind");
            let _ = std::fs::remove_dir_all(&path).or_else(|_| std::fs::remove_file(&path));
        }
    }
}

fn read_file(bytes: &[u8]) -> Result<BTreeMap<String, Tables>, String> {
    let file: CatalogFile = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if file.version > FILE_VERSION {
        return Err(format!("version {} was written by a newer Onward", file.version));
    }
    let tables = |tables: BTreeMap<String, Definition>| {
        tables.into_iter().map(|(name, definition)| (name, Arc::new(definition))).collect()
    };
    Ok(file.schemas.into_iter().map(|(name, schema)| (name, tables(schema))).collect())
}

#[cfg(test)]
mod tests {
    use super::super::definition::{Managed, StoredSchema};
    use super::*;

    fn open(path: &Path) -> Arc<Catalog> {
        Catalog::open(DataDirectory::open(Some(path), path).unwrap()).unwrap()
    }

    fn managed(directory: &str) -> Definition {
        Definition::Managed(Managed {
            directory: directory.to_owned(),
            parts: vec!["p1".to_owned()],
            columns: StoredSchema::default(),
            constraints: vec![],
            defaults: BTreeMap::new(),
        })
    }

    #[test]
    fn a_restart_keeps_definitions_and_removes_orphans() {
        let root = tempfile::tempdir().unwrap();
        let name = TableName::new("public", "t");
        let catalog = open(root.path());
        catalog.create_schema("s2", false).unwrap();
        catalog.create(&name, managed("t-1"), OnExists::Fail).unwrap();
        for directory in ["t-1/p1", "t-1/unfinished", "dropped"] {
            std::fs::create_dir_all(catalog.directory().tables().join(directory)).unwrap();
        }
        drop(catalog);
        let catalog = open(root.path());
        assert_eq!(catalog.get(&name).as_deref(), Some(&managed("t-1")));
        assert_eq!(catalog.schema_names(), ["public", "s2"]);
        let left = |directory: &str| catalog.directory().tables().join(directory).exists();
        assert!(left("t-1/p1") && !left("t-1/unfinished") && !left("dropped"));
    }

    #[test]
    fn names_are_taken_once_and_dropping_removes_files() {
        let root = tempfile::tempdir().unwrap();
        let catalog = open(root.path());
        let name = TableName::new("public", "orders");
        let files = catalog.directory().tables().join("o-1/p1");
        std::fs::create_dir_all(&files).unwrap();
        assert!(catalog.create(&name, managed("o-1"), OnExists::Fail).unwrap());
        assert!(matches!(catalog.create(&name, managed("o-2"), OnExists::Fail), Err(CatalogError::Exists { .. })));
        assert!(!catalog.create(&name, managed("o-2"), OnExists::Keep).unwrap());
        let error = catalog.drop_table(&TableName::new("public", "ordres"), "table", false).unwrap_err().to_string();
        assert!(error.contains("did you mean `orders`"), "{error}");
        assert!(catalog.drop_table(&name, "view", false).unwrap_err().to_string().contains("DROP TABLE"));
        assert!(catalog.drop_table(&name, "table", false).unwrap());
        assert!(!files.exists());
        assert!(!catalog.drop_table(&name, "table", true).unwrap());
    }

    #[test]
    fn a_corrupt_catalog_is_refused_and_not_overwritten() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("catalog.json"), "{\"version\": 1, \"sche").unwrap();
        let error =
            Catalog::open(DataDirectory::open(Some(root.path()), root.path()).unwrap()).unwrap_err().to_string();
        assert!(error.contains("catalog.json"), "{error}");
        assert!(std::fs::read_to_string(root.path().join("catalog.json")).unwrap().ends_with("sche"));
    }

    #[test]
    fn a_schema_with_tables_needs_cascade() {
        let root = tempfile::tempdir().unwrap();
        let catalog = open(root.path());
        catalog.create_schema("s", false).unwrap();
        catalog.create(&TableName::new("s", "t"), managed("t-1"), OnExists::Fail).unwrap();
        assert!(matches!(catalog.drop_schema("s", false, false), Err(CatalogError::NotEmpty { tables: 1, .. })));
        assert!(catalog.drop_schema("s", false, true).unwrap());
        assert!(catalog.drop_schema("public", false, true).is_err());
    }
}
