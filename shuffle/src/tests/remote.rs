//! Reading what lies on other hosts: the same rows in the same order, whatever lies where and however it is asked for.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use futures::TryStreamExt;
use onward_segment::MappedSegment;
use onward_wire::exchange::{Compression, Grant, InputAttempt, PartitionRange, ReadTicket, StageInputs};
use onward_wire::message::SegmentRef;
use onward_wire::{ErrorKind, FunctionId, HostId, QueryId, SegmentId, StageId, WireError};

use super::harness::{Exchange, OPTIONS, hash_of, numbers, reader_of, values};
use crate::flight::{Destination, GrantKey, HeldSegments, receive_answer, serve};
use crate::{Fetch, OutputMapping, SegmentSource, WriterOptions};

const PARTITIONS: u32 = 7;

/// Segments of stage 0 of query 1.
struct Held(Arc<Exchange>);

impl HeldSegments for Held {
    fn map(&self, segment: SegmentId, stage: StageId) -> Result<Arc<MappedSegment>, WireError> {
        match stage == StageId::new(QueryId(1), 0) {
            true => Ok(self.0.store.map(segment)?),
            false => Err(WireError::new(ErrorKind::Denied, format!("{segment} is not of {stage}"))),
        }
    }
}

/// Hosts without a network between them.
#[derive(Debug)]
struct Hosts {
    key: GrantKey,
    here: Destination,
    others: HashMap<HostId, Arc<Exchange>>,
    fetch_bytes: u64,
    compression: Compression,
    fetches: AtomicUsize,
    asked: parking_lot::Mutex<Vec<Vec<u8>>>,
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Exchange")
    }
}

#[async_trait]
impl SegmentSource for Hosts {
    fn host(&self) -> HostId {
        HostId(1)
    }

    fn fetch_bytes(&self) -> u64 {
        self.fetch_bytes
    }

    async fn map(&self, segments: &[SegmentRef]) -> Result<Vec<Arc<MappedSegment>>, WireError> {
        segments.iter().map(|segment| Ok(self.here.store.map(segment.id())?)).collect()
    }

    async fn fetch(&self, fetch: &Fetch) -> Result<Arc<MappedSegment>, WireError> {
        self.fetches.fetch_add(1, Ordering::Relaxed);
        let held = Held(Arc::clone(&self.others[&fetch.host]));
        let ticket = ReadTicket {
            grant: fetch.grant.clone(),
            groups: fetch.groups.clone(),
            partitions: fetch.partitions.clone(),
            compression: self.compression as i32,
        };
        let mut asked = fetch.host.0.to_le_bytes().to_vec();
        asked.extend(prost::Message::encode_to_vec(&ReadTicket { grant: Default::default(), ..ticket.clone() }));
        self.asked.lock().push(asked);
        // As over a network: whoever asked may be gone before the answer is there.
        tokio::task::yield_now().await;
        let answer = serve(&held, &self.key, &ticket)?;
        let segment = receive_answer(answer, &ticket, &self.here).await?;
        let mapped = self.here.store.map(segment.id())?;
        self.here.store.remove(segment.id());
        Ok(mapped)
    }
}

/// Five attempts, at home on host 1 and hosts 2 and 3 by turns, with several segments each.
struct Cluster {
    exchanges: [Arc<Exchange>; 3],
    attempts: Vec<InputAttempt>,
    key: GrantKey,
}

impl Cluster {
    async fn new(mapping: impl Fn(&RecordBatch) -> OutputMapping) -> Self {
        let exchanges = [(); 3].map(|()| Arc::new(Exchange::new()));
        let mut attempts = Vec::new();
        for task in 0..5_u32 {
            let exchange = &exchanges[task as usize % 3];
            let batches: Vec<_> =
                (0..4).map(|n| i64::from(task) * 10_000 + n * 500).map(|n| numbers(n..n + 500)).collect();
            let options = WriterOptions { flush_bytes: 30_000, ..OPTIONS };
            let output = exchange.write(mapping(&batches[0]), options, &[batches]).await.unwrap();
            assert!(output.segments.len() > 1, "{} segments", output.segments.len());
            let attempt = StageId::new(QueryId(1), 0).task(task).attempt(0).into();
            attempts.push(InputAttempt { attempt, output, host: task % 3 + 1 });
        }
        Self { exchanges, attempts, key: GrantKey::random().unwrap() }
    }

    fn hosts(&self, fetch_bytes: u64, compression: Compression) -> Arc<Hosts> {
        let here = Destination { store: Arc::clone(&self.exchanges[0].store), writer: FunctionId(9) };
        let others = [(HostId(2), 1), (HostId(3), 2)].map(|(host, at)| (host, Arc::clone(&self.exchanges[at])));
        let (key, fetches) = (self.key.clone(), AtomicUsize::new(0));
        let asked = Default::default();
        Arc::new(Hosts { key, here, others: others.into(), fetch_bytes, compression, fetches, asked })
    }

    fn inputs(&self, granted: std::ops::Range<u32>) -> StageInputs {
        let partitions = vec![PartitionRange { start: granted.start, end: granted.end }];
        let grant = Grant { query: 1, stage: 0, partitions, expires_ms: u64::MAX, may_write: false };
        let grant = Some(self.key.sign(&grant));
        StageInputs { stage: 0, attempts: self.attempts.clone(), grant, ..StageInputs::default() }
    }

    /// By decoding every attempt where it lies.
    fn expected(&self, partition: u32) -> Vec<i64> {
        let of = |attempt: &InputAttempt| {
            let store = &self.exchanges[attempt.host as usize - 1].store;
            let segments = attempt.output.segments.iter().map(|segment| store.map(segment.id()).unwrap());
            segments
                .flat_map(|segment| values(&segment.batches(partition).map(Result::unwrap).collect::<Vec<_>>()))
                .collect::<Vec<_>>()
        };
        self.attempts.iter().flat_map(of).collect()
    }

    async fn read(
        &self,
        hosts: &Arc<Hosts>,
        inputs: StageInputs,
        partitions: Vec<u32>,
    ) -> Result<Vec<Vec<i64>>, String> {
        let schema = numbers(0..0).schema();
        let reader = reader_of(Arc::clone(hosts) as _, &schema, inputs, partitions.clone());
        let read = (0..partitions.len()).map(|at| {
            let stream = reader.execute(at, Arc::<TaskContext>::default());
            async { stream?.try_collect::<Vec<_>>().await }
        });
        let read = futures::future::try_join_all(read).await.map_err(|error| error.to_string())?;
        Ok(read.iter().map(|batches| values(batches)).collect())
    }
}

fn hashed(batch: &RecordBatch) -> OutputMapping {
    hash_of("n", &batch.schema(), PARTITIONS as usize)
}

/// Parts of one byte ask for every segment of every partition apart; large ones ask each host once.
#[tokio::test]
async fn rows_and_their_order_do_not_depend_on_where_they_lie() {
    let cluster = Cluster::new(hashed).await;
    for (fetch_bytes, compression) in
        [(1, Compression::None), (20_000, Compression::Lz4), (60_000, Compression::Zstd), (u64::MAX, Compression::None)]
    {
        for partitions in [(0..PARTITIONS).collect(), vec![2, 3, 6], vec![5]] {
            let hosts = cluster.hosts(fetch_bytes, compression);
            let read = cluster.read(&hosts, cluster.inputs(0..PARTITIONS), partitions.clone()).await.unwrap();
            let expected: Vec<_> = partitions.iter().map(|partition| cluster.expected(*partition)).collect();
            assert_eq!(read, expected, "{fetch_bytes} bytes at once, partitions {partitions:?}");
            let fetches = hosts.fetches.load(Ordering::Relaxed);
            assert!(fetch_bytes < u64::MAX || fetches == 2, "each host is asked once: {fetches} requests");
            assert!(fetch_bytes > 1 || fetches > 2 * partitions.len(), "{fetches} requests");
        }
    }
    // What was asked for ahead and is not wanted any more ends soon; what does not end makes this test hang.
    while cluster.exchanges.iter().any(|exchange| exchange.store.usage().leases > 0) {
        tokio::task::yield_now().await;
    }
}

/// What is asked for ahead is not asked for again by every piece that is read meanwhile.
#[tokio::test]
async fn no_part_is_fetched_twice() {
    let cluster = Cluster::new(hashed).await;
    for fetch_bytes in [1, 20_000, 60_000] {
        let hosts = cluster.hosts(fetch_bytes, Compression::None);
        for partition in 0..PARTITIONS {
            cluster.read(&hosts, cluster.inputs(0..PARTITIONS), vec![partition]).await.unwrap();
        }
        let mut asked = hosts.asked.lock().clone();
        let all = asked.len();
        asked.sort_unstable();
        asked.dedup();
        assert_eq!(asked.len(), all, "{fetch_bytes} bytes at once");
    }
}

#[tokio::test]
async fn a_grant_opens_its_partitions_and_no_other() {
    let cluster = Cluster::new(hashed).await;
    let hosts = cluster.hosts(u64::MAX, Compression::None);
    assert!(cluster.read(&hosts, cluster.inputs(2..4), vec![2, 3]).await.is_ok());
    let refused = cluster.read(&hosts, cluster.inputs(2..4), vec![2, 3, 4]).await.unwrap_err();
    assert!(refused.contains("not in the grant"), "{refused}");

    let of = |query, stage| Grant {
        query,
        stage,
        partitions: vec![PartitionRange { start: 0, end: 9 }],
        expires_ms: u64::MAX,
        may_write: false,
    };
    for grant in [of(1, 1), of(2, 0)] {
        let inputs = StageInputs { grant: Some(cluster.key.sign(&grant)), ..cluster.inputs(0..1) };
        let refused = cluster.read(&hosts, inputs, vec![0]).await.unwrap_err();
        assert!(refused.contains("is not of"), "{refused}");
    }
    let foreign = GrantKey::random().unwrap().sign(&of(1, 0));
    let inputs = StageInputs { grant: Some(foreign), ..cluster.inputs(0..1) };
    assert!(cluster.read(&hosts, inputs, vec![0]).await.unwrap_err().contains("not of this cluster"));
    let inputs = StageInputs { grant: None, ..cluster.inputs(0..1) };
    assert!(cluster.read(&hosts, inputs, vec![0]).await.unwrap_err().contains("nothing allows"));
}

/// An answer that ends early is an error, and its file goes back.
#[tokio::test]
async fn a_torn_answer_leaves_nothing_behind() {
    let cluster = Cluster::new(hashed).await;
    let held = Held(Arc::clone(&cluster.exchanges[1]));
    let inputs = cluster.inputs(0..PARTITIONS);
    let segments = cluster.attempts[1].output.segments.iter().map(|segment| segment.segment).collect();
    let ticket = ReadTicket {
        grant: inputs.grant.clone().unwrap(),
        groups: vec![onward_wire::exchange::SegmentGroup { segments }],
        partitions: vec![PartitionRange { start: 0, end: PARTITIONS }],
        compression: 0,
    };
    let messages: Vec<_> = futures::StreamExt::collect(serve(&held, &cluster.key, &ticket).unwrap()).await;
    let here = cluster.hosts(1, Compression::None).here.clone();
    let before = here.store.usage().segments;
    for kept in 0..messages.len() {
        let torn = futures::stream::iter(messages[..kept].to_vec());
        assert!(receive_answer(torn, &ticket, &here).await.is_err(), "{kept} of {} messages", messages.len());
    }
    assert_eq!((here.store.usage().segments, here.store.usage().leases), (before, 0));
}
