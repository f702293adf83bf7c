//! What a host and a function say to each other over their Unix socket.
//!
//! ```text
//!   function                                   host
//!      | -- Hello ------------------------------> |   the engine version is checked
//!      | <------------------------------ Welcome -|
//!      | <-------------------------- DefineStage -|   once per stage and function
//!      | <--------------------------- RunAttempt -|   small: names the stage, its partitions, its inputs
//!      | <----------------------- RuntimeFilters -|   which rows of its scans need not be looked at
//!      | <--------------------------- MoreInputs -|   what of its inputs is there by now
//!      | -- MapSegments ------------------------> |
//!      | <-------------- SegmentsMapped (+ fds) --|   read-only descriptors, never paths
//!      | -- FetchSegments ----------------------> |   of another host; brought here, then mapped like the host's own
//!      | <-------------- SegmentsMapped (+ fd) ---|
//!      | -- OpenSegment ------------------------> |
//!      | <---------------- SegmentOpened (+ fd) --|   one writable descriptor per open output
//!      | -- Progress ---------------------------> |
//!      | -- AttemptDone / AttemptFailed --------> |   the host verifies the segments, then they are prepared
//!      | -- AttemptEnded -----------------------> |   nothing of the attempt runs any more; usually comes before its answer
//!      | -- ReleaseSegments --------------------> |   no mapping of these is left in the function
//! ```
//!
//! Frames are a little-endian `u32` length and a prost message; descriptors ride on the frame's first byte (SCM_RIGHTS).

use crate::columns::{
    AbandonColumns, ColumnsFound, FindColumns, ForgetColumns, ObjectTag, OpenColumn, PublishColumn, UseColumns,
};
use crate::error::WireError;
use crate::exchange::{FetchSegments, MoreInputs, StageInputs};
use crate::files::{AbortUpload, BeginUpload, FileOpened, OpenFile, PutPart, Uploaded};
use crate::filters::{KeySketch, RuntimeFilters, SketchSpec};
use crate::id::{AttemptId, QueryId, SegmentId, StageId};
use crate::ranges::{PrefetchRanges, RangesRead, ReadRanges};

/// An [`AttemptId`] on the wire.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Attempt {
    /// Query.
    #[prost(uint64, tag = "1")]
    pub query: u64,
    /// Stage.
    #[prost(uint32, tag = "2")]
    pub stage: u32,
    /// Task.
    #[prost(uint32, tag = "3")]
    pub task: u32,
    /// Attempt.
    #[prost(uint32, tag = "4")]
    pub attempt: u32,
}

impl From<AttemptId> for Attempt {
    fn from(id: AttemptId) -> Self {
        Self { query: id.query().0, stage: id.task.stage.stage, task: id.task.task, attempt: id.attempt }
    }
}

impl From<Attempt> for AttemptId {
    fn from(wire: Attempt) -> Self {
        StageId::new(QueryId(wire.query), wire.stage).task(wire.task).attempt(wire.attempt)
    }
}

/// A committed or prepared segment: which file, how long, what is in it.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct SegmentRef {
    /// Id in the host's store.
    #[prost(uint64, tag = "1")]
    pub segment: u64,
    /// Bytes up to and with the index.
    #[prost(uint64, tag = "2")]
    pub length_bytes: u64,
    /// Rows of all partitions.
    #[prost(uint64, tag = "3")]
    pub rows: u64,
}

impl SegmentRef {
    /// The id.
    pub fn id(&self) -> SegmentId {
        SegmentId(self.segment)
    }
}

/// Rows and bytes of one exchange partition in one attempt's output.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct PartitionStats {
    /// Partition of the exchange (global number).
    #[prost(uint32, tag = "1")]
    pub partition: u32,
    /// Rows.
    #[prost(uint64, tag = "2")]
    pub rows: u64,
    /// Encoded bytes.
    #[prost(uint64, tag = "3")]
    pub bytes: u64,
}

/// What an attempt produced. Either `inline` holds a whole segment image (small output), or `segments` name files; both
/// empty means no rows.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AttemptOutput {
    /// A whole segment, as it would lie in a file.
    #[prost(bytes = "bytes", tag = "1")]
    pub inline: bytes::Bytes,
    /// Segment files, in write order.
    #[prost(message, repeated, tag = "2")]
    pub segments: Vec<SegmentRef>,
    /// Statistics of the partitions that have rows.
    #[prost(message, repeated, tag = "3")]
    pub partitions: Vec<PartitionStats>,
}

impl AttemptOutput {
    /// Rows of all partitions.
    pub fn rows(&self) -> u64 {
        self.partitions.iter().map(|partition| partition.rows).sum()
    }

    /// Encoded bytes of all partitions.
    pub fn bytes(&self) -> u64 {
        self.partitions.iter().map(|partition| partition.bytes).sum()
    }
}

/// First message of a function.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Hello {
    /// Must equal the host's [`crate::ENGINE_VERSION`].
    #[prost(string, tag = "1")]
    pub engine_version: String,
}

/// The host's answer: what the function may use.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Welcome {
    /// Function id.
    #[prost(uint64, tag = "1")]
    pub function: u64,
    /// Threads of its runtime, and partitions it runs at once.
    #[prost(uint32, tag = "2")]
    pub vcpus: u32,
    /// Limit of its operators' memory.
    #[prost(uint64, tag = "3")]
    pub memory_bytes: u64,
    /// A directory of its own for spills; the host removes it.
    #[prost(string, tag = "4")]
    pub spill_dir: String,
    /// Limit of its spills.
    #[prost(uint64, tag = "5")]
    pub spill_bytes: u64,
    /// Output up to this size is returned inline.
    #[prost(uint64, tag = "6")]
    pub inline_attempt_bytes: u64,
    /// Bytes buffered before a segment is written.
    #[prost(uint64, tag = "7")]
    pub flush_bytes: u64,
    /// Largest message.
    #[prost(uint64, tag = "8")]
    pub max_message_bytes: u64,
    /// The host reads bytes of remote objects, and keeps them.
    #[prost(bool, tag = "9")]
    pub reads_ranges: bool,
    /// The host's id.
    #[prost(uint32, tag = "10")]
    pub host: u32,
    /// The most bytes to ask another host for at once.
    #[prost(uint64, tag = "11")]
    pub fetch_bytes: u64,
}

/// A key and its value: session settings, store options.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct KeyValue {
    /// Key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Value.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// An object store that a stage's scans or writes need, to be built in the function.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StoreSpec {
    /// Base URL, such as `s3://bucket`.
    #[prost(string, tag = "1")]
    pub url: String,
    /// Options of `object_store::parse_url_opts`. May hold credentials: never logged.
    #[prost(message, repeated, tag = "2")]
    pub options: Vec<KeyValue>,
}

/// How a stage's output rows map to exchange partitions.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OutputSpec {
    /// The mapping.
    #[prost(enumeration = "OutputKind", tag = "1")]
    pub kind: i32,
    /// Partitions of the exchange, over all tasks.
    #[prost(uint32, tag = "2")]
    pub partitions: u32,
}

/// See [`OutputSpec`]. Hash expressions travel with the plan, in its root node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum OutputKind {
    /// Output partition `i` of the plan keeps its global number and its order (gather, merge, result).
    Preserve = 0,
    /// All rows go to partition 0, which every consumer task reads whole (broadcast).
    Single = 1,
    /// Rows go to `hash(expressions) % partitions`.
    Hash = 2,
    /// Batches go to partitions in turns.
    RoundRobin = 3,
}

/// A stage, sent once per function.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DefineStage {
    /// Query.
    #[prost(uint64, tag = "1")]
    pub query: u64,
    /// Stage.
    #[prost(uint32, tag = "2")]
    pub stage: u32,
    /// The encoded plan (`onward_planner::codec`).
    #[prost(bytes = "bytes", tag = "3")]
    pub plan: bytes::Bytes,
    /// The session's DataFusion settings that differ from the defaults.
    #[prost(message, repeated, tag = "4")]
    pub settings: Vec<KeyValue>,
    /// Object stores. For the host: a function has no credentials.
    #[prost(message, repeated, tag = "5")]
    pub stores: Vec<StoreSpec>,
    /// Output mapping.
    #[prost(message, required, tag = "6")]
    pub output: OutputSpec,
    /// The versions of the objects it reads. A plan does not carry etags.
    #[prost(message, repeated, tag = "7")]
    pub objects: Vec<ObjectTag>,
    /// What its scans have to do with the cache.
    #[prost(enumeration = "CacheUse", tag = "8")]
    pub cache: i32,
    /// Sketches that its attempts make of their output.
    #[prost(message, repeated, tag = "9")]
    pub sketches: Vec<SketchSpec>,
    /// URL of what its attempts write: the staging directory, or the object or prefix of their uploads. Empty: nothing.
    #[prost(string, tag = "10")]
    pub writes: String,
}

/// What the scans of a stage have to do with the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum CacheUse {
    /// Nothing.
    Off = 0,
    /// They read it, and fill it with what is worth it.
    On = 1,
    /// They fill it, whatever goes for that (CACHE TABLE).
    Fill = 2,
}

/// Run one attempt.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RunAttempt {
    /// Which.
    #[prost(message, required, tag = "1")]
    pub attempt: Attempt,
    /// The partitions of the stage's plan that this task runs (global numbers, ascending).
    #[prost(uint32, repeated, tag = "2")]
    pub partitions: Vec<u32>,
    /// Inputs, one entry per producer stage.
    #[prost(message, repeated, tag = "3")]
    pub inputs: Vec<StageInputs>,
    /// Output up to this size may travel inline; 0 forces the store.
    #[prost(uint64, tag = "4")]
    pub inline_bytes: u64,
    /// Filters that are there already.
    #[prost(message, repeated, tag = "5")]
    pub filters: Vec<KeySketch>,
}

/// Stop an attempt; the answer is `AttemptFailed` of kind Cancelled, or `AttemptDone` when it was faster. An operator that
/// does not yield runs on until it does: `AttemptEnded` says when.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CancelAttempt {
    /// Which.
    #[prost(message, required, tag = "1")]
    pub attempt: Attempt,
}

/// The query ended: drop its stages.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ForgetQuery {
    /// Which.
    #[prost(uint64, tag = "1")]
    pub query: u64,
    /// Its segments that are still to be read, the result; said to hosts only.
    #[prost(uint64, repeated, tag = "2")]
    pub kept: Vec<u64>,
}

/// Ask for a writable segment file.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OpenSegment {
    /// Answered with the same number.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// For which attempt.
    #[prost(message, required, tag = "2")]
    pub attempt: Attempt,
    /// Bytes it must hold.
    #[prost(uint64, tag = "3")]
    pub capacity_bytes: u64,
}

/// One writable descriptor rides on this message.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SegmentOpened {
    /// The request.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// The segment.
    #[prost(uint64, tag = "2")]
    pub segment: u64,
    /// Bytes the file has, at least those asked for.
    #[prost(uint64, tag = "3")]
    pub capacity_bytes: u64,
}

/// Ask for read-only descriptors of committed segments (at most [`MAX_DESCRIPTORS`]).
#[derive(Clone, PartialEq, prost::Message)]
pub struct MapSegments {
    /// Answered with the same number.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// Which.
    #[prost(uint64, repeated, tag = "2")]
    pub segments: Vec<u64>,
}

/// As many descriptors ride on this message as were asked for, in the same order.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SegmentsMapped {
    /// The request.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// The segments, with their verified lengths.
    #[prost(message, repeated, tag = "2")]
    pub segments: Vec<SegmentRef>,
}

/// A request (`OpenSegment`, `MapSegments`) that failed.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RequestFailed {
    /// The request.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// Why.
    #[prost(message, required, tag = "2")]
    pub error: WireError,
}

/// The function holds no mapping of these any more.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReleaseSegments {
    /// Which.
    #[prost(uint64, repeated, tag = "1")]
    pub segments: Vec<u64>,
}

/// How far an attempt is.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Progress {
    /// Which.
    #[prost(message, required, tag = "1")]
    pub attempt: Attempt,
    /// Rows written so far.
    #[prost(uint64, tag = "2")]
    pub rows: u64,
    /// Bytes written so far.
    #[prost(uint64, tag = "3")]
    pub bytes: u64,
    /// Since the attempt started.
    #[prost(uint64, tag = "4")]
    pub elapsed_us: u64,
}

/// Requests to object stores (local files count as a store), by purpose.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct StoreRequests {
    /// Reads of table data and footers.
    #[prost(uint64, tag = "1")]
    pub table: u64,
    /// Writes that the user asked for.
    #[prost(uint64, tag = "2")]
    pub write: u64,
    /// Anything else: intermediate data. Must stay 0.
    #[prost(uint64, tag = "3")]
    pub intermediate: u64,
    /// Bytes read from tables.
    #[prost(uint64, tag = "4")]
    pub table_bytes: u64,
    /// Bytes of tables that the range tier had.
    #[prost(uint64, tag = "5")]
    pub range_bytes: u64,
}

impl StoreRequests {
    /// Adds what another attempt made.
    pub fn add(&mut self, other: &Self) {
        self.table += other.table;
        self.write += other.write;
        self.intermediate += other.intermediate;
        self.table_bytes += other.table_bytes;
        self.range_bytes += other.range_bytes;
    }
}

/// Metrics of one operator, in the plan's pre-order.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OperatorMetrics {
    /// Names and values summed over partitions; times in nanoseconds.
    #[prost(message, repeated, tag = "1")]
    pub values: Vec<Metric>,
}

/// One metric value.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Metric {
    /// DataFusion's name, such as `output_rows` or `elapsed_compute`.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Count, bytes or nanoseconds.
    #[prost(uint64, tag = "2")]
    pub value: u64,
}

/// An attempt finished; its segments are complete and unmapped.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AttemptDone {
    /// Which.
    #[prost(message, required, tag = "1")]
    pub attempt: Attempt,
    /// Where its output is.
    #[prost(message, required, tag = "2")]
    pub output: AttemptOutput,
    /// Metrics of its operators.
    #[prost(message, repeated, tag = "3")]
    pub operators: Vec<OperatorMetrics>,
    /// Object-store requests it made.
    #[prost(message, required, tag = "4")]
    pub requests: StoreRequests,
    /// Since the attempt started.
    #[prost(uint64, tag = "5")]
    pub elapsed_us: u64,
    /// Peak of the operators' memory pool.
    #[prost(uint64, tag = "6")]
    pub peak_memory_bytes: u64,
    /// Bytes spilled to local disk.
    #[prost(uint64, tag = "7")]
    pub spilled_bytes: u64,
    /// Sketches of its output.
    #[prost(message, repeated, tag = "8")]
    pub sketches: Vec<KeySketch>,
}

/// An attempt failed; the host takes back its files.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AttemptFailed {
    /// Which.
    #[prost(message, required, tag = "1")]
    pub attempt: Attempt,
    /// Why.
    #[prost(message, required, tag = "2")]
    pub error: WireError,
}

/// No thread of the function works for the attempt any more, and none will: it opens no file and no upload from here on.
/// Sent once for every attempt that was run, whatever its answer.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct AttemptEnded {
    /// Which.
    #[prost(message, required, tag = "1")]
    pub attempt: Attempt,
}

/// Finish nothing more and exit.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Shutdown {}

/// Descriptors that may ride on one message; the kernel's SCM_MAX_FD is 253.
pub const MAX_DESCRIPTORS: usize = 128;

/// Function to host.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ToHost {
    /// The message.
    #[prost(oneof = "to_host::Body", tags = "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20")]
    pub body: Option<to_host::Body>,
}

/// What a [`ToHost`] holds.
pub mod to_host {
    /// One message.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Body {
        /// See [`super::Hello`].
        #[prost(message, tag = "1")]
        Hello(super::Hello),
        /// See [`super::Progress`].
        #[prost(message, tag = "2")]
        Progress(super::Progress),
        /// See [`super::OpenSegment`].
        #[prost(message, tag = "3")]
        OpenSegment(super::OpenSegment),
        /// See [`super::MapSegments`].
        #[prost(message, tag = "4")]
        MapSegments(super::MapSegments),
        /// See [`super::ReleaseSegments`].
        #[prost(message, tag = "5")]
        ReleaseSegments(super::ReleaseSegments),
        /// See [`super::AttemptDone`].
        #[prost(message, tag = "6")]
        AttemptDone(super::AttemptDone),
        /// See [`super::AttemptFailed`].
        #[prost(message, tag = "7")]
        AttemptFailed(super::AttemptFailed),
        /// See [`super::OpenFile`].
        #[prost(message, tag = "8")]
        OpenFile(super::OpenFile),
        /// See [`super::FindColumns`].
        #[prost(message, tag = "9")]
        FindColumns(super::FindColumns),
        /// See [`super::OpenColumn`].
        #[prost(message, tag = "10")]
        OpenColumn(super::OpenColumn),
        /// See [`super::PublishColumn`].
        #[prost(message, tag = "11")]
        PublishColumn(super::PublishColumn),
        /// See [`super::AbandonColumns`].
        #[prost(message, tag = "12")]
        AbandonColumns(super::AbandonColumns),
        /// See [`super::UseColumns`].
        #[prost(message, tag = "13")]
        UseColumns(super::UseColumns),
        /// See [`super::AttemptEnded`].
        #[prost(message, tag = "14")]
        AttemptEnded(super::AttemptEnded),
        /// See [`super::ReadRanges`].
        #[prost(message, tag = "15")]
        ReadRanges(super::ReadRanges),
        /// See [`super::PrefetchRanges`].
        #[prost(message, tag = "16")]
        PrefetchRanges(super::PrefetchRanges),
        /// See [`super::FetchSegments`].
        #[prost(message, tag = "17")]
        FetchSegments(super::FetchSegments),
        /// See [`super::BeginUpload`].
        #[prost(message, tag = "18")]
        BeginUpload(super::BeginUpload),
        /// See [`super::PutPart`].
        #[prost(message, tag = "19")]
        PutPart(super::PutPart),
        /// See [`super::AbortUpload`].
        #[prost(message, tag = "20")]
        AbortUpload(super::AbortUpload),
    }
}

/// Host to function.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ToFunction {
    /// The message.
    #[prost(oneof = "to_function::Body", tags = "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16")]
    pub body: Option<to_function::Body>,
}

/// What a [`ToFunction`] holds.
pub mod to_function {
    /// One message.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Body {
        /// See [`super::Welcome`].
        #[prost(message, tag = "1")]
        Welcome(super::Welcome),
        /// See [`super::DefineStage`].
        #[prost(message, tag = "2")]
        DefineStage(super::DefineStage),
        /// See [`super::RunAttempt`].
        #[prost(message, tag = "3")]
        RunAttempt(super::RunAttempt),
        /// See [`super::CancelAttempt`].
        #[prost(message, tag = "4")]
        CancelAttempt(super::CancelAttempt),
        /// See [`super::ForgetQuery`].
        #[prost(message, tag = "5")]
        ForgetQuery(super::ForgetQuery),
        /// See [`super::SegmentOpened`].
        #[prost(message, tag = "6")]
        SegmentOpened(super::SegmentOpened),
        /// See [`super::SegmentsMapped`].
        #[prost(message, tag = "7")]
        SegmentsMapped(super::SegmentsMapped),
        /// See [`super::RequestFailed`].
        #[prost(message, tag = "8")]
        RequestFailed(super::RequestFailed),
        /// See [`super::Shutdown`].
        #[prost(message, tag = "9")]
        Shutdown(super::Shutdown),
        /// See [`super::ColumnsFound`].
        #[prost(message, tag = "10")]
        ColumnsFound(super::ColumnsFound),
        /// See [`super::ForgetColumns`].
        #[prost(message, tag = "11")]
        ForgetColumns(super::ForgetColumns),
        /// See [`super::RangesRead`].
        #[prost(message, tag = "12")]
        RangesRead(super::RangesRead),
        /// See [`super::RuntimeFilters`].
        #[prost(message, tag = "13")]
        RuntimeFilters(super::RuntimeFilters),
        /// See [`super::MoreInputs`].
        #[prost(message, tag = "14")]
        MoreInputs(super::MoreInputs),
        /// See [`super::FileOpened`].
        #[prost(message, tag = "15")]
        FileOpened(super::FileOpened),
        /// See [`super::Uploaded`].
        #[prost(message, tag = "16")]
        Uploaded(super::Uploaded),
    }
}

enveloped! {
    ToHost, to_host:
    Hello Progress OpenSegment MapSegments ReleaseSegments AttemptDone AttemptFailed AttemptEnded
    FindColumns OpenColumn PublishColumn AbandonColumns UseColumns ReadRanges PrefetchRanges
    FetchSegments OpenFile BeginUpload PutPart AbortUpload
}

enveloped! {
    ToFunction, to_function:
    Welcome DefineStage RunAttempt CancelAttempt ForgetQuery SegmentOpened SegmentsMapped RequestFailed Shutdown
    ColumnsFound ForgetColumns RangesRead RuntimeFilters MoreInputs FileOpened Uploaded
}
