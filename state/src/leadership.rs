//! The time in which a coordinator leads.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::candidate::encode;
use crate::error::Fault;
use crate::fenced::{WRITE, first_turn};
use crate::follow::{LEADER, View, epoch_of};
use crate::lease::{Lease, Term};
use crate::message::{Compare, Operation, PutRequest, TxnRequest};
use crate::range::only;
use crate::{Announcement, Etcd, Fenced, StateError};

/// A leadership. To drop it is to [resign](Self::resign) without waiting for etcd.
#[derive(Debug)]
pub struct Leadership {
    lease: Lease,
    epoch: u64,
    state: Fenced,
    _watching: DropGuard,
}

/// Whether a leadership is valid, for those who ask from elsewhere. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Validity(Arc<Term>);

impl Validity {
    /// See [`Leadership::is_valid`].
    pub fn is_valid(&self) -> bool {
        self.0.is_valid()
    }
}

/// How a candidacy ended.
pub(crate) enum Campaign {
    Won(Leadership),
    /// Somebody leads, in this epoch.
    Lost {
        epoch: u64,
    },
}

impl Leadership {
    /// Tries to lead, once.
    pub(crate) async fn campaign(
        etcd: &Etcd,
        announcement: &Announcement,
        view: &watch::Receiver<View>,
    ) -> Result<Campaign, Fault> {
        let lease = Lease::grant(etcd).await?;
        let put = |key, value| Operation::Put(PutRequest { key, value, lease: lease.id() });
        let leader = etcd.key(LEADER);
        let turn = PutRequest { key: etcd.key(WRITE), value: first_turn(lease.id()), lease: 0 };
        let request = TxnRequest {
            compare: vec![Compare::created_at(leader.clone(), 0)],
            success: vec![put(leader.clone(), encode(announcement)).into(), Operation::Put(turn).into()],
            failure: vec![only(leader).into()],
        };
        let answer = etcd.call(&request).await?;
        let epoch = if answer.succeeded {
            u64::try_from(answer.revision()).unwrap_or(0)
        } else {
            let Some(holder) = answer.found().next().flatten() else {
                return Err(Fault::Unavailable("a leader that is and is not there".to_owned()));
            };
            // The request was sent again, and the first one was done: only its answer was lost.
            if holder.lease != lease.id() {
                return Ok(Campaign::Lost { epoch: epoch_of(&holder) });
            }
            epoch_of(&holder)
        };
        Ok(Campaign::Won(Self::begin(etcd, lease, epoch, view.clone())))
    }

    fn begin(etcd: &Etcd, lease: Lease, epoch: u64, mut view: watch::Receiver<View>) -> Self {
        let (term, watching) = (Arc::clone(lease.term()), CancellationToken::new());
        etcd.spawn(watching.clone().run_until_cancelled_owned(async move {
            if view.wait_for(|view| view.is_past(epoch)).await.is_ok() {
                term.end();
            }
        }));
        let state = Fenced::new(etcd.clone(), lease.id(), epoch, Arc::clone(lease.term()));
        Self { lease, epoch, state, _watching: watching.drop_guard() }
    }

    /// Which leadership it is: each has a greater number than all before it.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether nobody else can lead yet. False in time also when the process was stopped or the network is away; once false, it stays so.
    /// It costs a look at the clock.
    pub fn is_valid(&self) -> bool {
        self.lease.term().is_valid()
    }

    /// Resolves when it is not valid any more.
    pub async fn lost(&self) {
        self.lease.term().over().await;
    }

    /// See [`Validity`].
    pub fn validity(&self) -> Validity {
        Validity(Arc::clone(self.lease.term()))
    }

    /// What only this leadership reads and writes.
    pub fn state(&self) -> Fenced {
        self.state.clone()
    }

    /// Lets the next one lead, at once.
    ///
    /// # Errors
    /// [`StateError::Unavailable`]: etcd was not reached, and the next one leads when the lease is over.
    pub async fn resign(self) -> Result<(), StateError> {
        self.lease.revoke().await
    }
}
