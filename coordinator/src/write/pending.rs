//! [`Write`]: a write from its plan to its commit.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::common::Result;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::LogicalPlan;
use datafusion::object_store::path::Path as StorePath;
use onward_cache::UploadedParts;
use onward_cache::paths::{local_path, local_path_of_url};
use onward_executor::write::{StagedPlace, read_manifest};
use onward_wire::QueryId;

use super::journal::Journal;
use super::local::{self, MadeDirectories, Rename, failed};
use super::place::Place;
use super::remote;
use crate::catalog::definition::{Definition, Managed};
use crate::catalog::{CatalogError, OnExists, Part, TableName};
use crate::session::SharedResources;

/// A write that has not ended. Dropping it before it is committed removes what was staged; uploads to object stores are
/// taken back in the background.
#[derive(Debug)]
pub struct Write {
    plan: LogicalPlan,
    place: Place,
    shared: Arc<SharedResources>,
    then: Then,
    made: MadeDirectories,
    /// Made by `begin`, gone after commit or abort.
    staging: Option<PathBuf>,
    rows: u64,
    renames: Vec<Rename>,
    uploads: Vec<(StorePath, UploadedParts)>,
    /// Notes its uploads, from `begin` to its end.
    query: Option<QueryId>,
    /// Uploads that are objects now, or were taken back.
    ended: HashSet<String>,
    is_committed: bool,
}

/// What happens once the files are visible.
#[derive(Clone, Debug)]
pub enum Then {
    /// They are all there is.
    Nothing,
    /// A table is named.
    Create {
        /// Its name.
        name: TableName,
        /// What it is.
        definition: Box<Definition>,
        /// When the name was taken meanwhile.
        on_exists: OnExists,
    },
    /// A managed table gets one more part.
    AddPart {
        /// The table.
        name: TableName,
        /// Its directory, to notice that it was dropped and created anew meanwhile.
        directory: String,
        /// The part.
        part: String,
        /// The part replaces all others.
        is_overwrite: bool,
    },
}

impl Then {
    /// The part that is written.
    fn part(&self) -> Option<Part> {
        match self {
            Self::Nothing => None,
            Self::Create { definition, .. } => definition.managed().and_then(|managed| managed.all_parts().next()),
            Self::AddPart { directory, part, .. } => Some(Part::new(directory, part)),
        }
    }
}

impl Write {
    pub(super) fn new(plan: LogicalPlan, place: Place, shared: &Arc<SharedResources>, then: Then) -> Self {
        Self {
            plan,
            place,
            shared: shared.clone(),
            then,
            made: MadeDirectories::default(),
            staging: None,
            rows: 0,
            renames: vec![],
            uploads: vec![],
            query: None,
            ended: HashSet::new(),
            is_committed: false,
        }
    }

    /// What to plan (`onward_planner::plan_query`) and run. Its result rows are the manifest.
    pub fn plan(&self) -> &LogicalPlan {
        &self.plan
    }

    /// Makes the directories that functions of `query` write to; their uploads are noted from now on.
    ///
    /// # Errors
    /// Names the directory that cannot be made.
    pub fn begin(&mut self, query: QueryId) -> Result<()> {
        self.query = Some(query);
        self.shared.stores().uploads().begin(query);
        let (Some(directory), Some(staging)) = (self.place.directory.clone(), self.place.staging()) else {
            return Ok(());
        };
        if self.place.is_single_file
            && let Some(file) = local_path_of_url(&self.place.url)
            && file.is_dir()
        {
            return Err(CatalogError::Invalid(format!("`{}` is a directory", file.display())).into());
        }
        if let Some(part) = self.then.part() {
            self.shared.catalog().files().begin(&part)?;
        }
        self.made.make(&directory)?;
        self.journal().begin(&self.place.id, &staging).map_err(failed("writing", &staging))?;
        self.staging = Some(staging.clone());
        std::fs::create_dir(&staging).map_err(failed("writing to", &directory))?;
        Ok(())
    }

    /// Takes one batch of the plan's result: files that a committed attempt staged.
    pub fn add(&mut self, manifest: &RecordBatch) -> Result<()> {
        for file in read_manifest(manifest)? {
            self.rows += file.rows;
            match file.place {
                StagedPlace::Path(staged) => {
                    self.renames.push(Rename { staged: local_path(&staged), path: local_path(&file.path) });
                }
                StagedPlace::Upload(upload) => self.uploads.push((file.path, upload)),
            }
        }
        Ok(())
    }

    /// Makes the rows visible, once all batches of the result were added. Gives the number of rows written.
    ///
    /// Run it as a task of its own: dropped half-way, some files may be visible.
    ///
    /// # Errors
    /// Nothing new is visible after an error.
    pub async fn commit(mut self) -> Result<u64> {
        self.renames.sort_by(|a, b| a.path.cmp(&b.path));
        self.uploads.sort_by(|(a, _), (b, _)| a.cmp(b));
        if !self.uploads.is_empty() {
            let store = self.shared.stores().handle(&self.place.url)?;
            let uploads = std::mem::take(&mut self.uploads);
            self.ended = uploads.iter().map(|(_, upload)| upload.upload.clone()).collect();
            remote::publish(&store, &uploads).await.map_err(|error| self.named(error))?;
        }
        // The rest is local and blocks.
        let work = tokio::task::spawn_blocking(move || {
            let is_managed = !matches!(self.then, Then::Nothing);
            let renames = std::mem::take(&mut self.renames);
            local::publish(&renames, &mut self.made, is_managed)?;
            self.finish()
        });
        work.await.map_err(|error| DataFusionError::ExecutionJoin(Box::new(error)))?
    }

    /// The catalog names the files. A part directory is there even when there are no rows.
    fn finish(mut self) -> Result<u64> {
        let catalog = self.shared.catalog();
        if let Some(part) = self.then.part() {
            catalog.files().sync(&part)?;
        }
        match self.then.clone() {
            Then::Nothing => {}
            Then::Create { name, definition, on_exists } => {
                // Another one was faster, and IF NOT EXISTS keeps its table: none of these rows is in it.
                if !catalog.create(&name, *definition, on_exists)? {
                    return Ok(0);
                }
            }
            Then::AddPart { name, directory, part, is_overwrite } => {
                catalog.alter(&name, |definition| {
                    let Some(managed) = definition.managed().filter(|managed| managed.directory == directory) else {
                        return Err(changed_meanwhile(&name));
                    };
                    let kept = if is_overwrite { &[][..] } else { &managed.parts };
                    let parts = kept.iter().chain([&part]).cloned().collect();
                    Ok(Definition::Managed(Managed { parts, ..managed.clone() }))
                })?;
            }
        }
        self.is_committed = true;
        Ok(self.rows)
    }

    /// Takes back, in the background, what was uploaded and did not become an object: all of it, or what attempts made
    /// that were not committed.
    fn abort_uploads(&mut self) {
        let open = self.shared.stores().uploads();
        let mut uploads = self.query.map(|query| open.end(query)).unwrap_or_default();
        let added = std::mem::take(&mut self.uploads).into_iter().map(|(path, upload)| (path, upload.upload));
        uploads.extend(added);
        uploads.sort();
        uploads.dedup();
        uploads.retain(|(_, upload)| !self.ended.contains(upload));
        if !uploads.is_empty()
            && let Ok(store) = self.shared.stores().handle(&self.place.url)
        {
            open.spawn(async move { remote::abort(&store, &uploads).await });
        }
    }

    fn journal(&self) -> Journal {
        Journal::new(self.shared.catalog().directory().path())
    }

    fn named(&self, error: datafusion::object_store::Error) -> DataFusionError {
        DataFusionError::ObjectStore(Box::new(error)).context(format!("writing `{}` failed", self.place.url))
    }
}

impl Drop for Write {
    fn drop(&mut self) {
        if let Some(staging) = self.staging.take() {
            let _ = std::fs::remove_dir_all(&staging);
            self.journal().end(&self.place.id);
        }
        self.abort_uploads();
        if self.is_committed {
            return;
        }
        if let Some(part) = self.then.part().filter(|_| self.query.is_some()) {
            self.shared.catalog().files().remove([&part]);
        }
        self.made.remove_empty();
    }
}

fn changed_meanwhile(name: &TableName) -> CatalogError {
    CatalogError::Invalid(format!("table `{name}` was dropped or replaced while rows were written to it: try again"))
}
