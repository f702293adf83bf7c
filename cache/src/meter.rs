//! [`MeteredStore`]: counts the requests and bytes of a query by purpose.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::DateTime;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, Extensions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    OBJECT_STORE_COALESCE_DEFAULT, ObjectMeta, ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions,
    PutPayload, PutResult, RenameOptions, Result, UploadPart, coalesce_ranges,
};
use onward_wire::WireError;
use onward_wire::columns::ObjectTag;
use onward_wire::message::StoreRequests;

use crate::checks::{Asked, VersionChecks};
use crate::deferred::{DeferredMultipart, DeferredUpload, UserWrite};
use crate::error::StoreError;
use crate::ranges::{RangeClient, RangesRead};
use crate::store::StoreHandle;
use crate::versions::{ExpectedVersions, SeenVersions};

/// An object that is read whole through the range tier comes in steps of this size.
const STREAMED_BYTES: u64 = 4 << 20;
/// Steps on their way at once.
const STREAMED_STEPS: usize = 2;

/// Requests and bytes so far. One per attempt or per session; shared by all stores of it.
#[derive(Debug, Default)]
pub struct RequestCounters {
    table: AtomicU64,
    write: AtomicU64,
    intermediate: AtomicU64,
    table_bytes: AtomicU64,
    range_bytes: AtomicU64,
}

impl RequestCounters {
    /// The counts now.
    pub fn snapshot(&self) -> StoreRequests {
        StoreRequests {
            table: self.table.load(Relaxed),
            write: self.write.load(Relaxed),
            intermediate: self.intermediate.load(Relaxed),
            table_bytes: self.table_bytes.load(Relaxed),
            range_bytes: self.range_bytes.load(Relaxed),
        }
    }

    fn read(&self, bytes: u64) {
        self.table.fetch_add(1, Relaxed);
        self.table_bytes.fetch_add(bytes, Relaxed);
    }

    /// Counts what a read through the range tier took.
    fn read_through(&self, read: &RangesRead) {
        self.table.fetch_add(read.store_requests, Relaxed);
        self.table_bytes.fetch_add(read.store_bytes, Relaxed);
        self.range_bytes.fetch_add(read.kept_bytes, Relaxed);
    }

    /// Counts one request that writes; what the user did not ask for is intermediate data.
    fn wrote(&self, is_user_write: bool) {
        let counter = if is_user_write { &self.write } else { &self.intermediate };
        counter.fetch_add(1, Relaxed);
    }
}

/// A store whose requests are counted and whose object versions are noted.
///
/// Objects and directories whose name starts with `.` or `_` are not listed (unless it is a Hive partition `_a=1`):
/// they are staging files of writers, ours and Spark's.
pub struct MeteredStore {
    handle: StoreHandle,
    /// Its base URL, such as `s3://bucket/`.
    url: String,
    counters: Arc<RequestCounters>,
    versions: Arc<SeenVersions>,
    /// The versions that reads must find.
    expected: Option<Arc<ExpectedVersions>>,
    /// Objects are read in the version that was listed.
    reads_listed: bool,
    /// Reads of remote objects whose version is known go through it.
    ranges: Option<Arc<dyn RangeClient>>,
    /// Versions of remote objects that were asked for before are not asked for again.
    checks: Option<Arc<VersionChecks>>,
}

impl MeteredStore {
    /// Counts what goes through `handle`, the store whose base URL is `url`.
    pub fn new(handle: StoreHandle, url: String, counters: Arc<RequestCounters>, versions: Arc<SeenVersions>) -> Self {
        Self { handle, url, counters, versions, expected: None, reads_listed: false, ranges: None, checks: None }
    }

    /// Reads of objects that a plan names fail when they find another version than the plan was made for.
    pub fn expecting(mut self, versions: Arc<ExpectedVersions>) -> Self {
        self.expected = (!versions.is_empty()).then_some(versions);
        self
    }

    /// For planning: a read of an object that has changed since it was listed fails, and what `checks` knows of a remote
    /// store is not asked again.
    pub fn reading_listed(mut self, checks: &Arc<VersionChecks>) -> Self {
        self.reads_listed = true;
        self.checks = (!self.handle.is_local).then(|| Arc::clone(checks));
        self
    }

    /// Reads of remote objects go through the range tier.
    pub fn reading_through(mut self, client: Arc<dyn RangeClient>) -> Self {
        self.ranges = (!self.handle.is_local).then_some(client);
        self
    }

    fn head_of(&self, location: &Path) -> Asked {
        Asked::Head { store: self.url.clone(), path: location.clone() }
    }

    /// A HEAD whose answer is known.
    fn known_head(&self, location: &Path) -> Option<GetResult> {
        let meta = self.checks.as_ref()?.find(&self.head_of(location))?.first()?.clone();
        self.versions.note(&meta);
        let range = 0..meta.size;
        let payload = GetResultPayload::Stream(stream::empty().boxed());
        Some(GetResult { payload, meta, range, attributes: Attributes::default() })
    }

    /// The range tier, and the version to read there.
    fn ranges(&self, location: &Path) -> Option<(&Arc<dyn RangeClient>, ObjectTag)> {
        let ranges = self.ranges.as_ref()?;
        let tag = match &self.expected {
            Some(expected) => expected.tag(&self.url, location, !ranges.reads_unversioned()),
            None if self.reads_listed => self.versions.tag(&self.url, location),
            None => None,
        };
        Some((ranges, tag?))
    }

    /// An object, or a range of it, through the range tier; `None` when only the store can answer that.
    fn get_through(&self, location: &Path, options: &GetOptions) -> Option<GetResult> {
        let is_plain = !options.head
            && options.version.is_none()
            && options.if_match.is_none()
            && options.if_none_match.is_none()
            && options.if_modified_since.is_none()
            && options.if_unmodified_since.is_none();
        let (ranges, tag) = self.ranges(location).filter(|_| is_plain)?;
        let range = match &options.range {
            Some(range) => range.as_range(tag.bytes).ok()?,
            None => 0..tag.bytes,
        };
        let meta = ObjectMeta {
            location: location.clone(),
            last_modified: DateTime::from_timestamp_nanos(tag.modified_ns),
            size: tag.bytes,
            e_tag: tag.e_tag.clone(),
            version: None,
        };
        let steps = (range.start..range.end).step_by(STREAMED_BYTES as usize);
        let (until, tag) = (range.end, Arc::new(tag));
        let (ranges, counters) = (Arc::clone(ranges), Arc::clone(&self.counters));
        let read = move |start: u64| {
            let (ranges, counters, tag) = (Arc::clone(&ranges), Arc::clone(&counters), Arc::clone(&tag));
            async move {
                let step = start..until.min(start + STREAMED_BYTES);
                let read = ranges.read(&tag, std::slice::from_ref(&step)).await?;
                counters.read_through(&read);
                Ok(read.bytes.into_iter().next().unwrap_or_default())
            }
        };
        let payload = GetResultPayload::Stream(stream::iter(steps).map(read).buffered(STREAMED_STEPS).boxed());
        Some(GetResult { payload, meta, range, attributes: Attributes::default() })
    }

    /// Fails when `meta` is not the version that the plan was made for, or is being made for.
    fn check_version(&self, meta: &ObjectMeta) -> Result<()> {
        let is_right = match &self.expected {
            Some(expected) => expected.is_expected(&self.url, meta),
            None => !self.reads_listed || self.versions.fits(meta),
        };
        if is_right { Ok(()) } else { Err(self.stale(&meta.location)) }
    }

    /// An object that the plan names, or that was listed for it, and that is gone is as stale as an overwritten one.
    fn removed(&self, location: &Path, error: object_store::Error, is_head: bool) -> object_store::Error {
        let is_gone = matches!(error, object_store::Error::NotFound { .. } | object_store::Error::Precondition { .. });
        let was_there = || match &self.expected {
            Some(expected) => expected.has(&self.url, location),
            // A HEAD is how a file that a statement names is looked for.
            None => self.reads_listed && !is_head && self.versions.has(location),
        };
        if is_gone && was_there() { self.stale(location) } else { error }
    }

    fn stale(&self, location: &Path) -> object_store::Error {
        let source = Box::new(WireError::stale(format!("{}{location}", self.url)));
        object_store::Error::Precondition { path: location.to_string(), source }
    }

    fn inner(&self) -> &dyn ObjectStore {
        self.handle.store.as_ref()
    }

    fn listed(
        &self,
        prefix: Option<&Path>,
        stream: BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let (versions, prefix) = (self.versions.clone(), prefix.cloned());
        stream
            .filter(move |meta| {
                let is_shown = match meta {
                    Ok(meta) => !is_hidden(&meta.location, prefix.as_ref()),
                    Err(_) => true,
                };
                if let Ok(meta) = meta
                    && is_shown
                {
                    versions.note(meta);
                }
                futures::future::ready(is_shown)
            })
            .boxed()
    }
}

/// What is known, as a listing.
fn answer(known: Arc<[ObjectMeta]>) -> impl Stream<Item = Result<ObjectMeta>> {
    stream::iter((0..known.len()).map(move |at| Ok(known[at].clone())))
}

/// A name below `prefix` that readers do not see.
fn is_hidden(location: &Path, prefix: Option<&Path>) -> bool {
    let skip = prefix.map_or(0, |prefix| prefix.parts().count());
    location.parts().skip(skip).any(|part| {
        let part = part.as_ref();
        (part.starts_with('.') || part.starts_with('_')) && !part.contains('=')
    })
}

fn is_user_write(extensions: &Extensions) -> bool {
    extensions.get::<UserWrite>().is_some() || extensions.get::<DeferredUpload>().is_some()
}

impl fmt::Debug for MeteredStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MeteredStore({})", self.handle.store)
    }
}

impl fmt::Display for MeteredStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.handle.store.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for MeteredStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.counters.wrote(is_user_write(&opts.extensions));
        self.inner().put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let is_user_write = is_user_write(&opts.extensions);
        self.counters.wrote(is_user_write);
        let inner: Box<dyn MultipartUpload> = match opts.extensions.get::<DeferredUpload>() {
            Some(outcome) => {
                let store = self.handle.multipart.clone().ok_or_else(|| StoreError::ReadOnly {
                    url: self.to_string(),
                    reason: "this store has no multipart uploads",
                })?;
                Box::new(DeferredMultipart::start(store, location.clone(), outcome.clone()).await?)
            }
            None => self.inner().put_multipart_opts(location, opts).await?,
        };
        Ok(Box::new(MeteredUpload { inner, counters: self.counters.clone(), is_user_write }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if let Some(result) = self.get_through(location, &options) {
            return Ok(result);
        }
        let is_head = options.head;
        if is_head && let Some(known) = self.known_head(location) {
            return Ok(known);
        }
        let (asked_at, has_range) = (Instant::now(), options.range.is_some());
        let result = match self.inner().get_opts(location, options).await {
            Ok(result) => result,
            Err(error) => {
                // A range past the end of a shorter version fails before anybody sees which version it is.
                if has_range
                    && self.handle.is_local
                    && (self.expected.is_some() || self.reads_listed)
                    && let Ok(meta) = self.inner().head(location).await
                {
                    self.check_version(&meta)?;
                }
                return Err(self.removed(location, error, is_head));
            }
        };
        self.counters.read(if is_head { 0 } else { result.range.end - result.range.start });
        // A HEAD asks which version there is.
        if !is_head || self.expected.is_some() {
            self.check_version(&result.meta)?;
        }
        self.versions.note(&result.meta);
        if is_head && let Some(checks) = &self.checks {
            let answer: Arc<[ObjectMeta]> = Arc::new([result.meta.clone()]);
            for keeper in checks.keepers() {
                keeper.put(self.head_of(location), asked_at, &answer);
            }
        }
        Ok(result)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        if self.handle.is_local {
            self.counters.read(ranges.iter().map(|range| range.end - range.start).sum());
            let read = self.inner().get_ranges(location, ranges).await;
            if self.expected.is_some() || self.reads_listed {
                // Looked at after the read, also after one that failed: what changed before or while it was read shows.
                let meta = self.inner().head(location).await;
                let meta = meta.map_err(|error| self.removed(location, error, false))?;
                self.check_version(&meta)?;
            }
            return read;
        }
        if let Some((through, tag)) = self.ranges(location)
            && ranges.iter().all(|range| range.start <= range.end && range.end <= tag.bytes)
        {
            let read = through.read(&tag, ranges).await?;
            self.counters.read_through(&read);
            return Ok(read.bytes);
        }
        let read = |range: Range<u64>| async move {
            self.get_opts(location, GetOptions::new().with_range(Some(range))).await?.bytes().await
        };
        coalesce_ranges(ranges, read, OBJECT_STORE_COALESCE_DEFAULT).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let counters = self.counters.clone();
        self.inner().delete_stream(locations).inspect(move |_| counters.wrote(true)).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let asked = Asked::List { store: self.url.clone(), prefix: prefix.cloned() };
        if let Some(known) = self.checks.as_ref().and_then(|checks| checks.find(&asked)) {
            known.iter().for_each(|meta| self.versions.note(meta));
            return answer(known).boxed();
        }
        self.counters.read(0);
        let listed = self.listed(prefix, self.inner().list(prefix));
        let keepers = self.checks.as_ref().map(VersionChecks::keepers).unwrap_or_default();
        if keepers.is_empty() {
            return listed;
        }
        let asked_at = Instant::now();
        let whole = async move {
            let objects: Arc<[ObjectMeta]> = listed.try_collect::<Vec<_>>().await?.into();
            keepers.iter().for_each(|keeper| keeper.put(asked.clone(), asked_at, &objects));
            Ok::<_, object_store::Error>(answer(objects))
        };
        stream::once(whole).try_flatten().boxed()
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.counters.read(0);
        self.listed(prefix, self.inner().list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.counters.read(0);
        let mut result = self.inner().list_with_delimiter(prefix).await?;
        result.objects.retain(|meta| !is_hidden(&meta.location, prefix));
        result.common_prefixes.retain(|directory| !is_hidden(directory, prefix));
        result.objects.iter().for_each(|meta| self.versions.note(meta));
        Ok(result)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.counters.wrote(true);
        self.inner().copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.counters.wrote(true);
        self.inner().rename_opts(from, to, options).await
    }
}

/// Counts the parts of an upload.
#[derive(Debug)]
struct MeteredUpload {
    inner: Box<dyn MultipartUpload>,
    counters: Arc<RequestCounters>,
    is_user_write: bool,
}

#[async_trait]
impl MultipartUpload for MeteredUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.counters.wrote(self.is_user_write);
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.inner.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;

    fn metered() -> (MeteredStore, Arc<RequestCounters>) {
        let counters = Arc::<RequestCounters>::default();
        let store = MeteredStore::new(
            StoreHandle::remote(InMemory::new()),
            "memory://b/".to_owned(),
            counters.clone(),
            Arc::default(),
        );
        (store, counters)
    }

    #[tokio::test]
    async fn requests_are_counted_by_purpose() {
        let (store, counters) = metered();
        let path = Path::from("a/b");
        store.put(&path, "hello".into()).await.unwrap();
        let mut opts = PutOptions::default();
        opts.extensions.insert(UserWrite);
        store.put_opts(&path, "hello".into(), opts).await.unwrap();
        store.head(&path).await.unwrap();
        store.get_range(&path, 1..3).await.unwrap();
        let expected = StoreRequests { table: 2, write: 1, intermediate: 1, table_bytes: 2, range_bytes: 0 };
        assert_eq!(counters.snapshot(), expected, "a head reads no bytes, an unmarked put is intermediate data");
    }

    /// A footer is read from where the listed size says that it is: of another version it would be a corrupt one.
    #[tokio::test]
    async fn a_local_file_that_changed_since_it_was_listed_is_stale_for_planning() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.parquet");
        std::fs::write(&file, "an old version").unwrap();
        let store = MeteredStore::new(StoreHandle::local(), "file:///".to_owned(), Arc::default(), Arc::default());
        let store = store.reading_listed(&Arc::default());
        let path = crate::paths::store_path(file.to_str().unwrap().trim_start_matches('/')).unwrap();
        store.head(&path).await.unwrap();
        assert_eq!(store.get_ranges(&path, &[0..2, 3..6]).await.unwrap(), ["an", "old"]);
        std::fs::write(&file, "a new, longer version").unwrap();
        let error = store.get_ranges(&path, &[0..2, 3..6]).await.unwrap_err();
        assert!(matches!(error, object_store::Error::Precondition { .. }), "{error}");
        std::fs::write(&file, "short").unwrap();
        let error = store.get_ranges(&path, &[0..2, 3..6]).await.unwrap_err();
        assert!(matches!(error, object_store::Error::Precondition { .. }), "{error}");
        // One range past the end of what is there now.
        let error = store.get_range(&path, 8..14).await.unwrap_err();
        assert!(matches!(error, object_store::Error::Precondition { .. }), "{error}");
        std::fs::remove_file(&file).unwrap();
        let error = store.get_ranges(&path, &[0..2, 3..6]).await.unwrap_err();
        assert!(matches!(error, object_store::Error::Precondition { .. }), "{error}");
    }

    /// In the scope of a statement, or for as long as was said, and not after a write.
    #[tokio::test]
    async fn versions_that_were_asked_for_are_not_asked_for_again() {
        let checks = Arc::<VersionChecks>::default();
        let (store, counters) = metered();
        let store = store.reading_listed(&checks);
        let (path, prefix) = (Path::from("t/a"), Path::from("t"));
        store.put(&path, "hello".into()).await.unwrap();
        let ask = async || {
            let before = counters.snapshot().table;
            let listed: Vec<_> = store.list(Some(&prefix)).try_collect().await.unwrap();
            assert_eq!((listed.len(), store.head(&path).await.unwrap().size), (1, listed[0].size));
            (counters.snapshot().table - before, listed[0].size)
        };
        assert_eq!([ask().await, ask().await], [(2, 5), (2, 5)], "by default every statement asks");
        let in_scope = async { [ask().await, ask().await] };
        assert_eq!(VersionChecks::scope(in_scope).await, [(2, 5), (0, 5)]);
        assert_eq!(ask().await, (2, 5));
        checks.keep_for(std::time::Duration::from_secs(3600));
        assert_eq!([ask().await, ask().await], [(2, 5), (0, 5)]);
        store.put(&path, "other text".into()).await.unwrap();
        assert_eq!(ask().await, (0, 5), "it is taken for current");
        checks.forget();
        assert_eq!(ask().await, (2, 10));
    }

    #[tokio::test]
    async fn staging_files_are_not_listed() {
        let (store, _) = metered();
        for name in ["t/a.csv", "t/.onward-1/b.csv", "t/_temporary/c.csv", "t/_SUCCESS", "t/_k=1/d.csv"] {
            store.put(&Path::from(name), "x".into()).await.unwrap();
        }
        let listed: Vec<_> =
            store.list(Some(&Path::from("t"))).map_ok(|m| m.location.to_string()).try_collect().await.unwrap();
        assert_eq!(listed, ["t/_k=1/d.csv", "t/a.csv"]);
        let asked: Vec<_> = store.list(Some(&Path::from("t/.onward-1"))).try_collect().await.unwrap();
        assert_eq!(asked.len(), 1, "a hidden directory that was asked for by name is listed");
    }

    #[tokio::test]
    async fn a_deferred_upload_is_invisible_until_completed() {
        let memory = Arc::new(InMemory::new());
        let handle = StoreHandle { store: memory.clone(), multipart: Some(memory.clone()), is_local: false };
        let store = MeteredStore::new(handle, "memory://b/".to_owned(), Arc::default(), Arc::default());
        let path = Path::from("out.csv");
        let outcome = DeferredUpload::default();
        let mut opts = PutMultipartOptions::default();
        opts.extensions.insert(outcome.clone());
        let mut upload = store.put_multipart_opts(&path, opts).await.unwrap();
        upload.put_part("one,".into()).await.unwrap();
        upload.put_part("two".into()).await.unwrap();
        upload.complete().await.unwrap();
        assert!(store.head(&path).await.is_err(), "nothing is visible before the coordinator completes it");
        let parts = outcome.take().unwrap();
        crate::deferred::complete_upload(memory.as_ref(), &path, &parts).await.unwrap();
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "one,two");
    }
}
