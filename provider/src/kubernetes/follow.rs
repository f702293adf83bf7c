//! What pods there are, as a watch tells.
//!
//! ```text
//!            +---> LIST ---> WATCH ---+---> ended, as the server does every so often: WATCH again, from where it was
//!            |                        |
//!            +------ a pause <--------+---> failed, or the server forgot where it was (410 Gone): from the start
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ListParams, WatchEvent, WatchParams};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::failure::{self, Failure, Request};
use super::{KubernetesOptions, pod, state};
use crate::{ClusterName, HostName, HostState, Listed, ProviderError};

/// Pods of one page of a list.
const PAGE: u32 = 500;
/// The server ends a watch after this long, and says which version it had come to. A short time: a connection that broke without a word
/// is noticed by the end that does not come.
const WATCH_SECONDS: u32 = 30;
/// Past that, for the end to come.
const MOST_SILENCE: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 5);
/// Watches that fail, or end without news, sooner than this are followed by longer and longer pauses.
const SETTLED: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The last pause is that times two to the power of this: 6.4 s.
const MOST_DOUBLINGS: u32 = 7;

/// Follows the pods of a cluster's hosts until it is dropped.
#[derive(Debug)]
pub(super) struct Follower {
    view: watch::Receiver<View>,
    following: JoinHandle<()>,
    timeout: Duration,
}

/// What is known.
#[derive(Debug, Default)]
struct View {
    hosts: BTreeMap<HostName, HostState>,
    /// All changes up to this version are in it; 0: nothing was read yet.
    version: u64,
    /// Since when it does not follow, and why.
    broken: Option<(Instant, ProviderError)>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.following.abort();
    }
}

impl Follower {
    pub(super) fn new(pods: Api<Pod>, namespace: &str, options: &KubernetesOptions) -> Self {
        let (sender, view) = watch::channel(View::default());
        let KubernetesOptions { cluster, timeout, .. } = options;
        let watch = Watch {
            pods,
            namespace: namespace.to_owned(),
            cluster: cluster.clone(),
            timeout: *timeout,
            view: sender,
            told: BTreeSet::new(),
        };
        Self { view, following: tokio::spawn(watch.run()), timeout: *timeout }
    }

    /// All hosts, as they were at version `written` or later.
    ///
    /// # Errors
    /// That version was not reached in time, or the watch has been broken for so long.
    pub(super) async fn hosts(&self, written: u64) -> Result<Vec<Listed>, ProviderError> {
        let is_lost = |view: &View| view.broken.as_ref().is_some_and(|(since, _)| since.elapsed() >= self.timeout);
        let mut view = self.view.clone();
        let known = view.wait_for(|view| is_lost(view) || view.version >= written.max(1));
        if let Ok(Ok(view)) = tokio::time::timeout(self.timeout, known).await
            && !is_lost(&view)
        {
            let hosts = view.hosts.iter();
            return Ok(hosts.map(|(name, state)| Listed { name: name.clone(), state: state.clone() }).collect());
        }
        Err(match &self.view.borrow().broken {
            Some((_, why)) => why.clone(),
            None => ProviderError::Failed(format!(
                "the API server's watch of pods is more than {} ms behind",
                self.timeout.as_millis()
            )),
        })
    }
}

/// The version of an object or list. They are opaque in name only: numbers that grow, in all API servers.
pub(super) fn version(text: Option<&str>) -> Result<u64, ProviderError> {
    let text = text.unwrap_or_default();
    text.parse().map_err(|_| ProviderError::Failed(format!("`{text}` is no resourceVersion of an API server")))
}

struct Watch {
    pods: Api<Pod>,
    namespace: String,
    cluster: ClusterName,
    timeout: Duration,
    view: watch::Sender<View>,
    /// Hosts of which was said why they do not begin to run.
    told: BTreeSet<HostName>,
}

impl Watch {
    async fn run(mut self) {
        let (mut is_listed, mut quick_ends) = (false, 0);
        loop {
            let (begun, from) = (Instant::now(), self.view.borrow().version);
            let ended = self.follow(is_listed).await;
            is_listed = ended.is_ok();
            let has_news = is_listed && self.view.borrow().version != from;
            if let Err(why) = ended {
                tracing::debug!(%why, "the watch of pods begins again");
                self.view.send_modify(|view| {
                    let since = view.broken.as_ref().map_or_else(Instant::now, |(since, _)| *since);
                    view.broken = Some((since, why));
                });
            }
            quick_ends = if has_news || begun.elapsed() >= SETTLED { 0 } else { quick_ends + 1 };
            tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(MOST_DOUBLINGS.min(quick_ends))).await;
        }
    }

    /// Until the server ends the watch.
    async fn follow(&mut self, is_listed: bool) -> Result<(), ProviderError> {
        if !is_listed {
            self.read().await?;
        }
        self.watch().await
    }

    fn failed(&self, verb: &str, failure: Failure) -> ProviderError {
        failure.of(Request { verb, resource: "pods", namespace: &self.namespace })
    }

    async fn read(&mut self) -> Result<(), ProviderError> {
        let mut params = ListParams::default().labels(&pod::selector(&self.cluster)).limit(PAGE);
        let mut hosts = BTreeMap::new();
        let version = loop {
            let page = failure::answer(self.timeout, self.pods.list(&params)).await;
            let page = page.map_err(|failure| self.failed("list", failure))?;
            for pod in &page.items {
                if let Some(name) = self.name(pod) {
                    self.tell(&name, pod);
                    hosts.insert(name, state::of(pod));
                }
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => break version(page.metadata.resource_version.as_deref())?,
            }
        };
        self.told.retain(|name| hosts.contains_key(name));
        self.view.send_modify(|view| (view.hosts, view.version) = (hosts, version));
        Ok(())
    }

    async fn watch(&mut self) -> Result<(), ProviderError> {
        let params = WatchParams::default().labels(&pod::selector(&self.cluster)).timeout(WATCH_SECONDS);
        let from = self.view.borrow().version.to_string();
        let events = failure::answer(self.timeout, self.pods.watch(&params, &from)).await;
        let mut events = pin!(events.map_err(|failure| self.failed("watch", failure))?);
        self.view.send_modify(|view| view.broken = None);
        loop {
            let event = tokio::time::timeout(MOST_SILENCE, events.next()).await;
            let event =
                event.map_err(|_| self.failed("watch", Failure::Lost("the connection is silent".to_owned())))?;
            match event.transpose().map_err(|error| self.failed("watch", error.into()))? {
                Some(WatchEvent::Added(pod) | WatchEvent::Modified(pod)) => self.learn(&pod, Some(state::of(&pod)))?,
                Some(WatchEvent::Deleted(pod)) => self.learn(&pod, None)?,
                Some(WatchEvent::Bookmark(mark)) => {
                    let version = version(Some(&mark.metadata.resource_version))?;
                    self.view.send_modify(|view| view.version = version);
                }
                Some(WatchEvent::Error(status)) => return Err(self.failed("watch", Failure::Refused(status))),
                None => return Ok(()),
            }
        }
    }

    /// `None`: it is gone.
    fn learn(&mut self, pod: &Pod, state: Option<HostState>) -> Result<(), ProviderError> {
        let version = version(pod.metadata.resource_version.as_deref())?;
        let Some(name) = self.name(pod) else { return Ok(()) };
        match state {
            Some(_) => self.tell(&name, pod),
            None => drop(self.told.remove(&name)),
        }
        self.view.send_modify(|view| {
            view.version = version;
            match state {
                Some(state) => drop(view.hosts.insert(name, state)),
                None => drop(view.hosts.remove(&name)),
            }
        });
        Ok(())
    }

    /// Says once why a host does not begin to run.
    fn tell(&mut self, name: &HostName, pod: &Pod) {
        if let Some(why) = state::obstacle(pod)
            && self.told.insert(name.clone())
        {
            tracing::warn!(host = %name, why, "a host waits");
        }
    }

    fn name(&self, pod: &Pod) -> Option<HostName> {
        HostName::of(&self.cluster, pod.metadata.name.as_deref()?)
    }
}
