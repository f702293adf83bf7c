//! `system.hosts`: who is there, and what each holds.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::Result;
use onward_wire::cluster::{Heartbeat, Join};
use onward_wire::{Config, ENGINE_VERSION, HostId};
use parking_lot::Mutex;

use super::snapshot::Snapshot;

/// A host, as it introduced itself.
#[derive(Clone, Debug)]
pub struct HostRecord {
    host: HostId,
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
            host,
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
            host: HostId::EMBEDDED,
            name: "coordinator".to_owned(),
            address,
            version: ENGINE_VERSION.to_owned(),
            vcpus: config.vcpu_count() as u64,
            operator_memory_bytes: config.operator_memory_limit_bytes(),
        }
    }
}

/// The hosts there are.
#[derive(Debug, Default)]
pub struct HostTable {
    hosts: Mutex<BTreeMap<HostId, (HostRecord, Heartbeat)>>,
}

impl HostTable {
    /// A host is there; `None` keeps what it said last that it holds.
    pub fn record(&self, record: HostRecord, heartbeat: Option<Heartbeat>) {
        let mut hosts = self.hosts.lock();
        let before = hosts.get(&record.host).map(|(_, heartbeat)| *heartbeat).unwrap_or_default();
        hosts.insert(record.host, (record, heartbeat.unwrap_or(before)));
    }

    /// Where others reach a host.
    pub fn address(&self, host: HostId) -> Option<String> {
        self.hosts.lock().get(&host).and_then(|(record, _)| record.address.clone())
    }

    /// A host is gone.
    pub fn remove(&self, host: HostId) {
        self.hosts.lock().remove(&host);
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
            text("host", false),
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
        ]);
        Self { hosts, schema: Arc::new(schema) }
    }
}

impl Snapshot for HostsTable {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn batch(&self) -> Result<RecordBatch> {
        let hosts: Vec<_> = self.hosts.hosts.lock().values().cloned().collect();
        let text = |of: fn(&HostRecord) -> Option<String>| {
            Arc::new(hosts.iter().map(|(record, _)| of(record)).collect::<StringArray>()) as ArrayRef
        };
        let number = |of: fn(&HostRecord, &Heartbeat) -> u64| {
            Arc::new(hosts.iter().map(|(record, beat)| of(record, beat)).collect::<UInt64Array>()) as ArrayRef
        };
        let columns = vec![
            text(|record| Some(record.host.to_string())),
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
        ];
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}
