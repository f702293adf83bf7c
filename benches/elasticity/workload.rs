//! When queries arrive, and what is in them.

use fastrand::Rng;

/// Arrivals of a period: calm ones along a daily curve, and bursts.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// How long, in seconds.
    pub seconds: u64,
    /// Calm queries a second where the curve is at its top.
    pub rate: f64,
    /// Nights have this part of that; 1: no curve.
    pub night: f64,
    /// In a burst, so many times as many.
    pub burst_factor: f64,
    /// Mean length of a burst in seconds; 0: none.
    pub burst_seconds: f64,
    /// Mean time between two bursts in seconds.
    pub calm_seconds: f64,
}

/// A query: its stages run one after another.
#[derive(Clone, Debug)]
pub struct Query {
    /// When it arrives.
    pub at_us: u64,
    /// Of each stage, how long each of its tasks computes.
    pub stages: Vec<Vec<u64>>,
}

fn exponential(rng: &mut Rng, mean: f64) -> f64 {
    -mean * (1.0 - rng.f64()).ln()
}

/// Median times e^(sigma * normal).
pub fn log_normal(rng: &mut Rng, median: f64, sigma: f64) -> f64 {
    let normal = (-2.0 * (1.0 - rng.f64()).ln()).sqrt() * (std::f64::consts::TAU * rng.f64()).cos();
    median * (sigma * normal).exp()
}

impl Workload {
    /// A day whose nights are nearly idle, with bursts of hundreds of queries.
    pub fn bursty_day(rate: f64) -> Self {
        Self { seconds: 86_400, rate, night: 0.02, burst_factor: 1_000.0, burst_seconds: 8.0, calm_seconds: 4_800.0 }
    }

    /// The same number of queries in each minute, give or take chance.
    pub fn steady(seconds: u64, rate: f64) -> Self {
        Self { seconds, rate, night: 1.0, burst_factor: 1.0, burst_seconds: 0.0, calm_seconds: 1.0 }
    }

    /// The part of the top rate at this second of the day.
    fn curve(&self, second: u64) -> f64 {
        let day = (second as f64 / 86_400.0 * std::f64::consts::TAU).cos();
        self.night + (1.0 - self.night) * (0.5 - 0.5 * day).powi(2)
    }

    /// The queries in the order of their arrival, the same for a seed.
    pub fn queries(&self, seed: u64) -> Vec<Query> {
        let (mut arrivals, mut sizes) = (Rng::with_seed(seed), Rng::with_seed(seed ^ 0x5eed));
        let mut queries = Vec::new();
        let (mut is_burst, mut change) = (false, exponential(&mut arrivals, self.calm_seconds));
        for second in 0..self.seconds {
            while self.burst_seconds > 0.0 && second as f64 >= change {
                is_burst = !is_burst;
                let mean = if is_burst { self.burst_seconds } else { self.calm_seconds };
                change += exponential(&mut arrivals, mean);
            }
            let rate = self.rate * self.curve(second) * if is_burst { self.burst_factor } else { 1.0 };
            let mut at = exponential(&mut arrivals, 1.0 / rate);
            while at < 1.0 {
                queries.push(Query { at_us: ((second as f64 + at) * 1e6) as u64, stages: stages(&mut sizes) });
                at += exponential(&mut arrivals, 1.0 / rate);
            }
        }
        queries
    }
}

/// One to three stages. The first has a number of tasks from a Pareto distribution (1.3, at least 3, at most 256), the others fewer;
/// the milliseconds of a task are log-normal (median 400, sigma 1), and within a query alike.
fn stages(rng: &mut Rng) -> Vec<Vec<u64>> {
    let first = (3.0 / (1.0 - rng.f64()).powf(1.0 / 1.3)).min(256.0) as usize;
    let median_us = log_normal(rng, 400_000.0, 1.0).min(20e6);
    let mut task = || (median_us * (0.8 + 0.4 * rng.f64())) as u64;
    let counts = [first, first.div_ceil(4), 1];
    let first: Vec<u64> = (0..counts[0]).map(|_| task()).collect();
    let more = counts[1..].iter().map(|count| (0..*count).map(|_| task() / 4).collect::<Vec<_>>());
    let mut all: Vec<_> = std::iter::once(first).chain(more).collect();
    all.truncate(rng.usize(1..=3));
    all
}
