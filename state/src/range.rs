//! Reads of many keys, at one revision.

use crate::error::Fault;
use crate::fenced::STATE;
use crate::limits::{MAX_READ_ATTEMPTS, MAX_READ_BYTES, PAGE_KEYS};
use crate::message::{Compare, KeyValue, Operation, RangeRequest, TxnRequest};
use crate::{Etcd, StateError};

/// Keys and values as they were at a revision.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) revision: i64,
    pub(crate) found: Vec<KeyValue>,
}

/// The key behind all that begin with this text.
pub(crate) fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    // No byte of UTF-8 is 255.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// A key.
pub(crate) fn only(key: Vec<u8>) -> Operation {
    Operation::Range(RangeRequest { key, range_end: Vec::new(), limit: 1, revision: 0 })
}

impl Etcd {
    /// The value of a key of state that leaders write, for one who does not lead.
    ///
    /// # Errors
    /// [`StateError::Unavailable`].
    pub async fn peek(&self, key: &str) -> Result<Option<Vec<u8>>, StateError> {
        let success = vec![only(self.key(&format!("{STATE}{key}"))).into()];
        let request = TxnRequest { compare: Vec::new(), success, failure: Vec::new() };
        let answer = self.call(&request).await?;
        Ok(answer.found().next().flatten().map(|found| found.value))
    }

    /// Reads keys from `start` to before `end`, in pages; each only if `guard` holds. `None`: it does not.
    pub(crate) async fn read(&self, start: &[u8], end: &[u8], guard: &[Compare]) -> Result<Option<Snapshot>, Fault> {
        let mut compacted = None;
        for _ in 0..MAX_READ_ATTEMPTS {
            match self.read_once(start, end, guard).await {
                Err(fault @ Fault::Compacted(_)) => compacted = Some(fault),
                read => return read,
            }
        }
        Err(compacted.expect("there is an attempt"))
    }

    async fn read_once(&self, start: &[u8], end: &[u8], guard: &[Compare]) -> Result<Option<Snapshot>, Fault> {
        let (mut key, mut limit, mut bytes) = (start.to_vec(), PAGE_KEYS, 0);
        let mut snapshot = Snapshot::default();
        loop {
            let range = RangeRequest { key: key.clone(), range_end: end.to_vec(), limit, revision: snapshot.revision };
            let success = vec![Operation::Range(range).into()];
            let request = TxnRequest { compare: guard.to_vec(), success, failure: Vec::new() };
            let answer = match self.call(&request).await {
                Err(Fault::AnswerTooLarge(_)) if limit > 1 => {
                    limit /= 2;
                    continue;
                }
                answer => answer?,
            };
            if !answer.succeeded {
                return Ok(None);
            }
            if snapshot.revision == 0 {
                snapshot.revision = answer.revision();
            }
            let page = answer.responses.into_iter().find_map(|response| response.range).unwrap_or_default();
            bytes += page.kvs.iter().map(|found| found.key.len() + found.value.len()).sum::<usize>();
            if bytes > MAX_READ_BYTES {
                let message = format!("more than {MAX_READ_BYTES} bytes begin with that prefix");
                return Err(Fault::AnswerTooLarge(message));
            }
            snapshot.found.extend(page.kvs);
            match snapshot.found.last() {
                // The key right behind the last one.
                Some(last) if page.more => key = [&last.key[..], &[0]].concat(),
                _ => return Ok(Some(snapshot)),
            }
        }
    }
}
