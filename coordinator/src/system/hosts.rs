//! `system.hosts`: who is there, and what each holds.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::Result;
use onward_wire::cluster::{Heartbeat, Join};
use onward_wire::{Config, ENGINE_VERSION, HostId};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::snapshot::Snapshot;

/// A host, as it introduced itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HostRecord {
    /// `None`: the coordinator before this one had it, and it has not joined this one.
    #[serde(skip)]
    host: Option<HostId>,
    name: String,
    address: Option<String>,
    version: String,
    vcpus: u64,
    operator_memory_bytes: u64,
}

impl HostRecord {
    /// One that joined.
    pub fn new(host: HostId, join: &Join) -> Self {
        Self {
            host: Some(host),
            name: join.name.clone(),
            address: (!join.is_outbound).then(|| join.address.clone()),
            version: join.engine_version.clone(),
            vcpus: u64::from(join.vcpus),
            operator_memory_bytes: join.operator_memory_bytes,
        }
    }

    /// The coordinator's own.
    pub fn of_coordinator(config: &Config, address: Option<String>) -> Self {
        Self {
            host: Some(HostId::EMBEDDED),
            name: "coordinator".to_owned(),
            address,
            version: ENGINE_VERSION.to_owned(),
            vcpus: config.vcpu_count() as u64,
            operator_memory_bytes: config.operator_memory_limit_bytes(),
        }
    }
}

impl HostRecord {
    /// What it is known by, whichever coordinator it joined.
    pub(super) fn place(&self) -> &str {
        self.address.as_ref().unwrap_or(&self.name)
    }
}

/// The hosts there are.
#[derive(Debug, Default)]
pub struct HostTable {
    hosts: Mutex<BTreeMap<HostId, (HostRecord, Heartbeat)>>,
    /// Those that the coordinator before this one had, by place.
    expected: Mutex<BTreeMap<String, HostRecord>>,
    /// A host joined or left.
    changed: watch::Sender<()>,
}

impl HostTable {
    /// A host is there; `None` keeps what it said last that it holds.
    pub fn record(&self, record: HostRecord, heartbeat: Option<Heartbeat>) {
        let Some(host) = record.host else { return };
        self.expected.lock().remove(record.place());
        let mut hosts = self.hosts.lock();
        let before = hosts.get(&host).map(|(_, heartbeat)| *heartbeat);
        hosts.insert(host, (record, heartbeat.or(before).unwrap_or_default()));
        drop(hosts);
        if before.is_none() {
            self.changed.send_replace(());
        }
    }

    /// From now on only these are expected.
    pub(super) fn expect(&self, records: impl Iterator<Item = HostRecord>) {
        let mut expected: BTreeMap<String, HostRecord> =
            records.map(|record| (record.place().to_owned(), record)).collect();
        for (record, _) in self.hosts.lock().values() {
            expected.remove(record.place());
        }
        *self.expected.lock() = expected;
    }

    /// Those that joined, without the coordinator's own.
    pub(super) fn members(&self) -> Vec<HostRecord> {
        let hosts = self.hosts.lock();
        let joined = hosts.iter().filter(|(host, _)| **host != HostId::EMBEDDED);
        joined.map(|(_, (record, _))| record.clone()).collect()
    }

    /// Told whenever a host joined or left.
    pub(super) fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Where others reach a host.
    pub fn address(&self, host: HostId) -> Option<String> {
        self.hosts.lock().get(&host).and_then(|(record, _)| record.address.clone())
    }

    /// A host is gone.
    pub fn remove(&self, host: HostId) {
        if self.hosts.lock().remove(&host).is_some() {
            self.changed.send_replace(());
        }
    }
}

/// The table over a [`HostTable`].
pub(super) struct HostsTable {
    hosts: Arc<HostTable>,
    schema: SchemaRef,
}

impl HostsTable {
    pub(super) fn new(hosts: Arc<HostTable>) -> Self {
        let text = |name, is_nullable| Field::new(name, DataType::Utf8, is_nullable);
        let number = |name| Field::new(name, DataType::UInt64, false);
        let schema = Schema::new(vec![
            text("host", true),
            text("name", false),
            text("address", true),
            number("vcpus"),
            number("operator_memory_bytes"),
            number("functions"),
            number("segments"),
            number("segment_memory_bytes"),
            number("segment_disk_bytes"),
            number("column_bytes"),
            number("fetched_bytes"),
            number("served_bytes"),
            text("version", false),
            text("state", false),
        ]);
        Self { hosts, schema: Arc::new(schema) }
    }
}

impl Snapshot for HostsTable {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn batch(&self) -> Result<RecordBatch> {
        let mut hosts: Vec<_> = self.hosts.hosts.lock().values().cloned().collect();
        hosts.extend(self.hosts.expected.lock().values().map(|record| (record.clone(), Heartbeat::default())));
        let text = |of: fn(&HostRecord) -> Option<String>| {
            Arc::new(hosts.iter().map(|(record, _)| of(record)).collect::<StringArray>()) as ArrayRef
        };
        let number = |of: fn(&HostRecord, &Heartbeat) -> u64| {
            Arc::new(hosts.iter().map(|(record, beat)| of(record, beat)).collect::<UInt64Array>()) as ArrayRef
        };
        let columns = vec![
            text(|record| record.host.map(|host| host.to_string())),
            text(|record| Some(record.name.clone())),
            text(|record| record.address.clone()),
            number(|record, _| record.vcpus),
            number(|record, _| record.operator_memory_bytes),
            number(|_, beat| beat.functions),
            number(|_, beat| beat.segments),
            number(|_, beat| beat.segment_memory_bytes),
            number(|_, beat| beat.segment_disk_bytes),
            number(|_, beat| beat.column_bytes),
            number(|_, beat| beat.fetched_bytes),
            number(|_, beat| beat.served_bytes),
            text(|record| Some(record.version.clone())),
            text(|record| Some(if record.host.is_some() { "joined" } else { "expected" }.to_owned())),
        ];
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}
