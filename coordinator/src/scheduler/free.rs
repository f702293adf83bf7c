//! Functions that may take a task, in the order in which they are taken.

use std::collections::{BTreeMap, BTreeSet};

use onward_wire::{FunctionId, HostId};

/// Functions of one shape that do nothing, by host.
#[derive(Debug, Default)]
pub(super) struct Free {
    by_host: BTreeMap<HostId, OnHost>,
    /// vCPUs that run on a host, the oldest function that is free there, and the host.
    by_load: BTreeSet<(u32, FunctionId, HostId)>,
}

#[derive(Debug, Default)]
struct OnHost {
    running_vcpus: u32,
    functions: BTreeSet<FunctionId>,
}

impl Free {
    pub(super) fn insert(&mut self, host: HostId, running_vcpus: u32, function: FunctionId) {
        self.change(host, |on| {
            on.running_vcpus = running_vcpus;
            on.functions.insert(function);
        });
    }

    /// Nothing when it is not there.
    pub(super) fn remove(&mut self, host: HostId, function: FunctionId) {
        if self.by_host.get(&host).is_some_and(|on| on.functions.contains(&function)) {
            self.change(host, |on| {
                on.functions.remove(&function);
            });
        }
    }

    /// So many vCPUs run on `host` now.
    pub(super) fn set_load(&mut self, host: HostId, running_vcpus: u32) {
        if self.by_host.get(&host).is_some_and(|on| on.running_vcpus != running_vcpus) {
            self.change(host, |on| on.running_vcpus = running_vcpus);
        }
    }

    fn change(&mut self, host: HostId, change: impl FnOnce(&mut OnHost)) {
        let place = |on: &OnHost| on.functions.first().map(|oldest| (on.running_vcpus, *oldest, host));
        let on = self.by_host.entry(host).or_default();
        let before = place(on);
        change(on);
        let after = place(on);
        if before != after {
            if let Some(before) = before {
                self.by_load.remove(&before);
            }
            self.by_load.extend(after);
        }
        if after.is_none() {
            self.by_host.remove(&host);
        }
    }

    /// The best one that `is_wanted`: on the host that is preferred, else on the one that does the least (of several the one with
    /// the oldest function), there the oldest.
    pub(super) fn best(
        &self,
        preferred: Option<HostId>,
        is_wanted: impl Fn(&FunctionId) -> bool,
    ) -> Option<FunctionId> {
        let wanted_on = |host: HostId| self.by_host.get(&host)?.functions.iter().copied().find(&is_wanted);
        let others = || self.by_load.iter().find_map(|(.., host)| wanted_on(*host));
        preferred.and_then(wanted_on).or_else(others)
    }

    /// All, by host.
    pub(super) fn iter(&self) -> impl Iterator<Item = FunctionId> + '_ {
        self.by_host.values().flat_map(|on| on.functions.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_is_on_the_preferred_host_or_the_one_that_does_the_least() {
        let mut free = Free::default();
        for (host, load, function) in [(1, 3, 10), (1, 3, 11), (2, 1, 13), (3, 1, 12), (3, 1, 14)] {
            free.insert(HostId(host), load, FunctionId(function));
        }
        let best = |free: &Free, preferred: Option<u32>, unwanted: &[u64]| {
            let is_wanted = |function: &FunctionId| !unwanted.contains(&function.0);
            free.best(preferred.map(HostId), is_wanted).map(|function| function.0)
        };
        assert_eq!(best(&free, Some(1), &[]), Some(10));
        assert_eq!(best(&free, Some(1), &[10]), Some(11));
        assert_eq!(best(&free, Some(9), &[]), Some(12));
        assert_eq!(best(&free, None, &[12]), Some(14));
        free.set_load(HostId(3), 4);
        free.set_load(HostId(9), 0);
        assert_eq!(best(&free, None, &[]), Some(13));
        free.remove(HostId(2), FunctionId(13));
        free.remove(HostId(2), FunctionId(13));
        assert_eq!(best(&free, None, &[]), Some(10));
        assert_eq!(free.iter().map(|function| function.0).collect::<Vec<_>>(), [10, 11, 12, 14]);
        assert_eq!(best(&free, None, &[10, 11, 12, 14]), None);
    }
}
