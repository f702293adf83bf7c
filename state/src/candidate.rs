//! A coordinator among others.

use std::convert::Infallible;

use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::backoff::Backoff;
use crate::error::Fault;
use crate::follow::{COORDINATORS, Follower, View};
use crate::leadership::Campaign;
use crate::lease::Lease;
use crate::limits::LOOK_INTERVAL;
use crate::message::{Operation, PutRequest, TxnRequest};
use crate::{Announcement, Etcd, LeaderInfo, Leadership, StateError};

/// A coordinator that tells the others that it is there, knows of them, and may lead.
#[derive(Debug)]
pub struct Candidate {
    etcd: Etcd,
    announcement: Announcement,
    view: watch::Receiver<View>,
    leader: watch::Receiver<Option<LeaderInfo>>,
    coordinators: watch::Receiver<Vec<Announcement>>,
    trouble: watch::Receiver<Option<StateError>>,
    _running: DropGuard,
}

impl Candidate {
    /// Announces itself, and follows the others, in the background until it is dropped.
    pub fn start(etcd: Etcd, announcement: Announcement) -> Self {
        let (view, leader, coordinators, trouble) = Default::default();
        let follower = Follower { etcd: etcd.clone(), view, leader, coordinators, trouble };
        let (view, leader) = (follower.view.subscribe(), follower.leader.subscribe());
        let (coordinators, trouble) = (follower.coordinators.subscribe(), follower.trouble.subscribe());
        let stopped = CancellationToken::new();
        etcd.spawn(stopped.clone().run_until_cancelled_owned(follower.run()));
        etcd.spawn(stopped.clone().run_until_cancelled_owned(announce(etcd.clone(), announcement.clone())));
        Self { etcd, announcement, view, leader, coordinators, trouble, _running: stopped.drop_guard() }
    }

    /// Who leads, as far as is known: while etcd is away, who led last.
    pub fn leader(&self) -> watch::Receiver<Option<LeaderInfo>> {
        self.leader.clone()
    }

    /// Who is there, this one among them, by name; known like [`Self::leader`].
    pub fn coordinators(&self) -> watch::Receiver<Vec<Announcement>> {
        self.coordinators.clone()
    }

    /// Why etcd does not answer, while it does not.
    pub fn trouble(&self) -> watch::Receiver<Option<StateError>> {
        self.trouble.clone()
    }

    /// Waits until it leads, for as long as it takes; etcd may be away meanwhile. To drop the future is to give the candidacy up.
    ///
    /// # Errors
    /// [`StateError::Denied`], [`StateError::Untrusted`] and [`StateError::Invalid`]: it can never lead like this. Certificates are read once.
    pub async fn lead(&self) -> Result<Leadership, StateError> {
        let (mut view, mut backoff) = (self.view.clone(), Backoff::new());
        loop {
            match Leadership::campaign(&self.etcd, &self.announcement, &self.view).await {
                Ok(Campaign::Won(leadership)) => return Ok(leadership),
                Ok(Campaign::Lost { epoch }) => {
                    backoff = Backoff::new();
                    loop {
                        let vacant = view.wait_for(|view| view.epoch.is_none() && view.is_past(epoch));
                        let is_told = tokio::time::timeout(LOOK_INTERVAL, vacant).await.is_ok();
                        if is_told || self.etcd.leader().await.is_ok_and(|leader| leader.is_none()) {
                            break;
                        }
                    }
                }
                Err(fault @ (Fault::Unavailable(_) | Fault::NotFound(_))) => {
                    tracing::debug!("a candidacy failed and is tried again: {}", StateError::from(fault));
                    tokio::time::sleep(backoff.next()).await;
                }
                Err(fault) => return Err(fault.into()),
            }
        }
    }
}

/// Sees to it that the announcement is there.
async fn announce(etcd: Etcd, announcement: Announcement) -> Infallible {
    let mut backoff = Backoff::new();
    loop {
        match announce_once(&etcd, &announcement).await {
            Ok(lease) => {
                backoff = Backoff::new();
                lease.term().over().await;
            }
            Err(fault) => {
                tracing::debug!("an announcement failed and is tried again: {}", StateError::from(fault));
                tokio::time::sleep(backoff.next()).await;
            }
        }
    }
}

async fn announce_once(etcd: &Etcd, announcement: &Announcement) -> Result<Lease, Fault> {
    let lease = Lease::grant(etcd).await?;
    let put = PutRequest {
        key: etcd.key(&format!("{COORDINATORS}{}", announcement.name)),
        value: encode(announcement),
        lease: lease.id(),
    };
    let success = vec![Operation::Put(put).into()];
    etcd.call(&TxnRequest { compare: Vec::new(), success, failure: Vec::new() }).await?;
    Ok(lease)
}

/// An announcement as it is in etcd.
pub(crate) fn encode(announcement: &Announcement) -> Vec<u8> {
    serde_json::to_vec(announcement).expect("strings are JSON")
}
