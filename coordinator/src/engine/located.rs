//! [`LocatedResult`]: rows that clients fetch from the hosts that hold them.

use std::sync::Arc;

use bytes::Bytes;
use onward_shuffle::flight::pack;
use onward_wire::exchange::{Grant, InputAttempt, PartitionRange, ResultTicket, SegmentGroup};
use onward_wire::{AttemptId, HostId};

use super::{Engine, read_result};
use crate::api::ResultStream;
use crate::system::HostTable;

/// More parts than this are fetched through the coordinator, as one.
const MOST_PARTS: usize = 1_024;

/// The result of a query, in parts: one after the other they are its rows, in order. It can be read as often as one likes, for
/// as long as its query is not let go.
pub struct LocatedResult {
    engine: Engine,
    parts: Vec<Part>,
}

struct Part {
    attempt: InputAttempt,
    /// Of the host that holds it; `None`: it is the coordinator that does, or nobody reaches that host.
    address: Option<String>,
}

impl LocatedResult {
    /// `None` when all rows lie where the coordinator is: clients have nowhere else to go.
    pub(crate) fn new(engine: &Engine, hosts: &HostTable, result: &[InputAttempt]) -> Option<Self> {
        let address = |attempt: &InputAttempt| match attempt.host() {
            HostId::EMBEDDED => None,
            _ if attempt.output.segments.is_empty() => None,
            host => hosts.address(host),
        };
        let part = |attempt: &InputAttempt| Part { attempt: attempt.clone(), address: address(attempt) };
        let has_rows = |attempt: &&InputAttempt| !attempt.output.partitions.is_empty();
        let parts: Vec<Part> = result.iter().filter(has_rows).map(part).collect();
        let is_elsewhere = parts.iter().any(|part| part.address.is_some());
        (is_elsewhere && parts.len() <= MOST_PARTS).then(|| Self { engine: engine.clone(), parts })
    }

    /// How many there are.
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Where a part lies, such as `grpc://10.0.0.2:50052`; `None`: only the coordinator gives it.
    pub fn address(&self, part: usize) -> Option<&str> {
        self.parts.get(part)?.address.as_deref()
    }

    /// What a client shows to the host, or the coordinator's endpoint, which knows the result by the name `result`: void from
    /// `expires_ms` (since 1970 UTC) on.
    pub fn ticket(&self, part: usize, result: String, expires_ms: u64) -> Option<Bytes> {
        let InputAttempt { attempt, output, .. } = &self.parts.get(part)?.attempt;
        let stage = AttemptId::from(*attempt).task.stage;
        let mut numbers: Vec<u32> = output.partitions.iter().map(|partition| partition.partition).collect();
        numbers.sort_unstable();
        let partitions = PartitionRange::cover(numbers);
        let grant = Grant {
            query: stage.query.0,
            stage: stage.stage,
            partitions: partitions.clone(),
            expires_ms,
            may_write: false,
        };
        let segments = SegmentGroup { segments: output.segments.iter().map(|segment| segment.segment).collect() };
        let part = part as u32;
        Some(pack(&ResultTicket { grant: self.engine.key.sign(&grant), segments, partitions, result, part }))
    }

    /// The rows of a part, for clients that do not reach the host; none when there is no such part.
    pub fn read(self: &Arc<Self>, part: usize) -> ResultStream {
        read_result(&self.engine, self.parts.get(part).map(|part| part.attempt.clone()).into_iter().collect())
    }
}
