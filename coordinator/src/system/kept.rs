//! [`KeptHistory`]: queries that are over, where the next coordinator finds them.
//!
//! ```text
//!   history/EPOCH-NUMBER        some queries, in the order in which they ended; numbers grow with each epoch
//! ```
//!
//! They are written a moment after they end, together with others that end then: what a coordinator was running when it was lost, and
//! what it had not written yet, is not remembered. When etcd is slower than queries end, some are left out.

use std::collections::VecDeque;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use onward_state::{Change, Fenced, StateError};
use onward_wire::QueryId;
use onward_wire::message::StoreRequests;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::HISTORY_LIMIT;
use super::queries::{QueryRecord, QueryState};
use crate::accounting::Usage;

const PREFIX: &str = "history/";
/// Queries that wait to be written.
const MOST_WAITING: usize = 1_024;
/// Queries in one value.
const MOST_TOGETHER: usize = 64;
/// Of a statement, in characters: a value holds many.
const MOST_SQL: usize = 4_096;

/// A query, as it is kept.
#[derive(Serialize, Deserialize)]
pub(super) struct KeptQuery {
    query: u64,
    sql: String,
    state: KeptState,
    arrived: DateTime<Utc>,
    elapsed_us: u64,
    queued_us: u64,
    functions: u64,
    functions_per_stage: Vec<u64>,
    tasks: u64,
    attempts: u64,
    exchange_bytes: u64,
    /// Of tables, writes, others; bytes of tables, and of those what the range tier had.
    requests: [u64; 5],
    cache_hit_bytes: u64,
    cache_miss_bytes: u64,
    rows: u64,
    spilled_bytes: u64,
    usage: Usage,
    is_remote: bool,
    user: String,
    queue: String,
}

#[derive(Serialize, Deserialize)]
enum KeptState {
    Done,
    Failed(String),
    Cancelled(String),
}

impl KeptQuery {
    /// `None` while it runs.
    pub(super) fn of(record: &QueryRecord) -> Option<Self> {
        let state = match &record.state {
            QueryState::Running => return None,
            QueryState::Done => KeptState::Done,
            QueryState::Failed(error) => KeptState::Failed(error.clone()),
            QueryState::Cancelled(why) => KeptState::Cancelled(why.clone()),
        };
        let StoreRequests { table, write, intermediate, table_bytes, range_bytes } = record.requests;
        Some(Self {
            query: record.query.0,
            sql: record.sql.chars().take(MOST_SQL).collect(),
            state,
            arrived: record.arrived,
            elapsed_us: record.elapsed_us(),
            queued_us: record.queued_us(),
            functions: record.functions,
            functions_per_stage: record.functions_per_stage.clone(),
            tasks: record.tasks,
            attempts: record.attempts,
            exchange_bytes: record.exchange_bytes,
            requests: [table, write, intermediate, table_bytes, range_bytes],
            cache_hit_bytes: record.cache_hit_bytes,
            cache_miss_bytes: record.cache_miss_bytes,
            rows: record.rows,
            spilled_bytes: record.spilled_bytes,
            usage: record.usage,
            is_remote: record.is_remote,
            user: record.user.to_string(),
            queue: record.queue.clone(),
        })
    }

    fn record(self) -> QueryRecord {
        let [table, write, intermediate, table_bytes, range_bytes] = self.requests;
        QueryRecord {
            state: match self.state {
                KeptState::Done => QueryState::Done,
                KeptState::Failed(error) => QueryState::Failed(error),
                KeptState::Cancelled(why) => QueryState::Cancelled(why),
            },
            arrived: self.arrived,
            elapsed_us: Some(self.elapsed_us),
            queued_us: self.queued_us,
            functions: self.functions,
            functions_per_stage: self.functions_per_stage,
            tasks: self.tasks,
            attempts: self.attempts,
            exchange_bytes: self.exchange_bytes,
            requests: StoreRequests { table, write, intermediate, table_bytes, range_bytes },
            cache_hit_bytes: self.cache_hit_bytes,
            cache_miss_bytes: self.cache_miss_bytes,
            rows: self.rows,
            spilled_bytes: self.spilled_bytes,
            usage: self.usage,
            is_remote: self.is_remote,
            user: Arc::from(self.user),
            queue: self.queue,
            ..QueryRecord::new(QueryId(self.query), &self.sql)
        }
    }
}

/// Writes down queries that are over.
#[derive(Debug)]
pub(crate) struct KeptHistory {
    waiting: mpsc::Sender<KeptQuery>,
}

impl KeptHistory {
    /// Reads what coordinators before this one wrote, oldest first.
    pub(crate) async fn open(state: Fenced, epoch: u64) -> Result<(Self, Vec<QueryRecord>), StateError> {
        let (mut records, mut keys) = (Vec::new(), VecDeque::new());
        for (key, value) in state.list(PREFIX).await? {
            let queries: Vec<KeptQuery> = serde_json::from_slice(&value).unwrap_or_else(|error| {
                tracing::warn!(key, %error, "not a history that this version knows");
                Vec::new()
            });
            keys.push_back((key, queries.len()));
            records.extend(queries.into_iter().map(KeptQuery::record));
        }
        let forgotten = records.len().saturating_sub(HISTORY_LIMIT);
        records.drain(..forgotten);
        let (waiting, over) = mpsc::channel(MOST_WAITING);
        tokio::spawn(write(state, epoch, keys, over));
        Ok((Self { waiting }, records))
    }

    /// A query is over.
    pub(super) fn add(&self, query: KeptQuery) {
        if self.waiting.try_send(query).is_err() {
            tracing::debug!("etcd is slow, or another coordinator leads: the history misses a query");
        }
    }
}

/// Writes until nobody adds any more, or another coordinator leads.
async fn write(state: Fenced, epoch: u64, mut keys: VecDeque<(String, usize)>, mut over: mpsc::Receiver<KeptQuery>) {
    let mut queries = Vec::new();
    for number in 0_u64.. {
        queries.clear();
        if over.recv_many(&mut queries, MOST_TOGETHER).await == 0 {
            return;
        }
        let key = format!("{PREFIX}{epoch:016x}-{number:016x}");
        keys.push_back((key.clone(), queries.len()));
        let mut kept: usize = keys.iter().map(|(_, count)| count).sum();
        let mut changes = Vec::new();
        while let Some((oldest, count)) = keys.pop_front_if(|(_, count)| kept - *count >= HISTORY_LIMIT) {
            kept -= count;
            changes.push(Change::Delete { key: oldest });
        }
        match serde_json::to_vec(&queries) {
            Ok(value) => changes.push(Change::Put { key, value }),
            Err(error) => tracing::warn!(%error, "a query cannot be remembered"),
        }
        if let Err(error) = state.write_in_order(changes).await {
            match error {
                StateError::Deposed { .. } => return,
                error => tracing::warn!(%error, queries = queries.len(), "queries are not remembered"),
            }
        }
    }
}
