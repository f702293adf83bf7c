//! The stores of an attempt, none of which this process reaches by itself: local files come as descriptors from the host, which
//! also talks to remote stores.

use std::collections::VecDeque;
use std::fmt;
use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartId, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use onward_cache::paths::local_path;
use onward_cache::{StoreError, StoreHandle, StoreSource, store_key};
use onward_wire::{AttemptId, WireError};
use parking_lot::Mutex;
use url::Url;

use super::link::Link;

/// Files of one attempt that stay open between reads.
const MOST_OPEN: usize = 64;
/// How errors of local files are called by the store that the coordinator uses.
const LOCAL: &str = "LocalFileSystem";

/// Where an attempt has its stores from.
#[derive(Debug)]
pub(super) struct HostStores {
    link: Arc<Link>,
    attempt: AttemptId,
    files: Arc<HostFiles>,
}

impl HostStores {
    pub(super) fn new(link: Arc<Link>, attempt: AttemptId) -> Arc<Self> {
        let files = Arc::new(HostFiles { link: Arc::clone(&link), attempt, open: Mutex::default() });
        Arc::new(Self { link, attempt, files })
    }
}

impl StoreSource for HostStores {
    fn handle(&self, url: &Url) -> Result<StoreHandle, StoreError> {
        if url.scheme() == "file" {
            let store = Arc::clone(&self.files) as Arc<dyn ObjectStore>;
            return Ok(StoreHandle { store, multipart: None, is_local: true });
        }
        let store = format!("{}/", store_key(url));
        Ok(StoreHandle::remote(HostObjects { link: Arc::clone(&self.link), attempt: self.attempt, store }))
    }
}

/// Files of this machine that the attempt may read, and where it may write.
pub(super) struct HostFiles {
    link: Arc<Link>,
    attempt: AttemptId,
    /// The last ones used come last.
    open: Mutex<VecDeque<(Path, Arc<File>)>>,
}

impl HostFiles {
    /// A descriptor of its own, with a position of its own.
    async fn open(&self, location: &Path) -> Result<File> {
        match self.link.open_file(self.attempt, location, false).await {
            Ok(Ok(file)) => Ok(File::from(file)),
            Ok(Err(error)) => Err(named(error, location, "open")),
            Err(error) => Err(failed(error)),
        }
    }

    /// For reads that say where: the file as it was when the attempt first asked for it, unless many others were since.
    async fn kept(&self, location: &Path) -> Result<Arc<File>> {
        let known = {
            let mut open = self.open.lock();
            let at = open.iter().position(|(path, _)| path == location);
            at.and_then(|at| open.remove(at)).inspect(|entry| open.push_back(entry.clone()))
        };
        if let Some((_, file)) = known {
            return Ok(file);
        }
        let file = Arc::new(self.open(location).await?);
        let mut open = self.open.lock();
        open.push_back((location.clone(), Arc::clone(&file)));
        if open.len() > MOST_OPEN {
            open.pop_front();
        }
        Ok(file)
    }
}

#[async_trait]
impl ObjectStore for HostFiles {
    async fn put_opts(&self, location: &Path, payload: PutPayload, _: PutOptions) -> Result<PutResult> {
        let mut upload = self.put_multipart_opts(location, PutMultipartOptions::default()).await?;
        upload.put_part(payload).await?;
        upload.complete().await
    }

    async fn put_multipart_opts(&self, location: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        match self.link.open_file(self.attempt, location, true).await {
            Ok(Ok(file)) => Ok(Box::new(NewFile::new(File::from(file), location.clone()))),
            Ok(Err(error)) => Err(named(error, location, "create")),
            Err(error) => Err(failed(error)),
        }
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let (file, metadata) = if options.head {
            let file = self.kept(location).await?;
            (None, file.metadata())
        } else {
            // Readers of a whole file move its position.
            let file = self.open(location).await?;
            let metadata = file.metadata();
            (Some(file), metadata)
        };
        let meta = meta(&metadata.map_err(|error| named(error, location, "open"))?, location);
        options.check_preconditions(&meta)?;
        let range = match &options.range {
            Some(range) => range.as_range(meta.size).map_err(|error| generic(error.into()))?,
            None => 0..meta.size,
        };
        let payload = match file {
            Some(file) => GetResultPayload::File(file, local_path(location)),
            None => GetResultPayload::Stream(Box::pin(futures::stream::empty())),
        };
        Ok(GetResult { payload, meta, range, attributes: Attributes::default() })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let (file, ranges, location) = (self.kept(location).await?, ranges.to_vec(), location.clone());
        let read = move || {
            let read = |range: Range<u64>| {
                let mut bytes = vec![0; range.end.saturating_sub(range.start) as usize];
                file.read_exact_at(&mut bytes, range.start).map_err(|error| named(error, &location, "read"))?;
                Ok(Bytes::from(bytes))
            };
            ranges.into_iter().map(read).collect()
        };
        tokio::task::spawn_blocking(read).await?
    }

    fn delete_stream(&self, _: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        Box::pin(futures::stream::once(async { Err(not_here("deletes")) }))
    }

    fn list(&self, _: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        Box::pin(futures::stream::once(async { Err(not_here("lists")) }))
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        Err(not_here("lists"))
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(not_here("copies"))
    }
}

impl fmt::Debug for HostFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostFiles({} open)", self.open.lock().len())
    }
}

impl fmt::Display for HostFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{LOCAL}(file:///)")
    }
}

/// What the system says of a file, as [`object_store::local`] tells it.
fn meta(metadata: &Metadata, location: &Path) -> ObjectMeta {
    let modified = metadata.modified().unwrap_or(UNIX_EPOCH);
    let micros = modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    ObjectMeta {
        location: location.clone(),
        last_modified: modified.into(),
        size: metadata.len(),
        e_tag: Some(format!("{:x}-{micros:x}-{:x}", metadata.ino(), metadata.len())),
        version: None,
    }
}

/// A file that is being written, under its name from the start: nobody looks where it lies before it is whole.
#[derive(Debug)]
struct NewFile {
    file: Arc<File>,
    location: Path,
    bytes: u64,
    is_whole: bool,
}

impl NewFile {
    fn new(file: File, location: Path) -> Self {
        Self { file: Arc::new(file), location, bytes: 0, is_whole: false }
    }
}

#[async_trait]
impl MultipartUpload for NewFile {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (file, location, mut at) = (Arc::clone(&self.file), self.location.clone(), self.bytes);
        self.bytes += data.content_length() as u64;
        Box::pin(async move {
            let write = move || {
                for part in data.iter() {
                    file.write_all_at(part, at).map_err(|error| named(error, &location, "write"))?;
                    at += part.len() as u64;
                }
                Ok(())
            };
            tokio::task::spawn_blocking(write).await?
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.is_whole = true;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn abort(&mut self) -> Result<()> {
        self.file.set_len(0).map_err(|error| named(error, &self.location, "truncate"))
    }
}

impl Drop for NewFile {
    /// Its directory goes when the write is over; its bytes need not wait for that.
    fn drop(&mut self) {
        if !self.is_whole {
            let _ = self.file.set_len(0);
        }
    }
}

/// Objects of a remote store: read through the range tier (see [`super::ranges`]), written by uploads.
pub(super) struct HostObjects {
    link: Arc<Link>,
    attempt: AttemptId,
    /// Its base URL.
    store: String,
}

#[async_trait]
impl ObjectStore for HostObjects {
    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        Err(not_here("puts"))
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(not_here("puts"))
    }

    async fn get_opts(&self, _: &Path, _: GetOptions) -> Result<GetResult> {
        Err(not_here("reads objects that its stage does not name"))
    }

    fn delete_stream(&self, _: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        Box::pin(futures::stream::once(async { Err(not_here("deletes")) }))
    }

    fn list(&self, _: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        Box::pin(futures::stream::once(async { Err(not_here("lists")) }))
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        Err(not_here("lists"))
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(not_here("copies"))
    }
}

#[async_trait]
impl MultipartStore for HostObjects {
    async fn create_multipart(&self, path: &Path) -> Result<MultipartId> {
        self.link.begin_upload(self.attempt, &self.store, path).await.map_err(failed)
    }

    async fn put_part(&self, path: &Path, id: &MultipartId, index: usize, data: PutPayload) -> Result<PartId> {
        let content_id =
            self.link.put_part(self.attempt, &self.store, path, id, index, data.into()).await.map_err(failed)?;
        Ok(PartId { content_id })
    }

    async fn complete_multipart(&self, _: &Path, _: &MultipartId, _: Vec<PartId>) -> Result<PutResult> {
        Err(not_here("completes uploads"))
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<()> {
        self.link.abort_upload(&self.store, path, id);
        Ok(())
    }
}

impl fmt::Debug for HostObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostObjects({})", self.store)
    }
}

impl fmt::Display for HostObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.store)
    }
}

/// What could not be done with a file, and why.
#[derive(Debug, thiserror::Error)]
#[error("Unable to {what} file {path}: {source}", path = path.display())]
struct FileError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

fn named(source: io::Error, location: &Path, what: &'static str) -> Error {
    let path = local_path(location);
    match source.kind() {
        io::ErrorKind::NotFound => Error::NotFound { path: path.display().to_string(), source: Box::new(source) },
        _ => generic(Box::new(FileError { what, path, source })),
    }
}

fn generic(source: Box<dyn std::error::Error + Send + Sync>) -> Error {
    Error::Generic { store: LOCAL, source }
}

fn failed(error: WireError) -> Error {
    Error::Generic { store: "host", source: Box::new(error) }
}

fn not_here(what: &str) -> Error {
    let message = format!("a function {what} nowhere by itself");
    failed(WireError::new(onward_wire::ErrorKind::Internal, message))
}
