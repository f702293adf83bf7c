//! [`StagingStore`]: an object store whose writes stay invisible.

use std::fmt;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use datafusion::common::Result as DfResult;
use datafusion::error::DataFusionError;
use datafusion::execution::object_store::ObjectStoreRegistry;
use futures::stream::BoxStream;
use object_store::path::{Path, PathPart};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use onward_cache::paths::{local_path, store_path};
use onward_cache::{DeferredUpload, UploadLog, UserWrite};
use onward_planner::error::classify;
use onward_wire::{ErrorKind, WireError};
use parking_lot::Mutex;
use url::Url;

use super::manifest::{StagedFile, StagedPlace};
use super::target::WriteTarget;

/// Takes the files that a DataFusion sink writes, under names of one partition of one attempt.
pub(super) struct StagingStore {
    inner: Arc<dyn ObjectStore>,
    target: Arc<WriteTarget>,
    /// Staged files go below it; `None`: into deferred uploads.
    staging: Option<Path>,
    /// Unique per attempt and partition.
    attempt: String,
    /// Task and partition: the same for all attempts.
    partition: String,
    /// Hears of uploads as they begin. Everything that may still stage a file holds it: the attempt ends with the last.
    log: Option<Arc<UploadLog>>,
    files: Arc<Mutex<Vec<StagedFile>>>,
    /// Files begun.
    begun: Mutex<usize>,
    failure: Arc<Failure>,
}

/// The first error of a store.
#[derive(Debug, Default)]
struct Failure(OnceLock<WireError>);

impl Failure {
    /// The store's error, with what was being written; a full disk keeps its kind.
    fn named(&self, path: &Path, is_local: bool, error: Error) -> Error {
        let wire = classify(&DataFusionError::ObjectStore(Box::new(error)));
        let slash = if is_local { "/" } else { "" };
        let message = format!("writing `{slash}{path}` failed: {}", wire.message);
        self.noted(WireError { message, ..wire })
    }

    fn noted(&self, wire: WireError) -> Error {
        let _ = self.0.set(wire.clone());
        Error::Generic { store: "onward", source: Box::new(wire) }
    }
}

impl StagingStore {
    pub(super) fn new(
        inner: Arc<dyn ObjectStore>,
        target: Arc<WriteTarget>,
        staging: Option<Path>,
        attempt: String,
        partition: String,
        log: Option<Arc<UploadLog>>,
    ) -> Self {
        Self {
            inner,
            target,
            staging,
            attempt,
            partition,
            log,
            files: Arc::default(),
            begun: Mutex::new(0),
            failure: Arc::default(),
        }
    }

    /// What was written whole, in the order of the final names.
    pub(super) fn files(&self) -> Vec<StagedFile> {
        let mut files = self.files.lock().clone();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files
    }

    /// The first error of the store, if there was one.
    pub(super) fn failure(&self) -> Option<WireError> {
        self.failure.0.get().cloned()
    }

    /// The final path of the file a sink calls `location`: the sink chooses the directory, we choose the name.
    fn final_path(&self, location: &Path, number: usize) -> Result<Path> {
        if self.target.is_single_file {
            return Ok(location.clone());
        }
        let WriteTarget { file_prefix, extension, partition_by, .. } = self.target.as_ref();
        let mut parts: Vec<String> = location.parts().map(|part| part.as_ref().to_owned()).collect();
        parts.pop();
        let partitions = parts.len().saturating_sub(partition_by.len());
        for (part, column) in parts[partitions..].iter_mut().zip(partition_by) {
            *part = partition_directory(part, column);
        }
        parts.push(format!("{file_prefix}-{}-{number}.{extension}", self.partition));
        store_path(&parts.join("/"))
    }

    /// The coordinator makes the staging directory and removes it when the write is over; the local store would make it
    /// again for an attempt that has not heard of its end yet.
    fn check_begun(&self, staging: &Path) -> Result<()> {
        if local_path(staging).is_dir() {
            return Ok(());
        }
        let message = format!("the write to `{}` is over", self.target.display());
        Err(self.failure.noted(WireError::new(ErrorKind::Cancelled, message)))
    }

    fn number(&self) -> usize {
        let mut begun = self.begun.lock();
        *begun += 1;
        *begun - 1
    }
}

/// The directory of a Hive partition: `k=<value>`, the value encoded as readers expect it, the name as it is. The sink encodes
/// both, and then no reader finds the column `größe` again.
fn partition_directory(part: &str, column: &str) -> String {
    let value = part.strip_prefix(PathPart::from(column).as_ref()).unwrap_or(part);
    format!("{column}{value}")
}

impl fmt::Debug for StagingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StagingStore({})", self.attempt)
    }
}

impl fmt::Display for StagingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for StagingStore {
    /// Sinks put small files at once: the same as an upload of one part.
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let PutOptions { tags, attributes, extensions, .. } = opts;
        let opts = PutMultipartOptions { tags, attributes, extensions };
        let mut upload = self.put_multipart_opts(location, opts).await?;
        upload.put_part(payload).await?;
        upload.complete().await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        mut opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let number = self.number();
        let path = self.final_path(location, number)?;
        let is_local = self.staging.is_some();
        let (staged, deferred) = match &self.staging {
            Some(directory) => {
                self.check_begun(directory)?;
                opts.extensions.insert(UserWrite);
                (directory.clone().join(format!("{}-{number}", self.attempt)), None)
            }
            None => {
                let deferred = DeferredUpload::logged(self.log.clone());
                opts.extensions.insert(deferred.clone());
                (path.clone(), Some(deferred))
            }
        };
        let upload = self.inner.put_multipart_opts(&staged, opts).await;
        let upload = upload.map_err(|error| self.failure.named(&path, is_local, error))?;
        Ok(Box::new(StagedUpload {
            upload: Some(upload),
            path,
            staged,
            deferred,
            bytes: 0,
            is_local,
            log: self.log.clone(),
            files: Arc::clone(&self.files),
            failure: Arc::clone(&self.failure),
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// One file on its way.
#[derive(Debug)]
struct StagedUpload {
    /// `None` once it is complete, or was given up.
    upload: Option<Box<dyn MultipartUpload>>,
    path: Path,
    staged: Path,
    deferred: Option<DeferredUpload>,
    bytes: u64,
    is_local: bool,
    log: Option<Arc<UploadLog>>,
    files: Arc<Mutex<Vec<StagedFile>>>,
    failure: Arc<Failure>,
}

#[async_trait]
impl MultipartUpload for StagedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.bytes += data.content_length() as u64;
        let (path, is_local, failure) = (self.path.clone(), self.is_local, Arc::clone(&self.failure));
        let Some(upload) = &mut self.upload else { return Box::pin(async { Err(over()) }) };
        let part = upload.put_part(data);
        Box::pin(async move { part.await.map_err(|error| failure.named(&path, is_local, error)) })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let mut upload = self.upload.take().ok_or_else(over)?;
        // The local store renames on another thread, whether or not its caller is cancelled meanwhile: the attempt has
        // not ended before that is done.
        let log = self.log.clone();
        let completed = tokio::spawn(async move {
            let result = upload.complete().await;
            drop((upload, log));
            result
        });
        let result = completed.await.unwrap_or_else(|error| Err(error.into()));
        let result = result.map_err(|error| self.failure.named(&self.path, self.is_local, error))?;
        let place = match &self.deferred {
            None => StagedPlace::Path(self.staged.clone()),
            Some(deferred) => StagedPlace::Upload(deferred.take().ok_or_else(|| {
                let source = format!("the store of `{}` completed an upload that was to stay open", self.path);
                Error::Generic { store: "onward", source: source.into() }
            })?),
        };
        let file = StagedFile { path: self.path.clone(), place, rows: 0, bytes: self.bytes };
        self.files.lock().push(file);
        Ok(result)
    }

    async fn abort(&mut self) -> Result<()> {
        match self.upload.take() {
            Some(mut upload) => upload.abort().await,
            None => Ok(()),
        }
    }
}

/// The error of a writer that goes on after the end of its file.
fn over() -> Error {
    Error::Generic { store: "onward", source: "the file was completed or given up before".into() }
}

/// Gives one [`StagingStore`] for every URL.
#[derive(Debug)]
pub(super) struct StagingRegistry(pub(super) Arc<StagingStore>);

impl ObjectStoreRegistry for StagingRegistry {
    fn register_store(&self, _: &Url, _: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        None
    }

    fn get_store(&self, _: &Url) -> DfResult<Arc<dyn ObjectStore>> {
        Ok(Arc::clone(&self.0) as Arc<dyn ObjectStore>)
    }
}
