//! What tests and benches stand on: parts of the world outside Onward.

pub mod coordinators;
pub mod etcd;
pub mod lambda;
pub mod network;
pub mod s3_proxy;
pub mod slurm;

/// The repository's directory. Cargo says it when tests run: what it said when they were built is another clone's, when two clones
/// share a target directory.
#[cfg(test)]
pub fn root() -> std::path::PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), Into::into)
}

/// The settings that tests begin with: the defaults, with the lifetime of functions that `ONWARD_FUNCTION_LIFETIME_MS` says, so that
/// all tests can run with functions that die young.
#[cfg(test)]
pub fn config() -> onward_wire::Config {
    let mut config = onward_wire::Config::default();
    if let Some(lifetime_ms) = std::env::var("ONWARD_FUNCTION_LIFETIME_MS").ok().and_then(|text| text.parse().ok()) {
        config.function_lifetime_ms = lifetime_ms;
    }
    config
}
