//! Opens files and makes uploads for one function: what its stages were defined with, and nothing else.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use object_store::PutPayload;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use onward_cache::paths::{local_path, store_path, store_path_of_url};
use onward_cache::{ExpectedVersions, OpenUploads, StoreError, StoreRegistry, store_key};
use onward_planner::error::classify;
use onward_wire::files::{AbortUpload, BeginUpload, FileOpened, OpenFile, PutPart, Uploaded};
use onward_wire::message::{DefineStage, RequestFailed, ToFunction};
use onward_wire::{AttemptId, ErrorKind, WireError};
use rustix::fs::{FileType, Mode, OFlags};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;
use url::Url;

use super::Shared;
use super::function::{Function, Serving};
use crate::socket::{Sender, SocketError};

/// Requests of one function at once; more is a broken function.
const MOST_REQUESTS: usize = 4096;
/// The store of local files.
const FILES: &str = "file:///";

/// What the attempts of a stage may read and write of stores.
#[derive(Debug)]
pub(super) struct Access {
    objects: ExpectedVersions,
    /// Base URL of a store, and the directory, prefix or object in it.
    writes: Option<(String, Path)>,
}

impl Access {
    /// As the stage was defined.
    pub(super) fn of(stage: &DefineStage) -> Self {
        let writes = Url::parse(&stage.writes).ok();
        let writes = writes.and_then(|url| Some((format!("{}/", store_key(&url)), store_path_of_url(&url).ok()?)));
        Self { objects: ExpectedVersions::new(&stage.objects), writes }
    }

    pub(super) fn may_read(&self, store: &str, path: &Path) -> bool {
        self.objects.has(store, path)
    }

    /// The object it writes, or one below the prefix.
    fn may_upload(&self, store: &str, path: &Path) -> bool {
        self.writes.as_ref().is_some_and(|(to, prefix)| to == store && path.prefix_matches(prefix))
    }

    /// A file right in the directory, whose name is a plain one.
    fn may_create(&self, path: &Path) -> bool {
        let is_in = |directory: &Path| {
            path.prefix_match(directory).is_some_and(|mut parts| parts.next().is_some() && parts.next().is_none())
        };
        self.writes.as_ref().is_some_and(|(store, directory)| store == FILES && is_in(directory))
    }
}

/// One function's use of files and remote stores.
pub(super) struct FileService {
    stores: Arc<StoreRegistry>,
    uploads: Arc<OpenUploads>,
    ended: Arc<Notify>,
    function: Arc<Function>,
    sender: Sender<ToFunction>,
    /// They end with the function,
    requests: JoinSet<()>,
    /// these before it is gone,
    opening: TaskTracker,
    /// and these by themselves: an upload is begun, or taken back, whatever becomes of the function.
    detached: TaskTracker,
}

impl FileService {
    pub(super) fn new(host: &Shared, function: Arc<Function>, sender: Sender<ToFunction>) -> Self {
        let (stores, uploads, ended) = (Arc::clone(&host.stores), Arc::clone(&host.uploads), Arc::clone(&host.ended));
        let (opening, detached) = (TaskTracker::new(), TaskTracker::new());
        Self { stores, uploads, ended, function, sender, requests: JoinSet::new(), opening, detached }
    }

    /// Resolves when no file is being made for it any more.
    pub(super) async fn take_back(self) {
        self.opening.close();
        self.opening.wait().await;
    }

    /// Opens a file, in a task of its own.
    pub(super) fn open(&mut self, asked: OpenFile) -> Result<(), String> {
        let OpenFile { request, attempt, path, is_new } = asked;
        let location = store_path(&path).map_err(|error| format!("it opens no file: {error}"))?;
        let serving = self.function.serve(&self.ended, attempt.into(), |access| match is_new {
            true => access.may_create(&location),
            false => access.may_read(FILES, &location),
        });
        let (sender, opening) = (self.sender.clone(), self.opening.clone());
        self.spawn(async move {
            let Some(serving) = serving else {
                return fail(&sender, request, denied(&format!("/{location}"))).await;
            };
            // Opening waits for disks and for the network, where that is what files lie on. It may go on when nobody waits.
            let opening = opening.spawn_blocking(move || {
                let _serving = serving;
                open(&location, is_new)
            });
            let opened = opening.await;
            let (errno, files) = match opened {
                Ok(Ok(file)) => (0, vec![file]),
                Ok(Err(error)) => (error.raw_os_error().unwrap_or(libc::EIO), vec![]),
                Err(error) => return fail(&sender, request, WireError::new(ErrorKind::Internal, error)).await,
            };
            answer(&sender, FileOpened { request, errno }, files).await;
        })
    }

    /// Begins an upload. It is begun to its end, and known, whatever becomes of the function.
    pub(super) fn begin_upload(&mut self, asked: BeginUpload) -> Result<(), String> {
        let BeginUpload { request, attempt, store, path } = asked;
        let attempt = AttemptId::from(attempt);
        let location = store_path(&path).map_err(|error| format!("it uploads to no object: {error}"))?;
        let allowed = self.upload_to(attempt, &store, &location);
        let (sender, uploads) = (self.sender.clone(), Arc::clone(&self.uploads));
        self.check_bound()?;
        self.detached.spawn(async move {
            let (store, _serving) = match allowed {
                Ok(allowed) => allowed,
                Err(error) => return fail(&sender, request, error).await,
            };
            match store.create_multipart(&location).await {
                Ok(upload) => {
                    uploads.note(attempt.query(), location.clone(), upload.clone());
                    if !answer(&sender, Uploaded { request, name: upload.clone() }, vec![]).await {
                        // Its query may be over, and then nobody else takes it back. Twice does no harm.
                        let _ = store.abort_multipart(&location, &upload).await;
                    }
                }
                Err(error) => fail(&sender, request, classify(&error.into())).await,
            }
        });
        Ok(())
    }

    /// Uploads a part, in a task of its own.
    pub(super) fn put_part(&mut self, asked: PutPart) -> Result<(), String> {
        let PutPart { request, attempt, store, path, upload, index, bytes } = asked;
        let location = store_path(&path).map_err(|error| format!("it uploads to no object: {error}"))?;
        let allowed = self.upload_to(attempt.into(), &store, &location);
        let sender = self.sender.clone();
        self.spawn(async move {
            let (store, _serving) = match allowed {
                Ok(allowed) => allowed,
                Err(error) => return fail(&sender, request, error).await,
            };
            match store.put_part(&location, &upload, index as usize, PutPayload::from_bytes(bytes)).await {
                Ok(part) => drop(answer(&sender, Uploaded { request, name: part.content_id }, vec![]).await),
                Err(error) => fail(&sender, request, classify(&error.into())).await,
            }
        })
    }

    /// Takes an upload back.
    pub(super) fn abort_upload(&mut self, asked: AbortUpload) -> Result<(), String> {
        let AbortUpload { store, path, upload } = asked;
        let location = store_path(&path).map_err(|error| format!("it uploads to no object: {error}"))?;
        if !self.function.may(|access| access.may_upload(&store, &location)) {
            // Its query is over, and with it the upload: the coordinator takes back what was begun for it.
            return Ok(());
        }
        let Ok(store) = self.multipart(&store) else { return Ok(()) };
        self.check_bound()?;
        self.detached.spawn(async move {
            if let Err(error) = store.abort_multipart(&location, &upload).await {
                tracing::debug!(%location, %error, "an upload was not taken back; the coordinator tries again");
            }
        });
        Ok(())
    }

    fn upload_to(
        &self,
        attempt: AttemptId,
        store: &str,
        location: &Path,
    ) -> Result<(Arc<dyn MultipartStore>, Serving), WireError> {
        let serving = self.function.serve(&self.ended, attempt, |access| access.may_upload(store, location));
        let serving = serving.ok_or_else(|| denied(&format!("{store}{location}")))?;
        Ok((self.multipart(store)?, serving))
    }

    fn multipart(&self, store: &str) -> Result<Arc<dyn MultipartStore>, WireError> {
        let url = Url::parse(store).map_err(|error| WireError::new(ErrorKind::Internal, error))?;
        let handle = self.stores.handle(&url).map_err(|error| classify(&error.into()))?;
        handle.multipart.ok_or_else(|| {
            let reason = "this store has no multipart uploads";
            classify(&StoreError::ReadOnly { url: store.to_owned(), reason }.into())
        })
    }

    fn spawn(&mut self, work: impl Future<Output = ()> + Send + 'static) -> Result<(), String> {
        self.check_bound()?;
        self.requests.spawn(work);
        Ok(())
    }

    fn check_bound(&mut self) -> Result<(), String> {
        while self.requests.try_join_next().is_some() {}
        match self.requests.len() + self.detached.len() {
            ..MOST_REQUESTS => Ok(()),
            _ => Err(format!("it asks for {MOST_REQUESTS} files and uploads at once")),
        }
    }
}

/// Of a path that a stage names, or of a name that nobody has yet.
fn open(location: &Path, is_new: bool) -> io::Result<OwnedFd> {
    let path = local_path(location);
    if is_new {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        return Ok(rustix::fs::open(path, flags, Mode::from_raw_mode(0o666))?);
    }
    // A pipe is not waited for.
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
    match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
        FileType::RegularFile => Ok(file),
        _ => Err(io::Error::from_raw_os_error(libc::ENOENT)),
    }
}

fn denied(what: &str) -> WireError {
    WireError::new(ErrorKind::Denied, format!("`{what}` is no file of what this function runs"))
}

async fn fail(sender: &Sender<ToFunction>, request: u64, error: WireError) {
    answer(sender, RequestFailed { request, error }, vec![]).await;
}

/// False when the function is gone, or cannot be told and so has to go.
async fn answer(sender: &Sender<ToFunction>, message: impl Into<ToFunction>, files: Vec<OwnedFd>) -> bool {
    match sender.send(message, files).await {
        Ok(()) => true,
        Err(SocketError::Closed) => false,
        Err(error) => {
            tracing::warn!(%error, "a function cannot be answered: its connection ends");
            sender.close();
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use onward_wire::columns::ObjectTag;

    use super::*;

    #[test]
    fn a_stage_may_touch_what_it_names_and_nothing_else() {
        let tag =
            |store: &str, path: &str| ObjectTag { store: store.into(), path: path.into(), ..ObjectTag::default() };
        let objects = vec![tag("file:///", "data/a b.csv"), tag("s3://bucket/", "t/1.parquet")];
        let stage = |writes: &str| DefineStage { objects: objects.clone(), writes: writes.into(), ..<_>::default() };
        let path = |text: &str| store_path(text).unwrap();

        let access = Access::of(&stage("file:///out/.onward-1/"));
        assert!(access.may_read(FILES, &path("data/a b.csv")) && access.may_read("s3://bucket/", &path("t/1.parquet")));
        assert!(!access.may_read(FILES, &path("etc/shadow")) && !access.may_read("s3://bucket/", &path("t/2.parquet")));
        assert!(!access.may_read("s3://other/", &path("t/1.parquet")) && !access.may_read(FILES, &path("t/1.parquet")));
        assert!(access.may_create(&path("out/.onward-1/q-1-0")));
        for other in ["out/.onward-1", "out/q-1-0", "out/.onward-1/a/b", "out/.onward-11/a", "etc/cron.d/x"] {
            assert!(!access.may_create(&path(other)), "{other}");
        }
        assert!(!access.may_upload("s3://bucket/", &path("out/.onward-1/q-1-0")));

        let access = Access::of(&stage("s3://bucket/out/"));
        assert!(access.may_upload("s3://bucket/", &path("out/k=1/x.parquet")));
        assert!(!access.may_upload("s3://bucket/", &path("output/x.parquet")));
        assert!(
            !access.may_upload("s3://other/", &path("out/x.parquet")) && !access.may_create(&path("out/x.parquet"))
        );

        let access = Access::of(&stage(""));
        assert!(!access.may_upload("s3://bucket/", &path("x")) && !access.may_create(&path("x")));
    }
}
