//! [`Write`]: a write from its plan to its commit.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::RecordBatch;
use datafusion::common::Result;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::LogicalPlan;
use datafusion::object_store::path::Path as StorePath;
use onward_cache::paths::{local_path, local_path_of_url};
use onward_executor::write::{StagedPlace, read_manifest};
use onward_wire::QueryId;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::journal::Journal;
use super::leftovers::Leftovers;
use super::local::{self, MadeDirectories, Rename, failed};
use super::place::Place;
use super::remote::{self, Upload};
use crate::catalog::definition::{Definition, Managed};
use crate::catalog::{CatalogError, OnExists, Part, TableName};
use crate::session::SharedResources;

/// Tries to make a staging directory, each lost to a write that just now took back the directory around it.
const MAX_TRIES: usize = 16;
/// What attempts that lost their race still stage is removed before the answer to a commit, when they end this soon.
const SETTLE_TIME: Duration = Duration::from_millis(100);

/// A write that has not ended. Dropping it before it is committed removes what was staged, as soon as nobody works for
/// it any more; in the background, when that is later.
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
    uploads: Vec<Upload>,
    /// Notes its uploads, from `begin` to its end.
    query: Option<QueryId>,
    /// Uploads that are objects now, or were taken back.
    ended: HashSet<(StorePath, String)>,
    /// Whoever may still stage files or begin uploads holds a token of it.
    workers: TaskTracker,
    /// Where clean-up runs in the background; set by `begin`.
    runtime: Option<Handle>,
    /// Its files stay: the catalog names them, or may.
    is_kept: bool,
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
            workers: TaskTracker::new(),
            runtime: None,
            is_kept: false,
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
        self.runtime = Handle::try_current().ok();
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
        self.journal().begin(&self.place.id, &staging).map_err(failed("writing", &staging))?;
        self.staging = Some(staging.clone());
        self.make_staging(&directory, &staging)
    }

    fn make_staging(&mut self, directory: &Path, staging: &Path) -> Result<()> {
        for _ in 0..MAX_TRIES {
            self.made.make(directory)?;
            match std::fs::create_dir(staging) {
                // Another write that was taken back made the directory, and has just removed it again.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                made => return Ok(made.map_err(failed("writing to", directory))?),
            }
        }
        Err(failed("writing to", directory)(io::ErrorKind::NotFound.into()).into())
    }

    /// Held by whoever may still stage a file or begin an upload for this write: nothing is taken back before it is
    /// dropped.
    pub fn worker(&self) -> TaskTrackerToken {
        self.workers.token()
    }

    /// Takes one batch of the plan's result: files that a committed attempt staged.
    pub fn add(&mut self, manifest: &RecordBatch) -> Result<()> {
        for file in read_manifest(manifest)? {
            self.rows += file.rows;
            match file.place {
                StagedPlace::Path(staged) => {
                    self.renames.push(Rename { staged: local_path(&staged), path: local_path(&file.path) });
                }
                StagedPlace::Upload(parts) => {
                    self.uploads.push(Upload { path: file.path, parts, bytes: file.bytes });
                }
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
        self.uploads.sort_by(|a, b| a.path.cmp(&b.path));
        if !self.uploads.is_empty() {
            let store = self.shared.stores().handle(&self.place.url)?;
            let uploads = std::mem::take(&mut self.uploads);
            self.ended = uploads.iter().map(Upload::name).collect();
            // Names in a directory are made up for this write.
            let has_own_names = !self.place.is_single_file;
            let published = remote::publish(&store, &uploads, has_own_names).await;
            self.shared.stores().checks().forget();
            published.map_err(|error| self.named(error))?;
        }
        // The rest is local and blocks.
        let work = tokio::task::spawn_blocking(move || {
            let published = self.publish();
            (self, published)
        });
        let joined = |error| DataFusionError::ExecutionJoin(Box::new(error));
        let (write, published) = work.await.map_err(joined)?;
        write.workers.close();
        // Later than that it is removed in the background.
        let _ = tokio::time::timeout(SETTLE_TIME, write.workers.wait()).await;
        tokio::task::spawn_blocking(move || drop(write)).await.map_err(joined)?;
        published
    }

    fn publish(&mut self) -> Result<u64> {
        let is_managed = !matches!(self.then, Then::Nothing);
        let renames = std::mem::take(&mut self.renames);
        local::publish(&renames, &mut self.made, is_managed)?;
        self.finish()
    }

    /// The catalog names the files. A part directory is there even when there are no rows.
    fn finish(&mut self) -> Result<u64> {
        let catalog = self.shared.catalog();
        if let Some(part) = self.then.part() {
            catalog.files().sync(&part)?;
        }
        let named = self.name_files();
        // Whether a change was made that a coordinator was deposed over, the next one knows: it removes what is not named.
        self.is_kept = matches!(named, Ok(true) | Err(CatalogError::Deposed(_)));
        // Another one was faster, and IF NOT EXISTS keeps its table: none of these rows is in it.
        Ok(if named? { self.rows } else { 0 })
    }

    /// False: the catalog names other files by this name.
    fn name_files(&self) -> Result<bool, CatalogError> {
        let catalog = self.shared.catalog();
        match self.then.clone() {
            Then::Nothing => Ok(true),
            Then::Create { name, definition, on_exists } => catalog.create(&name, *definition, on_exists),
            Then::AddPart { name, directory, part, is_overwrite } => {
                let altered = catalog.alter(&name, |definition| {
                    let Some(managed) = definition.managed().filter(|managed| managed.directory == directory) else {
                        return Err(changed_meanwhile(&name));
                    };
                    let kept = if is_overwrite { &[][..] } else { &managed.parts };
                    let parts = kept.iter().chain([&part]).cloned().collect();
                    Ok(Definition::Managed(Managed { parts, ..managed.clone() }))
                });
                altered.map(|_| true)
            }
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
        // Nothing was touched before `begin`.
        let Some(query) = self.query.take() else { return };
        let is_kept = self.is_kept;
        let uploads = std::mem::take(&mut self.uploads).into_iter();
        let mut leftovers = Leftovers {
            shared: Arc::clone(&self.shared),
            url: self.place.url.clone(),
            id: self.place.id.clone(),
            staging: self.staging.take(),
            // Files of a part that the catalog does not name are nobody's.
            part: self.then.part().filter(|_| !is_kept),
            made: if is_kept { MadeDirectories::default() } else { std::mem::take(&mut self.made) },
            query,
            uploads: uploads.map(|upload| upload.name()).collect(),
            ended: std::mem::take(&mut self.ended),
        };
        let background = Arc::clone(self.shared.stores().uploads());
        self.workers.close();
        let Some(runtime) = self.runtime.take().filter(|_| !self.workers.is_empty()) else {
            leftovers.remove_files();
            let uploads = leftovers.take_uploads();
            if !uploads.is_empty()
                && let Ok(runtime) = Handle::try_current()
            {
                background.spawn_on(&runtime, async move { leftovers.abort(uploads).await });
            }
            return;
        };
        let workers = self.workers.clone();
        background.spawn_on(&runtime, async move {
            workers.wait().await;
            let removed = tokio::task::spawn_blocking(move || {
                leftovers.remove_files();
                leftovers
            });
            // An error means that the runtime ends: the journal remembers.
            if let Ok(mut leftovers) = removed.await {
                let uploads = leftovers.take_uploads();
                leftovers.abort(uploads).await;
            }
        });
    }
}

fn changed_meanwhile(name: &TableName) -> CatalogError {
    CatalogError::Invalid(format!("table `{name}` was dropped or replaced while rows were written to it: try again"))
}
