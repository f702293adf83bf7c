//! Hosts: which may run what, and what they have left.

use std::collections::BTreeMap;

use onward_wire::HostId;

use super::event::FunctionShape;

/// A host that functions run on.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) vcpus: u32,
    pub(super) max_functions: usize,
    /// It is used for a class only while no other host offers that.
    pub(super) is_reserve: bool,
    /// Classes that it offers; empty: all.
    pub(super) classes: Vec<u16>,
    /// Functions alive or starting.
    pub(super) functions: usize,
    pub(super) starting_vcpus: u32,
    pub(super) running_vcpus: u32,
    /// Starts that failed in a row.
    pub(super) failed_starts: u32,
    leaving: Leaving,
}

/// How far a host is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    No,
    /// It is given nothing new.
    Drains,
    /// It was told that nothing of it is needed.
    LetGo,
}

impl Host {
    pub(super) fn new(vcpus: u32, max_functions: usize, classes: Vec<u16>, is_reserve: bool) -> Self {
        Self {
            vcpus,
            max_functions: max_functions.max(1),
            is_reserve,
            classes,
            functions: 0,
            starting_vcpus: 0,
            running_vcpus: 0,
            failed_starts: 0,
            leaving: Leaving::No,
        }
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving != Leaving::No
    }

    fn offers(&self, class: u16) -> bool {
        !self.is_leaving() && (self.classes.is_empty() || self.classes.contains(&class))
    }

    /// One more function may be started here, where fewer than `most_failed` starts in a row failed.
    pub(super) fn has_room(&self, most_failed: u32) -> bool {
        self.failed_starts < most_failed && self.functions < self.max_functions
    }

    /// It has vCPUs for one more attempt in a function of this shape.
    pub(super) fn has_vcpus(&self, shape: FunctionShape) -> bool {
        self.running_vcpus.saturating_add(shape.vcpus) <= self.vcpus
    }

    pub(super) fn busy_vcpus(&self) -> u32 {
        self.starting_vcpus.saturating_add(self.running_vcpus)
    }
}

/// All hosts, by id.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    all: BTreeMap<HostId, Host>,
    /// vCPUs of those that count.
    total_vcpus: u32,
    /// Functions that all hosts may have, whether they count or not.
    capacity: usize,
}

impl Hosts {
    pub(super) fn insert(&mut self, id: HostId, host: Host) {
        self.all.insert(id, host);
        self.count();
    }

    pub(super) fn remove(&mut self, id: HostId) {
        self.all.remove(&id);
        self.count();
    }

    fn count(&mut self) {
        self.total_vcpus = self.counted().fold(0, |sum, host| sum.saturating_add(host.vcpus));
        self.capacity = self.all.values().fold(0, |sum, host| sum.saturating_add(host.max_functions));
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// vCPUs of all hosts that count.
    pub(super) fn total_vcpus(&self) -> u32 {
        self.total_vcpus
    }

    pub(super) fn get(&self, id: HostId) -> Option<&Host> {
        self.all.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: HostId) -> Option<&mut Host> {
        self.all.get_mut(&id)
    }

    /// It is given nothing new.
    pub(super) fn drain(&mut self, id: HostId) {
        if let Some(host) = self.get_mut(id)
            && host.leaving == Leaving::No
        {
            host.leaving = Leaving::Drains;
            self.count();
        }
    }

    /// Nothing of it is needed.
    pub(super) fn let_go(&mut self, id: HostId) {
        if let Some(host) = self.get_mut(id) {
            host.leaving = Leaving::LetGo;
        }
    }

    /// Those that are given nothing new, and were not let go.
    pub(super) fn draining(&self) -> impl Iterator<Item = (HostId, &Host)> + '_ {
        self.all.iter().filter(|(_, host)| host.leaving == Leaving::Drains).map(|(id, host)| (*id, host))
    }

    /// Starts are tried again everywhere.
    pub(super) fn forgive(&mut self) {
        self.all.values_mut().for_each(|host| host.failed_starts = 0);
    }

    /// Hosts that functions of this class are started on.
    pub(super) fn usable(&self, class: u16) -> impl Iterator<Item = (HostId, &Host)> + '_ {
        let offers = move |host: &&Host| host.offers(class);
        let has_others = self.all.values().filter(offers).any(|host| !host.is_reserve);
        let usable = self.all.iter().filter(move |(_, host)| host.offers(class) && !(host.is_reserve && has_others));
        usable.map(|(id, host)| (*id, host))
    }

    /// Functions of this class are started on that host.
    pub(super) fn is_usable(&self, id: HostId, class: u16) -> bool {
        let is_other = |host: &Host| !host.is_reserve && host.offers(class);
        self.get(id).is_some_and(|host| host.offers(class) && !(host.is_reserve && self.all.values().any(is_other)))
    }

    /// Those that count: the reserve does not where there are others. One that leaves does, for what runs there.
    pub(super) fn counted(&self) -> impl Iterator<Item = &Host> + '_ {
        let has_others = self.all.values().any(|host| !host.is_reserve && !host.is_leaving());
        self.all.values().filter(move |host| !(host.is_reserve && has_others))
    }
}
