//! The paper's table 1 ("Serverless Computing: One Step Forward, Two Steps Back", CIDR 2019) with our figures beside it: a
//! message of 1 KiB from one function to another; and the bandwidth between two hosts beside what the link can do.
//!
//! `cargo bench --bench paper_table1`
//!
//! - One machine: two function processes and their host. The clock starts before the message is written and stops when the
//!   other function has its rows; host, sockets and scheduling are in between.
//! - Loopback TCP: DoPut of a segment by one connection, then DoGet of it by another, as outbound hosts and readers do.
//! - S3 model: PUT and GET through a proxy that answers like S3 (first byte after 15 ms, 150 MB/s a stream).
//! - Bandwidth: segments of one host read by another, against raw TCP (one stream, 1 MiB writes) and a bare Flight DoGet
//!   (arrow-flight's encoder and decoder, record batches from memory), on loopback, where cores are the limit, and between
//!   two network namespaces with links of 1 Gbit/s.

#[path = "../tests/support/network.rs"]
mod network;
#[path = "../tests/support/s3_proxy.rs"]
mod s3_proxy;
mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse,
    PollInfo, PutResult, SchemaResult, Ticket,
};
use clap::Parser;
use datafusion::arrow::array::{AsArray, Int64Array, RecordBatch};
use datafusion::arrow::datatypes::Int64Type;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectStoreExt, path::Path};
use onward_executor::host::{Host, HostEvent, HostOptions};
use onward_executor::socket;
use onward_segment::{ImageWriter, MappedSegment, SegmentWriter};
use onward_shuffle::flight::{Connector, Destination, GrantKey, fetch, put};
use onward_wire::exchange::{Compression, InputAttempt, PartitionRange, ReadTicket, SegmentGroup, StageInputs};
use onward_wire::message::{
    AttemptDone, AttemptEnded, AttemptOutput, DefineStage, Hello, MapSegments, OpenSegment, PartitionStats,
    ReleaseSegments, RunAttempt, SegmentRef, ToFunction, ToHost, to_function,
};
use onward_wire::{Config, ENGINE_VERSION, FunctionId, QueryId, StageId};
use support::pair::{Station, grant};
use support::{BoxError, conditions, load, median, percentile};
use tonic::{Request, Response, Status, Streaming};

/// 8-byte numbers of a message of 1 KiB.
const NUMBERS: usize = 128;
const MESSAGES: usize = 2_000;
const S3_MESSAGES: usize = 30;
/// Read at once, as a task does.
const FETCH_BYTES: u64 = 8 << 20;

/// Measures messages and bandwidth.
#[derive(Parser)]
struct Options {
    /// MiB of one transfer
    #[arg(long, default_value_t = 256)]
    mib: usize,
    /// Transfers; medians are printed
    #[arg(long, default_value_t = 7)]
    iterations: usize,
    /// Without the S3 model
    #[arg(long)]
    no_s3: bool,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), BoxError> {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, command] = arguments.as_slice()
        && command == "zygote"
    {
        let code = onward_executor::zygote::fork_on_request(|socket| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(messenger(socket))
        });
        std::process::exit(i32::from(code != std::process::ExitCode::SUCCESS));
    }
    let options = Options::parse();
    println!("{}", conditions());
    println!(
        "1 KiB from function to function, p50 (p99) of {MESSAGES} messages ({S3_MESSAGES} through the S3 model)\n"
    );
    println!("| way | p50 | p99 | paper, table 1 |\n| --- | --- | --- | --- |");
    let runtime = tokio::runtime::Runtime::new()?;
    let row = |way: &str, samples: &[f64], paper: &str| {
        println!("| {way} | {} | {} | {paper} |", time(percentile(samples, 0.5)), time(percentile(samples, 0.99)));
    };
    row("one machine, inside the task's message", &runtime.block_on(one_machine(1 << 16))?, "");
    row("one machine, through a segment in shared memory", &runtime.block_on(one_machine(0))?, "");
    // A host has its threads, whoever gives and reads has one of its own: as in separate processes.
    let key = GrantKey::random()?;
    let home = runtime.block_on(async { Station::start(&key) })?;
    let address = runtime.block_on(home.serve(SocketAddr::from(([127, 0, 0, 1], 0))))?;
    let own = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let samples = own.block_on(over_tcp(&key, &home, &address))?;
    row("loopback TCP, DoPut and DoGet", &samples, "290 us (direct, 0MQ between VMs)");
    if !options.no_s3 {
        let samples = runtime.block_on(through_s3())?;
        row("S3 model, PUT and GET", &samples, "108 ms (Lambda through S3), 11 ms (DynamoDB)");
    }
    drop(runtime);
    println!("\nGB/s (10^9 bytes) from host to host, {} MiB, medians of {}\n", options.mib, options.iterations);
    println!("| link | raw TCP | bare DoGet | onward | of raw TCP | of DoGet |\n| --- | --- | --- | --- | --- | --- |");
    bandwidth("loopback", None, &options)?;
    match network::Network::new(2) {
        Ok(network) => bandwidth(network.shaping, Some(&network), &options)?,
        Err(why) => println!("no network namespaces here: {why}"),
    }
    println!("\n{} after", load());
    Ok(())
}

fn time(seconds: f64) -> String {
    if seconds < 1e-3 { format!("{:.0} us", seconds * 1e6) } else { format!("{:.1} ms", seconds * 1e3) }
}

fn nanoseconds() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64)
}

/// 1 KiB; the first number says when it was made.
fn message() -> Result<RecordBatch, BoxError> {
    let numbers = (0..NUMBERS as i64).map(|n| if n == 0 { nanoseconds() } else { n });
    Ok(RecordBatch::try_from_iter([("n", Arc::new(numbers.collect::<Int64Array>()) as _)])?)
}

/// How old the message of a segment is.
fn age(segment: MappedSegment) -> Result<u64, BoxError> {
    let batch = Arc::new(segment).batches(0).next().ok_or("an empty message")??;
    let numbers = batch.column(0).as_primitive::<Int64Type>();
    assert!(numbers.len() == NUMBERS && numbers.value(NUMBERS - 1) == NUMBERS as i64 - 1, "another message");
    Ok((nanoseconds() - numbers.value(0)) as u64)
}

/// A function process: answers each attempt with a message, and says how old the one was that it read.
async fn messenger(socket: std::os::unix::net::UnixStream) -> Result<(), BoxError> {
    socket.set_nonblocking(true)?;
    let stream = tokio::net::UnixStream::from_std(socket)?;
    let (sender, flusher, mut receiver) = socket::split::<ToHost, ToFunction>(stream, 1 << 20);
    tokio::spawn(flusher.run());
    sender.try_send(Hello { engine_version: ENGINE_VERSION.to_owned() }, vec![])?;
    loop {
        let run = match receiver.receive().await?.0.body {
            Some(to_function::Body::RunAttempt(run)) => run,
            Some(to_function::Body::Shutdown(_)) => return Ok(()),
            _ => continue,
        };
        let mut read = 0;
        if let Some(input) = run.inputs.iter().flat_map(|inputs| &inputs.attempts).next() {
            match input.output.segments.first() {
                None => read = age(MappedSegment::from_image(input.output.inline.clone())?)?,
                Some(segment) => {
                    sender.try_send(MapSegments { request: 1, segments: vec![segment.segment] }, vec![])?;
                    let file = receiver.receive().await?.1.pop().ok_or("no file")?;
                    read = age(MappedSegment::open(segment.id(), file, segment.length_bytes)?)?;
                    sender.try_send(ReleaseSegments { segments: vec![segment.segment] }, vec![])?;
                }
            }
        }
        let batch = message()?;
        let mut output = AttemptOutput::default();
        output.partitions.push(PartitionStats { partition: 0, rows: NUMBERS as u64, bytes: 1024 });
        if run.inline_bytes > 0 {
            let mut writer = ImageWriter::create(batch.schema())?;
            writer.append(0, &batch)?;
            output.inline = writer.finish()?.1;
        } else {
            let open = OpenSegment { request: 2, attempt: run.attempt, capacity_bytes: 64 << 10 };
            sender.try_send(open, vec![])?;
            let (opened, mut files) = receiver.receive().await?;
            let (Some(to_function::Body::SegmentOpened(opened)), Some(file)) = (opened.body, files.pop()) else {
                return Err("no file to write".into());
            };
            let id = onward_wire::SegmentId(opened.segment);
            let mut writer = SegmentWriter::create(id, file, opened.capacity_bytes, batch.schema())?;
            writer.append(0, &batch)?;
            let done = writer.finish()?;
            output.segments.push(SegmentRef { segment: id.0, length_bytes: done.length_bytes, rows: done.rows });
        }
        sender.try_send(AttemptEnded { attempt: run.attempt }, vec![])?;
        // The age travels where the real function reports its memory.
        let done = AttemptDone { attempt: run.attempt, output, peak_memory_bytes: read, ..AttemptDone::default() };
        sender.try_send(done, vec![])?;
    }
}

/// Two functions send each other messages through their host.
async fn one_machine(inline_bytes: u64) -> Result<Vec<f64>, BoxError> {
    let root = tempfile::tempdir()?;
    let config = Config { spill_dir: root.path().to_string_lossy().into_owned(), ..Config::default() };
    let (events, mut received) = tokio::sync::mpsc::unbounded_channel();
    let (uploads, key) = (Arc::default(), GrantKey::random()?);
    let program = std::env::current_exe()?;
    let host = Host::start(
        HostOptions { config: Arc::new(config), program, uploads, stores: Arc::default(), ranges: None, key },
        events,
    )?;
    for function in [1, 2] {
        host.start_function(FunctionId(function), 1, 1 << 20);
        while !matches!(received.recv().await, Some(HostEvent::FunctionReady { .. })) {}
        host.define_stage(FunctionId(function), DefineStage { query: 1, ..DefineStage::default() });
    }
    let (mut samples, mut inputs) = (Vec::with_capacity(MESSAGES), vec![]);
    for number in 0..MESSAGES as u32 + 100 {
        let attempt = StageId::new(QueryId(1), 0).task(number).attempt(0).into();
        let run = RunAttempt { attempt, partitions: vec![0], inputs, inline_bytes, filters: vec![] };
        host.run_attempt(FunctionId(u64::from(number % 2) + 1), run);
        let done = loop {
            match received.recv().await {
                Some(HostEvent::Prepared { done, .. }) => break done,
                Some(HostEvent::FunctionLost { reason, .. }) => return Err(reason.into()),
                _ => {}
            }
        };
        if number >= 100 {
            samples.push(done.peak_memory_bytes as f64 / 1e9);
        }
        let attempts = vec![InputAttempt { attempt: done.attempt, output: done.output, host: 0 }];
        inputs = vec![StageInputs { attempts, ..StageInputs::default() }];
    }
    host.shutdown().await;
    Ok(samples)
}

/// One connection gives a segment to a host, another one reads it there.
async fn over_tcp(key: &GrantKey, home: &Station, address: &str) -> Result<Vec<f64>, BoxError> {
    let own = Station::start(key)?;
    let connectors = [(); 2].map(|()| Connector::new(None, 1 << 26));
    let destination = Destination { store: Arc::clone(own.host.store()), writer: FunctionId(9) };
    let mut samples = Vec::with_capacity(MESSAGES);
    for number in 0..MESSAGES + 100 {
        let begun = Instant::now();
        let mut writer = ImageWriter::create(message()?.schema())?;
        writer.append(0, &message()?)?;
        let image = Arc::new(MappedSegment::from_image(writer.finish()?.1)?);
        let client = connectors[0].client(address)?;
        let given = put(client, address, grant(key, true), Compression::None, &image).await?;
        let ticket = ReadTicket {
            grant: grant(key, false),
            groups: vec![SegmentGroup { segments: vec![given.segment] }],
            partitions: vec![PartitionRange { start: 0, end: 1 }],
            compression: 0,
        };
        let read = fetch(connectors[1].client(address)?, address, &ticket, &destination).await?;
        let mapped = own.host.store().map(read.id())?;
        assert_eq!(mapped.rows(), NUMBERS as u64);
        if number >= 100 {
            samples.push(begun.elapsed().as_secs_f64());
        }
        drop(mapped);
        own.host.store().remove(read.id());
        home.host.remove_segments(&[given.id()]);
    }
    Ok(samples)
}

/// PUT and GET of 1 KiB through a store that is as slow as S3.
async fn through_s3() -> Result<Vec<f64>, BoxError> {
    let root = tempfile::tempdir()?;
    std::fs::create_dir(root.path().join("bucket"))?;
    let cache = dirs_cache();
    let server = support::s3_server::S3Server::start(root.path(), &cache).await?;
    let proxy = s3_proxy::S3Proxy::start(server.address, s3_proxy::Model::S3)?;
    let store = object_store::aws::AmazonS3Builder::new()
        .with_endpoint(proxy.url())
        .with_allow_http(true)
        .with_bucket_name("bucket")
        .with_region("us-east-1")
        .with_access_key_id(support::s3_server::ACCESS_KEY)
        .with_secret_access_key(support::s3_server::SECRET_KEY)
        .build()?;
    let mut samples = Vec::new();
    for number in 0..S3_MESSAGES + 2 {
        let path = Path::parse(format!("message-{number}"))?;
        let begun = Instant::now();
        store.put(&path, vec![7_u8; 1024].into()).await?;
        assert_eq!(store.get(&path).await?.bytes().await?.len(), 1024);
        if number >= 2 {
            samples.push(begun.elapsed().as_secs_f64());
        }
    }
    Ok(samples)
}

fn dirs_cache() -> PathBuf {
    let home = std::env::var_os("HOME").map_or_else(std::env::temp_dir, PathBuf::from);
    std::env::var_os("XDG_CACHE_HOME").map_or_else(|| home.join(".cache"), PathBuf::from).join("onward")
}

/// Batches of numbers, `mib` of them together.
fn batches(mib: usize) -> Result<Vec<RecordBatch>, BoxError> {
    const ROWS: usize = 8192;
    let column = |seed: i64| Arc::new((0..ROWS as i64).map(|n| n * seed).collect::<Int64Array>()) as _;
    let batch = |at: usize| {
        RecordBatch::try_from_iter([("a", column(at as i64)), ("b", column(3)), ("c", column(5)), ("d", column(7))])
    };
    (0..(mib << 20) / (ROWS * 32)).map(|at| Ok(batch(at)?)).collect()
}

/// Runs `of` on a thread with its own runtime, in a namespace if there is one.
fn on_host<T: Send>(
    network: Option<(&network::Network, usize)>,
    of: impl FnOnce(tokio::runtime::Runtime) -> Result<T, BoxError> + Send,
) -> Result<T, BoxError> {
    std::thread::scope(|scope| {
        let run = || {
            if let Some((network, number)) = network {
                network.enter(number);
            }
            of(tokio::runtime::Runtime::new()?)
        };
        scope.spawn(run).join().map_err(|_| "a host panicked")?
    })
}

fn bandwidth(link: &str, network: Option<&network::Network>, options: &Options) -> Result<(), BoxError> {
    let (stop, stopped) = tokio::sync::watch::channel(());
    let (ready, addresses) = std::sync::mpsc::channel();
    let key = GrantKey::random()?;
    let at = |number: usize| network.map(|network| (network, number));
    let bytes = std::thread::scope(|scope| -> Result<[Vec<f64>; 3], BoxError> {
        let serving = scope.spawn(|| {
            on_host(at(1), |runtime| {
                runtime.block_on(async {
                    let ip = network.map_or("127.0.0.1".to_owned(), |_| network::Network::address(1));
                    let any: SocketAddr = format!("{ip}:0").parse()?;
                    let rows = batches(options.mib)?;
                    let station = Station::start(&key)?;
                    let address = station.serve(any).await?;
                    let segments: Vec<SegmentRef> =
                        rows.chunks(128).map(|part| station.hold(part)).collect::<Result<_, _>>()?;
                    let bare = serve_bare(any, rows).await?;
                    let raw = serve_raw(any, options.mib)?;
                    ready.send((address, segments, bare, raw)).map_err(|_| "nobody reads")?;
                    let mut stopped = stopped.clone();
                    // Its sender is dropped.
                    let _ = stopped.changed().await;
                    Ok(())
                })
            })
        });
        let read = addresses.recv_timeout(Duration::from_secs(60)).map_err(BoxError::from).and_then(|served| {
            let (address, segments, bare, raw) = served;
            on_host(at(2), |runtime| {
                let station = runtime.block_on(async { Station::start(&key) })?;
                station.meet(address);
                let mut rates = [const { Vec::new() }; 3];
                for number in 0..options.iterations + 1 {
                    let round = [
                        read_raw(raw)?,
                        runtime.block_on(read_bare(bare))?,
                        runtime.block_on(read_segments(&station, &key, &segments))?,
                    ];
                    // The first one warms files, windows and connections.
                    if number > 0 {
                        rates.iter_mut().zip(round).for_each(|(rates, rate)| rates.push(rate));
                    }
                }
                Ok(rates)
            })
        });
        drop(stop);
        serving.join().map_err(|_| "a host panicked")??;
        read
    })?;
    let [raw, bare, ours] = bytes.map(|rates| median(&rates) / 1e9);
    println!("| {link} | {raw:.3} | {bare:.3} | {ours:.3} | {:.2}x | {:.2}x |", ours / raw, ours / bare);
    Ok(())
}

async fn read_segments(station: &Station, key: &GrantKey, segments: &[SegmentRef]) -> Result<f64, BoxError> {
    let begun = Instant::now();
    let parts = segments.iter().flat_map(|segment| {
        let partitions = 128_u32;
        let each = (u64::from(partitions) * FETCH_BYTES / segment.length_bytes.max(1)).clamp(1, 128) as u32;
        (0..partitions).step_by(each as usize).map(move |from| (segment.segment, from..(from + each).min(partitions)))
    });
    // One request is read while the next one is on its way.
    let fetched = futures::stream::iter(parts).map(|(segment, range)| station.fetch(key, segment, range)).buffered(2);
    let bytes: u64 = fetched.try_fold(0, async |sum, bytes| Ok(sum + bytes)).await?;
    Ok(bytes as f64 / begun.elapsed().as_secs_f64())
}

/// Sends `mib` to whoever connects.
fn serve_raw(any: SocketAddr, mib: usize) -> Result<SocketAddr, BoxError> {
    let listener = TcpListener::bind(any)?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        let bytes = vec![7_u8; 1 << 20];
        for stream in listener.incoming().map_while(Result::ok) {
            let mut stream = stream;
            // A reader that is gone ends its transfer.
            let _ = (0..mib).try_for_each(|_| stream.write_all(&bytes));
        }
    });
    Ok(address)
}

fn read_raw(address: SocketAddr) -> Result<f64, BoxError> {
    let begun = Instant::now();
    let (mut stream, mut buffer, mut all) = (TcpStream::connect(address)?, vec![0; 1 << 20], 0);
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(all as f64 / begun.elapsed().as_secs_f64()),
            bytes => all += bytes,
        }
    }
}

/// A Flight server that knows DoGet and nothing else.
struct Bare(Vec<RecordBatch>);

async fn serve_bare(any: SocketAddr, rows: Vec<RecordBatch>) -> Result<SocketAddr, BoxError> {
    let listener = tokio::net::TcpListener::bind(any).await?;
    let address = listener.local_addr()?;
    let service = FlightServiceServer::new(Bare(rows)).max_encoding_message_size(usize::MAX);
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    Ok(address)
}

async fn read_bare(address: SocketAddr) -> Result<f64, BoxError> {
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}"))?
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(32 << 20)
        .connect()
        .await?;
    let mut client = FlightServiceClient::new(channel).max_decoding_message_size(usize::MAX);
    let begun = Instant::now();
    let stream =
        client.do_get(Ticket::default()).await?.into_inner().map_err(|error| FlightError::Tonic(Box::new(error)));
    let mut batches = FlightRecordBatchStream::new_from_flight_data(stream);
    let mut bytes = 0;
    while let Some(batch) = batches.next().await {
        bytes += batch?.num_rows() * 32;
    }
    Ok(bytes as f64 / begun.elapsed().as_secs_f64())
}

type Answer<T> = Result<Response<BoxStream<'static, Result<T, Status>>>, Status>;

fn no<T>() -> Result<T, Status> {
    Err(Status::unimplemented("only DoGet"))
}

#[tonic::async_trait]
impl FlightService for Bare {
    type HandshakeStream = BoxStream<'static, Result<HandshakeResponse, Status>>;
    type ListFlightsStream = BoxStream<'static, Result<FlightInfo, Status>>;
    type DoGetStream = BoxStream<'static, Result<FlightData, Status>>;
    type DoPutStream = BoxStream<'static, Result<PutResult, Status>>;
    type DoActionStream = BoxStream<'static, Result<arrow_flight::Result, Status>>;
    type ListActionsStream = BoxStream<'static, Result<ActionType, Status>>;
    type DoExchangeStream = BoxStream<'static, Result<FlightData, Status>>;

    async fn do_get(&self, _: Request<Ticket>) -> Answer<FlightData> {
        let rows = futures::stream::iter(self.0.clone()).map(Ok);
        let encoded = FlightDataEncoderBuilder::new().build(rows);
        Ok(Response::new(encoded.map_err(|error| Status::internal(error.to_string())).boxed()))
    }

    async fn handshake(&self, _: Request<Streaming<HandshakeRequest>>) -> Answer<HandshakeResponse> {
        no()
    }

    async fn list_flights(&self, _: Request<Criteria>) -> Answer<FlightInfo> {
        no()
    }

    async fn get_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        no()
    }

    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        no()
    }

    async fn get_schema(&self, _: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        no()
    }

    async fn do_put(&self, _: Request<Streaming<FlightData>>) -> Answer<PutResult> {
        no()
    }

    async fn do_exchange(&self, _: Request<Streaming<FlightData>>) -> Answer<FlightData> {
        no()
    }

    async fn do_action(&self, _: Request<Action>) -> Answer<arrow_flight::Result> {
        no()
    }

    async fn list_actions(&self, _: Request<Empty>) -> Answer<ActionType> {
        no()
    }
}
