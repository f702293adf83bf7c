//! A lease: keys that go away when nobody gives a sign any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::clock::now_ms;
use crate::error::Fault;
use crate::limits::{KEEP_ALIVES, LAST_WAIT, MARGIN_PART};
use crate::message::{LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest};
use crate::{Etcd, StateError};

/// A lease that is kept. When it is dropped etcd is told, in the background.
#[derive(Debug)]
pub(crate) struct Lease {
    id: i64,
    term: Arc<Term>,
    release: DropGuard,
    keeper: JoinHandle<Result<(), Fault>>,
}

/// How long a lease is sure to be there.
#[derive(Debug)]
pub(crate) struct Term {
    /// By [`now_ms`]; 0: it is over, and stays so whatever etcd says later.
    end_ms: AtomicU64,
    over: CancellationToken,
}

impl Term {
    fn until(end_ms: u64) -> Self {
        Self { end_ms: AtomicU64::new(end_ms), over: CancellationToken::new() }
    }

    /// Whether it is sure to be there now. Once it is not, it never is again.
    pub(crate) fn is_valid(&self) -> bool {
        self.left_ms(now_ms()) > 0
    }

    /// Resolves when it is over.
    pub(crate) async fn over(&self) {
        self.over.cancelled().await;
    }

    /// It is over, whatever the clock says.
    pub(crate) fn end(&self) {
        self.end_ms.store(0, Ordering::Release);
        self.over.cancel();
    }

    fn left_ms(&self, now_ms: u64) -> u64 {
        let mut end_ms = self.end_ms.load(Ordering::Acquire);
        loop {
            if now_ms < end_ms {
                return end_ms - now_ms;
            }
            // Somebody may have extended it before it ended, just now.
            match self.end_ms.compare_exchange(end_ms, 0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return 0,
                Err(0) => return 0,
                Err(changed) => end_ms = changed,
            }
        }
    }

    /// Unless it was over at `now_ms`.
    fn extend(&self, now_ms: u64, to_ms: u64) {
        let later = |end_ms: u64| (now_ms < end_ms).then(|| end_ms.max(to_ms));
        // An error says that it was over.
        let _ = self.end_ms.fetch_update(Ordering::AcqRel, Ordering::Acquire, later);
    }
}

/// When a lease that etcd renewed after `sent_ms` is over for us.
fn end_ms(sent_ms: u64, ttl_s: i64) -> u64 {
    let ttl_ms = u64::try_from(ttl_s).unwrap_or(0).saturating_mul(1_000);
    sent_ms.saturating_add(ttl_ms - ttl_ms / u64::from(MARGIN_PART))
}

impl Lease {
    /// Asks for one. It is kept from then on.
    pub(crate) async fn grant(etcd: &Etcd) -> Result<Self, Fault> {
        let sent_ms = now_ms();
        // One that etcd granted without our hearing of it ends by itself.
        let granted = etcd.call(&LeaseGrantRequest { ttl: etcd.lease_ttl_s() }).await?;
        let term = Arc::new(Term::until(end_ms(sent_ms, granted.ttl)));
        let released = CancellationToken::new();
        let every = Duration::from_secs(u64::try_from(granted.ttl).unwrap_or(1)) / KEEP_ALIVES;
        let keeper = Keeper { etcd: etcd.clone(), id: granted.id, term: Arc::clone(&term), every };
        let keeper = etcd.spawn(keeper.run(released.clone()));
        Ok(Self { id: granted.id, term, release: released.drop_guard(), keeper })
    }

    pub(crate) fn id(&self) -> i64 {
        self.id
    }

    pub(crate) fn term(&self) -> &Arc<Term> {
        &self.term
    }

    /// Ends it: keys that have it are gone when this returns.
    pub(crate) async fn revoke(self) -> Result<(), StateError> {
        self.term.end();
        drop(self.release);
        let revoked = self.keeper.await.map_err(|error| StateError::Unavailable(error.to_string()))?;
        Ok(revoked?)
    }
}

struct Keeper {
    etcd: Etcd,
    id: i64,
    term: Arc<Term>,
    every: Duration,
}

impl Keeper {
    /// Keeps it until it is over or released, then sees to it that it is gone.
    async fn run(self, released: CancellationToken) -> Result<(), Fault> {
        tokio::select! {
            () = released.cancelled() => (),
            () = self.term.over() => (),
            () = self.keep() => (),
        }
        self.term.end();
        released.cancelled().await;
        match self.etcd.call(&LeaseRevokeRequest { id: self.id }).await {
            Ok(_) | Err(Fault::NotFound(_)) => Ok(()),
            Err(fault) => Err(fault),
        }
    }

    /// Returns when it cannot be kept any more.
    async fn keep(&self) {
        let mut wait = self.every;
        loop {
            let left = Duration::from_millis(self.term.left_ms(now_ms()));
            tokio::time::sleep(wait.min(left / 2)).await;
            let (sent_ms, request) = (now_ms(), LeaseKeepAliveRequest { id: self.id });
            let left = Duration::from_millis(self.term.left_ms(sent_ms));
            if left.is_zero() {
                return;
            }
            let asking = self.etcd.call_within(&request, self.every.min(left));
            wait = match tokio::time::timeout(left, asking).await {
                Ok(Ok(kept)) if kept.ttl > 0 => {
                    self.term.extend(now_ms(), end_ms(sent_ms, kept.ttl));
                    self.every
                }
                // It waited for an answer long enough.
                Ok(Err(Fault::Unavailable(_))) => Duration::ZERO,
                // It did not.
                Ok(Err(Fault::Untrusted(_))) => LAST_WAIT,
                Ok(Ok(_) | Err(_)) | Err(_) => return,
            };
        }
    }
}
