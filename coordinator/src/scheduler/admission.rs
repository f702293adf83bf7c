//! Who may run: queues, users, places.
//!
//! ```text
//!   SubmitQuery -> it can never fit                  refused, with the reason
//!               -> its queue has a place             it starts
//!               -> its queue has room                it waits, and hears of its position
//!               -> else                              refused
//!
//!   a place is free -> the queue that was given one least recently
//!                      -> of its users the one that runs the fewest queries there, then the least recently served
//!                         -> the query of that user that waits the longest
//! ```
//!
//! A query runs when three limits allow it: those of its queue, of its user, and of all queries together. Whoever could start
//! has been started: nothing waits that has a place.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use onward_wire::{ErrorKind, QueryId, WireError};

use super::Scheduler;
use super::event::{Command, FunctionShape, QuerySpec};
use super::limits::{QueueLimits, SchedulerLimits};

/// A query that waits for a place.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) spec: QuerySpec,
    /// When its statement times out.
    pub(super) deadline_ms: Option<u64>,
    since_ms: u64,
    /// The position that its client knows.
    told: Option<usize>,
}

#[derive(Debug, Default)]
struct Queue {
    limits: QueueLimits,
    /// Queries that run, by user.
    running: BTreeMap<Arc<str>, usize>,
    /// First in, first out, by user. No empty entries.
    waiting: BTreeMap<Arc<str>, VecDeque<Waiting>>,
    /// When it last gave a place.
    turn: u64,
}

impl Queue {
    fn running(&self) -> usize {
        self.running.values().sum()
    }

    fn queued(&self) -> usize {
        self.waiting.values().map(VecDeque::len).sum()
    }

    fn of_user(&self, user: &str) -> usize {
        self.running.get(user).copied().unwrap_or(0)
    }

    /// When `waiting` has waited for too long.
    fn due_ms(&self, waiting: &Waiting) -> Option<u64> {
        let most_ms = Some(self.limits.timeout_ms).filter(|timeout_ms| *timeout_ms > 0)?;
        Some(waiting.since_ms.saturating_add(most_ms))
    }
}

/// A user with queries that run or wait.
#[derive(Debug, Default)]
struct User {
    running: usize,
    waiting: usize,
    /// When it was last given a place for a query.
    placed: u64,
    /// When a task of it was last given a function.
    served: u64,
}

/// All queries that wait, and who runs how many.
#[derive(Debug, Default)]
pub(super) struct Admission {
    max_running: usize,
    /// 0: no limit.
    max_running_per_user: usize,
    queues: BTreeMap<Arc<str>, Queue>,
    users: BTreeMap<Arc<str>, User>,
    turn: u64,
    /// Positions may be others than those that were told.
    is_changed: bool,
}

/// How a queue is called in messages.
fn title(queue: &str) -> String {
    if queue.is_empty() { "the default queue".to_owned() } else { format!("the queue {queue}") }
}

/// The setting `field` of a queue, where the default queue has a name of its own for it.
fn setting(queue: &str, default: &str, field: &str) -> String {
    if queue.is_empty() { default.to_owned() } else { format!("queues.{queue}.{field}") }
}

impl Admission {
    pub(super) fn new(limits: &SchedulerLimits) -> Self {
        let queue = |limits: &QueueLimits| Queue { limits: *limits, ..Queue::default() };
        let mut queues: BTreeMap<Arc<str>, Queue> =
            limits.queues.iter().map(|(name, limits)| (name.as_str().into(), queue(limits))).collect();
        queues.insert("".into(), queue(&limits.default_queue()));
        Self {
            max_running: limits.max_running_queries.max(1),
            max_running_per_user: limits.max_running_queries_per_user,
            queues,
            ..Self::default()
        }
    }

    /// Queries that wait.
    pub(super) fn queued(&self) -> usize {
        self.queues.values().map(Queue::queued).sum()
    }

    fn running(&self) -> usize {
        self.queues.values().map(Queue::running).sum()
    }

    /// Users with queries that run.
    pub(super) fn active_users(&self) -> usize {
        self.users.values().filter(|user| user.running > 0).count()
    }

    /// When a task of `user` was last given a function.
    pub(super) fn served(&self, user: &str) -> u64 {
        self.users.get(user).map_or(0, |user| user.served)
    }

    /// A task of `user` is given a function.
    pub(super) fn serve(&mut self, user: &str, turn: u64) {
        if let Some(user) = self.users.get_mut(user) {
            user.served = turn;
        }
    }

    /// Why a query of this queue is never run; `None` when the queue is there and gives places.
    fn refusal(&self, name: &str) -> Option<WireError> {
        let Some(queue) = self.queues.get(name) else {
            let known: Vec<_> = self.queues.keys().filter(|name| !name.is_empty()).map(|name| &**name).collect();
            let known = if known.is_empty() { "none is set up".to_owned() } else { known.join(", ") };
            let message = format!(
                "there is no queue {name}: use one that is there ({known}), or none for the default queue, or set up \
                 [queues.{name}]"
            );
            return Some(WireError::new(ErrorKind::InvalidQuery, message));
        };
        (queue.limits.max_running == 0).then(|| {
            let title = title(name);
            let message = format!("{title} runs no queries (queues.{name}.max_running is 0): use another queue");
            WireError::new(ErrorKind::ResourceExhausted, message)
        })
    }

    fn user_has_place(&self, user: &str) -> bool {
        let running = self.users.get(user).map_or(0, |user| user.running);
        self.max_running_per_user == 0 || running < self.max_running_per_user
    }

    /// A query of `user` in this queue could start now.
    fn has_place(&self, queue: &str, user: &str) -> bool {
        let in_queue = self.queues.get(queue).is_some_and(|queue| queue.running() < queue.limits.max_running);
        in_queue && self.running() < self.max_running && self.user_has_place(user)
    }

    /// A query has its place.
    fn begin(&mut self, queue: &Arc<str>, user: &Arc<str>) {
        self.turn += 1;
        if let Some(queue) = self.queues.get_mut(queue) {
            *queue.running.entry(Arc::clone(user)).or_default() += 1;
            queue.turn = self.turn;
        }
        let turn = self.turn;
        let known = self.users.entry(Arc::clone(user)).or_default();
        (known.running, known.placed) = (known.running + 1, turn);
        self.is_changed = true;
    }

    /// A query that ran has ended: its place is free.
    pub(super) fn end(&mut self, queue: &str, user: &Arc<str>) {
        if let Some(queue) = self.queues.get_mut(queue)
            && let Some(running) = queue.running.get_mut(user)
        {
            *running -= 1;
            queue.running.retain(|_, running| *running > 0);
        }
        if let Some(known) = self.users.get_mut(user) {
            known.running -= 1;
        }
        self.forget(user);
        self.is_changed = true;
    }

    /// Only users who have queries are known.
    fn forget(&mut self, user: &Arc<str>) {
        if self.users.get(user).is_some_and(|user| user.running + user.waiting == 0) {
            self.users.remove(user);
        }
    }

    /// It waits; an error when its queue is full.
    fn enqueue(&mut self, spec: QuerySpec, deadline_ms: Option<u64>, now_ms: u64) -> Result<(), WireError> {
        let running = self.running();
        let Some(queue) = self.queues.get_mut(&spec.queue) else { return Ok(()) };
        if queue.queued() >= queue.limits.max_queued {
            let name = &*spec.queue;
            let message = format!(
                "{} queries run and {} wait in {} ({}, {}); {running} run in all (max_running_queries): try again later",
                queue.running(),
                queue.queued(),
                title(name),
                setting(name, "max_running_queries", "max_running"),
                setting(name, "max_queued_queries", "max_queued"),
            );
            return Err(WireError::new(ErrorKind::ResourceExhausted, message));
        }
        let user = Arc::clone(&spec.user);
        self.users.entry(Arc::clone(&user)).or_default().waiting += 1;
        queue.waiting.entry(user).or_default().push_back(Waiting { spec, deadline_ms, since_ms: now_ms, told: None });
        self.is_changed = true;
        Ok(())
    }

    /// The next query that has a place, which it takes.
    fn next(&mut self) -> Option<Waiting> {
        if self.running() >= self.max_running {
            return None;
        }
        let rank = |(name, queue): (&Arc<str>, &Queue)| {
            let users = queue.waiting.keys().filter(|user| self.has_place(name, user));
            let user = users.min_by_key(|user| (queue.of_user(user), self.placed(user), queue.first(user)))?;
            Some((queue.turn, Arc::clone(name), Arc::clone(user)))
        };
        let (_, queue, user) = self.queues.iter().filter_map(rank).min()?;
        let waiting = self.take(&queue, &user, 0)?;
        self.begin(&queue, &user);
        Some(waiting)
    }

    fn placed(&self, user: &str) -> u64 {
        self.users.get(user).map_or(0, |user| user.placed)
    }

    fn take(&mut self, queue: &Arc<str>, user: &Arc<str>, at: usize) -> Option<Waiting> {
        let queue = self.queues.get_mut(queue)?;
        let of_user = queue.waiting.get_mut(user)?;
        let waiting = of_user.remove(at)?;
        if of_user.is_empty() {
            queue.waiting.remove(user);
        }
        if let Some(user) = self.users.get_mut(user) {
            user.waiting -= 1;
        }
        self.is_changed = true;
        Some(waiting)
    }

    /// `query` waits no longer; false when it did not.
    pub(super) fn remove(&mut self, query: QueryId) -> bool {
        let all = self.queues.iter().flat_map(|(name, queue)| queue.waiting.iter().map(move |waiting| (name, waiting)));
        let found = all.filter_map(|(name, (user, waiting))| {
            let at = waiting.iter().position(|waiting| waiting.spec.query == query)?;
            Some((Arc::clone(name), Arc::clone(user), at))
        });
        let Some((queue, user, at)) = found.into_iter().next() else { return false };
        self.take(&queue, &user, at);
        self.forget(&user);
        true
    }

    fn all(&self) -> impl Iterator<Item = (&str, &Queue, &Waiting)> {
        self.queues
            .iter()
            .flat_map(|(name, queue)| queue.waiting.values().flatten().map(move |waiting| (&**name, queue, waiting)))
    }

    /// Queries whose statement timed out while they waited.
    pub(super) fn timed_out(&self, now_ms: u64) -> Vec<QueryId> {
        let is_due = |waiting: &Waiting| waiting.deadline_ms.is_some_and(|deadline_ms| deadline_ms <= now_ms);
        self.all().filter(|(.., waiting)| is_due(waiting)).map(|(.., waiting)| waiting.spec.query).collect()
    }

    /// Queries that waited as long as their queue allows, with what they are told.
    pub(super) fn overdue(&self, now_ms: u64) -> Vec<(QueryId, WireError)> {
        let is_due = |queue: &Queue, waiting| queue.due_ms(waiting).is_some_and(|due_ms| due_ms <= now_ms);
        let due = self.all().filter(|(_, queue, waiting)| is_due(queue, waiting));
        let error = |(name, queue, waiting): (&str, &Queue, &Waiting)| {
            let message = format!(
                "the query waited {} ms in {}, which is the most there ({} = {}): try again later, or raise it",
                now_ms - waiting.since_ms,
                title(name),
                setting(name, "queue_timeout_ms", "timeout_ms"),
                queue.limits.timeout_ms
            );
            (waiting.spec.query, WireError::new(ErrorKind::ResourceExhausted, message))
        };
        due.map(error).collect()
    }

    /// When the next query has waited for too long.
    pub(super) fn next_due(&self) -> Option<u64> {
        self.all()
            .filter_map(|(_, queue, waiting)| waiting.deadline_ms.into_iter().chain(queue.due_ms(waiting)).min())
            .min()
    }

    /// What clients of queries are told whose position is another than they know.
    pub(super) fn announce(&mut self) -> Vec<Command> {
        let mut news = Vec::new();
        if !std::mem::take(&mut self.is_changed) {
            return news;
        }
        let users: BTreeMap<_, _> =
            self.users.iter().map(|(name, user)| (Arc::clone(name), (user.running, user.placed))).collect();
        for queue in self.queues.values_mut().filter(|queue| !queue.waiting.is_empty()) {
            let (order, queued) = (queue.order(&users, self.max_running_per_user, self.turn), queue.queued());
            for (position, (user, at)) in (1..).zip(order) {
                let of_user = queue.waiting.get_mut(&user).and_then(|waiting| waiting.get_mut(at));
                let Some(waiting) = of_user.filter(|waiting| waiting.told != Some(position)) else { continue };
                let query = waiting.spec.query;
                news.push(match waiting.told.replace(position) {
                    None => Command::QueryQueued { query, position, queued },
                    Some(_) => Command::QueuePosition { query, position },
                });
            }
        }
        news
    }
}

impl Queue {
    /// When the first query of `user` began to wait.
    fn first(&self, user: &str) -> Option<(u64, QueryId)> {
        self.waiting.get(user).and_then(VecDeque::front).map(|waiting| (waiting.since_ms, waiting.spec.query))
    }

    /// The order in which its queries would start if places became free one by one and nothing else happened: the user, and
    /// which of those that wait for that user. `users` run so many queries in all and had their last place then.
    fn order(&self, users: &BTreeMap<Arc<str>, (usize, u64)>, most: usize, turn: u64) -> Vec<(Arc<str>, usize)> {
        let rank = |user: &Arc<str>, given: usize, turn: u64| {
            let (running, placed) = users.get(user).copied().unwrap_or_default();
            let is_full = most > 0 && running + given >= most;
            let placed = if given > 0 { turn } else { placed };
            let next = self.waiting.get(user).and_then(|waiting| waiting.get(given));
            let since = next.map(|waiting| (waiting.since_ms, waiting.spec.query));
            (is_full, self.of_user(user) + given, placed, since, Arc::clone(user), given)
        };
        let mut next: BTreeSet<_> = self.waiting.keys().map(|user| rank(user, 0, turn)).collect();
        let (mut order, mut turn) = (Vec::new(), turn);
        while let Some((.., user, given)) = next.pop_first() {
            turn += 1;
            if self.waiting.get(&user).is_some_and(|waiting| given + 1 < waiting.len()) {
                next.insert(rank(&user, given + 1, turn));
            }
            order.push((user, given));
        }
        order
    }
}

impl Scheduler {
    pub(super) fn submit(&mut self, spec: QuerySpec) {
        let refusal = self.admission.refusal(&spec.queue).or_else(|| self.never_fits(&spec));
        if let Some(error) = refusal {
            return self.refuse(spec.query, error);
        }
        let query = spec.query;
        let deadline = spec.timeout_ms.map(|timeout| self.now_ms.saturating_add(timeout));
        if self.admission.has_place(&spec.queue, &spec.user) {
            self.admission.begin(&spec.queue, &spec.user);
            self.start_query(spec, deadline);
        } else if let Err(error) = self.admission.enqueue(spec, deadline, self.now_ms) {
            self.refuse(query, error);
        }
    }

    fn refuse(&mut self, query: QueryId, error: WireError) {
        self.commands.push(Command::QueryFailed { query, error, stats: Default::default() });
    }

    /// Gives free places to those who wait; false when nobody got one.
    pub(super) fn start_waiting(&mut self) -> bool {
        let mut has_started = false;
        while let Some(waiting) = self.admission.next() {
            self.start_query(waiting.spec, waiting.deadline_ms);
            has_started = true;
        }
        has_started
    }

    /// Why no host that is there will ever run the query.
    fn never_fits(&self, spec: &QuerySpec) -> Option<WireError> {
        let most = self.limits.max_functions_per_query;
        if most > 0 && spec.functions > most {
            let message = format!(
                "the query wants {} functions, and may have {most} (max_functions_per_query): ask for fewer \
                 (onward.functions), or raise the limit",
                spec.functions
            );
            return Some(WireError::new(ErrorKind::ResourceExhausted, message));
        }
        let shapes: BTreeSet<FunctionShape> =
            spec.stages.iter().map(|stage| stage.shape.unwrap_or(spec.shape)).collect();
        shapes.into_iter().find_map(|shape| {
            let class = shape.class;
            let message = match self.pool.most_vcpus(class) {
                None => format!(
                    "the query wants functions of class {class}, and no host offers that: start a host with this class, or \
                     ask for another one"
                ),
                Some(most) if shape.vcpus > most => format!(
                    "the query wants functions of {} vCPUs, and the largest host of class {class} has {most} (vcpus): ask for \
                     more functions (onward.functions), which are smaller then, or start a larger host",
                    shape.vcpus
                ),
                Some(_) => return None,
            };
            Some(WireError::new(ErrorKind::ResourceExhausted, message))
        })
    }
}
