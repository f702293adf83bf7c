//! Two hosts of this process: one has segments, the other reads them over the network.

use std::net::SocketAddr;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use onward_executor::host::{Host, HostOptions};
use onward_segment::{SegmentWriter, segment_bytes};
use onward_shuffle::flight::GrantKey;
use onward_wire::exchange::{FetchSegments, Grant, PartitionRange, SegmentGroup, Signed};
use onward_wire::message::SegmentRef;
use onward_wire::{Config, FunctionId, HostId, QueryId, StageId};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::BoxError;

/// Whoever writes what is read.
const WRITER: FunctionId = FunctionId(7);

/// The stage all segments are output of.
pub fn stage() -> StageId {
    StageId::new(QueryId(1), 0)
}

/// What lets one read, or write, all of it.
pub fn grant(key: &GrantKey, may_write: bool) -> Signed {
    let partitions = vec![PartitionRange { start: 0, end: u32::MAX }];
    key.sign(&Grant { query: 1, stage: 0, partitions, expires_ms: u64::MAX, may_write })
}

/// A host without functions.
pub struct Station {
    pub host: Arc<Host>,
    _root: TempDir,
}

impl Station {
    /// On the current runtime.
    pub fn start(key: &GrantKey) -> Result<Self, BoxError> {
        let root = tempfile::tempdir()?;
        let spill_dir = root.path().to_string_lossy().into_owned();
        let config = Config { spill_dir, ..Config::default() };
        let (events, _) = mpsc::unbounded_channel();
        let (uploads, key) = (Arc::default(), key.clone());
        let options = HostOptions {
            config: Arc::new(config),
            program: "/nonexistent".into(),
            uploads,
            stores: Arc::default(),
            ranges: None,
            key,
        };
        Ok(Self { host: Host::start(options, events)?, _root: root })
    }

    /// Serves its segments; gives the address.
    pub async fn serve(&self, listen: SocketAddr) -> Result<String, BoxError> {
        let listener = TcpListener::bind(listen).await?;
        let address = format!("grpc://{}", listener.local_addr()?);
        let data_plane = self.host.data_plane().clone();
        tokio::spawn(async move {
            if let Err(error) = data_plane.serve(listener, None, None, std::future::pending()).await {
                eprintln!("the data plane ended: {error}");
            }
        });
        Ok(address)
    }

    /// Keeps `batches`, each as a partition of one segment.
    pub fn hold(&self, batches: &[RecordBatch]) -> Result<SegmentRef, BoxError> {
        let bytes: usize = batches.iter().map(|batch| batch.get_array_memory_size() + 4096).sum();
        let schema = batches[0].schema();
        let needed = segment_bytes(&schema, bytes, batches.len(), batches.len())?;
        let file = self.host.store().create(WRITER, needed)?;
        let mut writer = SegmentWriter::create(file.id, file.file, file.capacity_bytes, schema)?;
        for (partition, batch) in (0..).zip(batches) {
            writer.append(partition, batch)?;
        }
        let written = writer.finish()?;
        let segment = SegmentRef { segment: file.id.0, length_bytes: written.length_bytes, rows: written.rows };
        self.host.commit(&segment, stage())?;
        Ok(segment)
    }

    /// Reads partitions of a segment of host 1.
    pub async fn fetch(&self, key: &GrantKey, segment: u64, partitions: std::ops::Range<u32>) -> Result<u64, BoxError> {
        let asked = FetchSegments {
            request: 0,
            attempt: stage().task(0).attempt(0).into(),
            host: 1,
            grant: grant(key, false),
            groups: vec![SegmentGroup { segments: vec![segment] }],
            partitions: vec![PartitionRange { start: partitions.start, end: partitions.end }],
            is_shared: false,
        };
        Ok(self.host.fetch(&asked).await?.length_bytes())
    }

    /// Host 1 is at `address`.
    pub fn meet(&self, address: String) {
        self.host.change_peers([(HostId(1), address)], []);
    }
}
