//! The function's end of the socket: requests to the host and their answers.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use object_store::path::Path;
use onward_cache::columns::{WritingLease, WrittenColumn};
use onward_shuffle::Fetch;
use onward_wire::columns::{
    AbandonColumns, ColumnId, ColumnState, ColumnsFound, FindColumns, FoundColumn, ObjectTag, ObjectVersion,
    OpenColumn, PublishColumn, WantedColumn,
};
use onward_wire::exchange::FetchSegments;
use onward_wire::files::{AbortUpload, BeginUpload, FileOpened, OpenFile, PutPart, Uploaded};
use onward_wire::message::{
    MAX_DESCRIPTORS, MapSegments, OpenSegment, ReleaseSegments, RequestFailed, SegmentOpened, SegmentRef,
    SegmentsMapped, ToHost,
};
use onward_wire::ranges::{RangesRead, ReadRanges};
use onward_wire::{AttemptId, ErrorKind, SegmentId, WireError};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, oneshot};

use crate::socket::{Sender, SocketError};

/// Bytes of parts of uploads on their way to the host; one larger part goes alone.
const PARTS_BYTES: u32 = 32 << 20;

/// Sends to the host and matches its answers to requests. Shared by all attempts.
pub(super) struct Link {
    sender: Sender<ToHost>,
    last_request: AtomicU64,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Result<Answer, WireError>>>>,
    /// What was asked for by look-ups that are not answered yet.
    finds: Mutex<HashMap<u64, Asked>>,
    /// Store and path of uploads that are being begun.
    begun: Mutex<HashMap<u64, (String, String)>>,
    /// Bytes of parts of uploads that may be on their way.
    parts: Semaphore,
    released: Mutex<Vec<u64>>,
    has_released: Notify,
}

/// Columns of one object.
type Asked = (Arc<ObjectVersion>, Vec<ColumnId>);

/// What the host answers.
enum Answer {
    Opened { lease: Lease, file: OwnedFd, capacity_bytes: u64 },
    Mapped(Vec<Leased>),
    Found(Vec<FoundAnswer>),
    Read(RangesRead, OwnedFd),
    File(io::Result<OwnedFd>),
    Uploaded(String),
}

/// A column that was looked up.
pub(super) enum FoundAnswer {
    Busy,
    Refused,
    Claimed(Granted),
    Hit(Leased),
}

/// A claim on its way to whoever asked. When nobody waits for it any more, dropping it gives it back.
pub(super) struct Granted {
    link: Arc<Link>,
    object: Arc<ObjectVersion>,
    column: Option<ColumnId>,
}

impl Granted {
    /// Takes the claim: it is the caller's to give back.
    pub(super) fn take(mut self) {
        self.column = None;
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        if let Some(column) = self.column.take() {
            self.link.abandon_columns(&self.object, vec![column]);
        }
    }
}

/// The host counts on this function to say when it let go of a segment: dropping this says it.
pub(super) struct Lease {
    segment: SegmentId,
    /// `None` = the host ended it itself.
    link: Option<Arc<Link>>,
}

/// A committed segment's read-only file, and the lease on it.
pub(super) struct Leased {
    pub(super) segment: SegmentRef,
    pub(super) file: OwnedFd,
    pub(super) lease: Lease,
}

/// A new segment's writable file.
pub(super) struct Opened {
    pub(super) file: OwnedFd,
    pub(super) capacity_bytes: u64,
    pub(super) lease: Lease,
}

impl Answer {
    /// The one column that was found.
    fn found(self) -> Option<FoundAnswer> {
        match self {
            Answer::Found(found) => found.into_iter().next(),
            _ => None,
        }
    }
}

impl WritingLease for Lease {
    fn hand_over(self: Box<Self>) {
        self.forget();
    }
}

impl Lease {
    pub(super) fn segment(&self) -> SegmentId {
        self.segment
    }

    /// Ends it without a word to the host, which ended it itself (a committed segment's writing lease).
    pub(super) fn forget(mut self) {
        self.link = None;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(link) = &self.link {
            link.release(self.segment);
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({})", self.segment)
    }
}

impl Link {
    pub(super) fn new(sender: Sender<ToHost>) -> Arc<Self> {
        Arc::new(Self {
            sender,
            last_request: AtomicU64::new(0),
            waiting: Mutex::default(),
            finds: Mutex::default(),
            begun: Mutex::default(),
            parts: Semaphore::new(PARTS_BYTES as usize),
            released: Mutex::default(),
            has_released: Notify::new(),
        })
    }

    /// Sends without waiting. The host always reads, so a full queue means that it is stopped or gone.
    pub(super) fn send(&self, message: impl Into<ToHost>) -> Result<(), SocketError> {
        self.sender.try_send(message, vec![])
    }

    /// Hangs up: the function ends.
    pub(super) fn close(&self) {
        self.sender.close();
    }

    /// A writable file for `attempt`.
    pub(super) async fn open(&self, attempt: AttemptId, capacity_bytes: u64) -> Result<Opened, WireError> {
        let ask = |request| OpenSegment { request, attempt: attempt.into(), capacity_bytes }.into();
        match self.request(ask).await? {
            Answer::Opened { lease, file, capacity_bytes } => Ok(Opened { lease, file, capacity_bytes }),
            _ => Err(unexpected()),
        }
    }

    /// Columns of one object, in order.
    pub(super) async fn find_columns(
        &self,
        object: &Arc<ObjectVersion>,
        columns: &[WantedColumn],
        waits: bool,
    ) -> Result<Vec<FoundAnswer>, WireError> {
        let ask = |request| {
            let asked = columns.iter().map(|wanted| wanted.column.clone()).collect();
            self.finds.lock().insert(request, (Arc::clone(object), asked));
            let (object, columns) = (ObjectVersion::clone(object), columns.to_vec());
            FindColumns { request, object, columns, waits }.into()
        };
        match self.request(ask).await? {
            Answer::Found(found) if found.len() == columns.len() => Ok(found),
            _ => Err(unexpected()),
        }
    }

    /// A writable file for a claimed column.
    pub(super) async fn open_column(
        &self,
        object: &ObjectVersion,
        column: &ColumnId,
        capacity_bytes: u64,
    ) -> Result<Opened, WireError> {
        let (object, column) = (object.clone(), column.clone());
        match self.request(|request| OpenColumn { request, object, column, capacity_bytes }.into()).await? {
            Answer::Opened { lease, file, capacity_bytes } => Ok(Opened { lease, file, capacity_bytes }),
            _ => Err(unexpected()),
        }
    }

    /// Hands over a written column, and gets it back to read.
    pub(super) async fn publish_column(
        &self,
        object: &ObjectVersion,
        column: &ColumnId,
        written: WrittenColumn,
    ) -> Result<Leased, WireError> {
        let (object, column) = (object.clone(), column.clone());
        let WrittenColumn { segment, lease, name, rows } = written;
        let ask = |request| {
            // From here on the file is the host's.
            lease.hand_over();
            PublishColumn { request, object, column, segment, name, rows }.into()
        };
        match self.request(ask).await?.found() {
            Some(FoundAnswer::Hit(leased)) => Ok(leased),
            _ => Err(unexpected()),
        }
    }

    /// See [`Link::segment_opened`].
    pub(super) fn columns_found(self: &Arc<Self>, found: ColumnsFound, files: Vec<OwnedFd>) {
        let mut files = files.into_iter();
        // A published column was not looked up: its answer is a hit.
        let asked = self.finds.lock().remove(&found.request);
        let answer = |(at, column): (usize, FoundColumn)| match (column.state(), column.segment, &asked) {
            (ColumnState::Hit, Some(segment), _) => files.next().map_or(FoundAnswer::Busy, |file| {
                FoundAnswer::Hit(Leased { segment, file, lease: self.lease(segment.id()) })
            }),
            (ColumnState::Claimed, _, Some((object, columns))) => FoundAnswer::Claimed(Granted {
                link: Arc::clone(self),
                object: Arc::clone(object),
                column: columns.get(at).cloned(),
            }),
            (ColumnState::Refused, ..) => FoundAnswer::Refused,
            _ => FoundAnswer::Busy,
        };
        let columns = found.columns.into_iter().enumerate().map(answer).collect();
        self.answer(found.request, Ok(Answer::Found(columns)));
    }

    /// Gives claims back.
    pub(super) fn abandon_columns(&self, object: &ObjectVersion, columns: Vec<ColumnId>) {
        // A lost host has no claims.
        let _ = self.send(AbandonColumns { object: object.clone(), columns });
    }

    /// Ranges of a remote object, one after the other in a file.
    pub(super) async fn read_ranges(
        &self,
        object: &ObjectTag,
        ranges: &[Range<u64>],
        is_direct: bool,
    ) -> Result<(RangesRead, OwnedFd), WireError> {
        let (object, ranges) = (object.clone(), ranges.iter().map(Into::into).collect());
        match self.request(|request| ReadRanges { request, object, ranges, is_direct }.into()).await? {
            Answer::Read(read, file) => Ok((read, file)),
            _ => Err(unexpected()),
        }
    }

    /// See [`Link::segment_opened`].
    pub(super) fn ranges_read(&self, read: RangesRead, mut files: Vec<OwnedFd>) {
        if let Some(file) = files.pop() {
            self.answer(read.request, Ok(Answer::Read(read, file)));
        }
    }

    /// A file of the host's machine, to read, or a new one, to write; or what the system said.
    pub(super) async fn open_file(
        &self,
        attempt: AttemptId,
        path: &Path,
        is_new: bool,
    ) -> Result<io::Result<OwnedFd>, WireError> {
        let (attempt, path) = (attempt.into(), path.to_string());
        match self.request(|request| OpenFile { request, attempt, path, is_new }.into()).await? {
            Answer::File(file) => Ok(file),
            _ => Err(unexpected()),
        }
    }

    /// See [`Link::segment_opened`].
    pub(super) fn file_opened(&self, opened: FileOpened, mut files: Vec<OwnedFd>) {
        let file = files.pop().ok_or_else(|| io::Error::from_raw_os_error(opened.errno));
        self.answer(opened.request, Ok(Answer::File(file)));
    }

    /// Begins an upload; gives the store's name for it.
    pub(super) async fn begin_upload(&self, attempt: AttemptId, store: &str, path: &Path) -> Result<String, WireError> {
        let (attempt, store, path) = (attempt.into(), store.to_owned(), path.to_string());
        let ask = |request| {
            self.begun.lock().insert(request, (store.clone(), path.clone()));
            BeginUpload { request, attempt, store, path }.into()
        };
        self.upload_request(ask).await
    }

    /// Uploads a part; gives the store's name for it.
    pub(super) async fn put_part(
        &self,
        attempt: AttemptId,
        store: &str,
        path: &Path,
        upload: &str,
        index: usize,
        bytes: Bytes,
    ) -> Result<String, WireError> {
        // Control messages do not wait, and need room beside parts in the queue.
        let room = u32::try_from(bytes.len()).unwrap_or(u32::MAX).clamp(1, PARTS_BYTES);
        let Ok(_room) = self.parts.acquire_many(room).await else { return Err(gone(&SocketError::Closed)) };
        let (store, path, upload, index) = (store.to_owned(), path.to_string(), upload.to_owned(), index as u32);
        let attempt = attempt.into();
        self.upload_request(|request| PutPart { request, attempt, store, path, upload, index, bytes }.into()).await
    }

    async fn upload_request(&self, ask: impl FnOnce(u64) -> ToHost) -> Result<String, WireError> {
        match self.request(ask).await? {
            Answer::Uploaded(name) => Ok(name),
            _ => Err(unexpected()),
        }
    }

    /// Takes an upload back.
    pub(super) fn abort_upload(&self, store: &str, path: &Path, upload: &str) {
        let (store, path, upload) = (store.to_owned(), path.to_string(), upload.to_owned());
        // A host that is gone was told of the upload, and its coordinator takes it back.
        let _ = self.send(AbortUpload { store, path, upload });
    }

    /// Gives the host's answer to whoever waits for it; an upload that nobody waits for is taken back.
    pub(super) fn uploaded(&self, uploaded: Uploaded) {
        let Uploaded { request, name } = uploaded;
        let begun = self.begun.lock().remove(&request);
        let unwanted = self.give(request, Ok(Answer::Uploaded(name)));
        if let (Some((store, path)), Some(Ok(Answer::Uploaded(upload)))) = (begun, unwanted) {
            let _ = self.send(AbortUpload { store, path, upload });
        }
    }

    /// Read-only files of committed segments, in order. Asks for [`MAX_DESCRIPTORS`] at a time.
    pub(super) async fn map(&self, segments: &[SegmentId]) -> Result<Vec<Leased>, WireError> {
        let mut leased = Vec::with_capacity(segments.len());
        for part in segments.chunks(MAX_DESCRIPTORS) {
            let ask = |request| MapSegments { request, segments: part.iter().map(|id| id.0).collect() }.into();
            match self.request(ask).await? {
                Answer::Mapped(files) if files.len() == part.len() => leased.extend(files),
                _ => return Err(unexpected()),
            }
        }
        Ok(leased)
    }

    /// What another host has, brought here as one segment.
    pub(super) async fn fetch(&self, attempt: AttemptId, fetch: &Fetch) -> Result<Leased, WireError> {
        let Fetch { host, grant, groups, partitions, is_shared } = fetch.clone();
        let (attempt, host) = (attempt.into(), host.0);
        let ask = |request| FetchSegments { request, attempt, host, grant, groups, partitions, is_shared }.into();
        match self.request(ask).await? {
            Answer::Mapped(files) => files.into_iter().next().ok_or_else(unexpected),
            _ => Err(unexpected()),
        }
    }

    /// Gives the host's answer to whoever waits for it; when nobody does any more, its leases end by being dropped.
    pub(super) fn segment_opened(self: &Arc<Self>, opened: SegmentOpened, mut files: Vec<OwnedFd>) {
        let lease = self.lease(SegmentId(opened.segment));
        if let Some(file) = files.pop() {
            self.answer(opened.request, Ok(Answer::Opened { lease, file, capacity_bytes: opened.capacity_bytes }));
        }
    }

    /// See [`Link::segment_opened`].
    pub(super) fn segments_mapped(self: &Arc<Self>, mapped: SegmentsMapped, files: Vec<OwnedFd>) {
        let leased = mapped.segments.into_iter().zip(files);
        let leased = leased.map(|(segment, file)| Leased { segment, file, lease: self.lease(segment.id()) }).collect();
        self.answer(mapped.request, Ok(Answer::Mapped(leased)));
    }

    /// See [`Link::segment_opened`].
    pub(super) fn request_failed(&self, failed: RequestFailed) {
        self.begun.lock().remove(&failed.request);
        self.answer(failed.request, Err(failed.error));
    }

    /// Tells the host, in batches, which segments were let go. Runs as long as the function.
    pub(super) async fn report_releases(self: Arc<Self>) {
        loop {
            self.has_released.notified().await;
            let segments = std::mem::take(&mut *self.released.lock());
            if self.sender.send(ReleaseSegments { segments }, vec![]).await.is_err() {
                return;
            }
        }
    }

    async fn request(&self, ask: impl FnOnce(u64) -> ToHost) -> Result<Answer, WireError> {
        let request = self.last_request.fetch_add(1, Ordering::Relaxed) + 1;
        let (answer, answered) = oneshot::channel();
        self.waiting.lock().insert(request, answer);
        // A cancelled attempt stops waiting here; the answer then finds nobody.
        let _waiting = Waiting { link: self, request };
        self.sender.send(ask(request), vec![]).await.map_err(|error| gone(&error))?;
        answered.await.map_err(|_| gone(&SocketError::Closed))?
    }

    fn answer(&self, request: u64, answer: Result<Answer, WireError>) {
        // What nobody wants is dropped, which ends its leases.
        drop(self.give(request, answer));
    }

    /// Gives an answer to whoever waits for it; back when nobody does.
    fn give(&self, request: u64, answer: Result<Answer, WireError>) -> Option<Result<Answer, WireError>> {
        let waiting = self.waiting.lock().remove(&request);
        match waiting {
            Some(waiting) => waiting.send(answer).err(),
            None => Some(answer),
        }
    }

    fn lease(self: &Arc<Self>, segment: SegmentId) -> Lease {
        Lease { segment, link: Some(Arc::clone(self)) }
    }

    fn release(&self, segment: SegmentId) {
        let mut released = self.released.lock();
        released.push(segment.0);
        if released.len() == 1 {
            self.has_released.notify_one();
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("waiting", &self.waiting.lock().len()).finish_non_exhaustive()
    }
}

/// A request whose answer is awaited.
struct Waiting<'a> {
    link: &'a Link,
    request: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.link.waiting.lock().remove(&self.request);
    }
}

fn gone(error: &SocketError) -> WireError {
    WireError::new(ErrorKind::Unavailable, format!("the function lost its host: {error}"))
}

fn unexpected() -> WireError {
    WireError::new(ErrorKind::Internal, "the host answered another question than it was asked")
}
