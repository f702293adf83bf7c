//! [`Leftovers`]: what is there of a write that is over and must not stay.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use datafusion::object_store::path::Path as StorePath;
use onward_wire::QueryId;
use url::Url;

use super::journal::{Journal, remove_staging};
use super::local::MadeDirectories;
use super::remote;
use crate::catalog::Part;
use crate::session::SharedResources;

/// Files, directories and uploads of a write that is over. They are removed once nobody works for the write any more: a
/// writer that is not done could bring them back.
#[derive(Debug)]
pub struct Leftovers {
    pub(super) shared: Arc<SharedResources>,
    pub(super) url: Url,
    /// Names the write in the journal.
    pub(super) id: String,
    /// Its staging directory.
    pub(super) staging: Option<PathBuf>,
    /// Files that no table names.
    pub(super) part: Option<Part>,
    /// Directories that go if they are empty.
    pub(super) made: MadeDirectories,
    /// Whose noted uploads are aborted.
    pub(super) query: QueryId,
    /// More uploads.
    pub(super) uploads: Vec<(StorePath, String)>,
    /// Uploads that are objects now, or were taken back.
    pub(super) ended: HashSet<(StorePath, String)>,
}

impl Leftovers {
    /// Removes files and directories. Blocking. What cannot be removed stays in the journal, for the next start.
    pub fn remove_files(&mut self) {
        if let Some(staging) = self.staging.take() {
            match remove_staging(&staging) {
                Ok(()) => self.journal().end(&self.id),
                Err(error) => {
                    let path = staging.display();
                    tracing::warn!(%path, %error, "what a write staged could not be removed: the next start tries again");
                }
            }
        }
        if let Some(part) = self.part.take() {
            self.shared.catalog().files().remove([&part]);
        }
        self.made.remove_empty();
    }

    /// Uploads to abort. From here on none is noted any more.
    pub fn take_uploads(&mut self) -> Vec<(StorePath, String)> {
        let mut uploads = self.shared.stores().uploads().end(self.query);
        uploads.append(&mut self.uploads);
        uploads.sort();
        uploads.dedup();
        uploads.retain(|upload| !self.ended.contains(upload));
        uploads
    }

    /// Takes back uploads that did not become objects.
    pub async fn abort(&self, uploads: Vec<(StorePath, String)>) {
        if !uploads.is_empty()
            && let Ok(store) = self.shared.stores().handle(&self.url)
        {
            remote::abort(&store, &uploads).await;
        }
    }

    fn journal(&self) -> Journal {
        Journal::new(self.shared.catalog().directory().path())
    }
}
