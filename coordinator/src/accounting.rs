//! What a query cost.
//!
//! Functions are paid for while they run an attempt of a query, whether its output counts or not: by the memory that they were given, as
//! AWS Lambda bills, and by vCPUs, where these have a price of their own. Requests are paid for when they go to a remote store.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

use onward_wire::message::StoreRequests;
use onward_wire::{AttemptId, ErrorKind, FunctionId, WireError};
use serde::{Deserialize, Serialize};

use crate::scheduler::FunctionShape;

/// Prices in US dollars.
///
/// The defaults are those of AWS Lambda (x86, us-east-1) and S3 Standard, 2024 to 2026: <https://aws.amazon.com/lambda/pricing/>,
/// <https://aws.amazon.com/s3/pricing/>.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Prices {
    /// A GiB of a function's memory for a second.
    pub gb_second: f64,
    /// A vCPU of a function for a second; Lambda counts it in with memory.
    pub vcpu_second: f64,
    /// A million starts of an attempt, which are Lambda's requests.
    pub million_requests: f64,
    /// A thousand reads of a remote store (GET).
    pub thousand_reads: f64,
    /// A thousand writes to a remote store (PUT).
    pub thousand_writes: f64,
}

impl Default for Prices {
    fn default() -> Self {
        Self {
            gb_second: 0.000_016_666_7,
            vcpu_second: 0.0,
            million_requests: 0.20,
            thousand_reads: 0.0004,
            thousand_writes: 0.005,
        }
    }
}

impl Prices {
    /// Those of a JSON file; what it does not name keeps its default. No path: the defaults.
    ///
    /// # Errors
    /// With InvalidQuery when the file cannot be read, or has a name that is none, or a price below zero.
    pub fn read(path: &str) -> Result<Self, WireError> {
        if path.is_empty() {
            return Ok(Self::default());
        }
        let wrong = |error: &dyn std::fmt::Display| {
            WireError::new(ErrorKind::InvalidQuery, format!("{path} (price_file): {error}"))
        };
        let text = std::fs::read_to_string(Path::new(path)).map_err(|error| wrong(&error))?;
        let prices: Self = serde_json::from_str(&text).map_err(|error| wrong(&error))?;
        let all = [
            prices.gb_second,
            prices.vcpu_second,
            prices.million_requests,
            prices.thousand_reads,
            prices.thousand_writes,
        ];
        match all.iter().all(|price| price.is_finite() && *price >= 0.0) {
            true => Ok(prices),
            false => Err(wrong(&"a price is a number that is not below zero")),
        }
    }
}

/// What a query used of functions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Attempts that were started.
    pub attempts: u64,
    /// Their time, times the bytes of memory that their functions were given.
    byte_us: u128,
    /// Their time, times the vCPUs of their functions.
    vcpu_us: u128,
    /// Functions that ran nothing before this query.
    pub cold_starts: u64,
    /// Functions that ran something before.
    pub warm_starts: u64,
}

impl Usage {
    /// An attempt ran for `elapsed` in a function of `shape`.
    pub fn add_attempt(&mut self, elapsed: Duration, shape: FunctionShape) {
        self.byte_us += elapsed.as_micros() * u128::from(shape.memory_bytes);
        self.vcpu_us += elapsed.as_micros() * u128::from(shape.vcpus);
    }

    /// Adds what another plan of the query used.
    pub fn add(&mut self, other: &Self) {
        self.attempts += other.attempts;
        self.byte_us += other.byte_us;
        self.vcpu_us += other.vcpu_us;
        self.cold_starts += other.cold_starts;
        self.warm_starts += other.warm_starts;
    }

    /// GiB of memory, times seconds.
    pub fn gb_seconds(&self) -> f64 {
        self.byte_us as f64 / (1_u64 << 30) as f64 / 1e6
    }

    /// vCPUs, times seconds.
    pub fn vcpu_seconds(&self) -> f64 {
        self.vcpu_us as f64 / 1e6
    }

    /// In US dollars, with the requests that it made to remote stores.
    pub fn cost_usd(&self, remote: &StoreRequests, prices: &Prices) -> f64 {
        self.gb_seconds() * prices.gb_second
            + self.vcpu_seconds() * prices.vcpu_second
            + self.attempts as f64 / 1e6 * prices.million_requests
            + (remote.table + remote.intermediate) as f64 / 1e3 * prices.thousand_reads
            + remote.write as f64 / 1e3 * prices.thousand_writes
    }
}

/// What a query uses of functions while it runs.
pub(crate) struct Account {
    shape: FunctionShape,
    usage: Usage,
    /// Attempts that run: where, and since when.
    open: HashMap<AttemptId, (FunctionId, Instant)>,
    /// Functions that ran an attempt of it.
    used: HashSet<FunctionId>,
}

impl Account {
    pub(crate) fn new(shape: FunctionShape) -> Self {
        Self { shape, usage: Usage::default(), open: HashMap::new(), used: HashSet::new() }
    }

    /// An attempt begins, in a function that ran nothing before, or not.
    pub(crate) fn begin(&mut self, attempt: AttemptId, function: FunctionId, is_cold: bool) {
        self.usage.attempts += 1;
        if self.used.insert(function) {
            match is_cold {
                true => self.usage.cold_starts += 1,
                false => self.usage.warm_starts += 1,
            }
        }
        self.open.insert(attempt, (function, Instant::now()));
    }

    /// An attempt ended, however.
    pub(crate) fn end(&mut self, attempt: AttemptId) {
        if let Some((_, since)) = self.open.remove(&attempt) {
            self.usage.add_attempt(since.elapsed(), self.shape);
        }
    }

    /// A function is gone.
    pub(crate) fn lose(&mut self, function: FunctionId) {
        let lost: Vec<_> = self.open.iter().filter(|(_, (place, _))| *place == function).map(|(id, _)| *id).collect();
        lost.into_iter().for_each(|attempt| self.end(attempt));
    }

    /// The query is over, and what it used is final.
    pub(crate) fn close(&mut self) -> Usage {
        let open: Vec<_> = self.open.keys().copied().collect();
        open.into_iter().for_each(|attempt| self.end(attempt));
        self.usage
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_time_and_requests_have_their_prices() {
        let mut usage = Usage { attempts: 1_000_000, ..Usage::default() };
        usage.add_attempt(Duration::from_secs(10), FunctionShape { vcpus: 2, memory_bytes: 512 << 20, class: 0 });
        assert_eq!((usage.gb_seconds(), usage.vcpu_seconds()), (5.0, 20.0));
        let none = StoreRequests::default();
        let requests = StoreRequests { table: 3_000, write: 2_000, ..none };
        let close = |cost: f64, expected: f64| assert!((cost - expected).abs() < 1e-9, "{cost}, not {expected}");
        close(usage.cost_usd(&none, &Prices::default()), 5.0 * 0.000_016_666_7 + 0.20);
        close(usage.cost_usd(&requests, &Prices::default()), 5.0 * 0.000_016_666_7 + 0.20 + 3.0 * 0.0004 + 2.0 * 0.005);
        let prices = Prices { vcpu_second: 0.5, gb_second: 0.0, million_requests: 0.0, ..Prices::default() };
        close(usage.cost_usd(&none, &prices), 10.0);
    }

    #[test]
    fn a_price_file_names_what_differs() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("prices.json");
        let read = |text: &str| {
            std::fs::write(&path, text).expect("a file");
            Prices::read(path.to_str().expect("a path"))
        };
        assert_eq!(read(r#"{"gb_second": 1.5}"#), Ok(Prices { gb_second: 1.5, ..Prices::default() }));
        for (text, why) in [("{", "EOF"), (r#"{"gold": 1}"#, "gold"), (r#"{"gb_second": -1}"#, "below zero")] {
            let error = read(text).expect_err(text);
            assert!(error.message.contains(why) && error.message.contains("prices.json"), "{error}");
        }
        assert!(Prices::read("/nonexistent").is_err());
        assert_eq!(Prices::read(""), Ok(Prices::default()));
    }
}
