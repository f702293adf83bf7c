//! Serves the column cache to one function.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use onward_cache::columns::{ColumnTier, Found};
use onward_wire::columns::{
    AbandonColumns, ColumnState, ColumnsFound, FindColumns, ForgetColumns, FoundColumn, ObjectVersion, OpenColumn,
    PublishColumn, UseColumns, WantedColumn,
};
use onward_wire::message::{MAX_DESCRIPTORS, RequestFailed, SegmentOpened, ToFunction};
use onward_wire::{ErrorKind, FunctionId, SegmentId, WireError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Shared, send};
use crate::socket::Sender;

/// One function's use of the cache.
pub(super) struct ColumnService {
    tier: Arc<ColumnTier>,
    function: FunctionId,
    sender: Sender<ToFunction>,
    /// Look-ups that wait for somebody to decode.
    waits: JoinSet<()>,
}

impl ColumnService {
    pub(super) fn new(tier: Arc<ColumnTier>, function: FunctionId, sender: Sender<ToFunction>) -> Self {
        Self { tier, function, sender, waits: JoinSet::new() }
    }

    /// Looks up columns. A look-up that waits is answered by a task of its own.
    pub(super) async fn find(&mut self, request: FindColumns) -> Result<(), String> {
        let FindColumns { request, object, columns, waits } = request;
        if columns.len() > MAX_DESCRIPTORS || (waits && columns.len() != 1) {
            return Err(format!("it asked for {} columns at once", columns.len()));
        }
        let object = Arc::new(object);
        let found = self.tier.find(self.function, &object, &columns);
        if !waits || !matches!(found.as_slice(), [Found::Busy]) {
            return answer(&self.sender, request, found).await;
        }
        while self.waits.try_join_next().is_some() {}
        let (tier, function, sender) = (Arc::clone(&self.tier), self.function, self.sender.clone());
        self.waits.spawn(async move {
            let found = find_in_the_end(&tier, function, &object, &columns).await;
            // A function that is gone needs no answer.
            let _ = answer(&sender, request, found).await;
        });
        Ok(())
    }

    /// Opens a file for a claimed column.
    pub(super) async fn open(&self, request: OpenColumn) -> Result<(), String> {
        let OpenColumn { request, object, column, capacity_bytes } = request;
        let (tier, function) = (Arc::clone(&self.tier), self.function);
        let opened =
            tokio::task::spawn_blocking(move || tier.open(function, &Arc::new(object), &column, capacity_bytes));
        match opened.await {
            Ok(Ok(file)) => {
                let opened = SegmentOpened { request, segment: file.id.0, capacity_bytes: file.capacity_bytes };
                self.sender.send(opened, vec![file.file]).await.map_err(|error| error.to_string())
            }
            Ok(Err(error)) => self.fail(request, error.into()).await,
            Err(error) => self.fail(request, WireError::new(ErrorKind::Internal, error)).await,
        }
    }

    /// Takes a decoded column into the cache.
    pub(super) async fn publish(&self, request: PublishColumn) -> Result<(), String> {
        let PublishColumn { request, object, column, segment, name, rows } = request;
        match self.tier.publish(self.function, &Arc::new(object), &column, segment, name, rows) {
            Ok((file, segment)) => answer(&self.sender, request, vec![Found::Hit(file, segment)]).await,
            Err(error) => self.fail(request, error.into()).await,
        }
    }

    /// Takes claims back.
    pub(super) fn abandon(&self, request: AbandonColumns) {
        self.tier.abandon(self.function, &Arc::new(request.object), &request.columns);
    }

    /// Counts uses.
    pub(super) fn note_uses(&self, uses: &UseColumns) {
        self.tier.note_uses(uses.segments.iter().copied().map(SegmentId));
    }

    /// The function let go of a segment: true when it was a column.
    pub(super) fn release(&self, segment: SegmentId) -> bool {
        let is_column = self.tier.store().owns(segment);
        if is_column {
            self.tier.store().release(segment, self.function);
        }
        is_column
    }

    /// Takes back what the function, whose process was reaped, claimed and had mapped.
    pub(super) async fn take_back(mut self) {
        // A look-up that still waits could claim a column for a function that is gone.
        self.waits.shutdown().await;
        self.tier.release_holder(self.function);
    }

    async fn fail(&self, request: u64, error: WireError) -> Result<(), String> {
        self.sender.send(RequestFailed { request, error }, vec![]).await.map_err(|error| error.to_string())
    }
}

async fn find_in_the_end(
    tier: &ColumnTier,
    function: FunctionId,
    object: &Arc<ObjectVersion>,
    columns: &[WantedColumn],
) -> Vec<Found> {
    loop {
        if let [WantedColumn { column, .. }] = columns {
            // An error says that the claim ended without a word.
            let _ = tier.wait(object, column).await;
        }
        let found = tier.find(function, object, columns);
        if !matches!(found.as_slice(), [Found::Busy]) {
            return found;
        }
    }
}

async fn answer(sender: &Sender<ToFunction>, request: u64, found: Vec<Found>) -> Result<(), String> {
    let mut files: Vec<OwnedFd> = Vec::new();
    let mut columns = Vec::with_capacity(found.len());
    for found in found {
        let (state, segment) = match found {
            Found::Hit(file, segment) => {
                files.push(file);
                (ColumnState::Hit, Some(segment))
            }
            Found::Claimed => (ColumnState::Claimed, None),
            Found::Busy => (ColumnState::Busy, None),
            Found::Refused => (ColumnState::Refused, None),
        };
        columns.push(FoundColumn { state: state as i32, segment });
    }
    sender.send(ColumnsFound { request, columns }, files).await.map_err(|error| error.to_string())
}

/// Tells all functions which columns were evicted, so that they let go of their mappings. Runs as long as the host.
pub(super) async fn report_evictions(
    host: std::sync::Weak<Shared>,
    mut evicted: mpsc::UnboundedReceiver<Vec<SegmentId>>,
) {
    while let Some(segments) = evicted.recv().await {
        let Some(host) = host.upgrade() else { return };
        let forget = ForgetColumns { segments: segments.iter().map(|segment| segment.0).collect() };
        let functions: Vec<_> = host.functions.lock().values().cloned().collect();
        for function in functions {
            // An error means that it is gone, or is being killed.
            let _ = send(&function, forget.clone());
        }
    }
}
