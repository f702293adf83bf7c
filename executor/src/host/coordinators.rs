//! Who leads, as a host knows it.
//!
//! ```text
//!   given with --join --+                        +--> whom to join: who leads, else each in turn
//!                       +--> coordinators, epoch |
//!   Leader, from any of +                        +--> whose commands to refuse: all of an earlier epoch
//! ```
//!
//! A host that knows of several coordinators follows each of them, so that it hears of a new leader while its own one is silent. The
//! highest epoch that it heard of is kept as long as it runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use onward_shuffle::flight::{Connector, from_status};
use onward_wire::cluster::{Follow, Leader, ToCoordinator, to_member};
use onward_wire::{ErrorKind, WireError};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;

use super::member::{frame, parse};
use super::neighbours::Neighbours;

/// Coordinators of one cluster; more are not followed.
const MOST_COORDINATORS: usize = 16;
/// Between two tries to follow one.
const RETRY: Duration = Duration::from_millis(200);

/// See the [module](self).
pub(super) struct Coordinators {
    shared: Arc<Shared>,
    /// Which of them is asked next when nobody is known to lead.
    turn: usize,
}

struct Shared {
    given: Vec<String>,
    neighbours: Arc<Neighbours>,
    known: watch::Sender<Known>,
    followed: Mutex<BTreeMap<String, AbortOnDropHandle<()>>>,
}

#[derive(Clone, Debug, Default)]
struct Known {
    /// The highest that was heard of.
    epoch: u64,
    /// Where it is; `None`: nobody said, or it does not answer.
    leader: Option<String>,
    told: Vec<String>,
}

impl Coordinators {
    pub(super) fn new(given: Vec<String>, neighbours: Arc<Neighbours>) -> Self {
        let shared =
            Arc::new(Shared { given, neighbours, known: watch::Sender::default(), followed: Mutex::default() });
        shared.follow();
        Self { shared, turn: 0 }
    }

    /// Whom to join now.
    pub(super) fn next(&mut self) -> String {
        let known = self.shared.known.borrow().clone();
        if let Some(leader) = known.leader {
            return leader;
        }
        let all: Vec<&String> = self.shared.given.iter().chain(&known.told).collect();
        self.turn += 1;
        all[(self.turn - 1) % all.len()].clone()
    }

    /// The highest epoch that was heard of.
    pub(super) fn epoch(&self) -> u64 {
        self.shared.known.borrow().epoch
    }

    /// Somebody said who leads.
    pub(super) fn hear(&self, leader: Leader) {
        self.shared.hear(leader);
    }

    /// Nobody is there: the others are asked.
    pub(super) fn did_not_answer(&self, coordinator: &str) {
        self.shared.known.send_if_modified(|known| {
            let is_leader = known.leader.as_deref() == Some(coordinator);
            known.leader.take_if(|_| is_leader).is_some()
        });
    }

    /// Resolves once a leader after `epoch` is known that is not at `coordinator`.
    pub(super) async fn elsewhere(&self, coordinator: &str, epoch: u64) {
        let is_elsewhere =
            |known: &Known| known.epoch > epoch && known.leader.as_ref().is_some_and(|leader| leader != coordinator);
        if self.shared.known.subscribe().wait_for(is_elsewhere).await.is_err() {
            std::future::pending().await
        }
    }

    /// Resolves once a leader after `epoch` is known; its epoch.
    pub(super) async fn later_than(&self, epoch: u64) -> u64 {
        let mut known = self.shared.known.subscribe();
        match known.wait_for(|known| known.epoch > epoch && known.leader.is_some()).await {
            Ok(known) => known.epoch,
            Err(_) => std::future::pending().await,
        }
    }
}

impl Shared {
    fn hear(self: &Arc<Self>, leader: Leader) {
        let Leader { epoch, url, coordinators } = leader;
        if epoch == 0 {
            return;
        }
        let is_news = self.known.send_if_modified(|known| {
            if epoch < known.epoch || (epoch == known.epoch && known.leader.is_some() && known.told == coordinators) {
                return false;
            }
            let leader = Some(url).filter(|url| !url.is_empty());
            *known = Known { epoch, leader, told: coordinators };
            true
        });
        if is_news {
            self.follow();
        }
    }

    /// Follows all there are, when there are several.
    fn follow(self: &Arc<Self>) {
        let told = self.known.borrow().told.clone();
        let all: BTreeSet<&String> = self.given.iter().chain(&told).take(MOST_COORDINATORS).collect();
        let mut followed = self.followed.lock();
        if all.len() < 2 {
            return;
        }
        followed.retain(|url, _| all.contains(url));
        for url in all {
            let follow = || {
                let (shared, neighbours) = (Arc::downgrade(self), Arc::clone(&self.neighbours));
                AbortOnDropHandle::new(tokio::spawn(follow(shared, neighbours, url.clone())))
            };
            followed.entry(url.clone()).or_insert_with(follow);
        }
    }
}

/// Hears from one coordinator who leads, as long as the host is interested.
async fn follow(shared: Weak<Shared>, neighbours: Arc<Neighbours>, url: String) {
    loop {
        let ended = hear_from(&shared, neighbours.connector(), &url).await;
        tracing::debug!(
            coordinator = url,
            error = ended.err().map(|error| error.to_string()),
            "it says no more who leads"
        );
        if shared.strong_count() == 0 {
            return;
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn hear_from(shared: &Weak<Shared>, connector: &Connector, url: &str) -> Result<(), WireError> {
    let mut client = connector.client(url)?;
    let (outgoing, queued) = mpsc::channel(1);
    let status = |status: tonic::Status| from_status(url, &status);
    let closed = || WireError::new(ErrorKind::Unavailable, format!("{url} closed the connection"));
    outgoing.send(frame(&ToCoordinator::from(Follow {}))).await.map_err(|_| closed())?;
    let mut incoming = client.do_exchange(ReceiverStream::new(queued)).await.map_err(status)?.into_inner();
    while let Some(message) = incoming.message().await.map_err(status)? {
        let Some(shared) = shared.upgrade() else { return Ok(()) };
        if let Some(to_member::Body::Leader(leader)) = parse(&message)?.body {
            shared.hear(leader);
        }
    }
    Ok(())
}
