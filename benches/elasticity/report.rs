//! The tables.

use super::workload::Workload;
use super::{Assumptions, Comparison, Fleet, Outcome, break_even, compare, percentile, plot, simulate};

/// Fleets beside the elastic one.
const FIXED: [usize; 4] = [64, 256, 512, 1_024];

/// Times the rate of the day, for the sweep of bursty days.
const DAYS: [f64; 2] = [0.5, 1.0];

/// Queries a second, for the sweep of steady hours.
const STEADY: [f64; 6] = [0.05, 0.5, 2.0, 5.0, 10.0, 20.0];

/// Queries of a steady period.
const STEADY_QUERIES: f64 = 2_000.0;

/// Simulates and prints everything; the plot.
pub fn print(day: &Workload, assumed: &Assumptions) -> String {
    println!(
        "seed {}; cold start {} ms (median, log-normal), dispatch 0.3 ms; functions of 1 vCPU and {} GiB; {} $/GiB-s + {} \
         $/million attempts, or {} functions on a VM of {} $/h\n",
        assumed.seed,
        assumed.cold_start_ms,
        assumed.function_gib,
        assumed.gib_second,
        assumed.million_requests,
        assumed.vm_functions,
        assumed.vm_hour
    );
    let queries = day.queries(assumed.seed);
    println!("A day of bursts:\n");
    println!(
        "| fleet | queries | p50 | p95 | p99 | p99 wait | most functions | cold starts | starts per query | busy function-s | \
         alive function-s | $ a day |"
    );
    println!("|{}", " --- |".repeat(12));
    let elastic = simulate(&queries, day, Fleet::Elastic, assumed);
    row(&elastic, Fleet::Elastic, assumed);
    for functions in FIXED {
        row(&simulate(&queries, day, Fleet::Fixed(functions), assumed), Fleet::Fixed(functions), assumed);
    }
    let steady: Vec<_> =
        STEADY.iter().map(|rate| compare(&Workload::steady((STEADY_QUERIES / rate) as u64, *rate), assumed)).collect();
    println!("\nSteady arrivals, the smallest fixed fleet with the same p99 latency (within 5 %):\n");
    table(&steady);
    println!("\nDays of bursts, likewise:\n");
    let days: Vec<_> =
        DAYS.iter().map(|times| compare(&Workload { rate: day.rate * times, ..*day }, assumed)).collect();
    table(&days);
    let even = break_even(&steady);
    println!();
    for (name, even) in [("steady arrivals", even), ("days of bursts", break_even(&days))] {
        match even {
            Some((rate, utilisation)) => {
                println!("break-even, {name}: {rate:.0} queries a minute, {:.0} % utilisation", utilisation * 100.0);
            }
            None => println!("break-even, {name}: none in this range"),
        }
    }
    let second = assumed.function_gib * assumed.gib_second;
    let fixed = assumed.vm_hour / 3_600.0 / assumed.vm_functions as f64;
    println!("by price alone, without requests: {:.0} % utilisation", fixed / second * 100.0);
    plot::svg(&elastic, &steady, even)
}

fn seconds(us: u64) -> String {
    match us {
        0..100_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

fn row(outcome: &Outcome, fleet: Fleet, assumed: &Assumptions) {
    let name = match fleet {
        Fleet::Elastic => "elastic".to_owned(),
        Fleet::Fixed(functions) => format!("fixed {functions}"),
    };
    let latency = |percent| seconds(percentile(&outcome.latency_us, percent));
    println!(
        "| {name} | {} | {} | {} | {} | {} | {} | {} | {:.2} | {:.0} | {:.0} | {:.2} |",
        outcome.latency_us.len(),
        latency(50.0),
        latency(95.0),
        latency(99.0),
        seconds(percentile(&outcome.wait_us, 99.0)),
        outcome.alive.iter().max().copied().unwrap_or(0),
        outcome.starts,
        outcome.starts as f64 / outcome.latency_us.len().max(1) as f64,
        outcome.busy_seconds,
        outcome.alive_seconds,
        outcome.cost(fleet, assumed)
    );
}

fn table(compared: &[Comparison]) {
    println!("| queries a minute | p99 | elastic, $ a day | fixed fleet | fixed, $ a day | utilisation of it |");
    println!("|{}", " --- |".repeat(6));
    for of in compared {
        let (rate, p99) = (of.per_minute, seconds(of.p99_us));
        match of.functions {
            Some(functions) => println!(
                "| {rate:.1} | {p99} | {:.2} | {functions} | {:.2} | {:.1} % |",
                of.elastic,
                of.fixed,
                of.utilisation * 100.0
            ),
            None => println!("| {rate:.1} | {p99} | {:.2} | none is as fast | | |", of.elastic),
        }
    }
}
