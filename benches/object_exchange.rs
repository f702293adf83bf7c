//! What the exchanges of real queries cost when their bytes go through an object store, beside the direct shuffle.
//!
//! `cargo bench --bench object_exchange`
//!
//! Each query is planned for 8 tasks a stage and runs in two functions, stage by stage. What every stage wrote is then moved
//! to its consumers twice, the same bytes, two functions' worth of requests at once:
//!
//! - direct: one DoGet per consumer task, from one host to another one over loopback TCP;
//! - object store: one PUT per producer, then for each consumer task one range GET per producer and segment (its partitions
//!   are neighbours there; where they lie is known from the coordinator, so no index is read), all through a proxy that
//!   answers like S3. Small output that travels inside messages is moved by neither.
//!
//! Time of functions that wait is priced, too: two of 2 GiB (0.0000166667 $ a GiB-second); requests at 0.005 $ per 1,000 PUTs
//! and 0.0004 $ per 1,000 GETs.

#[path = "../tests/support/s3_proxy.rs"]
mod s3_proxy;
mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use datafusion::prelude::SessionContext;
use futures::{StreamExt, TryStreamExt};
use object_store::aws::AmazonS3Builder;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use onward_executor::host::{Host, HostEvent, HostOptions};
use onward_planner::session::{OnwardOptions, session_config, session_state_builder};
use onward_planner::{PlanRequest, Planned, StageGraph, plan_query, reads};
use onward_segment::MappedSegment;
use onward_shuffle::flight::GrantKey;
use onward_tpch::{Dataset, queries};
use onward_wire::exchange::{FetchSegments, Grant, InputAttempt, PartitionRange, SegmentGroup, StageInputs};
use onward_wire::message::{CacheUse, DefineStage, KeyValue, OutputSpec, RunAttempt, SegmentRef};
use onward_wire::{Config, FunctionId, QueryId, StageId};
use support::pair::Station;
use support::s3_server::{ACCESS_KEY, S3Server, SECRET_KEY};
use support::{BoxError, conditions, load, median};
use tokio::sync::mpsc;

const FUNCTIONS: usize = 2;
const TASKS: usize = 8;
const BUCKET: &str = "bucket";
const GIB_OF_A_FUNCTION: f64 = 2.0;
const DOLLARS_PER_GIB_SECOND: f64 = 0.000_016_666_7;
const DOLLARS_PER_PUT: f64 = 0.005 / 1_000.0;
const DOLLARS_PER_GET: f64 = 0.000_4 / 1_000.0;
/// Every row once over the network, and little else.
const REPARTITION: &str = "select count(*), max(n) from (select l_comment, row_number() over (partition by l_orderkey \
                           order by l_linenumber) as n from lineitem)";

/// Measures it.
#[derive(Parser)]
struct Options {
    /// Scale of the tables
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Milliseconds to the first byte of a response; 54 is half of what the paper saw for a write and a read
    #[arg(long, value_delimiter = ',', default_values_t = [5, 15, 54])]
    latency_ms: Vec<u64>,
    /// Requests at once of each function
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 32])]
    streams: Vec<usize>,
    /// Moves of the same bytes; medians are printed
    #[arg(long, default_value_t = 3)]
    iterations: usize,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

/// What a stage wrote and who reads it.
struct Exchange {
    stage: StageId,
    attempts: Vec<InputAttempt>,
    /// Partitions that each consumer task reads.
    consumers: Vec<Vec<u32>>,
}

/// One way of moving the exchanges of a query.
#[derive(Clone, Copy, Default)]
struct Moved {
    seconds: f64,
    puts: u64,
    gets: u64,
    bytes: u64,
}

impl Moved {
    fn dollars(&self) -> f64 {
        let waiting = self.seconds * FUNCTIONS as f64 * GIB_OF_A_FUNCTION * DOLLARS_PER_GIB_SECOND;
        waiting + self.puts as f64 * DOLLARS_PER_PUT + self.gets as f64 * DOLLARS_PER_GET
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let options = Options::parse();
    let dataset = support::dataset(options.scale, 1, None)?;
    println!("{}", conditions());
    println!(
        "TPC-H scale {}, {TASKS} tasks a stage, {FUNCTIONS} functions; medians of {}\n",
        options.scale, options.iterations
    );
    let mut bench = Bench::start(&dataset).await?;
    let cache = Dataset::default_dir(options.scale);
    let cache = cache.ancestors().nth(2).ok_or("the data has no directory")?.to_owned();
    let root = tempfile::tempdir_in(if PathBuf::from("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" })?;
    std::fs::create_dir(root.path().join(BUCKET))?;
    let server = S3Server::start(root.path(), &cache).await?;
    println!(
        "| query | exchanges | MB | first byte | streams | direct ms | object store ms | ratio | PUT, GET | $ per million \
         queries: direct, object store |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    let named = [9, 13, 18, 21].map(|number| (format!("Q{number}"), queries::sql(number, options.scale)));
    for (name, sql) in named.into_iter().chain([("repartition".to_owned(), REPARTITION.into())]) {
        let exchanges = bench.run(&sql).await?;
        let mut direct = Vec::new();
        for _ in 0..options.iterations {
            direct.push(bench.direct(&exchanges).await?);
        }
        let direct_seconds = median(&direct.iter().map(|moved| moved.seconds).collect::<Vec<_>>());
        let direct = Moved { seconds: direct_seconds, ..direct[0] };
        for latency_ms in &options.latency_ms {
            let first_byte = Duration::from_millis(*latency_ms);
            let model = s3_proxy::Model { first_byte, ..s3_proxy::Model::S3 };
            let proxy = s3_proxy::S3Proxy::start(server.address, model)?;
            let store: Arc<dyn ObjectStore> = Arc::new(
                AmazonS3Builder::new()
                    .with_endpoint(proxy.url())
                    .with_allow_http(true)
                    .with_bucket_name(BUCKET)
                    .with_region("us-east-1")
                    .with_access_key_id(ACCESS_KEY)
                    .with_secret_access_key(SECRET_KEY)
                    .build()?,
            );
            for streams in &options.streams {
                let mut all = Vec::new();
                for _ in 0..options.iterations {
                    all.push(bench.through(&store, *streams, &exchanges).await?);
                }
                let seconds = median(&all.iter().map(|moved| moved.seconds).collect::<Vec<_>>());
                let object = Moved { seconds, ..all[0] };
                println!(
                    "| {name} | {} | {:.1} | {latency_ms} ms | {streams} | {:.1} | {:.1} | {:.1}x | {}, {} | {:.2}, {:.2} |",
                    exchanges.len(),
                    object.bytes as f64 / 1e6,
                    direct.seconds * 1e3,
                    object.seconds * 1e3,
                    object.seconds / direct.seconds,
                    object.puts,
                    object.gets,
                    direct.dollars() * 1e6,
                    object.dollars() * 1e6,
                );
            }
        }
        bench.forget(&exchanges);
    }
    println!("\n{} after", load());
    bench.host.shutdown().await;
    Ok(())
}

struct Bench {
    host: Arc<Host>,
    events: mpsc::UnboundedReceiver<HostEvent>,
    /// Reads what the host has.
    other: Station,
    key: GrantKey,
    context: SessionContext,
    queries: u64,
    _root: tempfile::TempDir,
}

impl Bench {
    async fn start(dataset: &Dataset) -> Result<Self, BoxError> {
        let root = tempfile::tempdir()?;
        let key = GrantKey::random()?;
        let config = Config { spill_dir: root.path().to_string_lossy().into_owned(), ..Config::default() };
        let (events, received) = mpsc::unbounded_channel();
        let options = HostOptions {
            config: Arc::new(config),
            program: env!("CARGO_BIN_EXE_onward").into(),
            uploads: Arc::default(),
            stores: Arc::default(),
            ranges: None,
            key: key.clone(),
        };
        let host = Host::start(options, events)?;
        let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let address = format!("grpc://{}", listener.local_addr()?);
        let data_plane = host.data_plane().clone();
        tokio::spawn(async move {
            if let Err(error) = data_plane.serve(listener, None, None, std::future::pending()).await {
                eprintln!("the data plane ended: {error}");
            }
        });
        let other = Station::start(&key)?;
        other.meet(address);
        let mut planning = OnwardOptions::default();
        planning.stage_tasks = TASKS;
        let config = session_config(1, planning);
        let context = SessionContext::new_with_state(session_state_builder(config, Arc::default()).build());
        for statement in dataset.registration()? {
            context.sql(&statement).await?.collect().await?;
        }
        let mut bench = Self { host, events: received, other, key, context, queries: 0, _root: root };
        for function in 1..=FUNCTIONS as u64 {
            bench.host.start_function(FunctionId(function), 1, 2 << 30);
            while !matches!(bench.events.recv().await, Some(HostEvent::FunctionReady { .. })) {}
        }
        Ok(bench)
    }

    /// Runs a query and keeps what its stages wrote.
    async fn run(&mut self, sql: &str) -> Result<Vec<Exchange>, BoxError> {
        let request = PlanRequest {
            functions: Some(FUNCTIONS),
            vcpus: FUNCTIONS,
            hosts: 1,
            bytes_per_host: u64::MAX,
            bytes_per_function: u64::MAX,
            tiny_query_bytes: 0,
            max_functions: FUNCTIONS,
            skewed_bytes: 0,
            task_bytes: 0,
            finer: 1,
        };
        let mut exchanges = Vec::new();
        // Q15 alone has several statements; the last one is the query.
        let logical = self.context.sql(sql).await?.logical_plan().clone();
        let Planned::Stages(graph) = plan_query(&self.context.state(), &logical, &request).await? else {
            return Err("the query runs in the coordinator".into());
        };
        self.queries += 1;
        let mut outputs: Vec<StageInputs> = Vec::new();
        for planned in &graph.stages {
            let attempts = self.run_stage(&graph, planned, &outputs).await?;
            outputs.push(StageInputs { stage: planned.id, attempts, ..StageInputs::default() });
        }
        for output in outputs.iter().take(graph.stages.len() - 1) {
            let mut consumers = Vec::new();
            for consumer in graph.stages.iter().filter(|stage| stage.inputs.contains(&output.stage)) {
                for partitions in &consumer.tasks {
                    let mut read = reads(&consumer.plan, partitions)?;
                    consumers.push(read.remove(&output.stage).unwrap_or_default().into_iter().collect());
                }
            }
            let mut attempts = output.attempts.clone();
            attempts.retain(|attempt| !attempt.output.segments.is_empty());
            if !attempts.is_empty() {
                exchanges.push(Exchange {
                    stage: StageId::new(QueryId(self.queries), output.stage),
                    attempts,
                    consumers,
                });
            }
        }
        Ok(exchanges)
    }

    async fn run_stage(
        &mut self,
        graph: &StageGraph,
        planned: &onward_planner::Stage,
        outputs: &[StageInputs],
    ) -> Result<Vec<InputAttempt>, BoxError> {
        let settings = graph.settings.iter().map(|(key, value)| KeyValue { key: key.clone(), value: value.clone() });
        let definition = DefineStage {
            query: self.queries,
            stage: planned.id,
            plan: planned.encode(&onward_executor::function::extensions())?,
            settings: settings.collect(),
            stores: vec![],
            output: OutputSpec { kind: planned.output as i32, partitions: planned.output_partitions as u32 },
            objects: onward_cache::scan::tags_of(&planned.plan)?,
            cache: CacheUse::Off as i32,
            sketches: vec![],
            writes: String::new(),
        };
        for function in 1..=FUNCTIONS as u64 {
            self.host.define_stage(FunctionId(function), definition.clone());
        }
        let inputs: Vec<_> = planned.inputs.iter().map(|input| outputs[*input as usize].clone()).collect();
        for (task, partitions) in planned.tasks.iter().enumerate() {
            let attempt = StageId::new(QueryId(self.queries), planned.id).task(task as u32).attempt(0).into();
            let (partitions, inputs) = (partitions.clone(), inputs.clone());
            let run = RunAttempt { attempt, partitions, inputs, inline_bytes: 64 << 10, filters: vec![] };
            self.host.run_attempt(FunctionId((task % FUNCTIONS) as u64 + 1), run);
        }
        let mut attempts = Vec::new();
        while attempts.len() < planned.tasks.len() {
            match self.events.recv().await {
                Some(HostEvent::Prepared { done, .. }) => {
                    attempts.push(InputAttempt { attempt: done.attempt, output: done.output, host: 0 });
                }
                Some(HostEvent::AttemptFailed { error, .. }) => return Err(error.into()),
                Some(HostEvent::FunctionLost { reason, .. }) => return Err(reason.into()),
                _ => {}
            }
        }
        attempts.sort_by_key(|input| input.attempt.task);
        Ok(attempts)
    }

    /// From host to host. Stages one after the other, consumer tasks as many at once as there are functions.
    async fn direct(&self, exchanges: &[Exchange]) -> Result<Moved, BoxError> {
        let mut moved = Moved::default();
        let begun = Instant::now();
        for exchange in exchanges {
            let fetched = futures::stream::iter(&exchange.consumers).map(|partitions| self.fetch(exchange, partitions));
            let bytes: Vec<u64> = fetched.buffer_unordered(FUNCTIONS).try_collect().await?;
            moved.bytes += bytes.into_iter().sum::<u64>();
        }
        moved.seconds = begun.elapsed().as_secs_f64();
        Ok(moved)
    }

    async fn fetch(&self, exchange: &Exchange, partitions: &[u32]) -> Result<u64, BoxError> {
        let partitions = PartitionRange::cover(partitions.iter().copied());
        let grant = Grant {
            query: exchange.stage.query.0,
            stage: exchange.stage.stage,
            partitions: partitions.clone(),
            expires_ms: u64::MAX,
            may_write: false,
        };
        let group = |attempt: &InputAttempt| SegmentGroup {
            segments: attempt.output.segments.iter().map(|segment| segment.segment).collect(),
        };
        let asked = FetchSegments {
            request: 0,
            attempt: exchange.stage.task(0).attempt(0).into(),
            host: 1,
            grant: self.key.sign(&grant),
            groups: exchange.attempts.iter().map(group).collect(),
            partitions,
            is_shared: false,
        };
        Ok(self.other.host.fetch(&asked).await?.length_bytes())
    }

    /// Through an object store: all producers write, then all consumers read.
    async fn through(
        &self,
        store: &Arc<dyn ObjectStore>,
        streams: usize,
        exchanges: &[Exchange],
    ) -> Result<Moved, BoxError> {
        let (puts, gets, bytes) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let begun = Instant::now();
        for exchange in exchanges {
            let segments = self.map(exchange)?;
            let put = futures::stream::iter(&segments).map(|segments| {
                puts.fetch_add(1, Ordering::Relaxed);
                write(store, exchange.stage, segments)
            });
            put.buffer_unordered(streams * FUNCTIONS).try_collect::<Vec<_>>().await?;
            let read = futures::stream::iter(&exchange.consumers).map(async |partitions| {
                let ranges = segments.iter().flat_map(|segments| ranges(segments, partitions));
                let get = futures::stream::iter(ranges).map(async |(path, range)| {
                    gets.fetch_add(1, Ordering::Relaxed);
                    let read = store.get_range(&path_of(exchange.stage, path)?, range).await?;
                    bytes.fetch_add(read.len() as u64, Ordering::Relaxed);
                    Ok::<_, BoxError>(())
                });
                get.buffer_unordered(streams).try_collect::<Vec<_>>().await
            });
            read.buffer_unordered(FUNCTIONS).try_collect::<Vec<_>>().await?;
        }
        let seconds = begun.elapsed().as_secs_f64();
        let all = store.list(None).map_ok(|object| object.location).boxed();
        store.delete_stream(all).try_collect::<Vec<_>>().await?;
        let [puts, gets, bytes] = [puts, gets, bytes].map(AtomicU64::into_inner);
        Ok(Moved { seconds, puts, gets, bytes })
    }

    /// Segments of each producer, with its task.
    fn map(&self, exchange: &Exchange) -> Result<Vec<Producer>, BoxError> {
        let map = |segment: &SegmentRef| self.host.store().map(segment.id());
        let producer = |attempt: &InputAttempt| -> Result<Producer, BoxError> {
            let segments = attempt.output.segments.iter().map(map).collect::<Result<Vec<_>, _>>()?;
            Ok((attempt.attempt.task, segments))
        };
        exchange.attempts.iter().map(producer).collect()
    }

    fn forget(&self, exchanges: &[Exchange]) {
        let segments = exchanges.iter().flat_map(|exchange| &exchange.attempts).flat_map(|a| &a.output.segments);
        self.host.remove_segments(&segments.map(SegmentRef::id).collect::<Vec<_>>());
        self.host.forget_query(QueryId(self.queries), &[]);
    }
}

/// A task and what it wrote.
type Producer = (u32, Vec<Arc<MappedSegment>>);

fn path_of(stage: StageId, task: u32) -> Result<Path, BoxError> {
    Ok(Path::parse(format!("{}-{}-{task}", stage.query.0, stage.stage))?)
}

/// One object per producer: its segments one after the other.
async fn write(store: &Arc<dyn ObjectStore>, stage: StageId, (task, segments): &Producer) -> Result<(), BoxError> {
    let parts = segments.iter().map(|segment| segment.slice(0..segment.length_bytes()));
    store.put(&path_of(stage, *task)?, parts.collect::<PutPayload>()).await?;
    Ok(())
}

/// Ranges of a producer's object that hold `partitions`: neighbours are one.
fn ranges((task, segments): &Producer, partitions: &[u32]) -> Vec<(u32, std::ops::Range<u64>)> {
    let mut found: BTreeMap<u64, u64> = BTreeMap::new();
    let mut base = 0;
    for segment in segments {
        for entry in partitions.iter().flat_map(|partition| segment.entries(*partition)) {
            found.insert(base + entry.offset, base + entry.offset + entry.length);
        }
        base += segment.length_bytes();
    }
    let mut coalesced: Vec<(u32, std::ops::Range<u64>)> = Vec::new();
    for (start, end) in found {
        match coalesced.last_mut().filter(|(_, last)| last.end == start) {
            Some((_, last)) => last.end = end,
            None => coalesced.push((*task, start..end)),
        }
    }
    coalesced
}
