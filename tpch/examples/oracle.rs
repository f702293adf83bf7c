//! Runs the 22 queries on single-process DataFusion and compares with the committed answers:
//! `cargo run --release -p onward-tpch --example oracle -- SCALE [DIR [PARTS]]`. Makes the data when it is missing.

use std::time::Instant;

use onward_tpch::{Comparison, Dataset, GenerateOptions, Oracle, answers, compare, queries};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let scale: f64 = arguments.next().ok_or("give a scale")?.parse()?;
    let out = arguments.next().map_or_else(|| Dataset::default_dir(scale), Into::into);
    let parts = arguments.next().map_or(Ok(1), |parts| parts.parse())?;
    let options = GenerateOptions { parts, progress: true, ..GenerateOptions::new(scale, out) };
    let start = Instant::now();
    let dataset = Dataset::open_or_generate(&options)?;
    println!("data in {} after {:.1} s", dataset.dir.display(), start.elapsed().as_secs_f64());
    let threads = std::thread::available_parallelism()?.get();
    let oracle = Oracle::new(&dataset, threads).await?;
    let mut wrong = 0;
    for number in 1..=queries::COUNT {
        let start = Instant::now();
        let rows = compare::rows_of(&oracle.run(&queries::sql(number, scale)).await?)?;
        let elapsed = start.elapsed();
        let found = match answers::committed(number, scale)? {
            Some(answer) => compare::compare(number, &rows, &answer),
            None => compare::compare(number, &rows, &oracle.answer(number).await?),
        };
        wrong += i32::from(found != Comparison::Exact);
        println!("Q{number}: {} rows, {:.1} ms, {found:?}", rows.len(), elapsed.as_secs_f64() * 1e3);
    }
    if wrong > 0 {
        return Err(format!("{wrong} queries differ").into());
    }
    Ok(())
}
