//! Runs the engines one after the other, and compares.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::servers::{free_ports, listening, start, stop, text};
use crate::{BoxError, Engine, RunArgs, onward};

/// One run of a query that hangs ends its engine.
const MOST_SILENCE: Duration = Duration::from_secs(600);

/// What an engine made of a query.
#[derive(Debug, Default)]
pub struct Answer {
    pub query: u8,
    pub runs: Vec<Run>,
    pub error: Option<String>,
}

/// One run.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    pub ms: f64,
    pub rows: u64,
    /// The sum of all numbers; of Onward none, which checks its rows itself.
    pub checksum: Option<f64>,
}

impl Answer {
    fn median_ms(&self) -> Option<f64> {
        let mut times: Vec<f64> = self.runs.iter().map(|run| run.ms).collect();
        times.sort_by(f64::total_cmp);
        (self.error.is_none() && !times.is_empty())
            .then(|| (times[(times.len() - 1) / 2] + times[times.len() / 2]) / 2.0)
    }
}

/// Runs what `args` say and prints a table.
pub async fn run(args: RunArgs) -> Result<(), BoxError> {
    println!(
        "TPC-H at scale {}, {} worker processes of {} threads, medians of {} runs, load {}",
        args.scale,
        args.workers,
        args.threads,
        args.iterations,
        std::fs::read_to_string("/proc/loadavg")?.trim()
    );
    let mut answers: Vec<(Engine, BTreeMap<u8, Answer>)> = Vec::new();
    for engine in args.engines.iter().copied() {
        eprintln!("{} ...", engine.name());
        let given = match engine {
            Engine::Onward | Engine::OnwardNoCache => onward::run(&args, engine == Engine::Onward).await?,
            Engine::Datafusion => client(&args, engine, &[], args.workers * args.threads).await?,
            Engine::Distributed => {
                let ports = free_ports(args.workers)?;
                let mut workers = Vec::new();
                for port in &ports {
                    workers.push(start(&["distributed-worker", &port.to_string()], args.threads)?);
                    listening(*port).await?;
                }
                let given = client(&args, engine, &ports, args.threads).await;
                stop(workers).await;
                given?
            }
            Engine::Ballista => {
                let work = std::env::temp_dir().join(format!("onward-peers-{}", std::process::id()));
                let given = with_ballista(&args, &work).await;
                let _ = std::fs::remove_dir_all(&work);
                given?
            }
        };
        answers.push((engine, given.into_iter().map(|answer| (answer.query, answer)).collect()));
    }
    print(&args, &answers);
    Ok(())
}

async fn with_ballista(args: &RunArgs, work: &std::path::Path) -> Result<Vec<Answer>, BoxError> {
    let ports = free_ports(1 + 2 * args.workers)?;
    let scheduler = ports[0].to_string();
    let mut children: Vec<Child> = vec![start(&["ballista-scheduler", &scheduler], args.threads)?];
    listening(ports[0]).await?;
    for (number, own) in ports[1..].chunks(2).enumerate() {
        let dir = work.join(number.to_string());
        std::fs::create_dir_all(&dir)?;
        let [port, grpc_port, threads] = [own[0].to_string(), own[1].to_string(), args.threads.to_string()];
        let executor = ["ballista-executor", &scheduler, &port, &grpc_port, &threads, text(&dir)?];
        children.push(start(&executor, args.threads)?);
        listening(own[0]).await?;
    }
    let given = client(args, Engine::Ballista, &ports[..1], args.threads).await;
    stop(children).await;
    given
}

/// A client in a process of its own.
async fn client(args: &RunArgs, engine: Engine, ports: &[u16], threads: usize) -> Result<Vec<Answer>, BoxError> {
    use clap::ValueEnum;

    let list = |numbers: Vec<String>| numbers.join(",");
    let mut command = Command::new(std::env::current_exe()?);
    let name = engine.to_possible_value().ok_or("an engine without a name")?;
    command
        .args(["client", name.get_name(), "--data", text(&args.data)?])
        .args(["--iterations", &args.iterations.to_string(), "--threads", &threads.to_string()])
        .args(["--partitions", &args.ballista_partitions.to_string()])
        .args(["--queries", &list(args.queries.iter().map(u8::to_string).collect())])
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    if !ports.is_empty() {
        command.args(["--ports", &list(ports.iter().map(u16::to_string).collect())]);
    }
    let mut child = command.spawn()?;
    let mut lines = BufReader::new(child.stdout.take().ok_or("the client has no output")?).lines();
    let mut answers: BTreeMap<u8, Answer> = BTreeMap::new();
    loop {
        let Ok(line) = tokio::time::timeout(MOST_SILENCE, lines.next_line()).await else {
            eprintln!("{}: nothing for {} s, it is given up", engine.name(), MOST_SILENCE.as_secs());
            break;
        };
        let Some(line) = line? else { break };
        eprintln!("{}: {line}", engine.name());
        let mut words = line.split(' ');
        let query: u8 = words.next().unwrap_or_default().parse()?;
        let answer = answers.entry(query).or_insert_with(|| Answer { query, ..Answer::default() });
        match words.nth(1).unwrap_or_default() {
            "error" => answer.error = Some(words.collect::<Vec<_>>().join(" ")),
            ms => {
                let (rows, checksum) = (words.next().unwrap_or_default().parse()?, words.next().unwrap_or_default());
                answer.runs.push(Run { ms: ms.parse()?, rows, checksum: checksum.parse().ok() });
            }
        }
    }
    stop(vec![child]).await;
    Ok(answers.into_values().collect())
}

fn print(args: &RunArgs, answers: &[(Engine, BTreeMap<u8, Answer>)]) {
    print!("\n| query |");
    for (engine, _) in answers {
        print!(" {} |", engine.name());
    }
    println!("\n|---|{}", "---:|".repeat(answers.len()));
    let reference = answers.iter().find(|(engine, _)| *engine == Engine::Datafusion).map(|(_, given)| given);
    let mut notes = Vec::new();
    for query in &args.queries {
        print!("| Q{query} |");
        for (engine, given) in answers {
            let answer = given.get(query);
            match answer.and_then(Answer::median_ms) {
                Some(ms) => print!(" {ms:.0} |"),
                None => print!(" failed |"),
            }
            let error = answer.map_or(Some("never ran"), |answer| answer.error.as_deref());
            notes.extend(error.map(|error| format!("{} Q{query}: {error}", engine.name())));
            if let (Some(answer), Some(reference)) = (answer, reference.and_then(|given| given.get(query))) {
                notes.extend(difference(answer, reference).map(|why| format!("{} Q{query}: {why}", engine.name())));
            }
        }
        println!();
    }
    // A total compares what all of them did.
    let all = |query: &&u8| answers.iter().all(|(_, given)| given.get(query).and_then(Answer::median_ms).is_some());
    let common: Vec<u8> = args.queries.iter().filter(all).copied().collect();
    let total =
        |given: &BTreeMap<u8, Answer>| -> f64 { common.iter().filter_map(|query| given[query].median_ms()).sum() };
    print!("| sum of {}, s |", common.len());
    answers.iter().for_each(|(_, given)| print!(" {:.1} |", total(given) / 1e3));
    println!();
    for (engine, given) in answers.iter().filter(|(engine, _)| matches!(engine, Engine::Onward | Engine::OnwardNoCache))
    {
        print!("| {} / it |", engine.name());
        answers.iter().for_each(|(_, other)| print!(" {:.2}x |", total(given) / total(other)));
        println!();
    }
    notes.iter().for_each(|note| println!("{note}"));
}

/// Where an answer is another one than DataFusion's.
fn difference(answer: &Answer, reference: &Answer) -> Option<String> {
    let expected = reference.runs.first()?;
    answer.runs.iter().find_map(|run| {
        if run.rows != expected.rows {
            return Some(format!("{} rows, DataFusion has {}", run.rows, expected.rows));
        }
        let (sum, other) = (run.checksum?, expected.checksum?);
        let is_near = (sum - other).abs() <= 1e-5 * other.abs().max(1.0);
        (!is_near).then(|| format!("the sum of its numbers is {sum}, DataFusion's {other}"))
    })
}
