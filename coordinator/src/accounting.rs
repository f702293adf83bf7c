//! What a query cost.
//!
//! Functions are paid for while they run an attempt of a query, whether its output counts or not: by the memory that they were given, as
//! AWS Lambda bills, and by vCPUs, where these have a price of their own. Requests are paid for when they go to a remote store.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
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
    /// A second of a function.
    pub(crate) fn usd_per_second(&self, memory_bytes: u64, vcpus: u32) -> f64 {
        memory_bytes as f64 / (1_u64 << 30) as f64 * self.gb_second + f64::from(vcpus) * self.vcpu_second
    }

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Attempts that were started.
    pub attempts: u64,
    /// Their time, times the bytes of memory that their functions were given.
    byte_us: u128,
    /// Their time, times the vCPUs of their functions.
    vcpu_us: u128,
    /// Of both, what was in functions with a price of their own,
    priced_byte_us: u128,
    priced_vcpu_us: u128,
    /// and what these cost: microseconds, times billionths of a dollar a second.
    nanousd_us: u128,
    /// Functions that ran nothing before this query.
    pub cold_starts: u64,
    /// Functions that ran something before.
    pub warm_starts: u64,
}

impl Usage {
    /// An attempt ran for `elapsed` in a function of `shape`, which costs `nanousd_per_second` if that has a price of its own.
    pub fn add_attempt(&mut self, elapsed: Duration, shape: FunctionShape, nanousd_per_second: Option<u64>) {
        let elapsed_us = elapsed.as_micros();
        let (byte_us, vcpu_us) = (elapsed_us * u128::from(shape.memory_bytes), elapsed_us * u128::from(shape.vcpus));
        self.byte_us += byte_us;
        self.vcpu_us += vcpu_us;
        if let Some(price) = nanousd_per_second {
            self.priced_byte_us += byte_us;
            self.priced_vcpu_us += vcpu_us;
            self.nanousd_us += elapsed_us * u128::from(price);
        }
    }

    /// Adds what another plan of the query used.
    pub fn add(&mut self, other: &Self) {
        self.attempts += other.attempts;
        self.byte_us += other.byte_us;
        self.vcpu_us += other.vcpu_us;
        self.priced_byte_us += other.priced_byte_us;
        self.priced_vcpu_us += other.priced_vcpu_us;
        self.nanousd_us += other.nanousd_us;
        self.cold_starts += other.cold_starts;
        self.warm_starts += other.warm_starts;
    }

    /// GiB of memory, times seconds.
    pub fn gb_seconds(&self) -> f64 {
        gb_seconds(self.byte_us)
    }

    /// vCPUs, times seconds.
    pub fn vcpu_seconds(&self) -> f64 {
        self.vcpu_us as f64 / 1e6
    }

    /// In US dollars, with the requests that it made to remote stores.
    pub fn cost_usd(&self, remote: &StoreRequests, prices: &Prices) -> f64 {
        gb_seconds(self.byte_us - self.priced_byte_us) * prices.gb_second
            + (self.vcpu_us - self.priced_vcpu_us) as f64 / 1e6 * prices.vcpu_second
            + self.nanousd_us as f64 / 1e15
            + self.attempts as f64 / 1e6 * prices.million_requests
            + (remote.table + remote.intermediate) as f64 / 1e3 * prices.thousand_reads
            + remote.write as f64 / 1e3 * prices.thousand_writes
    }
}

fn gb_seconds(byte_us: u128) -> f64 {
    byte_us as f64 / (1_u64 << 30) as f64 / 1e6
}

/// What a query took and cost: for its client, for JSON, for the log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct QueryCost {
    /// Its id.
    pub query_id: String,
    /// The statement, without the values of secret options.
    pub sql: String,
    /// Whose it was; empty where nobody said.
    pub user: String,
    /// The queue it waited in.
    pub queue: String,
    /// `running`, `queued`, `done` or `failed`.
    pub state: String,
    /// When it arrived, in UTC (RFC 3339).
    pub arrived: String,
    /// From its arrival to its last row, waiting included.
    pub elapsed_ms: u64,
    /// Of that, in its queue.
    pub queued_ms: u64,
    /// Rows of its result.
    pub rows: u64,
    /// Functions the planner chose; 0: the coordinator ran it.
    pub functions: u64,
    /// Functions that ran nothing before it.
    pub cold_starts: u64,
    /// Functions that ran something before.
    pub warm_starts: u64,
    /// vCPUs of functions, times seconds.
    pub vcpu_seconds: f64,
    /// GiB of their memory, times seconds.
    pub gb_seconds: f64,
    /// Bytes read from tables.
    pub scanned_bytes: u64,
    /// Bytes of columns, and of remote objects, that were cached.
    pub cached_bytes: u64,
    /// Bytes between its stages.
    pub exchanged_bytes: u64,
    /// Requests to stores of tables (a local directory is one).
    pub requests: u64,
    /// In US dollars.
    pub cost_usd: f64,
    /// Nothing is added any more: functions are done with it.
    pub is_final: bool,
}

impl fmt::Display for QueryCost {
    /// One line for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let started = self.cold_starts + self.warm_starts;
        if self.queued_ms > 0 {
            write!(f, "waited {} ms, ", self.queued_ms)?;
        }
        if started == 0 {
            return f.write_str("no function");
        }
        let plural = if started == 1 { "" } else { "s" };
        let (gb_seconds, usd) = (self.gb_seconds, self.cost_usd);
        write!(f, "{started} function{plural} ({} cold), {gb_seconds:.3} GB-s, ${usd:.7}", self.cold_starts)
    }
}

/// What a query uses of functions while it runs.
pub(crate) struct Account {
    /// Of a second of a function, in billionths of a dollar, by worker class.
    prices: BTreeMap<u16, u64>,
    usage: Usage,
    /// Attempts that run: where, in what, and since when.
    open: HashMap<AttemptId, (FunctionId, FunctionShape, Instant)>,
    /// Functions that ran an attempt of it.
    used: HashSet<FunctionId>,
}

impl Account {
    pub(crate) fn new(prices: BTreeMap<u16, u64>) -> Self {
        Self { prices, usage: Usage::default(), open: HashMap::new(), used: HashSet::new() }
    }

    /// An attempt begins, in a function that ran nothing before, or not.
    pub(crate) fn begin(&mut self, attempt: AttemptId, function: FunctionId, shape: FunctionShape, is_cold: bool) {
        self.usage.attempts += 1;
        if self.used.insert(function) {
            match is_cold {
                true => self.usage.cold_starts += 1,
                false => self.usage.warm_starts += 1,
            }
        }
        self.open.insert(attempt, (function, shape, Instant::now()));
    }

    /// An attempt ended, however.
    pub(crate) fn end(&mut self, attempt: AttemptId) {
        if let Some((_, shape, since)) = self.open.remove(&attempt) {
            self.usage.add_attempt(since.elapsed(), shape, self.prices.get(&shape.class).copied());
        }
    }

    /// A function is gone.
    pub(crate) fn lose(&mut self, function: FunctionId) {
        let lost: Vec<_> = self.open.iter().filter(|(_, (place, ..))| *place == function).map(|(id, _)| *id).collect();
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
        usage.add_attempt(Duration::from_secs(10), FunctionShape { vcpus: 2, memory_bytes: 512 << 20, class: 0 }, None);
        assert_eq!((usage.gb_seconds(), usage.vcpu_seconds()), (5.0, 20.0));
        let none = StoreRequests::default();
        let requests = StoreRequests { table: 3_000, write: 2_000, ..none };
        let close = |cost: f64, expected: f64| assert!((cost - expected).abs() < 1e-9, "{cost}, not {expected}");
        close(usage.cost_usd(&none, &Prices::default()), 5.0 * 0.000_016_666_7 + 0.20);
        close(usage.cost_usd(&requests, &Prices::default()), 5.0 * 0.000_016_666_7 + 0.20 + 3.0 * 0.0004 + 2.0 * 0.005);
        let prices = Prices { vcpu_second: 0.5, gb_second: 0.0, million_requests: 0.0, ..Prices::default() };
        close(usage.cost_usd(&none, &prices), 10.0);
        // A class with a price of its own: 3,600 s at 2 dollars a second, and nothing for its memory and vCPUs.
        let shape = FunctionShape { vcpus: 8, memory_bytes: 1 << 30, class: 2 };
        usage.add_attempt(Duration::from_secs(3_600), shape, Some(2_000_000_000));
        assert_eq!(usage.gb_seconds(), 3_605.0);
        close(usage.cost_usd(&none, &prices), 10.0 + 7_200.0);
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
