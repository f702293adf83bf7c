//! What the scheduler decided, carried out.

use onward_planner::error::classify;
use onward_wire::exchange::MoreInputs;
use onward_wire::filters::RuntimeFilters;
use onward_wire::message::RunAttempt;
use onward_wire::{HostId, QueryId, SegmentId};

use super::super::inputs::told;
use super::super::outcome::Outcome;
use super::super::running::Query;
use super::Driver;
use crate::scheduler::{Command, Event, QueryStats};
use crate::system::QueryRecord;

impl Driver {
    pub(super) fn carry_out(&mut self, command: Command) {
        match command {
            Command::StartFunction { function, host, shape } => self.fleet.start_function(function, host, shape),
            Command::StopFunction { function } => {
                self.unused.remove(&function);
                self.queries.values_mut().for_each(|query| query.account.lose(function));
                self.fleet.stop_function(function);
            }
            Command::RunAttempt { function, attempt, partitions, inputs, share, inline_bytes } => {
                let stage = attempt.task.stage;
                let here = self.fleet.place_of(function);
                // Queries are forgotten by the scheduler's word only, after their last attempt began.
                let Some(query) = self.queries.get_mut(&stage.query) else { return };
                query.hosts.extend([here, self.fleet.home_of(here)].into_iter().filter(|h| *h != HostId::EMBEDDED));
                if query.defined.insert((function, stage.stage)) {
                    self.fleet.define_stage(function, query.stages[stage.stage as usize].clone());
                }
                let granting = query.granting(stage, self.fleet.key(), self.grant_lifetime_ms);
                let inputs = match told(&granting, stage, here, &partitions, &inputs, share) {
                    Ok(inputs) => inputs,
                    Err(error) => {
                        // The function has not heard of it.
                        let error = classify(&error);
                        self.handle(Event::AttemptFailed { function, attempt, error, has_ended: true });
                        return;
                    }
                };
                if inputs.iter().any(|inputs| inputs.is_open)
                    && let Some(run) = query.metrics.get_mut(stage.stage as usize)
                {
                    run.early += 1;
                }
                query.begin(attempt, function, self.unused.remove(&function));
                let filters = query.filters.begin(attempt, function);
                let run = RunAttempt { attempt: attempt.into(), partitions, inputs, inline_bytes, filters };
                self.fleet.run_attempt(function, run);
                self.changed.insert(stage.query);
            }
            Command::MoreInputs { function, attempt, partitions, inputs } => {
                let (stage, here) = (attempt.task.stage, self.fleet.place_of(function));
                let Some(query) = self.queries.get(&stage.query) else { return };
                let granting = query.granting(stage, self.fleet.key(), self.grant_lifetime_ms);
                match told(&granting, stage, here, &partitions, &inputs, None) {
                    Ok(inputs) => self.fleet.more_inputs(function, MoreInputs { attempt: attempt.into(), inputs }),
                    Err(error) => {
                        let error = classify(&error);
                        self.handle(Event::AttemptFailed { function, attempt, error, has_ended: false });
                        self.fleet.cancel_attempt(function, attempt);
                    }
                }
            }
            Command::CancelAttempt { function, attempt } => self.fleet.cancel_attempt(function, attempt),
            Command::AttemptCommitted { attempt } => {
                if let Some(query) = self.queries.get_mut(&attempt.query()) {
                    query.filters.committed(attempt);
                }
            }
            Command::StageReplaced { query, stage } => {
                let Some(query) = self.queries.get_mut(&query) else { return };
                let Some(other) = query.alternatives.get_mut(stage as usize).and_then(Option::take) else { return };
                query.stages[stage as usize] = other.stage.clone();
                query.filters.replace(stage, other.filters.clone());
                query.replaced.insert(stage, other);
            }
            Command::StageCompleted { query, stage, attempts } => {
                let Some(query) = self.queries.get_mut(&query) else { return };
                for (attempt, function, filters) in query.filters.stage_completed(stage, &attempts) {
                    self.fleet.add_filters(function, RuntimeFilters { attempt: attempt.into(), filters });
                }
            }
            Command::LetHostGo { host } => self.fleet.let_go(host),
            Command::ReleaseSegments(segments) => self.fleet.remove_segments(&segments),
            Command::QueryQueued { query, position, queued } => {
                tracing::info!(%query, position, queued, "query waits: all places are taken");
                self.waits(query, position, Some(queued));
            }
            Command::QueuePosition { query, position } => self.waits(query, position, None),
            Command::QueryStarted { query } => {
                tracing::debug!(%query, "query starts");
                self.history.update(query, QueryRecord::waits_no_more);
                self.changed.insert(query);
            }
            Command::QueryDone { query, result, stats } => {
                let kept = result
                    .iter()
                    .flat_map(|input| input.output.segments.iter().map(|segment| (input.host(), segment.id())));
                let Some(done) = self.forget(query, &kept.collect::<Vec<_>>(), &stats) else { return };
                let outcome =
                    Outcome { result, stats, stages: done.metrics, replaced: done.replaced.into_keys().collect() };
                if done.reply.send(Ok(outcome)).is_err() {
                    // The client is gone: nobody will release the result.
                    self.handle(Event::ResultReleased { query });
                }
            }
            Command::QueryFailed { query, error, stats } => {
                if let Some(failed) = self.forget(query, &[], &stats) {
                    // Nobody listens when the client cancelled.
                    let _ = failed.reply.send(Err(error));
                }
            }
        }
    }

    fn forget(&mut self, query: QueryId, kept: &[(HostId, SegmentId)], stats: &QueryStats) -> Option<Query> {
        let mut forgotten = self.queries.remove(&query)?;
        let (usage, is_remote) = (forgotten.account.close(), forgotten.is_remote());
        self.history.settle(query, |record| {
            // A query that was planned again took both.
            record.usage.add(&usage);
            record.is_remote |= is_remote;
            record.requests.add(&forgotten.requests);
            record.exchange_bytes += stats.exchange_bytes;
            record.cache_hit_bytes += forgotten.cache.hit_bytes;
            record.cache_miss_bytes += forgotten.cache.miss_bytes;
            record.waits_no_more();
        });
        self.fleet.forget_query(query, &forgotten.hosts, kept);
        for host in std::mem::take(&mut forgotten.hosts) {
            self.last_end_request += 1;
            if self.fleet.await_query_end(host, query, self.last_end_request) {
                self.end_requests.insert(self.last_end_request, (query, host));
                // A query that is planned again ends more than once.
                self.ending.entry(query).or_default().open += 1;
            }
        }
        if let Some(ending) = self.ending.get_mut(&query) {
            ending.waiting.append(&mut forgotten.waiting);
        }
        Some(forgotten)
    }

    /// A query waits at this place of so many.
    fn waits(&mut self, id: QueryId, position: usize, queued: Option<usize>) {
        self.history.update(id, |record| record.waits(position as u64));
        if let Some(query) = self.queries.get(&id) {
            query.publish_position(position, queued);
        }
    }
}
