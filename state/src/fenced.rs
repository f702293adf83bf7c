//! State that only the leader reads and writes.
//!
//! A request that is sent twice may be done twice, the second time long after: by then other writes may have been done, and it would undo
//! them. So each write has a number, which is written with it, and is done only after those of lower numbers. Where it is not known
//! whether one was done, nothing is read before an empty one of a higher number was: from then on the first one cannot be done any more.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message;
use tokio::sync::Mutex;

use crate::follow::{LEADER, LeaderInfo, epoch_of};
use crate::lease::Term;
use crate::limits::WRITE_OVERHEAD_BYTES;
use crate::message::{Compare, DeleteRangeRequest, KeyValue, Operation, PutRequest, RequestOp, TxnRequest};
use crate::range::{end_of, only};
use crate::{Etcd, MAX_CHANGES, MAX_WRITE_BYTES, StateError};

/// The key of the last write.
pub(crate) const WRITE: &str = "write";
/// What keys of state begin with.
pub(crate) const STATE: &str = "state/";

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The key has this value from then on.
    Put {
        /// Which key.
        key: String,
        /// Any bytes.
        value: Vec<u8>,
    },
    /// The key is not there any more; it need not be there before.
    Delete {
        /// Which key.
        key: String,
    },
}

/// State of a cluster, for the leader of one epoch. Clones are the same.
///
/// Keys are text, of any form; `/` is custom. What is read is what was written last, by whichever leader.
#[derive(Clone, Debug)]
pub struct Fenced {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    etcd: Etcd,
    lease: i64,
    epoch: u64,
    term: Arc<Term>,
    /// Held while a write is done: they are done one by one.
    writes: Mutex<Writes>,
}

#[derive(Debug, Default)]
struct Writes {
    /// The number of the last one.
    last: u64,
    /// It was sent, and no answer came: it may be done, or be done until another one is.
    is_in_doubt: bool,
}

/// What [`WRITE`] says: a write of a leadership. In order as text.
fn turn(lease: i64, number: u64) -> Vec<u8> {
    format!("{lease:016x}-{number:016x}").into_bytes()
}

/// What it says when a leadership begins.
pub(crate) fn first_turn(lease: i64) -> Vec<u8> {
    turn(lease, 0)
}

impl Fenced {
    pub(crate) fn new(etcd: Etcd, lease: i64, epoch: u64, term: Arc<Term>) -> Self {
        Self { shared: Arc::new(Shared { etcd, lease, epoch, term, writes: Mutex::default() }) }
    }

    /// All keys that begin with `prefix`, and their values, as they were at one time during the call. Keys are whole, with the prefix.
    ///
    /// # Errors
    /// [`StateError::Deposed`]; [`StateError::Invalid`] when it is more than is read at once.
    pub async fn list(&self, prefix: &str) -> Result<BTreeMap<String, Vec<u8>>, StateError> {
        self.settle().await?;
        let start = self.key(prefix);
        let snapshot = self.shared.etcd.read(&start, &end_of(&start), &[self.guard()]).await?;
        let Some(snapshot) = snapshot else { return Err(self.find_successor().await) };
        let skipped = self.key("").len();
        let text = |found: KeyValue| match std::str::from_utf8(&found.key[skipped..]) {
            Ok(key) => Ok((key.to_owned(), found.value)),
            Err(_) => Err(StateError::Invalid(format!("not ours: {}", found.key.escape_ascii()))),
        };
        snapshot.found.into_iter().map(text).collect()
    }

    /// The value of a key, if it is there.
    ///
    /// # Errors
    /// [`StateError::Deposed`].
    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StateError> {
        self.settle().await?;
        let success = vec![only(self.key(key)).into()];
        let request = TxnRequest { compare: vec![self.guard()], success, failure: vec![self.leader().into()] };
        let answer = self.shared.etcd.call(&request).await?;
        let succeeded = answer.succeeded;
        let found = answer.found().next().flatten();
        if succeeded { Ok(found.map(|found| found.value)) } else { Err(self.deposed(found.as_ref())) }
    }

    /// Makes all changes, or none. No key may be in it twice.
    ///
    /// # Errors
    /// [`StateError::TooLarge`]; [`StateError::Deposed`]; after [`StateError::Unavailable`] it is not known whether they are made: the next
    /// read tells, and what it tells stays so.
    pub async fn write(&self, changes: Vec<Change>) -> Result<(), StateError> {
        let operations = changes.into_iter().map(|change| self.operation(change)).collect();
        self.write_operations(operations).await
    }

    /// Makes changes in their order, in as many writes as it takes. When it fails, the first so many are made and the others are not.
    ///
    /// # Errors
    /// Those of [`Self::write`]; [`StateError::TooLarge`] is of a single change.
    pub async fn write_in_order(&self, changes: Vec<Change>) -> Result<(), StateError> {
        let (mut part, mut bytes) = (Vec::new(), 0);
        for operation in changes.into_iter().map(|change| self.operation(change)) {
            // With the tag and the length before it.
            let length = operation.encoded_len() + 8;
            if part.len() == MAX_CHANGES
                || (!part.is_empty() && bytes + length > MAX_WRITE_BYTES - WRITE_OVERHEAD_BYTES)
            {
                self.write_operations(std::mem::take(&mut part)).await?;
                bytes = 0;
            }
            part.push(operation);
            bytes += length;
        }
        self.write_operations(part).await
    }

    async fn write_operations(&self, success: Vec<RequestOp>) -> Result<(), StateError> {
        if success.is_empty() {
            return Ok(());
        }
        self.write_next(&mut *self.shared.writes.lock().await, success).await
    }

    /// Sees to it that what is read stays so until the next write: an earlier one whose answer was lost is done by now, or never.
    async fn settle(&self) -> Result<(), StateError> {
        let mut writes = self.shared.writes.lock().await;
        if writes.is_in_doubt { self.write_next(&mut writes, Vec::new()).await } else { Ok(()) }
    }

    async fn write_next(&self, writes: &mut Writes, mut success: Vec<RequestOp>) -> Result<(), StateError> {
        let changes = success.len();
        let key = self.shared.etcd.key(WRITE);
        let turn = turn(self.shared.lease, writes.last + 1);
        success.push(Operation::Put(PutRequest { key: key.clone(), value: turn.clone(), lease: 0 }).into());
        let request = TxnRequest {
            compare: vec![self.guard(), Compare::less(key.clone(), turn.clone())],
            success,
            failure: vec![self.leader().into(), only(key).into()],
        };
        let bytes = request.encoded_len();
        if changes > MAX_CHANGES || bytes > MAX_WRITE_BYTES {
            return Err(StateError::TooLarge { changes, bytes });
        }
        // Before it is sent: the future may be dropped.
        *writes = Writes { last: writes.last + 1, is_in_doubt: true };
        let answer = self.shared.etcd.call(&request).await?;
        writes.is_in_doubt = false;
        if answer.succeeded {
            return Ok(());
        }
        let mut found = answer.found();
        let (leader, last) = (found.next().flatten(), found.next().flatten());
        if last.is_some_and(|last| last.value == turn) {
            // The request was sent again, and the first one was done: only its answer was lost.
            return Ok(());
        }
        Err(self.deposed(leader.as_ref()))
    }

    fn operation(&self, change: Change) -> RequestOp {
        let operation = match change {
            Change::Put { key, value } => Operation::Put(PutRequest { key: self.key(&key), value, lease: 0 }),
            Change::Delete { key } => Operation::Delete(DeleteRangeRequest { key: self.key(&key) }),
        };
        operation.into()
    }

    fn key(&self, key: &str) -> Vec<u8> {
        self.shared.etcd.key(&format!("{STATE}{key}"))
    }

    fn guard(&self) -> Compare {
        Compare::created_at(self.shared.etcd.key(LEADER), i64::try_from(self.shared.epoch).unwrap_or(i64::MAX))
    }

    fn leader(&self) -> Operation {
        only(self.shared.etcd.key(LEADER))
    }

    /// The guard did not hold: who leads instead?
    async fn find_successor(&self) -> StateError {
        // That it is deposed is certain; who leads is good to know.
        let found = self.shared.etcd.leader().await.ok().flatten();
        self.deposed(found.as_ref())
    }

    fn deposed(&self, leader: Option<&KeyValue>) -> StateError {
        self.shared.term.end();
        let by = leader.filter(|leader| epoch_of(leader) != self.shared.epoch).and_then(LeaderInfo::of);
        StateError::Deposed { epoch: self.shared.epoch, by: by.map(Box::new) }
    }
}
