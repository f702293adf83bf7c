//! Which host keeps which columns: rendezvous hashing.
//!
//! Every host that knows the list of hosts picks the same one for a row group, without asking anybody. A host that joins takes
//! its share from all others alike, 1/n of the columns, and one that leaves gives its own to all others; nothing else moves
//! (Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", 1998).

use std::hash::Hasher;

use onward_wire::columns::ObjectVersion;
use twox_hash::XxHash64;

/// The host of row group `row_group` of an object, by its position in `hosts`; `None` when there is none. The version does not
/// count: an object that is overwritten stays where it was.
pub fn host_of<H: AsRef<str>>(hosts: &[H], object: &ObjectVersion, row_group: u32) -> Option<usize> {
    let score = |host: &str| {
        // Part of what hosts agree on: another seed or order is another placement.
        let mut hasher = XxHash64::with_seed(0);
        hasher.write(object.url.as_bytes());
        hasher.write(&row_group.to_le_bytes());
        hasher.write(host.as_bytes());
        hasher.finish()
    };
    // Names decide a tie, so that the order of the list does not.
    (0..hosts.len()).max_by_key(|at| (score(hosts[*at].as_ref()), hosts[*at].as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW_GROUPS: u32 = 10_000;

    fn placed(hosts: &[String]) -> Vec<String> {
        let object = ObjectVersion { url: "s3://b/t.parquet".to_owned(), version: "1".to_owned() };
        (0..ROW_GROUPS).map(|group| hosts[host_of(hosts, &object, group).unwrap()].clone()).collect()
    }

    #[test]
    fn a_host_that_joins_moves_its_share_and_nothing_else() {
        let hosts: Vec<String> = (0..5).map(|host| format!("10.0.0.{host}:7000")).collect();
        let (before, after) = (placed(&hosts[..4]), placed(&hosts));
        let moved: Vec<_> = before.iter().zip(&after).filter(|(before, after)| before != after).collect();
        assert!(moved.iter().all(|(_, after)| **after == hosts[4]), "columns only move to the new host");
        let share = moved.len() as f64 / f64::from(ROW_GROUPS);
        assert!((share - 0.2).abs() < 0.02, "{share}");
    }

    #[test]
    fn hosts_get_equal_shares_in_whatever_order_they_are_listed() {
        let hosts: Vec<String> = (0..4).map(|host| format!("host-{host}")).collect();
        let placed_here = placed(&hosts);
        for host in &hosts {
            let share = placed_here.iter().filter(|placed| *placed == host).count() as f64 / f64::from(ROW_GROUPS);
            assert!((share - 0.25).abs() < 0.02, "{host}: {share}");
        }
        let mut turned = hosts.clone();
        turned.reverse();
        assert_eq!(placed(&turned), placed_here);
        assert_eq!(host_of(&[] as &[&str], &ObjectVersion::default(), 0), None);
    }
}
