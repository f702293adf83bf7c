//! Hosts: which may run what, and what they have left.

use std::collections::{BTreeMap, BTreeSet};

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

    /// Its place among those that have room for a function; `None` when it has none.
    fn place(&self, id: HostId) -> Option<(u32, usize, HostId)> {
        (self.functions < self.max_functions).then(|| (self.busy_vcpus(), self.functions, id))
    }

    /// It has vCPUs for one more attempt in a function of this shape.
    pub(super) fn has_vcpus(&self, shape: FunctionShape) -> bool {
        self.running_vcpus.saturating_add(shape.vcpus) <= self.vcpus
    }

    pub(super) fn busy_vcpus(&self) -> u32 {
        self.starting_vcpus.saturating_add(self.running_vcpus)
    }
}

/// Hosts that functions of a class are started on.
#[derive(Debug, Default)]
struct Usable {
    /// Ascending.
    ids: Vec<HostId>,
    /// Those that have room for a function, by what they do: busy vCPUs, functions.
    with_room: BTreeSet<(u32, usize, HostId)>,
}

/// All hosts, by id.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    all: BTreeMap<HostId, Host>,
    /// vCPUs of those that count.
    total_vcpus: u32,
    /// Functions that all hosts may have, whether they count or not.
    capacity: usize,
    /// For the classes that hosts name; `None`: for any other class.
    usable: BTreeMap<Option<u16>, Usable>,
    /// Those that are given nothing new, and were not let go.
    draining: BTreeSet<HostId>,
}

impl Hosts {
    pub(super) fn insert(&mut self, id: HostId, host: Host) {
        self.all.insert(id, host);
        self.count();
    }

    pub(super) fn remove(&mut self, id: HostId) {
        self.all.remove(&id);
        self.draining.remove(&id);
        self.count();
    }

    fn count(&mut self) {
        self.total_vcpus = self.counted().fold(0, |sum, host| sum.saturating_add(host.vcpus));
        self.capacity = self.all.values().fold(0, |sum, host| sum.saturating_add(host.max_functions));
        let named: BTreeSet<u16> = self.all.values().flat_map(|host| host.classes.iter().copied()).collect();
        // A class that no host names is one that every host without names offers.
        let unnamed = (0..=u16::MAX).find(|class| !named.contains(class));
        let classes = named.into_iter().map(|class| (Some(class), class));
        let classes = classes.chain(unnamed.map(|class| (None, class)));
        let usable = |(key, class)| {
            let ids: Vec<HostId> = self.of_class(class).collect();
            let with_room = ids.iter().filter_map(|id| self.all[id].place(*id)).collect();
            (key, Usable { ids, with_room })
        };
        self.usable = classes.map(usable).collect();
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

    /// What a host does changes; it as it is then.
    pub(super) fn change(&mut self, id: HostId, change: impl FnOnce(&mut Host)) -> Option<&Host> {
        let host = self.all.get_mut(&id)?;
        let before = host.place(id);
        change(host);
        let after = host.place(id);
        if before != after {
            for usable in self.usable.values_mut().filter(|usable| usable.ids.binary_search(&id).is_ok()) {
                if let Some(before) = &before {
                    usable.with_room.remove(before);
                }
                usable.with_room.extend(after);
            }
        }
        Some(host)
    }

    /// It is given nothing new.
    pub(super) fn drain(&mut self, id: HostId) {
        if let Some(host) = self.all.get_mut(&id)
            && host.leaving == Leaving::No
        {
            host.leaving = Leaving::Drains;
            self.draining.insert(id);
            self.count();
        }
    }

    /// Nothing of it is needed.
    pub(super) fn let_go(&mut self, id: HostId) {
        if let Some(host) = self.all.get_mut(&id) {
            host.leaving = Leaving::LetGo;
            self.draining.remove(&id);
        }
    }

    /// Those that are given nothing new, and were not let go.
    pub(super) fn draining(&self) -> impl Iterator<Item = (HostId, &Host)> + '_ {
        self.draining.iter().filter_map(|id| Some((*id, self.all.get(id)?)))
    }

    /// Starts are tried again everywhere.
    pub(super) fn forgive(&mut self) {
        self.all.values_mut().for_each(|host| host.failed_starts = 0);
    }

    fn of_class(&self, class: u16) -> impl Iterator<Item = HostId> + '_ {
        let has_others = self.all.values().any(|host| !host.is_reserve && host.offers(class));
        let usable = self.all.iter().filter(move |(_, host)| host.offers(class) && !(host.is_reserve && has_others));
        usable.map(|(id, _)| *id)
    }

    fn class(&self, class: u16) -> Option<&Usable> {
        self.usable.get(&Some(class)).or_else(|| self.usable.get(&None))
    }

    /// Ids of the hosts that functions of this class are started on, ascending.
    pub(super) fn usable_ids(&self, class: u16) -> &[HostId] {
        self.class(class).map_or(&[], |usable| &usable.ids)
    }

    /// Those of them that have room for a function, the one that does the least first.
    pub(super) fn with_room(&self, class: u16, most_failed: u32) -> impl Iterator<Item = (HostId, &Host)> + '_ {
        let ids = self.class(class).into_iter().flat_map(|usable| &usable.with_room);
        let hosts = ids.filter_map(|(.., id)| Some((*id, self.all.get(id)?)));
        hosts.filter(move |(_, host)| host.has_room(most_failed))
    }

    /// Hosts that functions of this class are started on.
    pub(super) fn usable(&self, class: u16) -> impl Iterator<Item = (HostId, &Host)> + '_ {
        self.usable_ids(class).iter().filter_map(|id| Some((*id, self.all.get(id)?)))
    }

    /// Functions of this class are started on that host.
    pub(super) fn is_usable(&self, id: HostId, class: u16) -> bool {
        self.usable_ids(class).binary_search(&id).is_ok()
    }

    /// Those that count: the reserve does not where there are others. One that leaves does, for what runs there.
    pub(super) fn counted(&self) -> impl Iterator<Item = &Host> + '_ {
        let has_others = self.all.values().any(|host| !host.is_reserve && !host.is_leaving());
        self.all.values().filter(move |host| !(host.is_reserve && has_others))
    }
}
