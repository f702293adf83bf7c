//! How many hosts there are: a pure state machine. No clock, no launcher, no network: what is so comes in, what to do goes out.
//!
//! ```text
//!             not in time, listed as over                  its stream ended
//!                 +---- Starting --- it joined ---> Joined ----------------> Away
//!                 v                                   |  <--- it is back ----+ |
//!              Leaving <-- no work for the idle time -+                        | not back in time
//!                 |   <--------------------------------------------------------+
//!                 v
//!          neither listed nor joined: gone
//! ```
//!
//! What it does not know, because it was started a moment ago or an answer was lost, it learns from the launcher's list: a host that
//! is listed and not known is taken in; one that is known and not listed is gone.

use std::collections::BTreeMap;

use crate::{ClusterName, HostName, HostState, Listed};

/// The first wait after a host did not start; it doubles with each failure in a row.
const RETRY_MS: u64 = 1_000;
/// So many times.
const MOST_DOUBLINGS: u32 = 6;

/// Limits of a [`Scaler`].
#[derive(Clone, Copy, Debug)]
pub struct ScalerLimits {
    /// Hosts that are there whether anything is to do or not.
    pub min_hosts: usize,
    /// The most hosts; those that leave do not count.
    pub max_hosts: usize,
    /// Functions for which a host is started.
    pub functions_per_host: usize,
    /// A host that had nothing to do for this long leaves.
    pub idle_timeout_ms: u64,
    /// A host that has not joined after this long, or was away for so long, is stopped.
    pub start_timeout_ms: u64,
    /// A host that was told to leave and is there after this long is told again.
    pub leave_timeout_ms: u64,
}

/// What is so.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// Milliseconds of a clock that does not go back.
    pub now_ms: u64,
    /// Functions that would have work if there were room for them.
    pub wanted_functions: usize,
    /// Hosts that joined, by name, and whether they have anything to do or hold anything that is still needed.
    pub joined: &'a BTreeMap<HostName, bool>,
    /// What the launcher lists, asked after all earlier orders were carried out; `None`: it did not answer.
    pub listed: Option<&'a [Listed]>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// See [`crate::Provider::start`].
    Start(HostName),
    /// See [`crate::Provider::stop`].
    Stop(HostName),
}

/// A host that was started in vain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unjoined {
    /// Its name.
    pub name: HostName,
    /// What became of it, as far as that is known.
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Starting {
        since_ms: u64,
    },
    /// `idle_ms`: since when it has nothing to do.
    Joined {
        idle_ms: Option<u64>,
    },
    Away {
        since_ms: u64,
    },
    Leaving {
        told_ms: u64,
    },
}

/// How many hosts there are, as a pure state machine: what is so comes in, what to do goes out.
#[derive(Debug)]
pub struct Scaler {
    limits: ScalerLimits,
    cluster: ClusterName,
    random: fastrand::Rng,
    hosts: BTreeMap<HostName, Phase>,
    /// Hosts that did not join, and nobody heard of yet.
    unjoined: Vec<Unjoined>,
    /// Starts that failed in a row.
    failures: u32,
    /// No host is started before.
    start_again_ms: u64,
}

impl Scaler {
    /// Without hosts: those that are there come with the launcher's first list.
    pub fn new(cluster: ClusterName, limits: ScalerLimits, random: fastrand::Rng) -> Self {
        let (hosts, unjoined, failures, start_again_ms) = Default::default();
        Self { limits, cluster, random, hosts, unjoined, failures, start_again_ms }
    }

    /// What to do about what is so.
    pub fn observe(&mut self, observed: Observed<'_>) -> Vec<Order> {
        let mut orders = Vec::new();
        if let Some(listed) = observed.listed {
            self.compare(observed, listed, &mut orders);
        }
        self.follow(observed);
        self.time_out(observed.now_ms, &mut orders);
        // Hosts that nobody told of are not counted twice.
        if observed.listed.is_some() {
            self.scale(observed, &mut orders);
        }
        orders
    }

    /// The launcher did not take a start.
    pub fn refused(&mut self, name: &HostName, now_ms: u64) {
        if self.hosts.remove(name).is_some() {
            self.failed(now_ms);
        }
    }

    /// Hosts that ended before they joined, or did not join in time, since this was asked; each once, so that they come as seldom as failed
    /// starts are repeated.
    pub fn take_unjoined(&mut self) -> Vec<Unjoined> {
        std::mem::take(&mut self.unjoined)
    }

    /// Hosts that are there or on their way.
    pub fn hosts(&self) -> usize {
        self.hosts.len()
    }

    /// Nothing would be done until something else is wanted.
    pub fn is_settled(&self, wanted_functions: usize) -> bool {
        self.hosts.is_empty() && self.wanted(wanted_functions) == 0
    }

    fn wanted(&self, functions: usize) -> usize {
        let hosts = functions.div_ceil(self.limits.functions_per_host.max(1));
        hosts.max(self.limits.min_hosts).min(self.limits.max_hosts)
    }

    fn ended(&mut self, name: HostName, reason: String, now_ms: u64) {
        self.unjoined.push(Unjoined { name, reason });
        self.failed(now_ms);
    }

    fn failed(&mut self, now_ms: u64) {
        let wait_ms = RETRY_MS << self.failures.min(MOST_DOUBLINGS);
        self.failures += 1;
        self.start_again_ms = now_ms.saturating_add(wait_ms);
    }

    /// What the launcher knows against what is known here.
    fn compare(&mut self, observed: Observed<'_>, listed: &[Listed], orders: &mut Vec<Order>) {
        let Observed { now_ms, joined, .. } = observed;
        let states: BTreeMap<&HostName, &HostState> = listed.iter().map(|host| (&host.name, &host.state)).collect();
        for (name, state) in &states {
            match state {
                HostState::Over { reason } => {
                    orders.push(Order::Stop((*name).clone()));
                    let phase = self.hosts.remove(*name);
                    if matches!(phase, Some(Phase::Starting { .. })) {
                        self.ended((*name).clone(), reason.clone(), now_ms);
                    }
                }
                HostState::Pending | HostState::Running => {
                    self.hosts.entry((*name).clone()).or_insert(Phase::Starting { since_ms: now_ms });
                }
            }
        }
        let is_gone = |name: &HostName| !states.contains_key(name) && !joined.contains_key(name);
        let gone: Vec<_> = self.hosts.keys().filter(|name| is_gone(name)).cloned().collect();
        for name in gone {
            if let Some(Phase::Starting { .. }) = self.hosts.remove(&name) {
                self.ended(name, "its launcher does not list it".to_owned(), now_ms);
            }
        }
    }

    /// Who joined, who is away, who has nothing to do.
    fn follow(&mut self, observed: Observed<'_>) {
        let Observed { now_ms, joined, .. } = observed;
        for (name, phase) in &mut self.hosts {
            let is_busy = joined.get(name).copied();
            *phase = match (*phase, is_busy) {
                (Phase::Leaving { .. }, _) | (Phase::Starting { .. } | Phase::Away { .. }, None) => continue,
                (Phase::Joined { .. }, None) => Phase::Away { since_ms: now_ms },
                (before, Some(is_busy)) => {
                    if matches!(before, Phase::Starting { .. }) {
                        self.failures = 0;
                    }
                    let idle_ms = match before {
                        Phase::Joined { idle_ms } => idle_ms.unwrap_or(now_ms),
                        _ => now_ms,
                    };
                    Phase::Joined { idle_ms: (!is_busy).then_some(idle_ms) }
                }
            };
        }
    }

    fn time_out(&mut self, now_ms: u64, orders: &mut Vec<Order>) {
        let limits = self.limits;
        let is_past = |since_ms: u64, ms: u64| since_ms.saturating_add(ms) <= now_ms;
        let mut failures = 0;
        for (name, phase) in &mut self.hosts {
            let is_due = match *phase {
                Phase::Starting { since_ms } => {
                    let is_due = is_past(since_ms, limits.start_timeout_ms);
                    if is_due {
                        failures += 1;
                        let reason = format!("{} ms are over (host_start_timeout_ms)", limits.start_timeout_ms);
                        self.unjoined.push(Unjoined { name: name.clone(), reason });
                    }
                    is_due
                }
                Phase::Away { since_ms } => is_past(since_ms, limits.start_timeout_ms),
                Phase::Leaving { told_ms } => is_past(told_ms, limits.leave_timeout_ms),
                Phase::Joined { .. } => false,
            };
            if is_due {
                *phase = Phase::Leaving { told_ms: now_ms };
                orders.push(Order::Stop(name.clone()));
            }
        }
        if failures > 0 {
            self.failed(now_ms);
        }
    }

    fn scale(&mut self, observed: Observed<'_>, orders: &mut Vec<Order>) {
        let now_ms = observed.now_ms;
        let wanted = self.wanted(observed.wanted_functions);
        let there = self.hosts.values().filter(|phase| !matches!(phase, Phase::Leaving { .. })).count();
        if there < wanted && now_ms >= self.start_again_ms {
            for _ in there..wanted {
                let name = HostName::random(&self.cluster, &mut self.random);
                self.hosts.insert(name.clone(), Phase::Starting { since_ms: now_ms });
                orders.push(Order::Start(name));
            }
        }
        let idle = self.hosts.iter().filter_map(|(name, phase)| match phase {
            Phase::Joined { idle_ms: Some(idle_ms) } => Some((*idle_ms, name.clone())),
            _ => None,
        });
        let mut idle: Vec<_> =
            idle.filter(|(idle_ms, _)| idle_ms.saturating_add(self.limits.idle_timeout_ms) <= now_ms).collect();
        idle.sort();
        for (_, name) in idle.into_iter().take(there.saturating_sub(wanted)) {
            self.hosts.insert(name.clone(), Phase::Leaving { told_ms: now_ms });
            orders.push(Order::Stop(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn limits() -> ScalerLimits {
        ScalerLimits {
            min_hosts: 0,
            max_hosts: 5,
            functions_per_host: 4,
            idle_timeout_ms: 1_000,
            start_timeout_ms: 2_000,
            leave_timeout_ms: 3_000,
        }
    }

    /// A launcher and the hosts it started, at one time.
    struct World {
        limits: ScalerLimits,
        scaler: Scaler,
        now_ms: u64,
        wanted: usize,
        /// Whether they joined, and have something to do.
        running: BTreeMap<HostName, (bool, bool)>,
        over: BTreeSet<HostName>,
        told: BTreeSet<HostName>,
        starts: usize,
    }

    fn cluster() -> ClusterName {
        "test".parse().expect("a name")
    }

    impl World {
        fn new(limits: ScalerLimits) -> Self {
            let scaler = Scaler::new(cluster(), limits, fastrand::Rng::with_seed(7));
            let (now_ms, wanted, starts) = Default::default();
            let (running, over, told) = Default::default();
            Self { limits, scaler, now_ms, wanted, running, over, told, starts }
        }

        /// The coordinator is another process.
        fn restart(&mut self) {
            self.scaler = Scaler::new(cluster(), self.limits, fastrand::Rng::with_seed(self.now_ms));
        }

        fn observe(&mut self, is_listed: bool) -> Vec<Order> {
            let joined: BTreeMap<_, _> = self
                .running
                .iter()
                .filter(|(_, (has_joined, _))| *has_joined)
                .map(|(name, (_, is_busy))| (name.clone(), *is_busy))
                .collect();
            let running = self.running.keys().map(|name| Listed { name: name.clone(), state: HostState::Running });
            let over = self.over.iter().map(|name| {
                let state = HostState::Over { reason: "it was killed".to_owned() };
                Listed { name: name.clone(), state }
            });
            let listed: Vec<_> = running.chain(over).collect();
            let observed = Observed {
                now_ms: self.now_ms,
                wanted_functions: self.wanted,
                joined: &joined,
                listed: is_listed.then_some(&listed[..]),
            };
            self.scaler.observe(observed)
        }

        /// Carries orders out; with `answer` 0 as ordered, 1: nothing is started, 2: what is started says that it was not.
        fn carry_out(&mut self, orders: Vec<Order>, answer: u8) {
            for order in orders {
                match order {
                    Order::Start(name) => {
                        self.starts += 1;
                        if answer != 1 {
                            self.running.insert(name.clone(), (false, false));
                        } else {
                            self.scaler.refused(&name, self.now_ms);
                        }
                    }
                    Order::Stop(name) => {
                        self.over.remove(&name);
                        if self.running.contains_key(&name) {
                            self.told.insert(name);
                        }
                    }
                }
            }
        }

        fn round(&mut self) {
            let orders = self.observe(true);
            self.carry_out(orders, 0);
        }

        fn leave(&mut self) {
            for name in std::mem::take(&mut self.told) {
                self.running.remove(&name);
            }
        }

        fn join(&mut self) {
            self.running.values_mut().for_each(|(has_joined, _)| *has_joined = true);
        }
    }

    #[test]
    fn hosts_come_with_work_and_leave_when_there_is_none() {
        let mut world = World::new(limits());
        world.round();
        assert!(world.running.is_empty() && world.scaler.is_settled(0));
        world.wanted = 9;
        world.round();
        assert_eq!(world.running.len(), 3, "9 functions, 4 a host");
        world.join();
        world.round();
        (world.wanted, world.now_ms) = (1, 999);
        world.round();
        assert!(world.told.is_empty(), "they were idle for too short a time");
        world.now_ms = 1_000;
        world.round();
        assert_eq!(world.told.len(), 2);
        world.leave();
        world.round();
        assert_eq!(world.scaler.hosts(), 1);
    }

    #[test]
    fn a_host_that_ends_before_it_joins_is_told_of_once() {
        let mut world = World::new(limits());
        world.wanted = 5;
        world.round();
        let mut names = world.running.keys().cloned().collect::<Vec<_>>();
        world.over.extend(names.pop());
        let listed_no_more = names.pop().expect("two hosts");
        world.running.clear();
        let killed = world.over.first().expect("one").clone();
        world.round();
        let mut told = world.scaler.take_unjoined();
        told.sort_by_key(|host| host.name != killed);
        let unjoined = |name, reason: &str| Unjoined { name, reason: reason.to_owned() };
        let expected = [unjoined(killed, "it was killed"), unjoined(listed_no_more, "its launcher does not list it")];
        assert_eq!(told, expected);
        world.round();
        assert_eq!((world.scaler.take_unjoined(), world.starts), (vec![], 2), "not before it is worth another try");
        world.now_ms = 60_000;
        world.round();
        world.join();
        world.round();
        world.over = std::mem::take(&mut world.running).into_keys().collect();
        world.round();
        assert_eq!(world.scaler.take_unjoined(), [], "they had joined");
    }

    #[test]
    fn a_host_that_does_not_join_is_replaced_after_a_while() {
        let mut world = World::new(limits());
        world.wanted = 1;
        world.round();
        world.now_ms = 2_000;
        world.round();
        assert_eq!((world.told.len(), world.starts), (1, 1), "not at once");
        let told = world.scaler.take_unjoined();
        assert!(told.len() == 1 && told[0].reason.contains("host_start_timeout_ms"), "{told:?}");
        world.leave();
        world.now_ms = 3_000;
        world.round();
        assert_eq!((world.running.len(), world.starts), (1, 2));
    }

    #[test]
    fn who_restarts_goes_on_with_the_hosts_that_are_there() {
        let mut world = World::new(limits());
        world.wanted = 8;
        world.round();
        world.join();
        world.restart();
        world.round();
        assert_eq!((world.running.len(), world.starts), (2, 2));
        world.wanted = 0;
        world.now_ms += 1_000;
        world.round();
        assert_eq!(world.told.len(), 2);
    }

    #[derive(Clone, Debug)]
    enum Act {
        Want(usize),
        /// Observes, with or without a list, and carries out.
        Round(bool, u8),
        Join(usize),
        Busy(usize, bool),
        Part(usize),
        /// From outside; the launcher lists it as over, or not at all.
        Kill(usize, bool),
        Leave,
        Restart,
        Wait(u64),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            2 => (0..30usize).prop_map(Act::Want),
            8 => (any::<bool>(), 0..3u8).prop_map(|(is_listed, answer)| Act::Round(is_listed, answer)),
            4 => (0..9usize).prop_map(Act::Join),
            2 => (0..9usize, any::<bool>()).prop_map(|(at, is_busy)| Act::Busy(at, is_busy)),
            1 => (0..9usize).prop_map(Act::Part),
            1 => (0..9usize, any::<bool>()).prop_map(|(at, is_listed)| Act::Kill(at, is_listed)),
            2 => Just(Act::Leave),
            1 => Just(Act::Restart),
            4 => (1..3_000u64).prop_map(Act::Wait),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever happens, there are never more hosts than allowed, none is left when nothing is wanted, and all are there that are.
        #[test]
        fn as_many_hosts_as_wanted_and_none_is_forgotten(acts in prop::collection::vec(act(), 0..80), min_hosts in 0..3usize) {
            let mut world = World::new(ScalerLimits { min_hosts, ..limits() });
            for act in acts {
                let pick = |world: &World, at: usize| world.running.keys().nth(at).cloned();
                match act {
                    Act::Want(functions) => world.wanted = functions,
                    Act::Round(is_listed, answer) => {
                        let orders = world.observe(is_listed);
                        for order in &orders {
                            if let Order::Stop(name) = order {
                                let is_busy = world.running.get(name).is_some_and(|(has_joined, is_busy)| *has_joined && *is_busy);
                                prop_assert!(!is_busy || world.told.contains(name), "{name} has work: {:?}", world.scaler);
                            }
                        }
                        world.carry_out(orders, answer);
                    }
                    Act::Join(at) => {
                        if let Some(host) = pick(&world, at).and_then(|name| world.running.get_mut(&name)) {
                            host.0 = true;
                        }
                    }
                    Act::Busy(at, is_busy) => {
                        // One that was told to leave gets no more work.
                        if let Some(name) = pick(&world, at).filter(|name| !world.told.contains(name))
                            && let Some(host) = world.running.get_mut(&name)
                        {
                            host.1 = is_busy;
                        }
                    }
                    Act::Part(at) => {
                        if let Some(host) = pick(&world, at).and_then(|name| world.running.get_mut(&name)) {
                            *host = (false, false);
                        }
                    }
                    Act::Kill(at, is_listed) => {
                        if let Some(name) = pick(&world, at) {
                            world.running.remove(&name);
                            world.told.remove(&name);
                            if is_listed {
                                world.over.insert(name);
                            }
                        }
                    }
                    Act::Leave => world.leave(),
                    Act::Restart => world.restart(),
                    Act::Wait(ms) => world.now_ms += ms,
                }
                let staying = world.running.keys().filter(|name| !world.told.contains(*name)).count();
                prop_assert!(staying <= limits().max_hosts, "{staying} hosts: {:?}", world.scaler);
            }
            for wanted in [13, 0] {
                world.wanted = wanted;
                for _ in 0..40 {
                    world.round();
                    world.leave();
                    world.join();
                    world.running.values_mut().for_each(|host| host.1 = wanted > 0);
                    world.now_ms += 2_500;
                }
                let right = wanted.div_ceil(4).max(min_hosts);
                // Busy hosts stay: those are there from before.
                prop_assert!(world.running.len() >= right && (wanted > 0 || world.running.len() == right), "{:?}", world.scaler);
                prop_assert!(world.over.is_empty(), "what is over is forgotten");
                prop_assert_eq!(world.scaler.hosts(), world.running.len());
            }
        }
    }
}
