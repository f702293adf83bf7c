//! `onward serve` as one of several coordinators: it stands by, leads when no other one does, and stands by again.
//!
//! ```text
//!   stands by: calls go on to who leads, hosts are told who leads
//!       | etcd says that it leads
//!       v
//!   starts a coordinator on the shared catalog --> leads: calls are answered, hosts join
//!       ^                                            |                          |
//!       +--- leads no longer: queries fail as -------+                          | told to end
//!            retryable, hosts refuse its commands       hands over: new statements wait, running ones end,
//!                                                       it resigns, what waited goes to the next one
//! ```

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use onward_coordinator::catalog::check_directory;
use onward_coordinator::{ClusterListener, Coordinator, CoordinatorOptions, Term};
use onward_endpoint::{FlightServer, Role};
use onward_state::{Announcement, Candidate, Etcd, LeaderInfo, Leadership, StateOptions, Tls};
use onward_wire::cluster::Leader;
use onward_wire::{Config, ENGINE_VERSION, ErrorKind, WireError};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::Failure;
use super::metrics::Current;
use super::serve::Signals;

/// A coordinator that led ends when it handed no call on for the first of these times, or after the second one.
const LAST_CALLS: Duration = Duration::from_millis(500);
const MOST_LAST_CALLS: Duration = Duration::from_secs(3);

/// What is kept alive in etcd has a thread of its own: a coordinator that is busy is not taken for one that is gone.
struct EtcdThread(Option<Runtime>);

impl EtcdThread {
    fn start() -> Result<Self, Failure> {
        Ok(Self(Some(Builder::new_multi_thread().worker_threads(1).thread_name("onward-etcd").enable_all().build()?)))
    }

    /// What `make` makes works there.
    fn run<T>(&self, make: impl FnOnce() -> T) -> T {
        let _inside = self.0.as_ref().map(Runtime::enter);
        make()
    }
}

impl Drop for EtcdThread {
    fn drop(&mut self) {
        // Nobody waits in a runtime for the end of another one.
        self.0.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

/// One of several coordinators.
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) data_dir: PathBuf,
    pub(super) server: FlightServer,
    /// Where clients reach it.
    pub(super) client_url: String,
    pub(super) cluster: Option<ClusterListener>,
    pub(super) current: Current,
}

/// Why a coordinator does not lead any more.
enum Ended {
    Deposed,
    Told,
}

/// Serves until a signal comes, and what ran then is over; a second one ends it at once.
pub(super) async fn serve(shared: Shared, mut signals: Signals) -> Result<(), Failure> {
    let Shared { config, data_dir, server, client_url, cluster, current } = shared;
    let cluster_url = cluster.as_ref().map_or_else(String::new, |cluster| cluster.url().to_owned());
    let announcement = Announcement {
        name: client_url.clone(),
        client_url: client_url.clone(),
        cluster_url,
        version: ENGINE_VERSION.to_owned(),
    };
    let options = state_options(&config)?;
    let thread = EtcdThread::start()?;
    let etcd = thread.run(|| Etcd::new(options)).map_err(failed)?;
    check_directory(&etcd, &data_dir).await.map_err(|error| Failure::Message(error.to_string()))?;
    let candidate = Candidate::start(etcd, announcement.clone());
    let (leader, _telling) = tell(&candidate);
    let (leaders, coordinators, name) = (candidate.leader(), candidate.coordinators(), client_url.clone());
    let _explaining = explain(&candidate, server.role().clone());
    let joining =
        cluster.as_ref().map(|cluster| format!("onward {ENGINE_VERSION} hosts may join on {}\n", cluster.address()));
    let data = data_dir.display();
    let ready = format!("onward {ENGINE_VERSION} ready on {client_url}, one of several coordinators (data: {data})\n");
    let line = joining.unwrap_or_default() + &ready;
    // Nobody needs to read the line.
    let mut stdout = std::io::stdout();
    let _ = stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush());

    let (end, ended) = oneshot::channel::<()>();
    let role = server.role().clone();
    // Tasks of their own, both: whoever comes is heard while the other one waits for etcd.
    let serving = AbortOnDropHandle::new(tokio::spawn(server.serve(async {
        let _ = ended.await;
    })));
    let told = CancellationToken::new();
    let told_so = told.clone();
    let taking_turns =
        TakingTurns { config, data_dir, own: announcement, cluster, role, candidate, leader, current, told: told_so };
    let working = AbortOnDropHandle::new(tokio::spawn(async move {
        let done = taking_turns.run().await;
        // The server may have failed already.
        let _ = end.send(());
        done
    }));
    let twice = async {
        signals.next().await;
        let leads = leaders.borrow().as_ref().is_some_and(|leader| leader.announcement.name == name);
        let ending = ending(leads, &others(&coordinators.borrow(), &name));
        tracing::info!("{ending}; a second signal ends at once");
        told.cancel();
        signals.next().await;
    };
    let both = async {
        let (served, done) = tokio::join!(serving, working);
        output(done).and(output(served).map_err(Failure::from))
    };
    tokio::select! {
        done = both => done,
        () = twice => {
            tracing::warn!("second signal: running statements are cancelled");
            Err(Failure::Code(1))
        }
    }
}

/// What a task made that is aborted only with who waits for it. It panics if that did.
fn output<T>(task: Result<T, JoinError>) -> T {
    task.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

struct TakingTurns {
    config: Config,
    data_dir: PathBuf,
    /// What it is announced as.
    own: Announcement,
    cluster: Option<ClusterListener>,
    role: Role,
    candidate: Candidate,
    leader: watch::Receiver<Leader>,
    current: Current,
    /// It is to end.
    told: CancellationToken,
}

impl TakingTurns {
    async fn run(self) -> Result<(), Failure> {
        loop {
            let standby = self.cluster.as_ref().map(|cluster| cluster.stand_by(self.leader.clone(), &self.config));
            let standby = standby.transpose()?;
            tracing::info!("standing by");
            let leadership = tokio::select! {
                leadership = self.candidate.lead() => leadership.map_err(failed)?,
                () = self.hand_on() => unreachable!("it hands on for ever"),
                () = self.told.cancelled() => return Ok(()),
            };
            if let Some(standby) = standby {
                standby.stop().await;
            }
            let epoch = leadership.epoch();
            match self.lead(leadership).await? {
                Ended::Deposed => tracing::warn!(epoch, "this coordinator leads no longer"),
                Ended::Told => {
                    self.hand_calls_to_the_next(epoch).await;
                    return Ok(());
                }
            }
        }
    }

    /// Has calls go to whoever leads.
    async fn hand_on(&self) {
        let mut leaders = self.candidate.leader();
        loop {
            let leader = leaders.borrow_and_update().clone();
            self.follow(leader.as_ref());
            if leaders.changed().await.is_err() {
                std::future::pending().await
            }
        }
    }

    fn follow(&self, leader: Option<&LeaderInfo>) {
        // What it announced of itself, before it led.
        let leader =
            leader.map(|leader| leader.announcement.client_url.as_str()).filter(|url| *url != self.own.client_url);
        if let Err(error) = self.role.follow(leader) {
            tracing::error!(%error, "calls cannot be handed on to the coordinator that leads");
        }
    }

    /// Calls that waited meanwhile go to the next leader, if there is one.
    async fn hand_calls_to_the_next(&self, epoch: u64) {
        let (leaders, coordinators) = (self.candidate.leader(), self.candidate.coordinators());
        let wait = Duration::from_millis(self.config.failover_wait_ms);
        let next = next_leader(leaders, coordinators, &self.own.name, epoch);
        match tokio::time::timeout(wait, next).await {
            Ok(Some(leader)) => {
                self.follow(Some(&leader));
                // Clients that go on and on find another coordinator.
                let _ = tokio::time::timeout(MOST_LAST_CALLS, self.role.handed_on(LAST_CALLS)).await;
            }
            Ok(None) => {}
            Err(_) => tracing::warn!(failover_wait_ms = self.config.failover_wait_ms, "no other coordinator took over"),
        }
    }

    async fn lead(&self, leadership: Leadership) -> Result<Ended, Failure> {
        // Until it can answer calls, nobody does.
        self.follow(None);
        let (epoch, validity) = (leadership.epoch(), leadership.validity());
        let term = Term {
            own: self.own.clone(),
            epoch,
            is_valid: Arc::new(move || validity.is_valid()),
            leader: self.leader.clone(),
            coordinators: self.candidate.coordinators(),
            deposed: CancellationToken::new(),
        };
        let options = CoordinatorOptions {
            config: self.config.clone(),
            data_dir: Some(self.data_dir.clone()),
            function_program: None,
            state: Some(leadership.state()),
            term: term.clone(),
        };
        let coordinator = match Coordinator::start(options).await {
            Ok(coordinator) => coordinator,
            Err(error) => {
                // Another one may do better, and need not wait. If that fails it leads when the lease of this one is over.
                let _ = leadership.resign().await;
                return Err(error.into());
            }
        };
        coordinator.warm_up().await?;
        if let Some(cluster) = &self.cluster {
            coordinator.serve_cluster_on(cluster).await?;
        }
        self.role.lead(Arc::clone(&coordinator)).await?;
        self.current.send_replace(Some(Arc::clone(&coordinator)));
        tracing::info!(epoch, "this coordinator leads");
        let ended = tokio::select! {
            () = leadership.lost() => Ended::Deposed,
            () = term.deposed.cancelled() => Ended::Deposed,
            () = self.told.cancelled() => Ended::Told,
        };
        if let Ended::Told = ended {
            self.role.hand_over().await;
            // Past that time the next one takes the last queries for lost.
            let _ = tokio::time::timeout(LAST_CALLS, coordinator.is_remembered()).await;
        }
        self.current.send_replace(None);
        // From here on it gives no command, whoever leads.
        term.deposed.cancel();
        coordinator.depose();
        self.follow(self.candidate.leader().borrow().as_ref().filter(|leader| leader.epoch > epoch));
        let (resigned, ()) = tokio::join!(leadership.resign(), coordinator.shutdown(Duration::ZERO));
        if let Err(error) = resigned {
            tracing::warn!(%error, "the next coordinator leads when the lease of this one is over");
        }
        Ok(ended)
    }
}

/// Who leads after `epoch`; `None` as soon as nobody but `name` is there: those who are gone are so when their announcement is over.
async fn next_leader(
    mut leaders: watch::Receiver<Option<LeaderInfo>>,
    mut coordinators: watch::Receiver<Vec<Announcement>>,
    name: &str,
    epoch: u64,
) -> Option<LeaderInfo> {
    let waited_for = others(&coordinators.borrow(), name);
    if !waited_for.is_empty() {
        tracing::info!("waiting until one of {} leads: calls that came here go there", waited_for.join(", "));
    }
    let later = |leader: &Option<LeaderInfo>| leader.as_ref().is_some_and(|leader| leader.epoch > epoch);
    tokio::select! {
        // One that leads may be alone.
        biased;
        leader = leaders.wait_for(later) => leader.ok()?.clone(),
        _ = coordinators.wait_for(|all| others(all, name).is_empty()) => {
            if !waited_for.is_empty() {
                tracing::info!("no other coordinator is there any more");
            }
            None
        }
    }
}

/// The coordinators that are there besides `name`.
fn others(all: &[Announcement], name: &str) -> Vec<String> {
    all.iter().filter(|one| one.name != name).map(|one| one.name.clone()).collect()
}

/// What a coordinator says that was told to end.
fn ending(leads: bool, others: &[String]) -> String {
    match (leads, others) {
        (false, _) => "ending; this coordinator does not lead".to_owned(),
        (true, []) => "ending when what runs is over; no other coordinator is there to take over".to_owned(),
        (true, others) => {
            format!("ending when what runs is over and another coordinator leads: {}", others.join(" or "))
        }
    }
}

/// Has calls that wait in vain say why etcd does not answer; until the handle is dropped.
fn explain(candidate: &Candidate, role: Role) -> AbortOnDropHandle<()> {
    let mut trouble = candidate.trouble();
    AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            let now = trouble.borrow_and_update().as_ref().map(ToString::to_string);
            role.explain(now);
            if trouble.changed().await.is_err() {
                return;
            }
        }
    }))
}

/// Who leads, as hosts are told; until the handle is dropped.
fn tell(candidate: &Candidate) -> (watch::Receiver<Leader>, AbortOnDropHandle<()>) {
    let (tell, told) = watch::channel(Leader::default());
    let (mut leader, mut coordinators) = (candidate.leader(), candidate.coordinators());
    let telling = async move {
        loop {
            let now = leader.borrow_and_update().clone();
            let all = coordinators.borrow_and_update().clone();
            let coordinators_of = all.into_iter().map(|one| one.cluster_url).filter(|url| !url.is_empty());
            let said = match now {
                Some(LeaderInfo { epoch, announcement }) => {
                    Leader { epoch, url: announcement.cluster_url, coordinators: coordinators_of.collect() }
                }
                None => Leader::default(),
            };
            tell.send_if_modified(|before| {
                let is_news = *before != said;
                *before = said;
                is_news
            });
            tokio::select! {
                changed = leader.changed() => if changed.is_err() { return },
                changed = coordinators.changed() => if changed.is_err() { return },
            }
        }
    };
    (told, AbortOnDropHandle::new(tokio::spawn(telling)))
}

fn state_options(config: &Config) -> Result<StateOptions, Failure> {
    let endpoints = config.etcd_endpoints.split(',').map(|url| url.trim().to_owned()).filter(|url| !url.is_empty());
    let prefix = match config.etcd_prefix.as_str() {
        "" => format!("/onward/{}", config.cluster_name),
        prefix => prefix.to_owned(),
    };
    let user = match config.etcd_user.as_str() {
        "" => None,
        user => {
            let path = &config.etcd_password_file;
            if path.is_empty() {
                return Err(Failure::Message("etcd_user is set: set etcd_password_file, too".to_owned()));
            }
            let unread = |error| Failure::Message(format!("etcd_password_file `{path}` cannot be read: {error}"));
            Some((user.to_owned(), std::fs::read_to_string(path).map_err(unread)?.trim().to_owned()))
        }
    };
    let path = |path: &String| Some(PathBuf::from(path)).filter(|path| !path.as_os_str().is_empty());
    let identity = match (path(&config.etcd_cert), path(&config.etcd_key)) {
        (Some(_), None) => return Err(Failure::Message("etcd_cert is set: set etcd_key, too".to_owned())),
        (None, Some(_)) => return Err(Failure::Message("etcd_key is set: set etcd_cert, too".to_owned())),
        (cert, key) => cert.zip(key),
    };
    let tls = path(&config.etcd_ca).map(|ca| Tls { ca, identity });
    Ok(StateOptions {
        endpoints: endpoints.collect(),
        prefix,
        user,
        tls,
        timeout: Duration::from_millis(config.leader_lease_ms.max(1_000)),
        lease_ttl: Duration::from_millis(config.leader_lease_ms),
    })
}

fn failed(error: onward_state::StateError) -> Failure {
    WireError::new(ErrorKind::Unavailable, error).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "grpc://a:1";
    const OTHER: &str = "grpc://b:1";

    fn announcement(name: &str) -> Announcement {
        let name = name.to_owned();
        Announcement { client_url: name.clone(), name, cluster_url: String::new(), version: String::new() }
    }

    #[tokio::test]
    async fn who_ends_waits_for_the_next_leader_only_while_there_can_be_one() {
        let leads = |name, epoch| Some(LeaderInfo { epoch, announcement: announcement(name) });
        let (leader, coordinators) = (watch::Sender::new(leads(OWN, 7)), watch::Sender::new(vec![announcement(OWN)]));
        let next = || next_leader(leader.subscribe(), coordinators.subscribe(), OWN, 7);
        assert_eq!(next().await, None, "nobody else is there");
        coordinators.send_replace(vec![announcement(OWN), announcement(OTHER)]);
        let (gone, ()) = tokio::join!(next(), async {
            // Polled after the other one waits.
            coordinators.send_replace(vec![announcement(OWN)]);
        });
        assert_eq!(gone, None, "it was there, and is gone");
        coordinators.send_replace(vec![announcement(OWN), announcement(OTHER)]);
        let (next, ()) = tokio::join!(next(), async {
            leader.send_replace(leads(OTHER, 8));
        });
        assert_eq!(next, leads(OTHER, 8));
    }

    #[test]
    fn who_ends_claims_no_other_that_is_not_there() {
        let all = [announcement(OWN), announcement(OTHER)];
        assert!(ending(true, &others(&all, OWN)).contains("another coordinator leads: grpc://b:1"));
        assert!(ending(true, &others(&all[..1], OWN)).contains("no other coordinator"));
        assert!(ending(false, &others(&all, OWN)).contains("does not lead"));
    }

    #[test]
    fn settings_of_etcd_that_need_another_one_say_which() {
        let set = |change: fn(&mut Config)| {
            let mut config = Config { etcd_endpoints: "https://127.0.0.1:2379".to_owned(), ..Config::default() };
            change(&mut config);
            match state_options(&config) {
                Err(Failure::Message(message)) => message,
                other => panic!("{other:?}"),
            }
        };
        let user = set(|config| config.etcd_user = "joe".to_owned());
        assert_eq!(user, "etcd_user is set: set etcd_password_file, too");
        let cert = set(|config| config.etcd_cert = "c.pem".to_owned());
        assert_eq!(cert, "etcd_cert is set: set etcd_key, too");
        let key = set(|config| config.etcd_key = "k.pem".to_owned());
        assert_eq!(key, "etcd_key is set: set etcd_cert, too");
    }
}
