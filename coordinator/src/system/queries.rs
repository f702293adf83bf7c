//! `system.queries`: one row per query.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, Utc};
use datafusion::arrow::array::{
    Float64Array, ListBuilder, RecordBatch, StringArray, TimestampMicrosecondArray, UInt64Array, UInt64Builder,
};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::common::Result;
use onward_wire::message::StoreRequests;
use onward_wire::{ErrorKind, QueryId, WireError};
use parking_lot::Mutex;

use super::HISTORY_LIMIT;
use super::kept::{Before, KeptHistory, KeptQuery};
use super::log::QueryLog;
use super::snapshot::Snapshot;
use crate::accounting::{Prices, QueryCost, Usage};

/// As `now()` has it.
const UTC: &str = "+00:00";

/// Where a query is.
#[derive(Clone, Debug, PartialEq)]
pub enum QueryState {
    /// Planned, waiting or running.
    Running,
    /// All rows are there.
    Done,
    /// It ended with an error.
    Failed(String),
    /// Whoever asked wants it no more, and why.
    Cancelled(String),
}

impl QueryState {
    /// How a query ends that met `error`.
    pub fn of(error: &WireError) -> Self {
        match error.kind() {
            ErrorKind::Cancelled => Self::Cancelled(error.message.clone()),
            _ => Self::Failed(error.message.clone()),
        }
    }
}

/// What is remembered of a query.
#[derive(Clone, Debug)]
pub struct QueryRecord {
    /// Its id.
    pub query: QueryId,
    /// The statement as it came.
    pub sql: String,
    /// Where it is.
    pub state: QueryState,
    /// When it arrived.
    pub started: Instant,
    /// From arrival until all rows were there, in microseconds; `None` while it runs.
    pub elapsed_us: Option<u64>,
    /// Functions the planner chose; 0 = the coordinator ran it.
    pub functions: u64,
    /// Distinct functions that ran each stage.
    pub functions_per_stage: Vec<u64>,
    /// Tasks of all stages.
    pub tasks: u64,
    /// Attempts of all tasks, the lost and failed ones included.
    pub attempts: u64,
    /// Bytes of all exchanges, the result not counted.
    pub exchange_bytes: u64,
    /// Requests to object stores (a local directory is one) by purpose.
    pub requests: StoreRequests,
    /// Bytes of columns that scans found in the cache.
    pub cache_hit_bytes: u64,
    /// Bytes of columns that scans decoded.
    pub cache_miss_bytes: u64,
    /// Rows of the result.
    pub rows: u64,
    /// Bytes that operators spilled to local disk.
    pub spilled_bytes: u64,
    /// What it used of functions.
    pub usage: Usage,
    /// It reads or writes a remote store.
    pub is_remote: bool,
    /// Whose it is; may be empty.
    pub user: Arc<str>,
    /// The queue it waits in; empty: the default one.
    pub queue: String,
    /// Its place there, from 1; 0 when it does not wait.
    pub position: u64,
    /// Since when it waits.
    pub(super) queued: Option<Instant>,
    /// How long it waited.
    pub(super) queued_us: u64,
    /// When it arrived, by the calendar.
    pub(super) arrived: DateTime<Utc>,
    /// Plans of it that the engine has not settled yet.
    pub(super) open: u32,
}

impl QueryRecord {
    /// A query that has just arrived.
    pub fn new(query: QueryId, sql: &str) -> Self {
        Self {
            query,
            sql: sql.to_owned(),
            state: QueryState::Running,
            started: Instant::now(),
            elapsed_us: None,
            functions: 0,
            functions_per_stage: Vec::new(),
            tasks: 0,
            attempts: 0,
            exchange_bytes: 0,
            requests: StoreRequests::default(),
            cache_hit_bytes: 0,
            cache_miss_bytes: 0,
            rows: 0,
            spilled_bytes: 0,
            usage: Usage::default(),
            is_remote: false,
            user: Arc::default(),
            queue: String::new(),
            position: 0,
            queued: None,
            queued_us: 0,
            arrived: Utc::now(),
            open: 0,
        }
    }

    /// It waits, at this place.
    pub fn waits(&mut self, position: u64) {
        self.position = position;
        self.queued.get_or_insert_with(Instant::now);
    }

    /// It waits no longer.
    pub fn waits_no_more(&mut self) {
        self.queued_us = self.queued_us();
        (self.position, self.queued) = (0, None);
    }

    pub(super) fn queued_us(&self) -> u64 {
        self.queued_us + self.queued.map_or(0, |since| since.elapsed().as_micros() as u64)
    }

    pub(super) fn elapsed_us(&self) -> u64 {
        self.elapsed_us.unwrap_or_else(|| self.started.elapsed().as_micros() as u64)
    }

    fn state(&self) -> &'static str {
        match self.state {
            QueryState::Running if self.position > 0 => "queued",
            QueryState::Running => "running",
            QueryState::Done => "done",
            QueryState::Failed(_) => "failed",
            QueryState::Cancelled(_) => "cancelled",
        }
    }

    fn queue(&self) -> &str {
        if self.queue.is_empty() { "default" } else { &self.queue }
    }

    /// Requests that are paid for.
    fn paid(&self) -> StoreRequests {
        if self.is_remote { self.requests } else { StoreRequests::default() }
    }

    fn cost(&self, prices: &Prices) -> QueryCost {
        QueryCost {
            query_id: self.query.to_string(),
            sql: self.sql.clone(),
            user: self.user.to_string(),
            queue: self.queue().to_owned(),
            state: self.state().to_owned(),
            arrived: self.arrived.to_rfc3339_opts(SecondsFormat::Millis, true),
            elapsed_ms: self.elapsed_us() / 1_000,
            queued_ms: self.queued_us() / 1_000,
            rows: self.rows,
            functions: self.functions,
            cold_starts: self.usage.cold_starts,
            warm_starts: self.usage.warm_starts,
            vcpu_seconds: self.usage.vcpu_seconds(),
            gb_seconds: self.usage.gb_seconds(),
            scanned_bytes: self.requests.table_bytes,
            cached_bytes: self.cache_hit_bytes + self.requests.range_bytes,
            exchanged_bytes: self.exchange_bytes,
            requests: self.requests.table + self.requests.write + self.requests.intermediate,
            cost_usd: self.usage.cost_usd(&self.paid(), prices),
            is_final: self.open == 0 && (self.functions > 0 || self.state != QueryState::Running),
        }
    }
}

/// The last queries, oldest first.
#[derive(Debug, Default)]
pub struct History {
    records: Mutex<VecDeque<QueryRecord>>,
    prices: Prices,
    log: Option<QueryLog>,
    /// Where other coordinators find it.
    kept: Option<KeptHistory>,
}

impl History {
    /// A history that tells what queries cost, and writes it down as they end.
    pub(crate) fn new(prices: Prices, log: Option<QueryLog>) -> Self {
        Self { prices, log, ..Self::default() }
    }

    /// A history that goes on from coordinator to coordinator, with what those before this one remembered, oldest first.
    pub(crate) fn shared(self, kept: KeptHistory, before: Before) -> Self {
        let Before { over, lost } = before;
        let history = Self { records: Mutex::new(over.into()), kept: Some(kept), ..self };
        for record in lost {
            let over = history.over(&record);
            history.begin(record);
            history.write_down(Some(over));
        }
        history
    }

    /// Resolves when the next coordinator would find all queries that are over.
    pub(crate) async fn settled(&self) {
        if let Some(kept) = &self.kept {
            kept.settled().await;
        }
    }

    /// Queries that have been running for `age`: the oldest `most`.
    pub(super) fn running(&self, age: Duration, most: usize) -> Vec<KeptQuery> {
        let records = self.records.lock();
        let runs = |record: &&QueryRecord| record.state == QueryState::Running && record.started.elapsed() >= age;
        records.iter().filter(runs).take(most).map(KeptQuery::of).collect()
    }

    /// What functions and requests cost.
    pub(crate) fn prices(&self) -> &Prices {
        &self.prices
    }

    /// Remembers a new query; past the limit the oldest finished one is forgotten.
    pub fn begin(&self, record: QueryRecord) {
        let mut records = self.records.lock();
        while records.len() >= HISTORY_LIMIT {
            let finished = records.iter().position(|record| record.state != QueryState::Running);
            records.remove(finished.unwrap_or(0));
        }
        records.push_back(record);
    }

    /// Changes what is remembered of `query`; nothing when it is forgotten.
    pub fn update(&self, query: QueryId, change: impl FnOnce(&mut QueryRecord)) {
        let mut records = self.records.lock();
        if let Some(record) = records.iter_mut().rev().find(|record| record.query == query) {
            change(record);
        }
    }

    /// Marks the end of `query`. The first end wins: a client that drops a finished query's stream does not fail it.
    pub fn end(&self, query: QueryId, state: QueryState) {
        let mut over = None;
        self.update(query, |record| {
            if record.state == QueryState::Running {
                record.elapsed_us = Some(record.started.elapsed().as_micros() as u64);
                record.state = state;
                over = (record.open == 0).then(|| self.over(record));
            }
        });
        self.write_down(over);
    }

    /// A plan of it goes to the engine: what it takes is known once that is settled.
    pub fn open(&self, query: QueryId, change: impl FnOnce(&mut QueryRecord)) {
        self.update(query, |record| {
            record.open += 1;
            change(record);
        });
    }

    /// The engine is done with a plan of it; `change` says what that took.
    pub fn settle(&self, query: QueryId, change: impl FnOnce(&mut QueryRecord)) {
        let mut over = None;
        self.update(query, |record| {
            change(record);
            record.open = record.open.saturating_sub(1);
            let is_over = record.open == 0 && record.state != QueryState::Running;
            over = is_over.then(|| self.over(record));
        });
        self.write_down(over);
    }

    fn over(&self, record: &QueryRecord) -> (QueryCost, Option<KeptQuery>) {
        (record.cost(&self.prices), self.kept.as_ref().map(|_| KeptQuery::of(record)))
    }

    fn write_down(&self, over: Option<(QueryCost, Option<KeptQuery>)>) {
        let Some((cost, query)) = over else { return };
        if let Some(log) = &self.log {
            log.add(&cost);
        }
        if let (Some(kept), Some(query)) = (&self.kept, query) {
            kept.add(query);
        }
    }

    /// What a query took and cost, so far or in all; `None` when it is forgotten.
    pub fn cost(&self, query: QueryId) -> Option<QueryCost> {
        let records = self.records.lock();
        records.iter().rev().find(|record| record.query == query).map(|record| record.cost(&self.prices))
    }

    /// Whether `query` is remembered (ids are drawn again when they are).
    pub fn contains(&self, query: QueryId) -> bool {
        self.records.lock().iter().any(|record| record.query == query)
    }

    fn batch(&self, schema: SchemaRef) -> Result<RecordBatch> {
        let records: Vec<QueryRecord> = self.records.lock().iter().cloned().collect();
        let texts = |value: &dyn Fn(&QueryRecord) -> String| -> Arc<StringArray> {
            Arc::new(records.iter().map(|record| Some(value(record))).collect())
        };
        let numbers = |value: &dyn Fn(&QueryRecord) -> u64| -> Arc<UInt64Array> {
            Arc::new(records.iter().map(value).collect::<Vec<_>>().into())
        };
        let errors: StringArray = records
            .iter()
            .map(|record| match &record.state {
                QueryState::Failed(error) | QueryState::Cancelled(error) => Some(error.clone()),
                _ => None,
            })
            .collect();
        let arrived: TimestampMicrosecondArray =
            records.iter().map(|record| Some(record.arrived.timestamp_micros())).collect();
        let amounts = |value: &dyn Fn(&QueryRecord) -> f64| -> Arc<Float64Array> {
            Arc::new(records.iter().map(value).collect::<Vec<_>>().into())
        };
        let mut per_stage = ListBuilder::new(UInt64Builder::new());
        for record in &records {
            per_stage.values().append_slice(&record.functions_per_stage);
            per_stage.append(true);
        }
        Ok(RecordBatch::try_new(
            schema,
            vec![
                texts(&|record| record.query.to_string()),
                texts(&|record| record.sql.clone()),
                texts(&|record| record.state().to_owned()),
                numbers(&|record| record.elapsed_us() / 1_000),
                numbers(&|record| record.functions),
                numbers(&|record| record.functions_per_stage.iter().copied().max().unwrap_or(0)),
                Arc::new(per_stage.finish()),
                numbers(&|record| record.functions_per_stage.len() as u64),
                numbers(&|record| record.tasks),
                numbers(&|record| record.attempts),
                numbers(&|record| record.exchange_bytes),
                numbers(&|record| record.requests.table),
                numbers(&|record| record.requests.table_bytes),
                numbers(&|record| record.requests.range_bytes),
                numbers(&|record| record.requests.write),
                numbers(&|record| record.requests.intermediate),
                numbers(&|record| record.spilled_bytes),
                numbers(&|record| record.cache_hit_bytes),
                numbers(&|record| record.cache_miss_bytes),
                numbers(&|record| record.rows),
                numbers(&|record| record.usage.cold_starts),
                numbers(&|record| record.usage.warm_starts),
                amounts(&|record| record.usage.vcpu_seconds()),
                amounts(&|record| record.usage.gb_seconds()),
                amounts(&|record| record.usage.cost_usd(&record.paid(), &self.prices)),
                texts(&|record| record.user.to_string()),
                texts(&|record| record.queue().to_owned()),
                numbers(&|record| record.position),
                numbers(&|record| record.queued_us() / 1_000),
                Arc::new(errors),
                Arc::new(arrived.with_timezone(UTC)),
            ],
        )?)
    }
}

/// The table over a [`History`].
pub struct QueriesTable {
    history: Arc<History>,
    schema: SchemaRef,
}

impl QueriesTable {
    /// A table that shows `history` as it is when a query is planned.
    pub fn new(history: Arc<History>) -> Self {
        let number = |name: &str| Field::new(name, DataType::UInt64, false);
        let amount = |name: &str| Field::new(name, DataType::Float64, false);
        let text = |name: &str| Field::new(name, DataType::Utf8, false);
        let per_stage = DataType::List(Arc::new(Field::new_list_field(DataType::UInt64, true)));
        let schema = Arc::new(Schema::new(vec![
            text("query_id"),
            text("sql"),
            text("state"),
            number("elapsed_ms"),
            number("functions"),
            number("functions_used"),
            Field::new("functions_per_stage", per_stage, false),
            number("stages"),
            number("tasks"),
            number("attempts"),
            number("exchange_bytes"),
            number("table_requests"),
            number("table_bytes"),
            number("range_bytes"),
            number("write_requests"),
            number("intermediate_requests"),
            number("spilled_bytes"),
            number("cache_hit_bytes"),
            number("cache_miss_bytes"),
            number("rows"),
            number("cold_starts"),
            number("warm_starts"),
            amount("vcpu_seconds"),
            amount("gb_seconds"),
            amount("cost_usd"),
            text("user"),
            text("queue"),
            number("queue_position"),
            number("queued_ms"),
            Field::new("error", DataType::Utf8, true),
            Field::new("arrived", DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())), false),
        ]));
        Self { history, schema }
    }
}

impl Snapshot for QueriesTable {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn batch(&self) -> Result<RecordBatch> {
        self.history.batch(Arc::clone(&self.schema))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_history_forgets_finished_queries_before_running_ones() {
        let history = History::default();
        for id in 0..HISTORY_LIMIT as u64 {
            history.begin(QueryRecord::new(QueryId(id), "select 1"));
        }
        history.end(QueryId(7), QueryState::Done);
        history.begin(QueryRecord::new(QueryId(5_000), "select 2"));
        assert!(!history.contains(QueryId(7)));
        assert!(history.contains(QueryId(0)) && history.contains(QueryId(5_000)));
    }

    #[test]
    fn a_query_tells_when_it_arrived() {
        let history = History::default();
        let record = QueryRecord::new(QueryId(1), "select 1");
        let arrived = TimestampMicrosecondArray::from(vec![record.arrived.timestamp_micros()]).with_timezone(UTC);
        history.begin(record);
        let table = QueriesTable::new(Arc::new(History::default()));
        let batch = history.batch(Arc::clone(table.schema())).expect("a batch");
        assert_eq!(batch.column_by_name("arrived").expect("arrived").as_ref(), &arrived);
    }

    #[test]
    fn the_first_end_of_a_query_wins() {
        let history = History::default();
        history.begin(QueryRecord::new(QueryId(1), "select 1"));
        history.end(QueryId(1), QueryState::Done);
        history.end(QueryId(1), QueryState::Failed("dropped".to_owned()));
        let table = QueriesTable::new(Arc::new(History::default()));
        let batch = history.batch(Arc::clone(table.schema())).expect("a batch");
        assert_eq!(batch.column_by_name("state").expect("state").as_ref(), &StringArray::from(vec!["done"]));
    }
}
