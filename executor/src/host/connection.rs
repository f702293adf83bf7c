//! Serves one function: hands out files and leases, verifies what its attempts made.

use std::collections::HashMap;
use std::sync::Arc;

use onward_segment::{MappedSegment, SegmentError, SegmentStore};
use onward_wire::message::{
    AttemptDone, AttemptEnded, AttemptFailed, MAX_DESCRIPTORS, MapSegments, OpenSegment, RequestFailed, SegmentOpened,
    SegmentRef, SegmentsMapped, ToFunction, ToHost, to_host,
};
use onward_wire::{AttemptId, ErrorKind, FunctionId, SegmentId, WireError};
use tokio_util::task::TaskTracker;

use super::columns::ColumnService;
use super::fetches::FetchService;
use super::files::FileService;
use super::function::Function;
use super::ranges::RangeService;
use super::{HostEvent, Shared};
use crate::socket::Sender;

/// The host's side of one function's connection.
pub(super) struct Connection<'a> {
    host: &'a Shared,
    function: Arc<Function>,
    sender: Sender<ToFunction>,
    /// Segments that running attempts write.
    opened: HashMap<AttemptId, Vec<SegmentId>>,
    columns: ColumnService,
    ranges: RangeService,
    fetches: FetchService,
    files: FileService,
    /// Files that are being made for it. One may still come when the function is gone and nobody waits for it any more.
    making: TaskTracker,
}

impl<'a> Connection<'a> {
    pub(super) fn new(host: &'a Shared, function: Arc<Function>, sender: Sender<ToFunction>) -> Self {
        let columns = ColumnService::new(Arc::clone(&host.columns), function.id, sender.clone());
        let ranges = RangeService::new(host, Arc::clone(&function), sender.clone());
        let fetches = FetchService::new(host, function.id, sender.clone());
        let files = FileService::new(host, Arc::clone(&function), sender.clone());
        let (opened, making) = (HashMap::new(), TaskTracker::new());
        Self { host, function, sender, opened, columns, ranges, fetches, files, making }
    }

    /// Handles one message; an error says why the function cannot stay.
    pub(super) async fn handle(&mut self, message: ToHost) -> Result<(), String> {
        match message.body {
            Some(to_host::Body::Progress(progress)) => {
                // It may come after the attempt's answer.
                if self.function.is_running(progress.attempt.into()) {
                    self.host.emit(HostEvent::Progress { function: self.id(), progress });
                }
            }
            Some(to_host::Body::OpenSegment(request)) => return self.open_segment(request).await,
            Some(to_host::Body::MapSegments(request)) => return self.map_segments(request).await,
            Some(to_host::Body::ReleaseSegments(released)) => {
                for id in released.segments.into_iter().map(SegmentId) {
                    if !self.columns.release(id) {
                        self.store().release(id, self.id());
                    }
                }
            }
            Some(to_host::Body::AttemptDone(done)) => self.attempt_done(done),
            Some(to_host::Body::AttemptFailed(failed)) => self.attempt_failed(failed),
            Some(to_host::Body::AttemptEnded(AttemptEnded { attempt })) => self.attempt_ended(attempt.into()),
            Some(to_host::Body::OpenFile(request)) => return self.files.open(request),
            Some(to_host::Body::BeginUpload(request)) => return self.files.begin_upload(request),
            Some(to_host::Body::PutPart(request)) => return self.files.put_part(request),
            Some(to_host::Body::AbortUpload(request)) => return self.files.abort_upload(request),
            Some(to_host::Body::FindColumns(request)) => return self.columns.find(request).await,
            Some(to_host::Body::OpenColumn(request)) => return self.columns.open(request).await,
            Some(to_host::Body::PublishColumn(request)) => return self.columns.publish(request).await,
            Some(to_host::Body::AbandonColumns(request)) => self.columns.abandon(request),
            Some(to_host::Body::UseColumns(uses)) => self.columns.note_uses(&uses),
            Some(to_host::Body::FetchSegments(request)) => {
                let attempt = AttemptId::from(request.attempt);
                if !self.function.is_running(attempt) {
                    let ended = WireError::new(ErrorKind::Cancelled, format!("{attempt} has ended"));
                    return self.fail(request.request, ended).await;
                }
                return self.fetches.fetch(request);
            }
            Some(to_host::Body::ReadRanges(request)) => return self.ranges.read(request),
            Some(to_host::Body::PrefetchRanges(request)) => return self.ranges.prefetch(request),
            Some(to_host::Body::Hello(_)) => return Err("it said hello twice".to_owned()),
            None => return Err("it sent a message that this version does not know".to_owned()),
        }
        Ok(())
    }

    /// Takes back everything the function held, with the files that are only being made for it now. Its process must be
    /// reaped: nothing may still be mapped there.
    pub(super) async fn take_back(mut self) {
        self.making.close();
        self.making.wait().await;
        self.fetches.take_back().await;
        self.files.take_back().await;
        self.host.store.release_holder(self.function.id);
        self.columns.take_back().await;
    }

    fn id(&self) -> FunctionId {
        self.function.id
    }

    fn store(&self) -> &Arc<SegmentStore> {
        &self.host.store
    }

    async fn open_segment(&mut self, request: OpenSegment) -> Result<(), String> {
        let OpenSegment { request, attempt, capacity_bytes } = request;
        let attempt = AttemptId::from(attempt);
        if !self.function.is_running(attempt) {
            return self.fail(request, WireError::new(ErrorKind::Cancelled, format!("{attempt} has ended"))).await;
        }
        // Allocating a file that is not pooled clears its pages: too long for a thread that others wait for.
        let (store, id) = (Arc::clone(self.store()), self.id());
        match self.making.spawn_blocking(move || store.create(id, capacity_bytes)).await {
            Ok(Ok(created)) => {
                self.opened.entry(attempt).or_default().push(created.id);
                let opened = SegmentOpened { request, segment: created.id.0, capacity_bytes: created.capacity_bytes };
                self.sender.send(opened, vec![created.file]).await.map_err(|error| error.to_string())
            }
            Ok(Err(error)) => self.fail(request, error.into()).await,
            Err(error) => self.fail(request, WireError::new(ErrorKind::Internal, error)).await,
        }
    }

    async fn map_segments(&mut self, request: MapSegments) -> Result<(), String> {
        let MapSegments { request, segments: asked } = request;
        if asked.len() > MAX_DESCRIPTORS {
            return Err(format!("it asked for {} segments at once, {MAX_DESCRIPTORS} are allowed", asked.len()));
        }
        let (mut files, mut segments) = (Vec::with_capacity(asked.len()), Vec::with_capacity(asked.len()));
        for id in asked {
            if !self.function.may_read(SegmentId(id)) {
                segments.iter().for_each(|leased: &SegmentRef| self.store().release(leased.id(), self.id()));
                let message = format!("{} is no input of what {} runs", SegmentId(id), self.id());
                return self.fail(request, WireError::new(ErrorKind::Denied, message)).await;
            }
            match self.store().lease(SegmentId(id), self.id()) {
                Ok((file, segment)) => {
                    files.push(file);
                    segments.push(segment);
                }
                Err(error) => {
                    segments.iter().for_each(|leased| self.store().release(leased.id(), self.id()));
                    return self.fail(request, error.into()).await;
                }
            }
        }
        let mapped = SegmentsMapped { request, segments };
        self.sender.send(mapped, files).await.map_err(|error| error.to_string())
    }

    async fn fail(&self, request: u64, error: WireError) -> Result<(), String> {
        self.sender.send(RequestFailed { request, error }, vec![]).await.map_err(|error| error.to_string())
    }

    fn attempt_done(&mut self, done: AttemptDone) {
        let attempt = AttemptId::from(done.attempt);
        let opened = self.opened.remove(&attempt).unwrap_or_default();
        let is_running = self.function.answer(attempt);
        let verified = if is_running { self.verify(&done, &opened) } else { Ok(()) };
        let is_kept =
            |id: &SegmentId| is_running && verified.is_ok() && done.output.segments.iter().any(|kept| kept.id() == *id);
        // A finished attempt has nothing mapped any more, so its writing leases end here too.
        for id in opened.iter().filter(|id| !is_kept(id)) {
            self.store().discard(*id);
            self.store().release(*id, self.id());
        }
        match verified {
            _ if !is_running => {
                tracing::warn!(function = %self.id(), %attempt, "an attempt that was not running ended")
            }
            Ok(()) => self.host.emit(HostEvent::Prepared { function: self.id(), done }),
            Err(error) => {
                tracing::warn!(function = %self.id(), %attempt, %error, "an attempt's output is not whole");
                self.fail_attempt(attempt, error);
            }
        }
    }

    /// Verifies and commits what an attempt made. An error is worth another attempt: these bytes are lost.
    fn verify(&self, done: &AttemptDone, opened: &[SegmentId]) -> Result<(), WireError> {
        let lost = |error: SegmentError| WireError::new(ErrorKind::Unavailable, error);
        if !done.output.inline.is_empty() {
            MappedSegment::from_image(done.output.inline.clone()).map_err(lost)?;
        }
        for segment in &done.output.segments {
            if !opened.contains(&segment.id()) {
                return Err(lost(SegmentError::Unknown { id: segment.id(), expected: "a file of this attempt" }));
            }
            self.store().commit(segment).map_err(lost)?;
            self.host.held.note(segment.id(), AttemptId::from(done.attempt).task.stage);
        }
        Ok(())
    }

    fn attempt_failed(&mut self, failed: AttemptFailed) {
        let AttemptFailed { attempt, error } = failed;
        let attempt = AttemptId::from(attempt);
        // The function may still have them mapped: each file is free once it said otherwise, or is reaped.
        self.opened.remove(&attempt).into_iter().flatten().for_each(|id| self.store().discard(id));
        if self.function.answer(attempt) {
            self.fail_attempt(attempt, error);
        }
    }

    fn fail_attempt(&self, attempt: AttemptId, error: WireError) {
        let has_ended = !self.function.is_present(attempt);
        self.host.emit(HostEvent::AttemptFailed { function: self.id(), attempt, error, has_ended });
    }

    fn attempt_ended(&self, attempt: AttemptId) {
        if self.function.end(attempt) {
            self.host.emit(HostEvent::AttemptEnded { function: self.id(), attempt });
        }
        self.host.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use onward_cache::paths::store_path;
    use onward_shuffle::flight::GrantKey;
    use onward_wire::columns::ObjectTag;
    use onward_wire::files::{BeginUpload, OpenFile, PutPart};
    use onward_wire::message::{DefineStage, Progress, to_function};
    use onward_wire::ranges::ReadRanges;
    use onward_wire::{Config, QueryId, StageId};
    use tokio::net::UnixStream;
    use tokio::sync::mpsc;

    use super::*;
    use crate::host::files::Access;
    use crate::host::{Host, HostOptions};
    use crate::socket;

    fn attempt() -> AttemptId {
        StageId::new(QueryId(1), 0).task(0).attempt(0)
    }

    /// A host, without a zygote.
    fn host() -> (tempfile::TempDir, Arc<Host>, mpsc::UnboundedReceiver<HostEvent>) {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().to_str().unwrap().to_owned();
        let config = Config { segment_dir: path.clone(), spill_dir: path, ..Config::default() };
        let (events, received) = mpsc::unbounded_channel();
        let options = HostOptions {
            config: Arc::new(config),
            program: "/nonexistent".into(),
            uploads: Arc::default(),
            stores: Arc::default(),
            ranges: None,
            key: GrantKey::random().unwrap(),
        };
        (root, Host::start(options, events).unwrap(), received)
    }

    /// A function without a process that runs [`attempt`].
    fn function() -> Arc<Function> {
        let function = Arc::new(Function::new(FunctionId(1), 1, 1 << 20));
        function.begin(attempt(), HashSet::new());
        function
    }

    /// Runs `test` with a host, where one thread makes files, and a [`function`].
    fn with_function(test: impl AsyncFnOnce(&Host, Connection<'_>, &mut mpsc::UnboundedReceiver<HostEvent>)) {
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).enable_all().build();
        runtime.unwrap().block_on(async {
            let (_root, host, mut received) = host();
            let (stream, _peer) = UnixStream::pair().unwrap();
            let (sender, _flusher, _receiver) = socket::split::<ToFunction, ToHost>(stream, 1 << 20);
            test(&host, Connection::new(&host.shared, function(), sender), &mut received).await;
        });
    }

    /// A function that is reaped while a file is made for it never holds that file: its bytes would count for ever.
    #[test]
    fn a_file_that_is_being_made_for_a_reaped_function_is_taken_back() {
        with_function(async |host, mut connection, _| {
            let (go_on, busy) = std::sync::mpsc::channel::<()>();
            let occupied = tokio::task::spawn_blocking(move || busy.recv());
            let open = OpenSegment { request: 1, attempt: attempt().into(), capacity_bytes: 1 << 20 };
            let mut serving = Box::pin(connection.handle(open.into()));
            assert!(futures::poll!(&mut serving).is_pending());
            // As when the function is killed: what it asked for is not waited for any more.
            drop(serving);
            let mut taking_back = Box::pin(connection.take_back());
            assert!(futures::poll!(&mut taking_back).is_pending(), "the file is still to come");
            drop(go_on);
            taking_back.await;
            occupied.await.unwrap().unwrap_err();
            let usage = host.store().usage();
            // The file was made; another may be by now, ahead of need.
            assert!((usage.segments, usage.leases) == (0, 0) && usage.created_files >= 1, "{usage:?}");
        });
    }

    /// What no stage of the function names is not opened, read or written for it, whatever it asks for.
    #[tokio::test]
    async fn a_function_is_given_nothing_that_its_stages_do_not_name() {
        let (root, host, _events) = host();
        let inside = root.path().join("table.csv");
        std::fs::write(&inside, "1").unwrap();
        let named = store_path(inside.to_str().unwrap().trim_start_matches('/')).unwrap().to_string();
        let (function, stream) = (function(), UnixStream::pair().unwrap());
        let (sender, flusher, _here) = socket::split::<ToFunction, ToHost>(stream.0, 1 << 20);
        let (_there, _, mut received) = socket::split::<ToHost, ToFunction>(stream.1, 1 << 20);
        tokio::spawn(flusher.run());
        let objects = vec![ObjectTag { store: "file:///".into(), path: named.clone(), ..ObjectTag::default() }];
        let stage = DefineStage { objects, ..DefineStage::default() };
        function.allow(StageId::new(QueryId(1), 0), Access::of(&stage));
        let mut connection = Connection::new(&host.shared, Arc::clone(&function), sender);
        let open =
            |path: &str, is_new| OpenFile { request: 1, attempt: attempt().into(), path: path.into(), is_new }.into();
        let object = ObjectTag { store: "s3://bucket/".into(), path: "secret".into(), ..ObjectTag::default() };
        let read = ReadRanges { request: 1, object, ranges: vec![], is_direct: true };
        let (store, path, name) = ("s3://bucket/".to_owned(), "out/x".to_owned(), "u".to_owned());
        let begin = BeginUpload { request: 1, attempt: attempt().into(), store: store.clone(), path: path.clone() };
        let put =
            PutPart { request: 1, attempt: attempt().into(), store, path, upload: name, index: 0, bytes: "x".into() };
        let new = named.replace("table", "new");
        let asked: [ToHost; 6] =
            [open("etc/shadow", false), open("etc/x", true), open(&new, true), read.into(), begin.into(), put.into()];
        for message in asked {
            let shown = format!("{message:?}");
            connection.handle(message).await.unwrap();
            match received.receive().await.unwrap() {
                (ToFunction { body: Some(to_function::Body::RequestFailed(failed)) }, files) => {
                    assert_eq!((failed.error.kind(), files.len()), (ErrorKind::Denied, 0), "{shown}");
                }
                other => panic!("{shown}: {other:?}"),
            }
        }
        connection.handle(open(&named, false)).await.unwrap();
        let (_, files) = received.receive().await.unwrap();
        assert_eq!(files.len(), 1);
        function.forget(QueryId(1));
        connection.handle(open(&named, false)).await.unwrap();
        assert!(received.receive().await.unwrap().1.is_empty(), "the query is over");
    }

    /// Progress that was on its way when the attempt ended would count as running for ever.
    #[test]
    fn progress_after_the_answer_is_not_passed_on() {
        with_function(async |_, mut connection, events| {
            let progress = Progress { attempt: attempt().into(), rows: 1, bytes: 1, elapsed_us: 1 };
            connection.handle(progress.into()).await.unwrap();
            assert!(matches!(events.try_recv(), Ok(HostEvent::Progress { .. })));
            let error = WireError::new(ErrorKind::Internal, "broken");
            connection.handle(AttemptFailed { attempt: attempt().into(), error }.into()).await.unwrap();
            assert!(matches!(events.try_recv(), Ok(HostEvent::AttemptFailed { has_ended: false, .. })));
            connection.handle(progress.into()).await.unwrap();
            assert!(events.try_recv().is_err());
            connection.handle(AttemptEnded { attempt: attempt().into() }.into()).await.unwrap();
            assert!(matches!(events.try_recv(), Ok(HostEvent::AttemptEnded { .. })));
        });
    }
}
