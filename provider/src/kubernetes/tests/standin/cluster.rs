//! The stand-in's objects, their versions, and what its users do to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::kubelet::{self, Process};

/// What goes wrong with a request.
#[derive(Clone, Debug)]
pub(in crate::kubernetes::tests) enum Fault {
    /// It is refused.
    Refuse(u16, &'static str, &'static str),
    /// It is carried out, and the connection closed without an answer.
    LoseAnswer,
    /// It is not answered.
    Hang,
}

/// How an API server behaves.
#[derive(Debug)]
pub(in crate::kubernetes::tests) struct Rules {
    /// Pods of the namespace.
    pub(in crate::kubernetes::tests) quota: usize,
    /// What requests have to bring.
    pub(in crate::kubernetes::tests) token: Option<String>,
    /// Verbs that no role allows.
    pub(in crate::kubernetes::tests) denied: BTreeSet<&'static str>,
    /// A watch from before what is remembered is refused with a status, or begins and says so.
    pub(in crate::kubernetes::tests) is_gone_a_status: bool,
    /// Watches end after this long at the latest.
    pub(in crate::kubernetes::tests) watch_limit: Duration,
    /// There is room for pods.
    pub(in crate::kubernetes::tests) has_nodes: bool,
    /// Nodes say what becomes of their pods.
    pub(in crate::kubernetes::tests) is_node_there: bool,
    /// Uids of stateful sets, by name.
    pub(in crate::kubernetes::tests) stateful_sets: BTreeMap<String, String>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            quota: usize::MAX,
            token: None,
            denied: BTreeSet::new(),
            is_gone_a_status: false,
            watch_limit: Duration::from_secs(300),
            has_nodes: true,
            is_node_there: true,
            stateful_sets: BTreeMap::new(),
        }
    }
}

/// What a watch tells.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) kind: &'static str,
    pub(super) pod: Pod,
}

#[derive(Debug, Default)]
struct Objects {
    version: u64,
    pods: BTreeMap<String, Pod>,
    changes: Vec<Change>,
    /// Changes up to this one are not told any more.
    forgotten: u64,
    /// By uid.
    processes: BTreeMap<String, Process>,
    rules: Rules,
    /// By verb, and whether only its next request meets it.
    faults: BTreeMap<&'static str, (Fault, bool)>,
    /// Requests, by verb.
    requests: BTreeMap<&'static str, usize>,
}

/// What watches wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tick {
    pub(super) version: u64,
    /// Each ends all watches.
    pub(super) cuts: u64,
}

/// A cluster of one namespace.
#[derive(Debug)]
pub(in crate::kubernetes::tests) struct Cluster {
    objects: Mutex<Objects>,
    ticks: watch::Sender<Tick>,
}

/// What became of a pod that was to be created.
pub(super) enum Created {
    Pod(Box<Pod>),
    Exists,
    NoRoom,
}

impl Objects {
    fn put(&mut self, kind: &'static str, mut pod: Pod) -> Pod {
        self.version += 1;
        pod.metadata.resource_version = Some(self.version.to_string());
        let name = pod.metadata.name.clone().expect("a name");
        match kind {
            "DELETED" => self.pods.remove(&name),
            _ => self.pods.insert(name, pod.clone()),
        };
        self.changes.push(Change { version: self.version, kind, pod: pod.clone() });
        pod
    }

    fn by_uid(&self, uid: &str) -> Option<&Pod> {
        self.pods.values().find(|pod| pod.metadata.uid.as_deref() == Some(uid))
    }
}

/// For tests.
impl Cluster {
    pub(super) fn new() -> Self {
        // No version of Kubernetes is 0.
        let objects = Objects { version: 1, ..Objects::default() };
        Self { objects: Mutex::new(objects), ticks: watch::Sender::default() }
    }

    pub(in crate::kubernetes::tests) fn rule(&self, change: impl FnOnce(&mut Rules)) {
        change(&mut self.objects.lock().rules);
    }

    /// Something goes wrong with the next request of a verb.
    pub(in crate::kubernetes::tests) fn fail_once(&self, verb: &'static str, fault: Fault) {
        self.objects.lock().faults.insert(verb, (fault, true));
    }

    /// And with all of them, until it is healed.
    pub(in crate::kubernetes::tests) fn fail(&self, verb: &'static str, fault: Fault) {
        self.objects.lock().faults.insert(verb, (fault, false));
    }

    pub(in crate::kubernetes::tests) fn heal(&self) {
        self.objects.lock().faults.clear();
    }

    pub(in crate::kubernetes::tests) fn requests(&self, verb: &str) -> usize {
        self.objects.lock().requests.get(verb).copied().unwrap_or_default()
    }

    pub(in crate::kubernetes::tests) fn pod(&self, name: &str) -> Option<Pod> {
        self.objects.lock().pods.get(name).cloned()
    }

    /// Ends all watches, in the middle of a line.
    pub(in crate::kubernetes::tests) fn cut_watches(&self) {
        self.ticks.send_modify(|tick| tick.cuts += 1);
    }

    /// Forgets what was until now.
    pub(in crate::kubernetes::tests) fn forget(&self) {
        let mut objects = self.objects.lock();
        objects.forgotten = objects.version;
        objects.changes.clear();
    }

    pub(in crate::kubernetes::tests) fn kill(&self, name: &str) {
        let objects = self.objects.lock();
        let uid = objects.pods[name].metadata.uid.as_deref().expect("a uid");
        objects.processes[uid].kill();
    }

    pub(in crate::kubernetes::tests) fn evict(&self, name: &str) {
        self.edit(name, |pod| {
            let status = pod.status.get_or_insert_default();
            status.phase = Some("Failed".to_owned());
            status.reason = Some("Evicted".to_owned());
            status.message = Some("The node was low on resource: memory.".to_owned());
        });
        self.kill(name);
    }

    /// Changes a pod, as whoever may.
    pub(in crate::kubernetes::tests) fn edit(&self, name: &str, change: impl FnOnce(&mut Pod)) {
        let mut objects = self.objects.lock();
        let mut pod = objects.pods[name].clone();
        change(&mut pod);
        objects.put("MODIFIED", pod);
        drop(objects);
        self.tick();
    }

    /// A pod that nobody runs.
    pub(in crate::kubernetes::tests) fn put(&self, pod: Pod) {
        self.objects.lock().put("ADDED", pod);
        self.tick();
    }

    pub(in crate::kubernetes::tests) fn processes(&self) -> usize {
        self.objects.lock().processes.len()
    }
}

/// For the node.
impl Cluster {
    pub(super) fn has_nodes(&self) -> bool {
        self.objects.lock().rules.has_nodes
    }

    pub(super) fn look<T>(&self, uid: &str, look: impl FnOnce(&Pod) -> T) -> Option<T> {
        self.objects.lock().by_uid(uid).map(look)
    }

    /// Changes what is said of a pod that is there and not over.
    pub(super) fn change(&self, uid: &str, change: impl FnOnce(&mut Pod)) {
        let mut objects = self.objects.lock();
        let Some(mut pod) = objects.by_uid(uid).cloned() else { return };
        if objects.rules.is_node_there && !is_over(&pod) {
            change(&mut pod);
            objects.put("MODIFIED", pod);
        }
        drop(objects);
        self.tick();
    }

    /// Whether the pod of a process is still there.
    pub(super) fn begins(&self, uid: &str, process: Process) -> bool {
        let mut objects = self.objects.lock();
        let is_there = objects.by_uid(uid).is_some();
        if is_there {
            objects.processes.insert(uid.to_owned(), process);
        }
        is_there
    }

    pub(super) fn ended(&self, name: &str, uid: &str, change: impl FnOnce(&mut Pod)) {
        self.objects.lock().processes.remove(uid);
        self.change(uid, change);
        let mut objects = self.objects.lock();
        let leaving = objects.by_uid(uid).filter(|pod| pod.metadata.deletion_timestamp.is_some()).cloned();
        if let Some(pod) = leaving.filter(|_| objects.rules.is_node_there) {
            assert_eq!(pod.metadata.name.as_deref(), Some(name));
            objects.put("DELETED", pod);
        }
        drop(objects);
        self.tick();
    }
}

/// For the API.
impl Cluster {
    fn tick(&self) {
        let version = self.objects.lock().version;
        self.ticks.send_if_modified(|tick| std::mem::replace(&mut tick.version, version) != version);
    }

    pub(super) fn ticks(&self) -> watch::Receiver<Tick> {
        self.ticks.subscribe()
    }

    /// Counts a request, and says what is to go wrong with it.
    pub(super) fn fault(&self, verb: &'static str) -> Option<Fault> {
        let mut objects = self.objects.lock();
        *objects.requests.entry(verb).or_default() += 1;
        let (fault, is_once) = objects.faults.get(verb).cloned()?;
        if is_once {
            objects.faults.remove(verb);
        }
        Some(fault)
    }

    pub(super) fn rules<T>(&self, look: impl FnOnce(&Rules) -> T) -> T {
        look(&self.objects.lock().rules)
    }

    /// The pods after the one called `after`, at most `limit`, and the version; whether there are more.
    pub(super) fn list(&self, labels: &BTreeMap<String, String>, after: &str, limit: usize) -> (Vec<Pod>, u64, bool) {
        let objects = self.objects.lock();
        let mut pods = objects.pods.iter().filter(|(name, pod)| name.as_str() > after && has(pod, labels));
        let page = pods.by_ref().take(limit).map(|(_, pod)| pod.clone()).collect();
        (page, objects.version, pods.next().is_some())
    }

    /// What changed after a version, and the version now. `None`: it is not remembered.
    pub(super) fn changes(&self, labels: &BTreeMap<String, String>, after: u64) -> Option<(Vec<Change>, u64)> {
        let objects = self.objects.lock();
        let changes = objects.changes.iter().filter(|change| change.version > after && has(&change.pod, labels));
        (after >= objects.forgotten).then(|| (changes.cloned().collect(), objects.version))
    }

    pub(super) fn create(self: &Arc<Self>, mut pod: Pod) -> Created {
        let mut objects = self.objects.lock();
        let name = pod.metadata.name.clone().expect("a name");
        // Quotas are looked at before names are.
        if objects.pods.len() >= objects.rules.quota {
            return Created::NoRoom;
        }
        if objects.pods.contains_key(&name) {
            return Created::Exists;
        }
        let uid = format!("uid-{}", objects.version + 1);
        pod.metadata.uid = Some(uid.clone());
        pod.metadata.creation_timestamp = Some(Time(Timestamp::now()));
        pod.status = Some(PodStatus { phase: Some("Pending".to_owned()), ..PodStatus::default() });
        let pod = objects.put("ADDED", pod);
        drop(objects);
        self.tick();
        tokio::spawn(kubelet::run(Arc::clone(self), name, uid));
        Created::Pod(Box::new(pod))
    }

    /// As the strategy of pods in the API server: one that never ran or is over needs no grace.
    pub(super) fn delete(&self, name: &str, grace: Option<u64>, uid: Option<&str>) -> Result<Option<Pod>, String> {
        let mut objects = self.objects.lock();
        let Some(mut pod) = objects.pods.get(name).cloned() else { return Ok(None) };
        let is = pod.metadata.uid.clone().expect("a uid");
        if uid.is_some_and(|uid| uid != is) {
            return Err(format!("the UID in the precondition does not match the UID in record: {is}"));
        }
        let spec = pod.spec.as_ref().expect("a spec");
        let own = spec.termination_grace_period_seconds.unwrap_or(30).unsigned_abs();
        let needs_none = spec.node_name.is_none() || is_over(&pod);
        let seconds = if needs_none { 0 } else { grace.unwrap_or(own) };
        let pod = if seconds == 0 {
            if let Some(process) = objects.processes.get(&is) {
                process.kill();
            }
            objects.put("DELETED", pod)
        } else if pod.metadata.deletion_timestamp.is_none() {
            let at = Timestamp::from_second(Timestamp::now().as_second() + i64::try_from(seconds).expect("seconds"));
            pod.metadata.deletion_timestamp = Some(Time(at.expect("a time")));
            pod.metadata.deletion_grace_period_seconds = Some(i64::try_from(seconds).expect("seconds"));
            let is_node_there = objects.rules.is_node_there;
            if let Some(process) = objects.processes.get_mut(&is).filter(|_| is_node_there) {
                process.end_within(Duration::from_secs(seconds));
            }
            objects.put("MODIFIED", pod)
        } else {
            pod
        };
        drop(objects);
        self.tick();
        Ok(Some(pod))
    }
}

fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn has(pod: &Pod, labels: &BTreeMap<String, String>) -> bool {
    let own = pod.metadata.labels.as_ref();
    labels.iter().all(|(name, value)| own.and_then(|own| own.get(name)) == Some(value))
}
