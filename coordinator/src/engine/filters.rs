//! Runtime filters of a running query: sketches come from attempts, and go to others once all that count are there.

use std::collections::{BTreeMap, HashMap, HashSet};

use onward_shuffle::merge_sketches;
use onward_wire::filters::{KeySketch, SketchSpec};
use onward_wire::message::DefineStage;
use onward_wire::{AttemptId, FunctionId};

/// The filters of one query.
#[derive(Default)]
pub(super) struct Filters {
    /// By stage: those that have a place there.
    places: Vec<Vec<u32>>,
    /// By stage: what its attempts make.
    specs: Vec<Vec<SketchSpec>>,
    /// Of attempts that are prepared and not committed.
    sketches: HashMap<AttemptId, Vec<KeySketch>>,
    /// Of the keys of the attempts in `merged`.
    partial: BTreeMap<u32, KeySketch>,
    /// Committed attempts of stages that are not complete.
    merged: HashSet<AttemptId>,
    /// Of all keys.
    complete: BTreeMap<u32, KeySketch>,
    /// Attempts that run and could use one.
    running: HashMap<AttemptId, FunctionId>,
}

impl Filters {
    pub(super) fn new(places: Vec<Vec<u32>>, stages: &[DefineStage]) -> Self {
        let specs = stages.iter().map(|stage| stage.sketches.clone()).collect();
        Self { places, specs, ..Self::default() }
    }

    /// A stage has another plan, with places for these.
    pub(super) fn replace(&mut self, stage: u32, places: Vec<u32>) {
        if let Some(before) = self.places.get_mut(stage as usize) {
            *before = places;
        }
    }

    /// An attempt begins: the filters that it may use at once.
    pub(super) fn begin(&mut self, attempt: AttemptId, function: FunctionId) -> Vec<KeySketch> {
        let places = self.places_of(attempt.task.stage.stage);
        if places.is_empty() {
            return Vec::new();
        }
        let known: Vec<_> = places.iter().filter_map(|filter| self.complete.get(filter)).cloned().collect();
        if known.len() < places.len() {
            self.running.insert(attempt, function);
        }
        known
    }

    /// An attempt ended, and made these sketches.
    pub(super) fn end(&mut self, attempt: AttemptId, sketches: Vec<KeySketch>) {
        self.running.remove(&attempt);
        if !sketches.is_empty() {
            self.sketches.insert(attempt, sketches);
        }
    }

    /// The rows of an attempt count. Those of one that counts no more, because it was lost, stay in the filter: it lets too much
    /// through.
    pub(super) fn committed(&mut self, attempt: AttemptId) {
        let Some(sketches) = self.sketches.remove(&attempt) else { return };
        for (sketch, spec) in sketches.into_iter().zip(&self.specs[attempt.task.stage.stage as usize]) {
            let parts: Vec<_> = self.partial.remove(&spec.filter).into_iter().chain([sketch]).collect();
            match merge_sketches(&parts, spec.most_bytes) {
                Ok(merged) => drop(self.partial.insert(spec.filter, merged)),
                Err(error) => {
                    tracing::warn!(%attempt, filter = spec.filter, %error, "the parts of a runtime filter do not fit");
                    return;
                }
            }
        }
        self.merged.insert(attempt);
    }

    /// All rows of a stage are there, made by `attempts`: who is to hear of which filters.
    pub(super) fn stage_completed(
        &mut self,
        stage: u32,
        attempts: &[AttemptId],
    ) -> Vec<(AttemptId, FunctionId, Vec<KeySketch>)> {
        // An attempt that was not heard of could have any key.
        let is_whole = attempts.iter().all(|attempt| self.merged.contains(attempt));
        let specs = self.specs.get(stage as usize).map_or(&[][..], Vec::as_slice);
        let mut news = Vec::new();
        for spec in specs.iter().filter(|_| is_whole) {
            let nothing = KeySketch { filter: spec.filter, is_exact: true, ..KeySketch::default() };
            if !self.complete.contains_key(&spec.filter) {
                self.complete.insert(spec.filter, self.partial.remove(&spec.filter).unwrap_or(nothing));
                news.push(spec.filter);
            }
        }
        self.sketches.retain(|attempt, _| attempt.task.stage.stage != stage);
        self.merged.retain(|attempt| attempt.task.stage.stage != stage);
        if news.is_empty() {
            return Vec::new();
        }
        let told = |(attempt, function): (&AttemptId, &FunctionId)| {
            let places = self.places_of(attempt.task.stage.stage);
            let filters = news.iter().filter(|filter| places.contains(filter));
            let filters: Vec<_> = filters.filter_map(|filter| self.complete.get(filter)).cloned().collect();
            (!filters.is_empty()).then_some((*attempt, *function, filters))
        };
        self.running.iter().filter_map(told).collect()
    }

    fn places_of(&self, stage: u32) -> &[u32] {
        self.places.get(stage as usize).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use onward_wire::{QueryId, StageId};

    use super::*;

    fn attempt(stage: u32, task: u32, attempt: u32) -> AttemptId {
        StageId::new(QueryId(1), stage).task(task).attempt(attempt)
    }

    fn sketch(hashes: &[u64]) -> Vec<KeySketch> {
        let hashes = hashes.iter().flat_map(|hash| hash.to_le_bytes()).collect::<Vec<_>>().into();
        vec![KeySketch { filter: 7, hashes, is_exact: true, ..KeySketch::default() }]
    }

    /// Stage 0 makes filter 7, which has a place in stage 1.
    fn filters() -> Filters {
        let spec = SketchSpec { filter: 7, columns: vec![0], most_bytes: 1 << 10 };
        let stages = [DefineStage { sketches: vec![spec], ..DefineStage::default() }, DefineStage::default()];
        Filters::new(vec![vec![], vec![7]], &stages)
    }

    #[test]
    fn a_filter_goes_to_who_runs_and_to_who_begins_later() {
        let mut filters = filters();
        assert!(filters.begin(attempt(1, 0, 0), FunctionId(4)).is_empty());
        assert!(filters.begin(attempt(1, 1, 0), FunctionId(5)).is_empty());
        filters.end(attempt(1, 1, 0), vec![]);
        filters.end(attempt(0, 0, 0), sketch(&[1]));
        // The try of a function that was lost: it may have other keys, and does not count.
        filters.end(attempt(0, 1, 0), sketch(&[9]));
        filters.end(attempt(0, 1, 1), sketch(&[2]));
        filters.committed(attempt(0, 0, 0));
        filters.committed(attempt(0, 1, 1));
        let told = filters.stage_completed(0, &[attempt(0, 0, 0), attempt(0, 1, 1)]);
        assert_eq!(told, [(attempt(1, 0, 0), FunctionId(4), sketch(&[1, 2]))]);
        assert_eq!(filters.begin(attempt(1, 2, 0), FunctionId(6)), sketch(&[1, 2]));
        assert!(filters.sketches.is_empty() && filters.merged.is_empty() && filters.partial.is_empty());
        // It ran again, with its host lost: the filter stays.
        filters.end(attempt(0, 0, 1), sketch(&[1]));
        filters.committed(attempt(0, 0, 1));
        assert!(filters.stage_completed(0, &[attempt(0, 0, 1), attempt(0, 1, 1)]).is_empty());
    }

    #[test]
    fn without_the_keys_of_all_rows_there_is_no_filter() {
        let mut filters = filters();
        filters.begin(attempt(1, 0, 0), FunctionId(4));
        filters.end(attempt(0, 0, 0), sketch(&[1]));
        filters.committed(attempt(0, 0, 0));
        filters.end(attempt(0, 1, 0), vec![]);
        filters.committed(attempt(0, 1, 0));
        assert!(filters.stage_completed(0, &[attempt(0, 0, 0), attempt(0, 1, 0)]).is_empty());
        assert!(filters.begin(attempt(1, 1, 0), FunctionId(4)).is_empty());
    }
}
