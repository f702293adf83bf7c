//! The 22 queries on tables in a bucket, with S3's latency and bandwidth: what a cold start costs and what stays warm, against
//! single-process DataFusion on the same bucket in the same run.
//!
//! `cargo bench --bench object_store`
//!
//! ```text
//!   Onward (host, functions) --+
//!                              +--> proxy: 15 ms, 150 MB/s a stream, counts --> s3s-fs over a directory
//!   DataFusion ----------------+
//! ```
//!
//! An iteration is one pass over all queries for each column of the table that it prints:
//!
//! | column | what runs |
//! | --- | --- |
//! | DataFusion | a new session with its defaults: it keeps footers, and no data |
//! | alone | Onward, each query on a new host with an empty data directory: cold as DataFusion is for each query |
//! | cold | Onward, a new host with an empty data directory: a query finds what those before it read |
//! | warm | the same host, the same queries |
//! | killed | the same host, all functions killed before each query |
//! | restarted | a new host with the same data directory, after the old one has ended |
//!
//! Rows of every pass are compared with DataFusion's. Making the tables is not part of a pass; its requests are printed apart.

#[path = "../tests/support/s3_proxy.rs"]
mod s3_proxy;
mod support;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::Parser;
use datafusion::arrow::array::RecordBatch;
use datafusion::prelude::{SessionConfig, SessionContext};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::{BackoffConfig, ObjectStoreExt, RetryConfig};
use onward_cache::paths::store_path;
use onward_cache::store::{MAX_RETRIES, RETRY_TIMEOUT};
use onward_tpch::compare::{compare, rows_of};
use onward_tpch::{Answer, Client, Dataset, Table, queries};
use s3_proxy::{Count, Kind, Model, S3Proxy, count};
use support::s3_server::{ACCESS_KEY, S3Server, SECRET_KEY};
use support::{BoxError, Server, conditions, cores, kill_functions, load, median, milliseconds};
use url::Url;

const BUCKET: &str = "tables";
const REGION: &str = "us-east-1";
/// Of an upload.
const PART_BYTES: u64 = 16 << 20;
const COLUMNS: [&str; 6] = ["DataFusion", "alone", "cold", "warm", "killed", "restarted"];
const DATAFUSION: usize = 0;
const ALONE: usize = 1;
const COLD: usize = 2;
const WARM: usize = 3;
const KILLED: usize = 4;
const RESTARTED: usize = 5;

/// Measures Onward on an object store.
#[derive(Parser)]
struct Options {
    /// Scale factor
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Functions of a query
    #[arg(long, default_value_t = 2)]
    functions: u32,
    /// Passes over the queries for each column; medians are printed
    #[arg(long, default_value_t = 3)]
    iterations: usize,
    /// `all`, or numbers as in 1,6,10-12
    #[arg(long, default_value = "all")]
    queries: String,
    /// Files per table, when the data is made
    #[arg(long, default_value_t = 1)]
    parts: u32,
    /// Directory of the data, made when missing
    #[arg(long)]
    data: Option<PathBuf>,
    /// No latency and no limit of bandwidth
    #[arg(long)]
    no_model: bool,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

/// One run of a query, or of all statements that make the tables.
struct Run {
    ms: f64,
    counts: BTreeMap<Kind, Count>,
}

impl Run {
    fn requests(&self, kinds: &[Kind]) -> f64 {
        kinds.iter().filter_map(|kind| self.counts.get(kind)).map(|count| count.requests as f64).sum()
    }

    fn bytes(&self) -> f64 {
        self.counts.values().map(|count| count.bytes as f64).sum()
    }
}

/// The bucket, its proxy, and what was measured.
struct Bench {
    options: Options,
    proxy: S3Proxy,
    tables: Vec<(Table, String)>,
    numbers: Vec<u8>,
    /// By column, then by query.
    runs: Vec<Vec<Vec<Run>>>,
    /// Making the tables: DataFusion's, Onward's.
    registrations: [Vec<Run>; 2],
    /// DataFusion's rows of each query.
    answers: Vec<Option<Answer>>,
    /// Functions.
    killed: usize,
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let options = Options::parse();
    let numbers = queries::parse_selection(&options.queries)?;
    let dataset = support::dataset(options.scale, options.parts, options.data.clone())?;
    let default = Dataset::default_dir(options.scale);
    let cache = default.ancestors().nth(2).ok_or("the data has no directory")?;
    let root = cache.join(format!("s3/sf{}-{}", options.scale, options.parts));
    std::fs::create_dir_all(root.join(BUCKET))?;
    let server = S3Server::start(&root, cache).await?;
    let tables = publish(&dataset, &store(format!("http://{}", server.address))?).await?;
    let model = if options.no_model { Model::NONE } else { Model::S3 };
    let proxy = S3Proxy::start(server.address, model)?;
    println!(
        "TPC-H scale {} in s3://{BUCKET}/, {} functions, {} iterations; a response begins after {} ms, a stream has {} MB/s",
        options.scale,
        options.functions,
        options.iterations,
        model.first_byte.as_millis(),
        model.stream_bytes_per_second / 1_000_000
    );
    println!("{}", conditions());
    let runs = COLUMNS.iter().map(|_| numbers.iter().map(|_| Vec::new()).collect()).collect();
    let answers = numbers.iter().map(|_| None).collect();
    let mut bench =
        Bench { options, proxy, tables, numbers, runs, registrations: Default::default(), answers, killed: 0 };
    for iteration in 0..bench.options.iterations {
        bench.datafusion().await?;
        bench.onward().await.map_err(|error| format!("iteration {iteration}: {error}"))?;
    }
    bench.print();
    println!("{} at the end", load());
    Ok(())
}

impl Bench {
    async fn datafusion(&mut self) -> Result<(), BoxError> {
        let config = SessionConfig::new().with_target_partitions(cores());
        let context = SessionContext::new_with_config(config);
        let store = store(self.proxy.url())?;
        context.register_object_store(&Url::parse(&format!("s3://{BUCKET}/"))?, Arc::new(store));
        let start = self.begin();
        for (table, location) in &self.tables {
            let name = table.name();
            let sql = format!("CREATE EXTERNAL TABLE {name} STORED AS PARQUET LOCATION '{location}'");
            context.sql(&sql).await?.collect().await?;
        }
        let run = self.end(start);
        self.registrations[0].push(run);
        for at in 0..self.numbers.len() {
            let sql = queries::sql(self.numbers[at], self.options.scale);
            let start = self.begin();
            let batches = context.sql(&sql).await?.collect().await?;
            let run = self.end(start);
            self.runs[DATAFUSION][at].push(run);
            self.check(at, "DataFusion", &batches)?;
        }
        Ok(())
    }

    async fn onward(&mut self) -> Result<(), BoxError> {
        for at in 0..self.numbers.len() {
            let data_dir = tempfile::tempdir()?;
            let (server, mut client) = self.fresh_host(data_dir.path()).await?;
            self.query(&mut client, ALONE, at).await?;
            drop(client);
            server.stop().await;
        }
        let data_dir = tempfile::tempdir()?;
        let (server, mut client) = self.fresh_host(data_dir.path()).await?;
        for column in [COLD, WARM, KILLED] {
            self.pass(&mut client, column).await?;
        }
        drop(client);
        server.stop().await;

        let server = Server::start_in(data_dir.path(), Some(data_dir.path())).await?;
        let mut client = self.connect(&server).await?;
        self.pass(&mut client, RESTARTED).await?;
        drop(client);
        server.stop().await;
        Ok(())
    }

    /// A host whose tables were just made in an empty data directory.
    async fn fresh_host(&mut self, data_dir: &Path) -> Result<(Server, Client), BoxError> {
        let server = Server::start_in(data_dir, Some(data_dir)).await?;
        let mut client = self.connect(&server).await?;
        let options = format!(
            "'aws.endpoint' '{}', 'aws.region' '{REGION}', 'aws.access_key_id' '{ACCESS_KEY}', \
             'aws.secret_access_key' '{SECRET_KEY}'",
            self.proxy.url()
        );
        let start = self.begin();
        for (table, location) in &self.tables {
            let name = table.name();
            client
                .update(&format!(
                    "CREATE EXTERNAL TABLE {name} STORED AS PARQUET LOCATION '{location}' OPTIONS ({options})"
                ))
                .await?;
        }
        let run = self.end(start);
        self.registrations[1].push(run);
        Ok((server, client))
    }

    async fn connect(&self, server: &Server) -> Result<Client, BoxError> {
        let mut client = server.connect().await?;
        client.update(&format!("SET onward.functions = {}", self.options.functions)).await?;
        Ok(client)
    }

    async fn pass(&mut self, client: &mut Client, column: usize) -> Result<(), BoxError> {
        for at in 0..self.numbers.len() {
            if column == KILLED {
                self.killed += kill_functions()?;
            }
            self.query(client, column, at).await?;
        }
        Ok(())
    }

    async fn query(&mut self, client: &mut Client, column: usize, at: usize) -> Result<(), BoxError> {
        let number = self.numbers[at];
        let sql = queries::sql(number, self.options.scale);
        let start = self.begin();
        let rows = client.query(&sql).await.map_err(|error| format!("Q{number}, {}: {error}", COLUMNS[column]))?;
        let run = self.end(start);
        self.runs[column][at].push(run);
        self.check(at, COLUMNS[column], &rows.batches)
    }

    /// Requests are counted from now.
    fn begin(&self) -> Instant {
        drop(self.proxy.take_log());
        Instant::now()
    }

    fn end(&self, start: Instant) -> Run {
        let ms = milliseconds(start.elapsed());
        Run { ms, counts: count(&self.proxy.take_log()) }
    }

    /// The rows are those that DataFusion found first.
    fn check(&mut self, at: usize, column: &str, batches: &[RecordBatch]) -> Result<(), BoxError> {
        let (number, rows) = (self.numbers[at], rows_of(batches)?);
        let Some(answer) = &self.answers[at] else {
            // Which rows of the last tie a LIMIT leaves is nobody's business.
            let is_cut_in_a_tie = queries::sql(number, self.options.scale).contains("\nlimit ");
            self.answers[at] = Some(Answer { rows, is_cut_in_a_tie });
            return Ok(());
        };
        let found = compare(number, &rows, answer);
        match found.is_right() {
            true => Ok(()),
            false => Err(format!("Q{number}, {column}: {found:?}").into()),
        }
    }

    fn print(&self) {
        println!("\nms, GET requests, MB of bodies; medians");
        println!("{:<6}{}", "", COLUMNS.map(|name| format!("{name:>26}")).concat());
        let row = |name: &str, at: &dyn Fn(usize) -> Vec<Figures>| {
            let cells = (0..COLUMNS.len()).map(|column| Figures::sum(&at(column)).to_string());
            println!("{name:<6}{}", cells.collect::<String>());
        };
        for (at, number) in self.numbers.iter().enumerate() {
            row(&format!("Q{number}"), &|column| vec![Figures::of(&self.runs[column][at])]);
        }
        let totals = |column: usize| self.runs[column].iter().map(|runs| Figures::of(runs)).collect::<Vec<_>>();
        row("total", &totals);
        for (name, runs) in ["DataFusion", "Onward"].iter().zip(&self.registrations) {
            println!("the 8 tables made by {name}: {}", Figures::of(runs).to_string().trim_start());
        }
        for (column, name) in COLUMNS.iter().enumerate() {
            let of =
                |kind| self.runs[column].iter().map(|runs| median_of(runs, &|run| run.requests(&[kind]))).sum::<f64>();
            let kinds = [Kind::Get, Kind::Head, Kind::List, Kind::Put, Kind::Post, Kind::Other];
            let counts = kinds.map(|kind| format!("{:.0} {kind}", of(kind))).join(", ");
            println!("requests, {name}: {counts}");
        }
        println!("functions killed: {}", self.killed);
        let [datafusion, alone, cold, warm, killed, restarted] =
            [DATAFUSION, ALONE, COLD, WARM, KILLED, RESTARTED].map(|column| Figures::sum(&totals(column)));
        println!("\nalone / DataFusion, time: {:.2} (goal: at most 1.2)", alone.ms / datafusion.ms);
        println!("alone / warm, time: {:.1} (goal: at least 10)", alone.ms / warm.ms);
        println!("alone / warm, bytes: {} (goal: at least 100)", ratio(alone.bytes, warm.bytes));
        println!(
            "cold / DataFusion, time: {:.2}; cold / warm, time: {:.1}",
            cold.ms / datafusion.ms,
            cold.ms / warm.ms
        );
        println!("cold / killed, time: {:.1}, bytes: {}", cold.ms / killed.ms, ratio(cold.bytes, killed.bytes));
        println!(
            "cold / restarted, time: {:.1}, bytes: {}",
            cold.ms / restarted.ms,
            ratio(cold.bytes, restarted.bytes)
        );
    }
}

/// Medians of the runs of a query, or sums of them.
#[derive(Default)]
struct Figures {
    ms: f64,
    gets: f64,
    bytes: f64,
}

impl Figures {
    fn of(runs: &[Run]) -> Self {
        Self {
            ms: median_of(runs, &|run| run.ms),
            gets: median_of(runs, &|run| run.requests(&[Kind::Get])),
            bytes: median_of(runs, &Run::bytes),
        }
    }

    fn sum(figures: &[Self]) -> Self {
        figures.iter().fold(Self::default(), |sum, one| Self {
            ms: sum.ms + one.ms,
            gets: sum.gets + one.gets,
            bytes: sum.bytes + one.bytes,
        })
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:>11.1} {:>5.0} {:>8.2}", self.ms, self.gets, self.bytes / 1e6)
    }
}

fn median_of(runs: &[Run], figure: &dyn Fn(&Run) -> f64) -> f64 {
    median(&runs.iter().map(figure).collect::<Vec<_>>())
}

fn ratio(one: f64, other: f64) -> String {
    if other == 0.0 { "nothing was asked for again".to_owned() } else { format!("{:.0}", one / other) }
}

/// The bucket at `endpoint`, for DataFusion and for what is put there: with Onward's retries.
fn store(endpoint: String) -> Result<AmazonS3, BoxError> {
    let retry =
        RetryConfig { backoff: BackoffConfig::default(), max_retries: MAX_RETRIES, retry_timeout: RETRY_TIMEOUT };
    let builder = AmazonS3Builder::new().with_bucket_name(BUCKET).with_region(REGION).with_allow_http(true);
    let builder = builder.with_access_key_id(ACCESS_KEY).with_secret_access_key(SECRET_KEY);
    Ok(builder.with_endpoint(endpoint).with_retry(retry).build()?)
}

/// Puts the files of the tables into the bucket, unless they are there; gives the tables' URLs.
///
/// In parts: of what came so the server knows the etag, of a file that it just finds it counts the etag for each request.
async fn publish(dataset: &Dataset, store: &AmazonS3) -> Result<Vec<(Table, String)>, BoxError> {
    let mut tables = Vec::new();
    for table in Table::ALL {
        let source = PathBuf::from(dataset.location(table)?);
        let name = source.file_name().ok_or("a table has no name")?.to_string_lossy().into_owned();
        let mut url = format!("s3://{BUCKET}/{name}");
        if source.is_dir() {
            for file in std::fs::read_dir(&source)? {
                let file = file?;
                put(store, &file.path(), &format!("{name}/{}", file.file_name().to_string_lossy())).await?;
            }
            url.push('/');
        } else {
            put(store, &source, &name).await?;
        }
        tables.push((table, url));
    }
    Ok(tables)
}

async fn put(store: &AmazonS3, source: &Path, name: &str) -> Result<(), BoxError> {
    let (path, mut file) = (store_path(name)?, File::open(source)?);
    let bytes = file.metadata()?.len();
    if store.head(&path).await.is_ok_and(|found| found.size == bytes) {
        return Ok(());
    }
    let mut upload = store.put_multipart(&path).await?;
    loop {
        let mut part = Vec::new();
        if file.by_ref().take(PART_BYTES).read_to_end(&mut part)? == 0 {
            break;
        }
        upload.put_part(part.into()).await?;
    }
    upload.complete().await?;
    Ok(())
}
