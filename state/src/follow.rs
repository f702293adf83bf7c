//! What a candidate knows of the others: read once, then kept up to date by a watch.

use std::collections::BTreeMap;
use std::convert::Infallible;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::backoff::Backoff;
use crate::error::Fault;
use crate::message::{Event, EventType, KeyValue, TxnRequest, WatchCreateRequest};
use crate::range::{end_of, only};
use crate::{Etcd, StateError};

/// The key of who leads.
pub(crate) const LEADER: &str = "leader";
/// What keys of those who are there begin with. Everything between this and [`LEADER`] is watched as one range, so that there is one
/// stream, and what comes over it is in order.
pub(crate) const COORDINATORS: &str = "coordinators/";

/// What a coordinator tells about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// Its name. Of two of the same name the later one is seen.
    pub name: String,
    /// Where clients reach it.
    pub client_url: String,
    /// Where hosts and other coordinators reach it.
    pub cluster_url: String,
    /// Of its program.
    pub version: String,
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderInfo {
    /// Of its leadership: later ones are greater.
    pub epoch: u64,
    /// What it tells about itself.
    pub announcement: Announcement,
}

impl LeaderInfo {
    /// What the leader key says; `None`: a value that this version cannot read.
    pub(crate) fn of(leader: &KeyValue) -> Option<Self> {
        let announcement = serde_json::from_slice(&leader.value).ok()?;
        Some(Self { epoch: epoch_of(leader), announcement })
    }
}

impl Etcd {
    /// The leader key as it is now.
    pub(crate) async fn leader(&self) -> Result<Option<KeyValue>, Fault> {
        let success = vec![only(self.key(LEADER)).into()];
        let answer = self.call(&TxnRequest { compare: Vec::new(), success, failure: Vec::new() }).await?;
        Ok(answer.found().next().flatten())
    }
}

/// The epoch of a leader key.
pub(crate) fn epoch_of(leader: &KeyValue) -> u64 {
    u64::try_from(leader.create_revision).unwrap_or(0)
}

/// Whether there is a leader key.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct View {
    /// What was done up to this revision is known.
    pub(crate) revision: i64,
    /// Of the leader key, if it is there.
    pub(crate) epoch: Option<u64>,
}

impl View {
    /// Whether whoever led in `epoch` does not any more.
    pub(crate) fn is_past(&self, epoch: u64) -> bool {
        u64::try_from(self.revision).is_ok_and(|revision| revision >= epoch) && self.epoch != Some(epoch)
    }
}

/// Follows, and tells.
#[derive(Debug)]
pub(crate) struct Follower {
    pub(crate) etcd: Etcd,
    pub(crate) view: watch::Sender<View>,
    pub(crate) leader: watch::Sender<Option<LeaderInfo>>,
    pub(crate) coordinators: watch::Sender<Vec<Announcement>>,
    /// Why etcd does not answer, while it does not.
    pub(crate) trouble: watch::Sender<Option<StateError>>,
}

#[derive(Debug)]
struct Known {
    revision: i64,
    keys: BTreeMap<Vec<u8>, KeyValue>,
}

impl Follower {
    /// Never ends. What was known stays so while etcd is away.
    pub(crate) async fn run(self) {
        let (mut known, mut backoff) = (None, Backoff::new());
        // Requests are tried again for some time: who starts it is to hear at once.
        if let Some(fault) = self.etcd.greet().await {
            self.complain(fault);
        }
        loop {
            let mut heard = || {
                if tell(&self.trouble, None) {
                    tracing::info!("etcd answers again");
                }
                backoff = Backoff::new();
            };
            let Err(fault) = self.follow(&mut known, &mut heard).await;
            if let Fault::Compacted(reason) = &fault {
                tracing::debug!(reason, "what is in etcd is read anew");
                known = None;
            } else {
                self.complain(fault);
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }

    /// Says it once, until etcd answers again.
    fn complain(&self, fault: Fault) {
        let error = StateError::from(fault);
        let is_known = self.trouble.borrow().is_some();
        match error.is_retryable() {
            _ if is_known => {}
            true => tracing::warn!("{error}; it is tried again until it does"),
            false => tracing::warn!("what other coordinators do is not known: {error}"),
        }
        tell(&self.trouble, Some(error));
    }

    async fn follow(&self, known: &mut Option<Known>, heard: &mut impl FnMut()) -> Result<Infallible, Fault> {
        let (start, mut end) = (self.etcd.key(COORDINATORS), self.etcd.key(LEADER));
        end.push(0);
        let known = match known {
            Some(known) => known,
            None => {
                let snapshot = self.etcd.read(&start, &end, &[]).await?.unwrap_or_default();
                let keys = snapshot.found.into_iter().map(|found| (found.key.clone(), found)).collect();
                let read = known.insert(Known { revision: snapshot.revision, keys });
                self.tell(read);
                read
            }
        };
        let create = WatchCreateRequest { key: start, range_end: end, start_revision: known.revision + 1 };
        let mut watch = self.etcd.watch(create).await?;
        loop {
            let answer = watch.next().await?;
            let revision = answer.header.as_ref().map_or(0, |header| header.revision);
            let is_compacted = answer.compact_revision > 0;
            if answer.canceled && !is_compacted {
                // Its token may be too old.
                self.etcd.forget_token();
                return Err(Fault::Unavailable(answer.cancel_reason));
            }
            // The latter: the server lags behind, or its data are those of a backup.
            if is_compacted || revision < known.revision {
                return Err(Fault::Compacted(format!("{} is known, {revision} is there", known.revision)));
            }
            heard();
            if !answer.events.is_empty() {
                answer.events.into_iter().for_each(|event| known.apply(event));
                self.tell(known);
            }
        }
    }

    fn tell(&self, known: &Known) {
        let leader = known.keys.get(&self.etcd.key(LEADER));
        self.view.send_replace(View { revision: known.revision, epoch: leader.map(epoch_of) });
        tell(&self.leader, leader.and_then(LeaderInfo::of));
        let start = self.etcd.key(COORDINATORS);
        let announced = known.keys.range(start.clone()..end_of(&start));
        tell(
            &self.coordinators,
            announced.filter_map(|(_, found)| serde_json::from_slice(&found.value).ok()).collect(),
        );
    }
}

/// Wakes those who wait only when there is news; whether there is.
fn tell<T: PartialEq>(to: &watch::Sender<T>, what: T) -> bool {
    to.send_if_modified(|told| {
        let is_new = *told != what;
        if is_new {
            *told = what;
        }
        is_new
    })
}

impl Known {
    fn apply(&mut self, event: Event) {
        let is_put = event.r#type() == EventType::Put;
        let Some(changed) = event.kv else { return };
        self.revision = self.revision.max(changed.mod_revision);
        if is_put {
            self.keys.insert(changed.key.clone(), changed);
        } else {
            self.keys.remove(&changed.key);
        }
    }
}
