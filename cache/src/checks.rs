//! [`VersionChecks`]: what stores said of their objects' versions, for the time of one statement, or of `cache_version_ttl_ms`.
//!
//! Planning looks at every table's objects, one LIST or HEAD each, and one after the other: a join of eight tables in a
//! bucket would wait for eight round trips. Whoever plans a statement asks for all of them at once, inside of
//! [`VersionChecks::scope`]; planning then finds the answers, and finds one version of a table that it names twice.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use object_store::ObjectMeta;
use object_store::path::Path;
use parking_lot::Mutex;

/// Objects in all answers; past it all are forgotten, which costs requests and nothing else.
const MOST_OBJECTS: usize = 200_000;

tokio::task_local! {
    static STATEMENT: Arc<VersionChecks>;
}

/// What was asked of a store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Asked {
    /// One object.
    Head {
        /// Base URL of the store.
        store: String,
        /// Its path.
        path: Path,
    },
    /// All objects below a prefix.
    List {
        /// Base URL of the store.
        store: String,
        /// The prefix.
        prefix: Option<Path>,
    },
}

/// Answers of stores, and until when they count.
#[derive(Debug, Default)]
pub struct VersionChecks {
    ttl_ms: AtomicU64,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    answers: HashMap<Asked, (Instant, Arc<[ObjectMeta]>)>,
    objects: usize,
}

impl VersionChecks {
    /// Runs `planning`, in which a store is asked only once for the same.
    pub async fn scope<F: Future>(planning: F) -> F::Output {
        STATEMENT.scope(Arc::default(), planning).await
    }

    /// Sets for how long an answer counts for other statements too; zero, the default: not at all.
    pub fn keep_for(&self, ttl: Duration) {
        self.ttl_ms.store(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Forgets all: something was written, or an answer turned out to be old.
    pub fn forget(&self) {
        *self.kept.lock() = Kept::default();
    }

    /// What was answered in this statement, or not long ago.
    pub(crate) fn find(&self, asked: &Asked) -> Option<Arc<[ObjectMeta]>> {
        if let Ok(Some(answer)) = STATEMENT.try_with(|statement| statement.get(asked, None)) {
            return Some(answer);
        }
        self.ttl().and_then(|ttl| self.get(asked, Some(ttl)))
    }

    /// Where an answer that is asked for now is to be kept; empty: nowhere.
    pub(crate) fn keepers(self: &Arc<Self>) -> Vec<Arc<Self>> {
        let statement = STATEMENT.try_with(Arc::clone).ok();
        let shared = self.ttl().map(|_| Arc::clone(self));
        statement.into_iter().chain(shared).collect()
    }

    /// Keeps an answer.
    pub(crate) fn put(&self, asked: Asked, asked_at: Instant, objects: &Arc<[ObjectMeta]>) {
        let mut kept = self.kept.lock();
        if kept.objects + objects.len() > MOST_OBJECTS {
            *kept = Kept::default();
        }
        kept.objects += objects.len().max(1);
        if let Some((_, old)) = kept.answers.insert(asked, (asked_at, Arc::clone(objects))) {
            kept.objects -= old.len().max(1);
        }
    }

    fn get(&self, asked: &Asked, ttl: Option<Duration>) -> Option<Arc<[ObjectMeta]>> {
        let kept = self.kept.lock();
        let (at, objects) = kept.answers.get(asked)?;
        ttl.is_none_or(|ttl| at.elapsed() < ttl).then(|| Arc::clone(objects))
    }

    fn ttl(&self) -> Option<Duration> {
        Some(self.ttl_ms.load(Relaxed)).filter(|ttl| *ttl > 0).map(Duration::from_millis)
    }
}
