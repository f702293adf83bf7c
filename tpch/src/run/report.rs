//! What a run found, as a table for people and as JSON for programs.

use std::fmt;

use serde::Serialize;

use super::Functions;

/// Counters of one query, from `system.queries`; of its last iteration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statistics {
    /// The most functions of any stage.
    pub functions_used: u64,
    /// Distinct functions of each stage.
    pub functions_per_stage: Vec<u64>,
    /// Stages; 0 when the coordinator ran the query.
    pub stages: u64,
    /// Bytes of all exchanges.
    pub exchange_bytes: u64,
    /// Requests to the object store for tables.
    pub table_requests: u64,
    /// Requests that wrote what the user asked for.
    pub write_requests: u64,
    /// Requests for anything in between: none, if Onward keeps its word.
    pub intermediate_requests: u64,
    /// Bytes that operators spilled.
    pub spilled_bytes: u64,
    /// Bytes of columns that were in the cache.
    pub cache_hit_bytes: u64,
    /// Bytes of columns that were decoded.
    pub cache_miss_bytes: u64,
    /// Attempts, the lost and failed ones included.
    pub attempts: u64,
    /// Tasks: what is above is work that was done twice.
    pub tasks: u64,
    /// Functions that ran nothing before this query.
    pub cold_starts: u64,
    /// GiB of functions' memory, times seconds of attempts.
    pub gb_seconds: f64,
    /// US dollars, by the server's prices.
    pub cost_usd: f64,
}

/// What came of one query.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct QueryReport {
    /// Its number, 1 to 22.
    pub query: u8,
    /// Milliseconds of each iteration, from sending the SQL to the last row.
    pub runs_ms: Vec<f64>,
    /// Rows of its result.
    pub rows: u64,
    /// Every iteration gave the right rows; `None` when nobody asked.
    pub verified: Option<bool>,
    /// See [`Statistics::functions_used`].
    pub functions_used: u64,
    /// See [`Statistics::functions_per_stage`].
    pub functions_per_stage: Vec<u64>,
    /// See [`Statistics::stages`].
    pub stages: u64,
    /// See [`Statistics::exchange_bytes`].
    pub exchange_bytes: u64,
    /// See [`Statistics::table_requests`].
    pub table_requests: u64,
    /// See [`Statistics::intermediate_requests`].
    pub intermediate_requests: u64,
    /// Share of the bytes of columns read that were in the cache; `None` when no column was read by a warm scan.
    pub cache_hit_ratio: Option<f64>,
    /// See [`Statistics::attempts`].
    pub attempts: u64,
    /// See [`Statistics::tasks`].
    pub tasks: u64,
    /// See [`Statistics::cold_starts`].
    pub cold_starts: u64,
    /// See [`Statistics::gb_seconds`].
    pub gb_seconds: f64,
    /// See [`Statistics::cost_usd`].
    pub cost_usd: f64,
    /// Why it failed or how it was wrong.
    pub error: Option<String>,
    /// Right as the specification counts but not to the cent: where.
    #[serde(skip)]
    pub inexact: Option<String>,
    /// See [`Statistics::write_requests`].
    #[serde(skip)]
    pub write_requests: u64,
}

impl QueryReport {
    /// It ran and, when it was verified, was right.
    pub fn is_success(&self) -> bool {
        self.error.is_none() && self.verified != Some(false)
    }

    /// The median of its runs; 0 when it never ended.
    pub fn median_ms(&self) -> f64 {
        let mut runs = self.runs_ms.clone();
        runs.sort_by(f64::total_cmp);
        match runs.len() {
            0 => 0.0,
            count if count % 2 == 1 => runs[count / 2],
            count => (runs[count / 2 - 1] + runs[count / 2]) / 2.0,
        }
    }

    pub(super) fn set_statistics(&mut self, statistics: Statistics) {
        self.functions_used = statistics.functions_used;
        self.functions_per_stage = statistics.functions_per_stage;
        self.stages = statistics.stages;
        self.exchange_bytes = statistics.exchange_bytes;
        self.table_requests = statistics.table_requests;
        self.write_requests = statistics.write_requests;
        self.intermediate_requests = statistics.intermediate_requests;
        self.attempts = statistics.attempts;
        self.tasks = statistics.tasks;
        self.cold_starts = statistics.cold_starts;
        self.gb_seconds = statistics.gb_seconds;
        self.cost_usd = statistics.cost_usd;
        let read = statistics.cache_hit_bytes + statistics.cache_miss_bytes;
        self.cache_hit_ratio = (read > 0).then(|| statistics.cache_hit_bytes as f64 / read as f64);
    }
}

/// What came of a run. `Serialize` gives the JSON that `--json` promises; `Display` the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Scale factor of the data.
    pub scale: f64,
    /// The number asked for, or `"auto"`.
    pub functions: Functions,
    /// Version of Onward.
    pub engine_version: String,
    /// In order of their numbers.
    pub queries: Vec<QueryReport>,
}

impl Report {
    /// Every query ran and none was wrong.
    pub fn is_success(&self) -> bool {
        self.queries.iter().all(QueryReport::is_success)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let runs_width =
            self.queries.iter().map(|query| runs_text(query).len()).max().unwrap_or(0).max("runs ms".len());
        let title = (&self.scale, &self.functions, &self.engine_version);
        writeln!(f, "TPC-H scale {}, functions {}, onward {}", title.0, title.1, title.2)?;
        writeln!(
            f,
            "{:<5} {:>6}  {:>runs_width$}  {:>9}  {:>6}  {:>9}  {:>24}  {:>6}  {:>9}  {:>5}  verified",
            "query",
            "rows",
            "runs ms",
            "functions",
            "stages",
            "exchanged",
            "requests table/write/mid",
            "cached",
            "micro-$",
            "again"
        )?;
        for query in &self.queries {
            let cached = query.cache_hit_ratio.map_or("-".to_owned(), |ratio| format!("{:.1}%", ratio * 100.0));
            let requests = format!("{}/{}/{}", query.table_requests, query.write_requests, query.intermediate_requests);
            writeln!(
                f,
                "{:<5} {:>6}  {:>runs_width$}  {:>9}  {:>6}  {:>9}  {:>24}  {:>6}  {:>9.1}  {:>5}  {}",
                format!("Q{}", query.query),
                query.rows,
                runs_text(query),
                query.functions_used,
                query.stages,
                bytes_text(query.exchange_bytes),
                requests,
                cached,
                query.cost_usd * 1e6,
                query.attempts.saturating_sub(query.tasks),
                verdict(query)
            )?;
        }
        let total: f64 = self.queries.iter().map(QueryReport::median_ms).sum();
        let failed = self.queries.iter().filter(|query| !query.is_success()).count();
        let verified = self.queries.iter().filter(|query| query.verified == Some(true)).count();
        let exchanged = self.queries.iter().map(|query| query.exchange_bytes).sum();
        let cost: f64 = self.queries.iter().map(|query| query.cost_usd).sum();
        let gb_seconds: f64 = self.queries.iter().map(|query| query.gb_seconds).sum();
        let attempts: u64 = self.queries.iter().map(|query| query.attempts).sum();
        let again: u64 = self.queries.iter().map(|query| query.attempts.saturating_sub(query.tasks)).sum();
        write!(
            f,
            "{} queries, {verified} verified, {failed} failed or wrong; total of medians {total:.1} ms; {} exchanged; last runs: \
             {gb_seconds:.1} GB-s, ${cost:.6}, {again} of {attempts} attempts again",
            self.queries.len(),
            bytes_text(exchanged)
        )
    }
}

fn runs_text(query: &QueryReport) -> String {
    query.runs_ms.iter().map(|run| format!("{run:.1}")).collect::<Vec<_>>().join(" ")
}

fn verdict(query: &QueryReport) -> String {
    match (&query.error, query.verified, &query.inexact) {
        (Some(error), Some(false), _) => format!("WRONG: {error}"),
        (Some(error), ..) => format!("FAILED: {error}"),
        (None, Some(true), Some(inexact)) => format!("yes, but not to the cent ({inexact})"),
        (None, Some(true), None) => "yes".to_owned(),
        (None, Some(false), _) => "WRONG".to_owned(),
        (None, None, _) => "-".to_owned(),
    }
}

/// `12.3 MB`: three digits are enough to compare.
fn bytes_text(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    match value < 9.95 && unit > 0 {
        true => format!("{value:.1} {}", UNITS[unit]),
        false => format!("{value:.0} {}", UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(query: QueryReport) -> Report {
        Report { scale: 0.01, functions: Functions::Exactly(2), engine_version: "9.9".to_owned(), queries: vec![query] }
    }

    #[test]
    fn json_has_exactly_the_promised_keys() {
        let json = serde_json::to_value(report(QueryReport { query: 6, ..QueryReport::default() })).unwrap();
        let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        let mut top = keys(&json);
        top.sort();
        assert_eq!(top, ["engine_version", "functions", "queries", "scale"]);
        let mut query = keys(&json["queries"][0]);
        query.sort();
        let promised = "attempts cache_hit_ratio cold_starts cost_usd error exchange_bytes functions_per_stage functions_used gb_seconds intermediate_requests query rows runs_ms stages table_requests tasks verified";
        assert_eq!(query.join(" "), promised);
        assert_eq!(json["functions"], 2);
        assert_eq!(serde_json::to_value(Functions::Auto).unwrap(), "auto");
    }

    #[test]
    fn a_wrong_or_failed_query_fails_the_run() {
        let right = QueryReport { verified: Some(true), runs_ms: vec![3.0, 1.0, 2.0], ..QueryReport::default() };
        assert_eq!(right.median_ms(), 2.0);
        assert!(report(right.clone()).is_success());
        assert!(!report(QueryReport { verified: Some(false), ..right.clone() }).is_success());
        let failed = report(QueryReport { error: Some("boom".to_owned()), ..right });
        assert!(!failed.is_success());
        assert!(failed.to_string().contains("FAILED: boom"));
    }
}
