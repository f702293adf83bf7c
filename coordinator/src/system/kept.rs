//! [`KeptHistory`]: queries that are over, where the next coordinator finds them.
//!
//! ```text
//!   history/EPOCH-NUMBER        some queries, in the order in which they ended; numbers grow with each epoch
//!   history/running             those that have been running for a while
//! ```
//!
//! They are written a moment after they end, together with others that end then. Of what a coordinator was running when it was lost,
//! the next one remembers what ran for more than a second, as failed; not what was shorter. When etcd is slower than queries end, some
//! are left out.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use onward_state::{Change, Fenced, StateError};
use onward_wire::QueryId;
use onward_wire::message::StoreRequests;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::HISTORY_LIMIT;
use super::queries::{History, QueryRecord, QueryState};
use crate::accounting::Usage;

const PREFIX: &str = "history/";
const RUNNING: &str = "history/running";
/// How often running queries are looked at, and how long one runs before it is written down.
const LOOK: Duration = Duration::from_secs(1);
/// Of running queries, so many are written down: the oldest.
const MOST_RUNNING: usize = 64;
/// Between two tries when etcd does not answer.
const RETRY: Duration = Duration::from_secs(1);
/// What is said of a query whose end nobody told.
const LOST: &str = "the coordinator that ran it was lost before it said how it ended";
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
    Running,
    Done,
    Failed(String),
    Cancelled(String),
}

impl KeptQuery {
    pub(super) fn of(record: &QueryRecord) -> Self {
        let state = match &record.state {
            QueryState::Running => KeptState::Running,
            QueryState::Done => KeptState::Done,
            QueryState::Failed(error) => KeptState::Failed(error.clone()),
            QueryState::Cancelled(why) => KeptState::Cancelled(why.clone()),
        };
        let StoreRequests { table, write, intermediate, table_bytes, range_bytes } = record.requests;
        Self {
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
        }
    }

    fn record(self) -> QueryRecord {
        let [table, write, intermediate, table_bytes, range_bytes] = self.requests;
        QueryRecord {
            state: match self.state {
                KeptState::Running => QueryState::Failed(LOST.to_owned()),
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

/// What coordinators before this one ran, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Before {
    /// Queries whose end is known.
    pub(super) over: Vec<QueryRecord>,
    /// Those that ended with their coordinator.
    pub(super) lost: Vec<QueryRecord>,
}

/// Writes down queries that are over.
#[derive(Debug)]
pub(crate) struct KeptHistory {
    waiting: mpsc::Sender<Item>,
}

enum Item {
    /// It is over.
    Query(Box<KeptQuery>),
    /// Somebody waits until all before is written: dropped then.
    Settled(oneshot::Sender<()>),
}

impl KeptHistory {
    /// Reads what coordinators before this one wrote, oldest first: queries that are over, and those that were lost with them.
    pub(crate) async fn open(state: Fenced, epoch: u64) -> Result<(Self, Before), StateError> {
        let (mut before, mut keys) = (Before::default(), VecDeque::new());
        for (key, value) in state.list(PREFIX).await? {
            let queries: Vec<KeptQuery> = serde_json::from_slice(&value).unwrap_or_else(|error| {
                tracing::warn!(key, %error, "not a history that this version knows");
                Vec::new()
            });
            if key == RUNNING {
                before.lost.extend(queries.into_iter().map(KeptQuery::record));
                continue;
            }
            keys.push_back((key, queries.len()));
            before.over.extend(queries.into_iter().map(KeptQuery::record));
        }
        let over: BTreeSet<QueryId> = before.over.iter().map(|record| record.query).collect();
        before.lost.retain(|record| !over.contains(&record.query));
        let forgotten = before.over.len().saturating_sub(HISTORY_LIMIT);
        before.over.drain(..forgotten);
        let (waiting, over) = mpsc::channel(MOST_WAITING);
        tokio::spawn(write(state, epoch, keys, over));
        Ok((Self { waiting }, before))
    }

    /// Resolves when all that is over is written, or will not be.
    pub(super) async fn settled(&self) {
        let (waits, written) = oneshot::channel();
        if self.waiting.send(Item::Settled(waits)).await.is_ok() {
            // It is dropped, not answered.
            let _ = written.await;
        }
    }

    /// A query is over.
    pub(super) fn add(&self, query: KeptQuery) {
        if self.waiting.try_send(Item::Query(Box::new(query))).is_err() {
            tracing::debug!("etcd is slow, or another coordinator leads: the history misses a query");
        }
    }
}

/// Writes down which queries run, until nobody has the history any more, or another coordinator leads.
pub(crate) fn keep_running(history: &Arc<History>, state: Fenced) {
    let history = Arc::downgrade(history);
    tokio::spawn(async move {
        let (mut written, mut looks) = (BTreeSet::new(), tokio::time::interval(LOOK));
        loop {
            looks.tick().await;
            let Some(running) = history.upgrade().map(|history| history.running(LOOK, MOST_RUNNING)) else { return };
            let queries: BTreeSet<u64> = running.iter().map(|query| query.query).collect();
            if queries == written {
                continue;
            }
            let Ok(value) = serde_json::to_vec(&running) else { continue };
            match state.write_in_order(vec![Change::Put { key: RUNNING.to_owned(), value }]).await {
                Ok(()) => written = queries,
                Err(StateError::Deposed { .. }) => return,
                Err(error) => tracing::debug!(%error, "which queries run is not written down"),
            }
        }
    });
}

/// Writes until nobody adds any more, or another coordinator leads.
async fn write(state: Fenced, epoch: u64, mut keys: VecDeque<(String, usize)>, mut over: mpsc::Receiver<Item>) {
    let mut items = Vec::new();
    for number in 0_u64.. {
        if over.recv_many(&mut items, MOST_TOGETHER).await == 0 {
            return;
        }
        let (mut queries, mut waiting) = (Vec::new(), Vec::new());
        for item in items.drain(..) {
            match item {
                Item::Query(query) => queries.push(query),
                Item::Settled(waits) => waiting.push(waits),
            }
        }
        if queries.is_empty() {
            continue;
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
        // The same again changes nothing that was changed.
        while let Err(error) = state.write_in_order(changes.clone()).await {
            match error {
                StateError::Deposed { .. } => return,
                error if error.is_retryable() => {
                    tracing::debug!(%error, queries = queries.len(), "the history waits for etcd");
                    tokio::time::sleep(RETRY).await;
                }
                error => {
                    tracing::warn!(%error, queries = queries.len(), "queries are not remembered");
                    break;
                }
            }
        }
    }
}
