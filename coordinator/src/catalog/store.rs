//! [`Catalog`]: all definitions in memory, every change in `catalog.json` before it is seen.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use datafusion::catalog::SchemaProvider;
use onward_state::Fenced;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use super::definition::{Definition, Managed};
use super::directory::{DataDirectory, io, is_empty};
use super::durable;
use super::error::CatalogError;
use super::names::{TableName, did_you_mean};
use super::provider::DEFAULT_SCHEMA;
use super::shared::SharedCatalog;
use super::table_files::{Lease, Part, TableFiles};
use crate::write::Journal;

type Result<T, E = CatalogError> = std::result::Result<T, E>;

/// Version of the file's form; a newer one is refused.
pub(super) const FILE_VERSION: u32 = 1;

/// All schemas, tables and views of a data directory. Shared by all sessions.
#[derive(Debug)]
pub struct Catalog {
    directory: DataDirectory,
    /// Where definitions are kept when they are not in the directory.
    shared: Option<SharedCatalog>,
    files: Arc<TableFiles>,
    /// Replaced whole: readers never wait for a write to the disk.
    snapshot: RwLock<Arc<Snapshot>>,
    /// Held while a change is made and saved.
    change: Mutex<()>,
    /// Schemas that are made anew at each start (`system`).
    system: RwLock<BTreeMap<String, Arc<dyn SchemaProvider>>>,
}

pub(super) type Tables = BTreeMap<String, Arc<Definition>>;

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
    /// Reads the catalog of `directory`, and removes what statements left behind that a crash ended.
    ///
    /// # Errors
    /// [`CatalogError::Corrupt`], and [`CatalogError::Gone`] when there are tables but no catalog: nothing is removed then.
    pub fn open(directory: DataDirectory) -> Result<Arc<Self>> {
        let snapshot = Snapshot::read(&directory)?;
        Ok(Self::begin(directory, None, snapshot))
    }

    /// Reads the catalog that several coordinators share, as the one that leads; tables have their files in `directory`. The first of
    /// them ever takes over what the directory's own catalog has.
    ///
    /// # Errors
    /// [`CatalogError::OtherDirectory`], [`CatalogError::Deposed`], [`CatalogError::Shared`]; those of [`Self::open`].
    pub fn open_shared(directory: DataDirectory, state: Fenced) -> Result<Arc<Self>> {
        let shared = SharedCatalog::new(state);
        shared.claim(&directory)?;
        let snapshot = match shared.load()? {
            Some(schemas) => Snapshot { schemas },
            None => {
                let first = Snapshot::read(&directory)?;
                shared.save(&BTreeMap::new(), &first.schemas)?;
                first
            }
        };
        Ok(Self::begin(directory, Some(shared), snapshot))
    }

    fn begin(directory: DataDirectory, shared: Option<SharedCatalog>, snapshot: Snapshot) -> Arc<Self> {
        Journal::new(directory.path()).recover();
        let parts = snapshot.managed().flat_map(Managed::all_parts).collect();
        let files = TableFiles::open(&directory, &parts, snapshot.directories());
        Arc::new(Self {
            directory,
            shared,
            files,
            snapshot: RwLock::new(Arc::new(snapshot)),
            change: Mutex::default(),
            system: RwLock::default(),
        })
    }

    /// The data directory.
    pub fn directory(&self) -> &DataDirectory {
        &self.directory
    }

    /// The files of its managed tables.
    pub fn files(&self) -> &TableFiles {
        &self.files
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

    /// A table or view, and what keeps its files on disk while it is read.
    pub fn open_table(&self, name: &TableName) -> Option<(Arc<Definition>, Lease)> {
        self.files.lease(|| {
            let definition = self.get(name)?;
            let parts = definition.managed().into_iter().flat_map(Managed::all_parts).collect();
            Some((definition, parts))
        })
    }

    /// A table or view.
    pub fn get(&self, name: &TableName) -> Option<Arc<Definition>> {
        self.snapshot().schemas.get(&name.schema)?.get(&name.table).cloned()
    }

    /// CREATE TABLE / VIEW. False: it was there and is kept.
    pub fn create(&self, name: &TableName, definition: Definition, on_exists: OnExists) -> Result<bool> {
        self.change(|snapshot| {
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
            tables.insert(name.table.clone(), Arc::new(definition));
            Ok(true)
        })
    }

    /// DROP TABLE / VIEW (`what` says which). False: it was not there and `is_optional`.
    pub fn drop_table(&self, name: &TableName, what: &'static str, is_optional: bool) -> Result<bool> {
        self.change(|snapshot| {
            let Some(tables) = snapshot.schemas.get_mut(&name.schema) else {
                return if is_optional { Ok(false) } else { Err(snapshot.missing(what, name)) };
            };
            match tables.get(&name.table) {
                Some(old) if old.what() == what => drop(tables.remove(&name.table)),
                Some(old) => {
                    let is = old.what();
                    return Err(CatalogError::Invalid(format!("`{name}` is a {is}: use DROP {}", is.to_uppercase())));
                }
                None if is_optional => return Ok(false),
                None => return Err(snapshot.missing(what, name)),
            }
            Ok(true)
        })
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
        self.change(|snapshot| {
            let Some(tables) = snapshot.schemas.get(name) else {
                let hint = did_you_mean(name, snapshot.schemas.keys().map(String::as_str));
                let error = CatalogError::Missing { what: "schema", name: name.to_owned(), hint };
                return if is_optional { Ok(false) } else { Err(error) };
            };
            if !tables.is_empty() && !cascade {
                return Err(CatalogError::NotEmpty { name: name.to_owned(), tables: tables.len() });
            }
            snapshot.schemas.remove(name);
            Ok(true)
        })
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

    /// Applies `change` to a copy, saves the copy, then shows it. Nothing changes on an error. Files of parts that are not
    /// named any more go.
    fn change<T>(&self, change: impl FnOnce(&mut Snapshot) -> Result<T>) -> Result<T> {
        // Whoever has to wait for a store leaves its thread to others.
        match &self.shared {
            Some(_) => tokio::task::block_in_place(|| self.change_now(change)),
            None => self.change_now(change),
        }
    }

    fn change_now<T>(&self, change: impl FnOnce(&mut Snapshot) -> Result<T>) -> Result<T> {
        let one_at_a_time = self.change.lock();
        let old = self.snapshot();
        let mut new = Snapshot::clone(&old);
        let value = change(&mut new)?;
        let (added, removed) = (new.parts_not_in(&old), old.parts_not_in(&new));
        self.files.note(&removed)?;
        match &self.shared {
            Some(shared) => shared.save(&old.schemas, &new.schemas)?,
            None => new.save(&self.directory)?,
        }
        self.files.named(&added, new.directories());
        *self.snapshot.write() = Arc::new(new);
        drop(one_at_a_time);
        self.files.remove(&removed);
        Ok(value)
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

    /// Of a directory.
    fn read(directory: &DataDirectory) -> Result<Self> {
        let path = directory.catalog_file();
        match std::fs::read(&path) {
            Ok(bytes) => {
                let mut schemas = read_file(&bytes).map_err(|reason| CatalogError::Corrupt { path, reason })?;
                schemas.entry(DEFAULT_SCHEMA.to_owned()).or_default();
                Ok(Self { schemas })
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self::first(directory),
            Err(source) => Err(CatalogError::Io { action: "reading", path, source }),
        }
    }

    /// Of a directory without catalog file. From now on there is one, so that a missing one means that it was removed.
    fn first(directory: &DataDirectory) -> Result<Self> {
        let (path, tables) = (directory.catalog_file(), directory.tables());
        if !is_empty(&tables).map_err(io("reading", &tables))? {
            return Err(CatalogError::Gone { path, tables });
        }
        let first = Self { schemas: BTreeMap::from([(DEFAULT_SCHEMA.to_owned(), Tables::new())]) };
        if !directory.is_temporary() {
            first.save(directory)?;
        }
        Ok(first)
    }

    fn save(&self, directory: &DataDirectory) -> Result<()> {
        let tables = |tables: &Tables| tables.iter().map(|(name, table)| (name.clone(), (**table).clone())).collect();
        let schemas = self.schemas.iter().map(|(name, schema)| (name.clone(), tables(schema))).collect();
        let file = CatalogFile { version: FILE_VERSION, schemas };
        let bytes = serde_json::to_vec_pretty(&file)
            .map_err(|error| CatalogError::Invalid(format!("the definition cannot be kept: {error}")))?;
        let path = directory.catalog_file();
        durable::replace(&path, &bytes).map_err(io("writing", &path))
    }

    fn managed(&self) -> impl Iterator<Item = &Managed> {
        let definitions = self.schemas.values().flat_map(|tables| tables.values());
        definitions.filter_map(|definition| definition.managed())
    }

    /// Directories of the managed tables.
    fn directories(&self) -> HashSet<String> {
        self.managed().map(|managed| managed.directory.clone()).collect()
    }

    /// Parts that are named here and not in `other`. A directory belongs to one table of one name.
    fn parts_not_in(&self, other: &Self) -> Vec<Part> {
        let mut parts = Vec::new();
        for (schema, tables) in &self.schemas {
            for (name, definition) in tables {
                let other = other.schemas.get(schema).and_then(|tables| tables.get(name));
                if other.is_some_and(|other| Arc::ptr_eq(other, definition)) {
                    continue;
                }
                let there: HashSet<Part> =
                    other.and_then(|other| other.managed()).into_iter().flat_map(Managed::all_parts).collect();
                let here = definition.managed().into_iter().flat_map(Managed::all_parts);
                parts.extend(here.filter(|part| !there.contains(part)));
            }
        }
        parts
    }
}

/// The text of a catalog file.
pub(super) fn is_catalog(bytes: &[u8]) -> bool {
    read_file(bytes).is_ok()
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
    use std::path::Path;

    use super::super::definition::StoredSchema;
    use super::*;

    fn open(path: &Path) -> Arc<Catalog> {
        Catalog::open(DataDirectory::open(Some(path), path).unwrap()).unwrap()
    }

    fn managed(directory: &str) -> Definition {
        Definition::Managed(Managed {
            directory: directory.to_owned(),
            parts: vec!["p-0".to_owned()],
            columns: StoredSchema::default(),
            constraints: vec![],
            defaults: BTreeMap::new(),
        })
    }

    /// A file as our writers name it.
    const FILE: &str = "0123456789abcdef-00000-000-0.parquet";

    /// The directory of table `t`, part `p-0` and a file in it.
    fn write_part(catalog: &Catalog, directory: &str) -> Part {
        let part = Part::new(directory, "p-0");
        catalog.files().begin(&part).unwrap();
        write(&part.path(&catalog.directory().tables()).join(FILE));
        part
    }

    fn write(path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "rows").unwrap();
    }

    #[test]
    fn a_restart_keeps_definitions_and_removes_what_was_begun() {
        let root = tempfile::tempdir().unwrap();
        let name = TableName::new("public", "t");
        let catalog = open(root.path());
        catalog.create_schema("s2", false).unwrap();
        let (kept, begun) = ("t-00000000000000aa", "u-00000000000000bb");
        write_part(&catalog, kept);
        catalog.create(&name, managed(kept), OnExists::Fail).unwrap();
        write_part(&catalog, begun);
        drop(catalog);
        let catalog = open(root.path());
        assert_eq!(catalog.get(&name).as_deref(), Some(&managed(kept)));
        assert_eq!(catalog.schema_names(), ["public", "s2"]);
        let tables = catalog.directory().tables();
        assert!(tables.join(kept).join("p-0").join(FILE).exists() && !tables.join(begun).exists());
        assert_eq!(std::fs::read_dir(root.path().join("unnamed")).unwrap().count(), 0);
    }

    #[test]
    fn files_of_others_survive_a_restart_and_a_drop() {
        let root = tempfile::tempdir().unwrap();
        let catalog = open(root.path());
        let (name, directory) = (TableName::new("public", "t"), "t-00000000000000aa");
        let part = write_part(&catalog, directory);
        catalog.create(&name, managed(directory), OnExists::Fail).unwrap();
        let tables = catalog.directory().tables();
        let strangers =
            ["mine.csv", "mine/a.parquet", "t-00000000000000aa/mine.csv", "t-00000000000000aa/p-0/mine.parquet"];
        // In none of these is a note of a begun statement.
        let unknown = [
            "old-00000000000000cc/p-0/0123456789abcdef-00000-000-0.parquet",
            "../unnamed/notes.txt",
            "../writes/mine.txt",
        ];
        let others: Vec<_> = strangers.iter().chain(&unknown).map(|name| tables.join(name)).collect();
        others.iter().for_each(|path| write(path));
        drop(catalog);
        let catalog = open(root.path());
        assert!(others.iter().all(|path| path.exists()), "{others:?}");
        catalog.drop_table(&name, "table", false).unwrap();
        assert!(!part.path(&tables).join(FILE).exists(), "what was ours is gone");
        drop(catalog);
        drop(open(root.path()));
        assert!(others.iter().all(|path| path.exists()), "{others:?}");
    }

    #[test]
    fn a_catalog_that_is_gone_or_older_costs_no_files() {
        let root = tempfile::tempdir().unwrap();
        let catalog = open(root.path());
        let (directory, file) = ("t-00000000000000aa", root.path().join("catalog.json"));
        let backup = std::fs::read(&file).expect("there is one from the beginning");
        let part = write_part(&catalog, directory);
        catalog.create(&TableName::new("public", "t"), managed(directory), OnExists::Fail).unwrap();
        let part = part.path(&catalog.directory().tables()).join(FILE);
        drop(catalog);
        std::fs::remove_file(&file).unwrap();
        let gone = Catalog::open(DataDirectory::open(Some(root.path()), root.path()).unwrap()).unwrap_err();
        assert!(matches!(gone, CatalogError::Gone { .. }) && gone.to_string().contains("backup"), "{gone}");
        std::fs::write(&file, backup).unwrap();
        drop(open(root.path()));
        assert!(part.exists(), "a backup without the table is no reason to remove it");
    }

    #[test]
    fn names_are_taken_once_and_dropping_removes_files() {
        let root = tempfile::tempdir().unwrap();
        let catalog = open(root.path());
        let name = TableName::new("public", "orders");
        let (one, two) = ("o-00000000000000aa", "o-00000000000000bb");
        write_part(&catalog, one);
        let files = catalog.directory().tables().join(one);
        assert!(catalog.create(&name, managed(one), OnExists::Fail).unwrap());
        assert!(matches!(catalog.create(&name, managed(two), OnExists::Fail), Err(CatalogError::Exists { .. })));
        assert!(!catalog.create(&name, managed(two), OnExists::Keep).unwrap());
        let error = catalog.drop_table(&TableName::new("public", "ordres"), "table", false).unwrap_err().to_string();
        assert!(error.contains("did you mean `orders`"), "{error}");
        assert!(catalog.drop_table(&name, "view", false).unwrap_err().to_string().contains("DROP TABLE"));
        assert!(files.exists());
        assert!(catalog.drop_table(&name, "table", false).unwrap());
        assert!(!files.exists());
        assert!(!catalog.drop_table(&name, "table", true).unwrap());
    }

    #[test]
    fn a_corrupt_catalog_is_refused_and_not_overwritten() {
        let root = tempfile::tempdir().unwrap();
        drop(open(root.path()));
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
        catalog.create(&TableName::new("s", "t"), managed("t-00000000000000aa"), OnExists::Fail).unwrap();
        assert!(matches!(catalog.drop_schema("s", false, false), Err(CatalogError::NotEmpty { tables: 1, .. })));
        assert!(catalog.drop_schema("s", false, true).unwrap());
        assert!(catalog.drop_schema("public", false, true).is_err());
    }
}
