//! Which hosts a coordinator had, for the one after it: `hosts/PLACE` in etcd, PLACE being the address, or the name of a host without one.
//!
//! The next leader shows them in `system.hosts` as expected, until they have joined it or took too long for that.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use onward_state::{Change, Fenced, StateError};

use super::hosts::{HostRecord, HostTable};

const PREFIX: &str = "hosts/";
/// Hosts often join together: so do their entries.
const TOGETHER: Duration = Duration::from_millis(100);

/// Expects the hosts that the coordinator before this one had, for `wait`, and keeps those of this one. It ends when another one leads.
pub(crate) async fn keep(state: Fenced, table: Arc<HostTable>, wait: Duration) {
    let found = match state.list(PREFIX).await {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(%error, "hosts of the coordinator before this one are not known");
            BTreeMap::new()
        }
    };
    let expected = found.values().filter_map(|value| serde_json::from_slice::<HostRecord>(value).ok());
    table.expect(expected);
    let (mut kept, mut changed, deadline) = (found, table.changed(), tokio::time::Instant::now() + wait);
    let mut is_waiting = true;
    loop {
        let now: BTreeMap<String, Vec<u8>> = (table.members().into_iter())
            .filter_map(|record| Some((format!("{PREFIX}{}", record.place()), serde_json::to_vec(&record).ok()?)))
            .collect();
        let news = now.iter().filter(|(key, value)| kept.get(*key) != Some(value));
        let puts = news.map(|(key, value)| Change::Put { key: key.clone(), value: value.clone() });
        let gone = kept.keys().filter(|key| !now.contains_key(*key));
        let changes: Vec<_> = puts.chain(gone.map(|key| Change::Delete { key: key.clone() })).collect();
        match state.write_in_order(changes).await {
            Ok(()) => kept = now,
            Err(StateError::Deposed { .. }) => return,
            Err(error) => tracing::warn!(%error, "which hosts there are is not kept"),
        }
        tokio::select! {
            is_there = changed.changed() => if is_there.is_err() { return },
            () = tokio::time::sleep_until(deadline), if is_waiting => {
                is_waiting = false;
                table.expect(std::iter::empty());
            }
        }
        tokio::time::sleep(TOGETHER).await;
    }
}
