//! [`OpenUploads`]: the uploads of writes that have not ended, so that none outlives its write.
//!
//! ```text
//!   coordinator:  OpenUploads::begin(query)
//!   writer:       UploadLog --(a message, when it is a function)--> OpenUploads::note(query, path, upload)
//!   coordinator:  OpenUploads::end(query) -> all of them; those that did not become files are aborted
//! ```
//!
//! A function says so before it uploads a part: what it began is known however it ends.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;

use object_store::path::Path;
use onward_wire::QueryId;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

/// Uploads begun by writes that run, by query.
#[derive(Default)]
pub struct OpenUploads {
    by_query: Mutex<HashMap<QueryId, Vec<(Path, String)>>>,
    background: TaskTracker,
    elsewhere: Option<Box<NoteElsewhere>>,
}

type NoteElsewhere = dyn Fn(QueryId, Path, String) + Send + Sync;

impl OpenUploads {
    /// Keeps nothing: `note` tells whoever does.
    pub fn elsewhere(note: impl Fn(QueryId, Path, String) + Send + Sync + 'static) -> Self {
        Self { elsewhere: Some(Box::new(note)), ..Self::default() }
    }

    /// From now on uploads of `query` are noted.
    pub fn begin(&self, query: QueryId) {
        self.by_query.lock().entry(query).or_default();
    }

    /// An upload was begun. Nothing happens when `query` is not writing any more: its writer was cancelled and takes the
    /// upload back itself.
    pub fn note(&self, query: QueryId, path: Path, upload: String) {
        if let Some(note) = &self.elsewhere {
            note(query, path, upload);
        } else if let Some(uploads) = self.by_query.lock().get_mut(&query) {
            uploads.push((path, upload));
        }
    }

    /// The write is over. Gives all uploads it began: path, and the store's name for the upload.
    pub fn end(&self, query: QueryId) -> Vec<(Path, String)> {
        self.by_query.lock().remove(&query).unwrap_or_default()
    }

    /// Runs what is left to do for a write in the background; [`Self::settled`] waits for it.
    pub fn spawn_on<T: Send + 'static>(
        &self,
        runtime: &Handle,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.background.spawn_on(work, runtime)
    }

    /// Resolves when everything that was spawned has ended.
    pub async fn settled(&self) {
        self.background.close();
        self.background.wait().await;
        self.background.reopen();
    }
}

impl fmt::Debug for OpenUploads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenUploads").field("by_query", &self.by_query.lock()).finish_non_exhaustive()
    }
}

/// Told of every upload as it begins. Writers find it in the settings of what they run
/// (`SessionConfig::with_extension`).
pub struct UploadLog(Box<Note>);

type Note = dyn Fn(&Path, &str) + Send + Sync;

impl UploadLog {
    /// Calls `note` with the path and the store's name for the upload.
    pub fn new(note: impl Fn(&Path, &str) + Send + Sync + 'static) -> Self {
        Self(Box::new(note))
    }

    /// An upload was begun.
    pub fn note(&self, path: &Path, upload: &str) {
        (self.0)(path, upload);
    }
}

impl fmt::Debug for UploadLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UploadLog")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn uploads_are_known_from_begin_to_end() {
        let (open, query) = (OpenUploads::default(), QueryId(7));
        open.note(query, "early".into(), "u0".into());
        open.begin(query);
        open.note(query, "a".into(), "u1".into());
        open.note(QueryId(8), "other".into(), "u2".into());
        assert_eq!(open.end(query), [("a".into(), "u1".to_owned())]);
        open.note(query, "late".into(), "u3".into());
        assert_eq!(open.end(query), []);
    }

    #[tokio::test]
    async fn what_was_spawned_is_waited_for() {
        let open = OpenUploads::default();
        open.settled().await;
        let (sender, mut receiver) = tokio::sync::oneshot::channel();
        open.spawn_on(&Handle::current(), async { sender.send(()).expect("a receiver") });
        open.settled().await;
        assert_eq!(receiver.try_recv(), Ok(()));
    }
}
