//! Metrics of a stage, merged over all its attempts.

use onward_wire::message::{AttemptDone, Metric, OperatorMetrics, StoreRequests};

/// What the attempts of one stage reported, summed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StageMetrics {
    /// Attempts that reported.
    pub attempts: u64,
    /// Rows they wrote.
    pub rows: u64,
    /// Bytes they wrote, as encoded.
    pub bytes: u64,
    /// Time of all attempts, in microseconds.
    pub elapsed_us: u64,
    /// Largest peak of one attempt's operator memory.
    pub peak_memory_bytes: u64,
    /// Bytes spilled.
    pub spilled_bytes: u64,
    /// Requests to object stores.
    pub requests: StoreRequests,
    /// Per operator, in the plan's pre-order.
    pub operators: Vec<OperatorMetrics>,
}

impl StageMetrics {
    /// Adds one attempt.
    pub fn add(&mut self, done: &AttemptDone) {
        self.attempts += 1;
        self.rows += done.output.rows();
        self.bytes += done.output.bytes();
        self.elapsed_us += done.elapsed_us;
        self.peak_memory_bytes = self.peak_memory_bytes.max(done.peak_memory_bytes);
        self.spilled_bytes += done.spilled_bytes;
        add_requests(&mut self.requests, &done.requests);
        self.operators.resize(self.operators.len().max(done.operators.len()), OperatorMetrics::default());
        for (sum, operator) in self.operators.iter_mut().zip(&done.operators) {
            for metric in &operator.values {
                add_metric(&mut sum.values, metric);
            }
        }
    }
}

/// Adds `more` to `sum`.
pub fn add_requests(sum: &mut StoreRequests, more: &StoreRequests) {
    sum.table += more.table;
    sum.table_bytes += more.table_bytes;
    sum.write += more.write;
    sum.intermediate += more.intermediate;
}

/// Wall-clock marks do not add up: the first start and the last end count.
fn add_metric(sums: &mut Vec<Metric>, metric: &Metric) {
    match sums.iter_mut().find(|sum| sum.name == metric.name) {
        Some(sum) if metric.name == "start_timestamp" => sum.value = sum.value.min(metric.value),
        Some(sum) if metric.name == "end_timestamp" => sum.value = sum.value.max(metric.value),
        Some(sum) => sum.value = sum.value.saturating_add(metric.value),
        None => sums.push(metric.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_of_attempts_are_summed_by_operator_and_name() {
        let metric = |name: &str, value| Metric { name: name.to_owned(), value };
        let done = |rows| AttemptDone {
            operators: vec![OperatorMetrics {
                values: vec![metric("output_rows", rows), metric("end_timestamp", rows)],
            }],
            ..AttemptDone::default()
        };
        let mut merged = StageMetrics::default();
        merged.add(&done(3));
        merged.add(&done(4));
        assert_eq!(merged.operators[0].values, [metric("output_rows", 7), metric("end_timestamp", 4)]);
        assert_eq!(merged.attempts, 2);
    }
}
