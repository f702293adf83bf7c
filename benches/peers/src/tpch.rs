//! The queries, the tables, and a client that runs one against the other.

use std::path::Path;
use std::time::Instant;

use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::compute::{cast, sum};
use datafusion::arrow::datatypes::{DataType, Float64Type};
use datafusion::prelude::{ParquetReadOptions, SessionContext};

use crate::{BoxError, ClientArgs, Engine, ballista, datafusion_alone, distributed};

const TABLES: [&str; 8] = ["customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier"];

/// Names the tables in `ctx`.
pub async fn register(ctx: &SessionContext, data: &Path) -> Result<(), BoxError> {
    for table in TABLES {
        // A file, or a directory of some (`--parts`).
        let file = data.join(format!("{table}.parquet"));
        let path = if file.exists() { file } else { data.join(table).join("") };
        let path = path.to_str().ok_or("the path of the data is no UTF-8")?;
        ctx.register_parquet(table, path, ParquetReadOptions::default()).await?;
    }
    Ok(())
}

/// Runs queries and prints what came of each.
pub async fn client(args: ClientArgs) -> Result<(), BoxError> {
    let ctx = match args.engine {
        Engine::Datafusion => datafusion_alone::context(args.threads),
        Engine::Distributed => distributed::context(args.threads, &args.ports)?,
        Engine::Ballista => ballista::context(args.ports[0], args.partitions).await?,
        Engine::Onward | Engine::OnwardNoCache => return Err("Onward has its own client".into()),
    };
    register(&ctx, &args.data).await?;
    for query in &args.queries {
        let sql = sql(*query)?;
        for run in 0..args.iterations {
            let start = Instant::now();
            let rows = async { ctx.sql(&sql).await?.collect().await }.await;
            let took_ms = start.elapsed().as_secs_f64() * 1e3;
            match rows {
                Ok(batches) => {
                    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
                    println!("{query} {run} {took_ms:.1} {rows} {:.6e}", checksum(&batches));
                }
                Err(error) => {
                    println!("{query} {run} error {}", error.to_string().replace('\n', " "));
                    break;
                }
            }
        }
    }
    Ok(())
}

/// The text of a query, from where Onward has it.
fn sql(query: u8) -> Result<String, BoxError> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../tpch/queries/q{query:02}.sql"));
    std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()).into())
}

/// The sum of all numbers: whoever has other rows has another one.
fn checksum(batches: &[RecordBatch]) -> f64 {
    let numbers = batches.iter().flat_map(|batch| batch.columns()).filter(|column| column.data_type().is_numeric());
    let sums = numbers.filter_map(|column| {
        let column = cast(column, &DataType::Float64).ok()?;
        sum(column.as_primitive::<Float64Type>())
    });
    sums.sum()
}
