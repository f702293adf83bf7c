//! Names of hosts: whose they are, and which.

use std::fmt;
use std::str::FromStr;

/// What every name begins with.
const PREFIX: &str = "onward-";
/// Digits that tell hosts of a cluster apart.
const DIGITS: usize = 8;
/// Launchers take names of 63 letters (labels of DNS); the rest is `onward-`, a hyphen and the digits.
const MOST_LETTERS: usize = 63 - PREFIX.len() - 1 - DIGITS;

/// Not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no name of a cluster: it has 1 to {MOST_LETTERS} lower-case letters, digits and single hyphens, and begins and ends \
     with a letter or digit"
)]
pub struct NameError(String);

/// A cluster's name: all hosts that one coordinator, or those that stand in for it, started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterName(String);

impl FromStr for ClusterName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let is_word =
            |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        match text.len() <= MOST_LETTERS && text.split('-').all(is_word) {
            true => Ok(Self(text.to_owned())),
            false => Err(NameError(text.to_owned())),
        }
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A host's name: `onward-CLUSTER-0123abcd`. A label of DNS, so that every launcher takes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(String);

impl HostName {
    /// A name that no host has.
    pub fn random(cluster: &ClusterName, random: &mut fastrand::Rng) -> Self {
        Self(format!("{PREFIX}{cluster}-{:08x}", random.u32(..)))
    }

    /// `text`, if it is the name of a host of `cluster`.
    pub fn of(cluster: &ClusterName, text: &str) -> Option<Self> {
        let digits = text.strip_prefix(PREFIX)?.strip_prefix(&cluster.0)?.strip_prefix('-')?;
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (digits.len() == DIGITS && digits.bytes().all(is_digit)).then(|| Self(text.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_whose_host_it_is() {
        let cluster: ClusterName = "blue".parse().expect("a name");
        let name = HostName::random(&cluster, &mut fastrand::Rng::with_seed(1));
        assert_eq!(HostName::of(&cluster, name.as_str()), Some(name.clone()));
        let other: ClusterName = "blue-2".parse().expect("a name");
        assert_eq!(HostName::of(&other, name.as_str()), None);
        let of_other = HostName::random(&other, &mut fastrand::Rng::with_seed(1));
        assert_eq!(HostName::of(&cluster, of_other.as_str()), None, "a prefix is not the name");
        assert_eq!(HostName::of(&cluster, "onward-blue-0123abcg"), None);
    }

    #[test]
    fn what_launchers_do_not_take_is_no_cluster() {
        for text in ["", "-", "a-", "-a", "a--b", "A", "a b", "ä", "a_b", &"a".repeat(MOST_LETTERS + 1)] {
            assert!(text.parse::<ClusterName>().is_err(), "{text}");
        }
        for text in ["a", "0", "blue-2", &"a".repeat(MOST_LETTERS)] {
            assert_eq!(text.parse::<ClusterName>().map(|name| name.to_string()), Ok(text.to_owned()));
        }
    }
}
