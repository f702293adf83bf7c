//! [`ColumnClient`]: how a scan reaches the column tier, over a socket or in the host's own process.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use async_trait::async_trait;
use onward_segment::{SegmentError, SegmentWriter};
use onward_wire::columns::{ColumnId, ObjectVersion, WantedColumn};
use onward_wire::message::SegmentRef;
use onward_wire::{ErrorKind, SegmentId, WireError};

use super::cached::CachedColumn;
use super::layout::Stored;

/// What a look-up came to.
#[derive(Debug)]
pub enum Lookup {
    /// It is cached.
    Hit(Arc<CachedColumn>),
    /// It is the caller's to decode.
    Claimed(Claim),
    /// Somebody else decodes it: [`ColumnClient::wait`], holding no claim.
    Busy,
    /// There is no room for it, or few of its rows are needed: the caller decodes it for himself.
    Refused,
}

/// A file for a claimed column. Dropping it unpublished lets the host have it back.
#[derive(Debug)]
pub struct WritableColumn {
    /// Its segment.
    pub id: SegmentId,
    /// Read-write descriptor.
    pub file: OwnedFd,
    /// Bytes it has.
    pub capacity_bytes: u64,
    /// Says that no mapping is left here, when it is dropped.
    pub lease: Box<dyn WritingLease>,
}

/// The host counts on the writer to say that it let go of a file: dropping this says it.
pub trait WritingLease: fmt::Debug + Send {
    /// The host ends the lease itself, with what it does about the file.
    fn hand_over(self: Box<Self>);
}

/// A written, unmapped column.
#[derive(Debug)]
pub struct WrittenColumn {
    /// What is in its file.
    pub segment: SegmentRef,
    /// Handed over with it.
    pub lease: Box<dyn WritingLease>,
    /// The column's name, for people.
    pub name: String,
    /// Its rows.
    pub rows: u64,
}

/// The column tier as a scan sees it.
#[async_trait]
pub trait ColumnClient: fmt::Debug + Send + Sync {
    /// Looks up columns of one object, in order, claiming those that nobody has or decodes and that would be kept.
    async fn find(
        self: Arc<Self>,
        object: &Arc<ObjectVersion>,
        columns: &[WantedColumn],
    ) -> Result<Vec<Lookup>, WireError>;

    /// [`Self::find`] for one column, once nobody else decodes it: never [`Lookup::Busy`].
    async fn wait(self: Arc<Self>, object: &Arc<ObjectVersion>, column: &WantedColumn) -> Result<Lookup, WireError>;

    /// A file for a claimed column; an error of kind ResourceExhausted when there is no room now.
    async fn open(
        &self,
        object: &Arc<ObjectVersion>,
        column: &ColumnId,
        capacity_bytes: u64,
    ) -> Result<WritableColumn, WireError>;

    /// Hands over a written, unmapped column, and maps it.
    async fn publish(
        &self,
        object: &Arc<ObjectVersion>,
        column: &ColumnId,
        written: WrittenColumn,
    ) -> Result<Arc<CachedColumn>, WireError>;

    /// Gives up claims.
    fn abandon(&self, object: &Arc<ObjectVersion>, columns: Vec<ColumnId>);
}

/// The right, and the duty, to decode a column. Dropping it gives it up.
pub struct Claim {
    client: Arc<dyn ColumnClient>,
    object: Arc<ObjectVersion>,
    column: Option<ColumnId>,
}

impl Claim {
    /// A claim that was given to this process.
    pub fn new(client: Arc<dyn ColumnClient>, object: Arc<ObjectVersion>, column: ColumnId) -> Self {
        Self { client, object, column: Some(column) }
    }

    /// Puts the decoded column into the cache, and gives it as it lies there; on the heap where there is no room.
    ///
    /// # Errors
    /// When the host is gone or refuses what was written.
    pub async fn keep(mut self, stored: Stored, name: &str, rows: u64) -> Result<Arc<CachedColumn>, WireError> {
        let Some(column) = self.column.clone() else {
            return Err(WireError::new(ErrorKind::Internal, "a claim was used twice"));
        };
        let encoded = stored.encode()?;
        let file = match self.client.open(&self.object, &column, encoded.segment_bytes()?).await {
            Ok(file) => file,
            // No room now: the rows are read all the same, and the claim ends here.
            Err(error) if error.kind() == ErrorKind::ResourceExhausted => {
                return Ok(Arc::new(CachedColumn::on_heap(stored)));
            }
            Err(error) => return Err(error),
        };
        let WritableColumn { id, file, capacity_bytes, lease } = file;
        let write = || -> Result<SegmentRef, SegmentError> {
            let mut writer = SegmentWriter::create(id, file, capacity_bytes, encoded.schema())?;
            encoded.write(&mut writer)?;
            let finished = writer.finish()?;
            Ok(SegmentRef { segment: id.0, length_bytes: finished.length_bytes, rows: finished.rows })
        };
        let segment = write()?;
        drop(encoded);
        // Published or refused: the host ends the claim.
        self.column = None;
        let written = WrittenColumn { segment, lease, name: name.to_owned(), rows };
        self.client.publish(&self.object, &column, written).await
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(column) = self.column.take() {
            self.client.abandon(&self.object, vec![column]);
        }
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim").field("object", &self.object.url).field("column", &self.column).finish()
    }
}
