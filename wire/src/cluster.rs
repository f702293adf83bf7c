//! What a coordinator and its hosts say to each other, over one stream that the host opened.
//!
//! ```text
//!   host                                         coordinator
//!      | -- Join -------------------------------> |   engine version, address, capacity
//!      | <------------------------------ Joined --|   id, the key that grants are signed with
//!      | <------------------------------- Peers --|   who else is there; again whenever that changes
//!      | <--- StartFunction, RunAttempt, ... -----|   commands; none has an answer of its own
//!      | -- FunctionReady, Prepared, ... -------> |   what came of them
//!      | -- Heartbeat --------------------------> |   every heartbeat_ms: what it holds
//! ```
//!
//! Of several coordinators one leads. A host that asks another one, with `Join` or `Follow`, is told who leads, and again whenever
//! that changes. What a leader says carries its epoch, which grows from leader to leader: a host that has heard of a later one
//! refuses it, and says so (`Deposed`). A coordinator that is alone has the epoch 0.
//!
//! A host that is told to end says `Leaving`: it is given nothing new, and told `Shutdown` when nothing of it is needed.
//! When the stream ends both sides take the other for lost: the host ends its functions and drops its segments, and joins
//! again under a new id.

use crate::error::WireError;
use crate::exchange::MoreInputs;
use crate::filters::RuntimeFilters;
use crate::message::{
    AttemptDone, AttemptEnded, CancelAttempt, DefineStage, ForgetQuery, Progress, RunAttempt, Shutdown,
};

/// First message of a host.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Join {
    /// A host whose version is not the coordinator's [`crate::ENGINE_VERSION`] is given no work.
    #[prost(string, tag = "1")]
    pub engine_version: String,
    /// Where other hosts and clients reach its data plane, such as `grpc://10.0.0.7:50052`.
    #[prost(string, tag = "2")]
    pub address: String,
    /// vCPUs for functions.
    #[prost(uint32, tag = "3")]
    pub vcpus: u32,
    /// Memory for the operators of all its functions, in bytes.
    #[prost(uint64, tag = "4")]
    pub operator_memory_bytes: u64,
    /// The most functions.
    #[prost(uint32, tag = "5")]
    pub max_functions: u32,
    /// The machine's name, for people.
    #[prost(string, tag = "6")]
    pub name: String,
    /// Nobody can reach it: it has no address, and gives its output to a host that has.
    #[prost(bool, tag = "7")]
    pub is_outbound: bool,
    /// What it has, for worker classes.
    #[prost(string, repeated, tag = "8")]
    pub labels: Vec<String>,
}

/// First message of a host that wants to hear who leads, and nothing else. Answered by [`Leader`].
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Follow {}

/// Who leads now.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Leader {
    /// Of its leadership; 0: nobody leads at the moment.
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    /// Where hosts join it.
    #[prost(string, tag = "2")]
    pub url: String,
    /// Where all coordinators are, the leader too.
    #[prost(string, repeated, tag = "3")]
    pub coordinators: Vec<String>,
}

/// There is a later leader than the one that gave a command.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Deposed {
    /// The epoch of that one.
    #[prost(uint64, tag = "1")]
    pub by: u64,
}

/// The host is taken in.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Joined {
    /// Its id.
    #[prost(uint32, tag = "1")]
    pub host: u32,
    /// The key of the cluster's grants: 32 random bytes of this coordinator's life.
    #[prost(bytes = "bytes", tag = "2")]
    pub key: bytes::Bytes,
    /// How often it shall be heard.
    #[prost(uint64, tag = "3")]
    pub heartbeat_ms: u64,
    /// It takes the coordinator for lost after hearing nothing for this long.
    #[prost(uint64, tag = "4")]
    pub silence_timeout_ms: u64,
}

/// Another host.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Peer {
    /// Its id.
    #[prost(uint32, tag = "1")]
    pub host: u32,
    /// Where its data plane is.
    #[prost(string, tag = "2")]
    pub address: String,
}

/// Hosts that can be reached: at first all, then what changed.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Peers {
    /// Those that are there now, or are elsewhere now; by id.
    #[prost(message, repeated, tag = "1")]
    pub hosts: Vec<Peer>,
    /// Those that are gone.
    #[prost(uint32, repeated, tag = "3")]
    pub gone: Vec<u32>,
    /// Which of them an outbound host gives its output to.
    #[prost(uint32, optional, tag = "2")]
    pub home: Option<u32>,
}

/// What a host holds.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Heartbeat {
    /// Function processes.
    #[prost(uint64, tag = "1")]
    pub functions: u64,
    /// Segments.
    #[prost(uint64, tag = "2")]
    pub segments: u64,
    /// Their bytes in memory.
    #[prost(uint64, tag = "3")]
    pub segment_memory_bytes: u64,
    /// Their bytes on disk.
    #[prost(uint64, tag = "4")]
    pub segment_disk_bytes: u64,
    /// Bytes of cached columns.
    #[prost(uint64, tag = "5")]
    pub column_bytes: u64,
    /// Bytes that came from other hosts, since it joined.
    #[prost(uint64, tag = "6")]
    pub fetched_bytes: u64,
    /// Bytes that other hosts and clients read, since it joined.
    #[prost(uint64, tag = "7")]
    pub served_bytes: u64,
}

/// Start a function.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct StartFunction {
    /// Its id.
    #[prost(uint64, tag = "1")]
    pub function: u64,
    /// Threads.
    #[prost(uint32, tag = "2")]
    pub vcpus: u32,
    /// Limit of its operators' memory.
    #[prost(uint64, tag = "3")]
    pub memory_bytes: u64,
}

/// Tell a function to leave.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct StopFunction {
    /// Which.
    #[prost(uint64, tag = "1")]
    pub function: u64,
}

/// A command for one function.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Order {
    /// The function.
    #[prost(uint64, tag = "1")]
    pub function: u64,
    /// The command.
    #[prost(oneof = "order::Body", tags = "2,3,4,5,6")]
    pub body: Option<order::Body>,
}

/// What an [`Order`] holds.
pub mod order {
    /// One command.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Body {
        /// See [`super::DefineStage`].
        #[prost(message, tag = "2")]
        DefineStage(super::DefineStage),
        /// See [`super::RunAttempt`].
        #[prost(message, tag = "3")]
        RunAttempt(super::RunAttempt),
        /// See [`super::CancelAttempt`].
        #[prost(message, tag = "4")]
        CancelAttempt(super::CancelAttempt),
        /// See [`super::RuntimeFilters`].
        #[prost(message, tag = "5")]
        RuntimeFilters(super::RuntimeFilters),
        /// See [`super::MoreInputs`].
        #[prost(message, tag = "6")]
        MoreInputs(super::MoreInputs),
    }
}

/// Nobody will read these segments any more.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RemoveSegments {
    /// Which.
    #[prost(uint64, repeated, tag = "1")]
    pub segments: Vec<u64>,
}

/// Say when no function works for a query any more. Answered by [`QueryEnded`].
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct AwaitQueryEnd {
    /// Answered with the same number.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// The query.
    #[prost(uint64, tag = "2")]
    pub query: u64,
}

/// No function works for the query any more.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct QueryEnded {
    /// The request.
    #[prost(uint64, tag = "1")]
    pub request: u64,
}

/// The coordinator does not want the host, and why.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Refused {
    /// Why.
    #[prost(message, required, tag = "1")]
    pub error: WireError,
}

/// The host wants to leave: it is given nothing new, and hears [`Shutdown`] when nothing that it holds is needed any more.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Leaving {}

/// Leave, as if a signal said so. Answered by [`Leaving`].
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Leave {}

/// A function takes work.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct FunctionReady {
    /// Which.
    #[prost(uint64, tag = "1")]
    pub function: u64,
    /// Its process.
    #[prost(uint32, tag = "2")]
    pub pid: u32,
}

/// A function is gone.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct FunctionLost {
    /// Which.
    #[prost(uint64, tag = "1")]
    pub function: u64,
    /// Why, for people.
    #[prost(string, tag = "2")]
    pub reason: String,
}

/// What a function said.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Report {
    /// The function.
    #[prost(uint64, tag = "1")]
    pub function: u64,
    /// What it said.
    #[prost(oneof = "report::Body", tags = "2,3,4,5")]
    pub body: Option<report::Body>,
    /// Where prepared output lies, when that is another host.
    #[prost(uint32, optional, tag = "6")]
    pub host: Option<u32>,
}

/// What a [`Report`] holds.
pub mod report {
    /// One report.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Body {
        /// See [`super::Progress`].
        #[prost(message, tag = "2")]
        Progress(super::Progress),
        /// The output is verified.
        #[prost(message, tag = "3")]
        Prepared(super::AttemptDone),
        /// See [`super::Failed`].
        #[prost(message, tag = "4")]
        Failed(super::Failed),
        /// See [`super::AttemptEnded`].
        #[prost(message, tag = "5")]
        Ended(super::AttemptEnded),
    }
}

/// An attempt ended without output.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Failed {
    /// Which.
    #[prost(message, required, tag = "1")]
    pub attempt: crate::message::Attempt,
    /// Why.
    #[prost(message, required, tag = "2")]
    pub error: WireError,
    /// Nothing works for it any more.
    #[prost(bool, tag = "3")]
    pub has_ended: bool,
}

/// A function began an upload to an object store.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct UploadNoted {
    /// For which query.
    #[prost(uint64, tag = "1")]
    pub query: u64,
    /// Where the object will be.
    #[prost(string, tag = "2")]
    pub path: String,
    /// The store's name for the upload.
    #[prost(string, tag = "3")]
    pub upload: String,
}

/// Host to coordinator.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ToCoordinator {
    /// The message.
    #[prost(oneof = "to_coordinator::Body", tags = "1,2,3,4,5,6,7,8,9,10")]
    pub body: Option<to_coordinator::Body>,
}

/// What a [`ToCoordinator`] holds.
pub mod to_coordinator {
    /// One message.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Body {
        /// See [`super::Join`].
        #[prost(message, tag = "1")]
        Join(super::Join),
        /// See [`super::Heartbeat`].
        #[prost(message, tag = "2")]
        Heartbeat(super::Heartbeat),
        /// See [`super::FunctionReady`].
        #[prost(message, tag = "3")]
        FunctionReady(super::FunctionReady),
        /// See [`super::FunctionLost`].
        #[prost(message, tag = "4")]
        FunctionLost(super::FunctionLost),
        /// See [`super::Report`].
        #[prost(message, tag = "5")]
        Report(super::Report),
        /// See [`super::UploadNoted`].
        #[prost(message, tag = "6")]
        UploadNoted(super::UploadNoted),
        /// See [`super::QueryEnded`].
        #[prost(message, tag = "7")]
        QueryEnded(super::QueryEnded),
        /// See [`super::Leaving`].
        #[prost(message, tag = "8")]
        Leaving(super::Leaving),
        /// See [`super::Follow`].
        #[prost(message, tag = "9")]
        Follow(super::Follow),
        /// See [`super::Deposed`].
        #[prost(message, tag = "10")]
        Deposed(super::Deposed),
    }
}

/// Coordinator to host.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ToMember {
    /// The message.
    #[prost(oneof = "to_member::Body", tags = "1,2,3,4,5,6,7,8,9,10,11,12,13")]
    pub body: Option<to_member::Body>,
    /// Of the leader that says it. A host refuses it when it has heard of a later one.
    #[prost(uint64, tag = "100")]
    pub epoch: u64,
}

/// What a [`ToMember`] holds.
pub mod to_member {
    /// One message.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Body {
        /// See [`super::Joined`].
        #[prost(message, tag = "1")]
        Joined(super::Joined),
        /// See [`super::Refused`].
        #[prost(message, tag = "2")]
        Refused(super::Refused),
        /// See [`super::Peers`].
        #[prost(message, tag = "3")]
        Peers(super::Peers),
        /// See [`super::StartFunction`].
        #[prost(message, tag = "4")]
        StartFunction(super::StartFunction),
        /// See [`super::StopFunction`].
        #[prost(message, tag = "5")]
        StopFunction(super::StopFunction),
        /// See [`super::Order`].
        #[prost(message, tag = "6")]
        Order(super::Order),
        /// See [`super::ForgetQuery`].
        #[prost(message, tag = "7")]
        ForgetQuery(super::ForgetQuery),
        /// See [`super::RemoveSegments`].
        #[prost(message, tag = "8")]
        RemoveSegments(super::RemoveSegments),
        /// See [`super::AwaitQueryEnd`].
        #[prost(message, tag = "9")]
        AwaitQueryEnd(super::AwaitQueryEnd),
        /// The coordinator ends: leave in good order.
        #[prost(message, tag = "10")]
        Shutdown(super::Shutdown),
        /// Nothing: says that the coordinator lives.
        #[prost(message, tag = "11")]
        Alive(super::Alive),
        /// See [`super::Leader`].
        #[prost(message, tag = "12")]
        Leader(super::Leader),
        /// See [`super::Leave`].
        #[prost(message, tag = "13")]
        Leave(super::Leave),
    }
}

/// Says that the coordinator lives; sent as often as it wants to hear of its hosts.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Alive {}

enveloped! {
    ToCoordinator, to_coordinator:
    Join Heartbeat FunctionReady FunctionLost Report UploadNoted QueryEnded Leaving Follow Deposed
}

enveloped! {
    ToMember, to_member:
    Joined Refused Peers StartFunction StopFunction Order ForgetQuery RemoveSegments AwaitQueryEnd Shutdown Alive Leader Leave
}
