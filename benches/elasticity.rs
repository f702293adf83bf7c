//! What scaling with the load is worth: the scheduler on a virtual clock over a day of bursts, beside fleets of a fixed size.
//!
//! `cargo bench --bench elasticity`
//!
//! Nothing is computed: the real state machine decides who runs where and what is started and stopped, functions take as long as the
//! workload says. The elastic fleet pays AWS Lambda's price for the time in which attempts run, as `system.queries` accounts it; a
//! fixed one pays for its virtual machines all day. The same seed gives the same figures.

mod support;

#[path = "elasticity/mod.rs"]
mod elasticity;

use std::path::PathBuf;

use clap::Parser;
use elasticity::workload::Workload;
use elasticity::{Assumptions, report};
use support::{BoxError, conditions};

/// Simulates it.
#[derive(Parser)]
struct Options {
    /// Seed of arrivals, sizes and starts
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Queries a second in the calm of noon
    #[arg(long, default_value_t = 0.05)]
    rate: f64,
    /// Median milliseconds of a cold start: 5 is a fork, 20 AWS Lambda's, 125 a microVM's
    #[arg(long, default_value_t = 20.0)]
    cold_start_ms: f64,
    /// GiB of a function with one vCPU (1,769 MB at AWS Lambda)
    #[arg(long, default_value_t = 1.728)]
    function_gib: f64,
    /// US dollars for a GiB-second of a function
    #[arg(long, default_value_t = 0.000_016_666_7)]
    gib_second: f64,
    /// US dollars for a million attempts
    #[arg(long, default_value_t = 0.20)]
    million_requests: f64,
    /// US dollars for an hour of a virtual machine (m7g.xlarge, us-east-1, on demand)
    #[arg(long, default_value_t = 0.1632)]
    vm_hour: f64,
    /// Its vCPUs, each for one function
    #[arg(long, default_value_t = 4)]
    vm_functions: usize,
    /// The most functions of the elastic fleet
    #[arg(long, default_value_t = 4_096)]
    most_functions: usize,
    /// Where the plot goes
    #[arg(long, default_value = "target/elasticity.svg")]
    plot: PathBuf,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), BoxError> {
    let options = Options::parse();
    println!("{}\n", conditions());
    let assumed = Assumptions {
        cold_start_ms: options.cold_start_ms,
        function_gib: options.function_gib,
        gib_second: options.gib_second,
        million_requests: options.million_requests,
        vm_hour: options.vm_hour,
        vm_functions: options.vm_functions.max(1),
        most_functions: options.most_functions.max(1),
        seed: options.seed,
    };
    let svg = report::print(&Workload::bursty_day(options.rate), &assumed);
    if let Some(directory) = options.plot.parent() {
        std::fs::create_dir_all(directory)?;
    }
    std::fs::write(&options.plot, svg)?;
    println!("\nplot: {}", options.plot.display());
    Ok(())
}
