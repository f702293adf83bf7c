//! Every setting and limit of Onward, declared once: the file key, the environment variable, the default, the unit and
//! the documentation all come from the table in this file. Sources, strongest first: command-line flag, environment
//! variable `ONWARD_<NAME>`, file (`--config`), default.
//!
//! Durations end in `_ms`, sizes in `_bytes`; a size of 0 means "derive it" where the documentation says so.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{ErrorKind, WireError};

/// One row of the settings table, for `--help`, README and `SHOW`.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Key in the file; upper-cased after `ONWARD_` it is the environment variable.
    pub name: &'static str,
    /// What it limits, its unit, and why the default.
    pub doc: &'static str,
}

impl Setting {
    /// It counts bytes: people may write it with a unit.
    pub fn is_size(&self) -> bool {
        self.name.ends_with("_bytes") || self.name.starts_with("bytes_")
    }
}

/// A queue with a name: `[queues.etl]` with `max_running = 2` in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QueueConfig {
    /// Queries of it that run at once, `max_running_queries` over all; 0 closes it.
    pub max_running: u32,
    /// Queries that wait in it; more are refused with ResourceExhausted.
    pub max_queued: u32,
    /// A query that waited this long in it fails with ResourceExhausted; 0: never.
    pub timeout_ms: u64,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self { max_running: 16, max_queued: 256, timeout_ms: 600_000 }
    }
}

/// A worker class: `[classes.big]` with `vcpus = 4` in the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClassConfig {
    /// Threads of each of its functions.
    pub vcpus: u32,
    /// Memory of the operators of each, in bytes.
    pub memory_bytes: u64,
    /// What one costs in US dollars; 0: what `price_file` says of its memory and vCPUs.
    pub usd_per_hour: f64,
    /// A host offers the class when it has all of these (`host_labels`), and the vCPUs.
    pub labels: Vec<String>,
}

impl Default for ClassConfig {
    fn default() -> Self {
        Self { vcpus: 1, memory_bytes: 2 * GIB, usd_per_hour: 0.0, labels: Vec::new() }
    }
}

/// Shorter lives than this end nothing: a function takes no task in their last quarter.
const LEAST_LIFETIME_MS: u64 = 100;
/// Less memory than this is none for an operator.
const LEAST_FUNCTION_BYTES: u64 = 16 * MIB;

impl Config {
    /// What cannot be meant.
    ///
    /// # Errors
    /// Of kind InvalidQuery, with the setting.
    pub fn check(&self) -> Result<(), WireError> {
        let invalid = |message: String| Err(WireError::new(ErrorKind::InvalidQuery, message));
        if (1..LEAST_LIFETIME_MS).contains(&self.function_lifetime_ms) {
            let ms = self.function_lifetime_ms;
            return invalid(format!(
                "function_lifetime_ms is {ms}: it is 0 (no limit) or at least {LEAST_LIFETIME_MS}"
            ));
        }
        for (name, class) in &self.classes {
            if class.vcpus == 0 {
                return invalid(format!("classes.{name}.vcpus is 0: a function has at least 1"));
            }
            if class.memory_bytes < LEAST_FUNCTION_BYTES {
                let (bytes, least) = (class.memory_bytes, LEAST_FUNCTION_BYTES);
                return invalid(format!("classes.{name}.memory_bytes is {bytes}: a function has at least {least}"));
            }
            if !class.usd_per_hour.is_finite() || class.usd_per_hour < 0.0 {
                let usd = class.usd_per_hour;
                return invalid(format!(
                    "classes.{name}.usd_per_hour is {usd}: it is a price, or 0 for that of price_file"
                ));
            }
        }
        Ok(())
    }
}

impl ClassConfig {
    /// A host with these labels and vCPUs has functions of this class.
    pub fn is_offered_by<'a>(&self, labels: impl Iterator<Item = &'a str> + Clone, vcpus: u32) -> bool {
        let has = |wanted: &String| labels.clone().any(|label| label == wanted);
        self.vcpus.max(1) <= vcpus && self.labels.iter().all(has)
    }
}

macro_rules! settings {
    ($($(#[doc = $doc:literal])+ $name:ident: $ty:ty = $default:expr;)*) => {
        /// All settings with their values. See [`SETTINGS`] for the table.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Config {
            $($(#[doc = $doc])+ pub $name: $ty,)*
        }

        impl Default for Config {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }

        /// The settings table, in declaration order.
        pub const SETTINGS: &[Setting] = &[
            $(Setting { name: stringify!($name), doc: concat!($($doc),+) },)*
        ];
    };
}

/// One kibibyte, mebibyte, gibibyte.
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

settings! {
    /// Memory of everything on this machine, in bytes; 0 takes 3/4 of what the machine or its cgroup has.
    memory_bytes: u64 = 0;
    /// Shared memory for segments (exchange and results) before the disk tier is used; 0 takes 1/4 of `memory_bytes`.
    segment_memory_bytes: u64 = 0;
    /// Of that, what one function may fill with what it writes; the rest of its output goes to disk. 0 takes 3/4.
    function_segment_bytes: u64 = 0;
    /// Local disk for segments past the shared-memory budget, at most nine tenths of what is free at start; a query that
    /// needs more fails with ResourceExhausted.
    segment_disk_bytes: u64 = 200 * GIB;
    /// Scans keep decoded columns in shared memory and read them from there. `SET onward.cache` overrides it per session.
    cache: bool = true;
    /// Shared memory for cached columns; 0 takes 1/4 of `memory_bytes`.
    cache_memory_bytes: u64 = 0;
    /// Local disk for bytes of remote objects, kept below the data directory and over restarts; at most half of what is free
    /// when it is first used. 0 keeps none.
    cache_disk_bytes: u64 = 20 * GIB;
    /// What a remote store said of its objects' versions counts this long; 0: every query asks, and never reads old data.
    cache_version_ttl_ms: u64 = 0;
    /// Memory limit of one function's operators; 0 takes what segments, cached columns and an eighth for all else leave of
    /// `memory_bytes` (at least an eighth), divided by the functions of the query.
    function_memory_bytes: u64 = 0;
    /// Local disk one function may spill to.
    function_spill_bytes: u64 = 100 * GIB;
    /// Where segments live: `auto` is /dev/shm when it is large enough, else `spill_dir`.
    segment_dir: String = "auto".to_owned();
    /// Directory for the disk tier and spills; empty takes the system's temporary directory.
    spill_dir: String = String::new();
    /// vCPUs shared by all functions of this machine; 0 takes the number of cores.
    vcpus: u32 = 0;
    /// Functions a query uses: 0 lets the planner choose from statistics (`auto`), N forces N.
    functions: u32 = 0;
    /// The most functions that run at once on this machine.
    max_functions: u32 = 64;
    /// A function that had nothing to do for this long leaves.
    function_idle_timeout_ms: u64 = 10_000;
    /// A function leaves when it is this old: it takes no task in the last quarter, and what it still runs at the end runs again. Scans
    /// are cut so that a task takes less than that quarter. 0: no limit.
    function_lifetime_ms: u64 = 900_000;
    /// A function that has not said hello after this long is killed and counted as lost.
    function_start_timeout_ms: u64 = 10_000;
    /// A function that works and says nothing for this long is killed, and what it ran runs again: it is stopped or stuck.
    function_silence_timeout_ms: u64 = 20_000;
    /// A function that has not stopped a cancelled attempt after this long is killed.
    cancel_grace_ms: u64 = 2_000;
    /// Tries of one task before the query fails.
    max_attempts: u32 = 4;
    /// Queries that run at once; more wait.
    max_running_queries: u32 = 16;
    /// Queries that wait; more are refused with ResourceExhausted.
    max_queued_queries: u32 = 256;
    /// A query that waited this long for its place fails with ResourceExhausted; 0: never.
    queue_timeout_ms: u64 = 600_000;
    /// Queues beside the default one, each with `max_running`, `max_queued` and `timeout_ms`: `[queues.etl]` in the file.
    /// `max_running_queries` holds over all of them.
    queues: BTreeMap<String, QueueConfig> = BTreeMap::new();
    /// Queries of one user that run at once, in all queues; more wait. 0: no limit. Users share places and functions evenly in any
    /// case.
    max_running_queries_per_user: u32 = 0;
    /// A query that asks for more functions is refused with ResourceExhausted; 0: no limit.
    max_functions_per_query: u32 = 0;
    /// A user with so many functions gets no new ones, only those that are idle; 0: no limit.
    max_functions_per_user: u32 = 0;
    /// Functions that may be started at once, as many as AWS Lambda starts; past them `function_starts_per_second` holds.
    function_start_burst: u32 = 1_000;
    /// Functions that may be started in a second past the burst; tasks wait for more. 0: no limit.
    function_starts_per_second: u32 = 100;
    /// Worker classes, each with `vcpus`, `memory_bytes`, `usd_per_hour` and `labels`: `[classes.big]` in the file. With some, each stage
    /// runs in the class that costs least for it; `SET onward.class` pins one.
    classes: BTreeMap<String, ClassConfig> = BTreeMap::new();
    /// What this machine has, for worker classes: words with commas between them, such as `arm64,nvme`.
    host_labels: String = String::new();
    /// Functions that are started before any query, kept while they have nothing to do, and replaced when they leave. They are of the
    /// size that a query has which runs on so many functions of one machine, or of the cheapest worker class. With 0 there are none when
    /// nothing runs.
    warm_functions: u32 = 0;
    /// JSON file with prices (gb_second, vcpu_second, million_requests, thousand_reads, thousand_writes, in US dollars) for the cost of
    /// queries; empty takes those of AWS.
    price_file: String = String::new();
    /// What queries took and cost is kept as lines of JSON in the data directory (queries/queries.jsonl), at most so many bytes; 0: it is
    /// not.
    query_log_bytes: u64 = 64 * MIB;
    /// A query is cancelled after this long; 0 is never. `SET onward.statement_timeout_ms` overrides it per session.
    statement_timeout_ms: u64 = 0;
    /// Input up to this many bytes runs in the coordinator, without dispatch, unless functions are forced.
    tiny_query_bytes: u64 = 4 * MIB;
    /// Input bytes that are worth one more function (sizing).
    bytes_per_function: u64 = 8 * GIB;
    /// A stage whose inputs turn out to be small runs as fewer tasks, each of at least this many bytes; 0 leaves the plan's.
    bytes_per_task: u64 = 4 * MIB;
    /// A partition of an exchange that is larger than this, and than four times the median, is read by several tasks; 0: never.
    skewed_partition_bytes: u64 = 64 * MIB;
    /// Where a function is free and no task waits, a stage starts on a part of its input, and is told of more as it comes.
    early_start: bool = true;
    /// Output of one attempt up to this size travels inside its completion message.
    inline_attempt_bytes: u64 = 64 * KIB;
    /// Inline output of one exchange; past it the store is used.
    inline_exchange_bytes: u64 = MIB;
    /// Inline output of one query; past it the store is used.
    inline_query_bytes: u64 = 4 * MIB;
    /// Rows one partition writer buffers before it writes a segment, in bytes of Arrow data.
    flush_bytes: u64 = 32 * MIB;
    /// Results wait this long for a client to fetch them.
    result_retention_ms: u64 = 300_000;
    /// Clients fetch the rows of a query from the hosts that hold them, in parallel; the query is over when they are told where.
    /// `SET onward.direct_results` overrides it per session.
    direct_results: bool = false;
    /// Sessions of the endpoint; more are refused.
    max_sessions: u32 = 1_000;
    /// A session without a call for this long is closed.
    session_idle_timeout_ms: u64 = 3_600_000;
    /// Prepared statements of one session; more are refused.
    max_prepared_statements: u32 = 1_000;
    /// Largest message between host and function.
    max_message_bytes: u64 = 256 * MIB;
    /// Time a drain waits for running queries on SIGTERM.
    drain_timeout_ms: u64 = 30_000;
    /// Directory with the cluster's certificates (`onward tls init` makes one); empty: hosts talk in plain text, on loopback
    /// addresses only.
    cluster_dir: String = String::new();
    /// The coordinator's own machine runs functions, too, when other hosts have joined.
    coordinator_functions: bool = true;
    /// A coordinator and its hosts hear of each other this often.
    heartbeat_ms: u64 = 1_000;
    /// A host that was not heard of for this long is lost, and what it held; so is the coordinator, for a host.
    host_silence_timeout_ms: u64 = 10_000;
    /// A host that was told to leave waits this long until nothing that it holds is needed any more.
    host_leave_timeout_ms: u64 = 30_000;
    /// A host that finds no coordinator for this long ends. 0: it tries for ever. Hosts that a provider starts are told 120000, those of
    /// `lambda` 30000, unless `provider_arguments` say otherwise.
    host_orphan_timeout_ms: u64 = 0;
    /// Several coordinators keep what they share in etcd, at these URLs, separated by commas: one leads, and when it is gone another one
    /// does. Empty: one coordinator, which keeps it in its data directory.
    etcd_endpoints: String = String::new();
    /// What keys in etcd begin with; empty: `/onward/` and the `cluster_name`.
    etcd_prefix: String = String::new();
    /// The user of etcd, if it asks for one.
    etcd_user: String = String::new();
    /// A file with the user's password.
    etcd_password_file: String = String::new();
    /// The authorities of etcd's certificates (PEM), for https.
    etcd_ca: String = String::new();
    /// This coordinator's certificate for etcd (PEM), if etcd asks for one.
    etcd_cert: String = String::new();
    /// Its private key (PEM).
    etcd_key: String = String::new();
    /// Of several coordinators: one that leads and is not heard of in etcd for this long leads no longer. etcd takes 2 s or more, unless its
    /// election timeout was shortened.
    leader_lease_ms: u64 = 2_000;
    /// Of several coordinators: a call waits for this long while none leads.
    failover_wait_ms: u64 = 10_000;
    /// What starts hosts when queries want them and stops them when they have nothing to do: `process` (on this machine), `command` (by
    /// the three commands below), `kubernetes` (as pods) or `lambda` (as invocations of a function of AWS Lambda).
    /// Empty: nobody; who joins is there. Needs --cluster-listen.
    provider: String = String::new();
    /// Hosts that a provider started have names that begin with `onward-`, this and a hyphen. No two clusters of one launcher have the same.
    cluster_name: String = "default".to_owned();
    /// Hosts that are kept whether there is anything to do or not.
    min_hosts: u32 = 0;
    /// The most hosts that are started.
    max_hosts: u32 = 4;
    /// vCPUs of a host that is started; one is started for so many functions of one vCPU that have work.
    host_vcpus: u32 = 2;
    /// Memory that a host which is started is given, in bytes. It counts on four fifths (its `memory_bytes`): the rest is for its processes.
    host_memory_bytes: u64 = 4 * GIB;
    /// A host that was started, and had nothing to do for this long, is stopped.
    host_idle_timeout_ms: u64 = 60_000;
    /// A host that was started, and has not joined after this long, or is away for so long, is stopped.
    host_start_timeout_ms: u64 = 120_000;
    /// Arguments of hosts that are started, such as `--advertise auto --config /etc/onward.toml`; words as in a shell. Empty: `--advertise
    /// auto`, or for `lambda` none besides its own `--outbound`.
    provider_arguments: String = String::new();
    /// `command`: submits a host and returns. It has `{command}` (what to run), `{name}`, `{vcpus}`, `{memory_mib}`; words as in a
    /// shell. `{command}` as a word of its own becomes several words, in quotes or not; within a longer word, such as `'exec {command}'`, it
    /// is quoted for a shell that reads that word. Exit code 75: there is no room now.
    provider_start: String = String::new();
    /// `command`: ends the host `{name}`, which gets a SIGTERM and `host_leave_timeout_ms` to leave.
    provider_stop: String = String::new();
    /// `command`: prints a line with the name and the state of each host. It waits when the state is pending, configuring, requeued, queued,
    /// waiting, starting, created or scheduled, and runs when it is running, completing, signaling, stopped, suspended, stage_out, resizing,
    /// active, up, alive, healthy or missing; Slurm's short names (PD, CF, R, CG, S) do as well. Any other state says that it ended.
    provider_list: String = String::new();
    /// The program `onward` where hosts run; empty: this one's path.
    provider_program: String = String::new();
    /// `kubernetes`: the image of hosts; its entry point is the program `onward`.
    provider_image: String = String::new();
    /// `kubernetes`: where pods are made. Empty: where the coordinator runs, or what the kubeconfig's context says.
    provider_namespace: String = String::new();
    /// `kubernetes`: a file with a part of a pod, in YAML or JSON, that hosts have besides: node selectors, tolerations, a service
    /// account, volumes. The container is called `host`. Empty: none.
    provider_pod_template: String = String::new();
    /// `kubernetes`: what runs coordinators, such as `apps/v1/StatefulSet/onward`: hosts are deleted with it. Empty: hosts stay until they
    /// are stopped.
    provider_owner: String = String::new();
    /// `lambda`: the function whose invocations are hosts, its name or ARN. See deploy/lambda.
    lambda_function: String = String::new();
    /// `lambda`: the function's version or alias; empty: what the ARN says, else $LATEST.
    lambda_qualifier: String = String::new();
    /// `lambda`: the region; empty: that of the ARN, else what the environment says.
    lambda_region: String = String::new();
    /// `lambda`: where Lambda is reached, such as an endpoint in a VPC; empty: at its public address. Over http:// requests are not signed.
    lambda_endpoint: String = String::new();
    /// `lambda`: an invocation lasts no longer, at most 900000; not more than the function's timeout. Its host leaves before.
    lambda_lifetime_ms: u64 = 900_000;
    /// `lambda`: an invocation that was not refused after this long is taken for accepted.
    lambda_accept_wait_ms: u64 = 300;
    /// A command that takes longer is killed; a launcher that does not answer for so long has failed.
    provider_timeout_ms: u64 = 30_000;
    /// How often the launcher is asked what is there, while anything is there or wanted.
    provider_interval_ms: u64 = 1_000;
    /// Input bytes that are worth one more host (sizing).
    bytes_per_host: u64 = 512 * MIB;
    /// Bytes that a task asks another host for at once; one request ahead is under way.
    fetch_bytes: u64 = 8 * MIB;
    /// Requests of one host that another one answers at once; more wait.
    fetches_per_host: u32 = 32;
    /// Compression between hosts: none, lz4 or zstd.
    compression: String = "none".to_owned();
    /// The most bytes that the build side of a join tells the stages of its probe side about its keys. `SET
    /// datafusion.optimizer.enable_join_dynamic_filter_pushdown = false` tells nothing.
    runtime_filter_bytes: u64 = MIB;
    /// The longest that a stage which could start waits for what other stages tell it about the keys of a join.
    runtime_filter_wait_ms: u64 = 1_000;
    /// How long an attempt may read what it was given of other hosts.
    grant_lifetime_ms: u64 = 3_600_000;
}

impl Config {
    /// vCPUs shared by all functions of this machine.
    pub fn vcpu_count(&self) -> usize {
        match self.vcpus {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n as usize,
        }
    }

    /// The words of `host_labels`.
    pub fn labels(&self) -> impl Iterator<Item = &str> + Clone {
        self.host_labels.split(',').map(str::trim).filter(|label| !label.is_empty())
    }

    /// Bytes of memory for everything: the setting, else 3/4 of the machine's or the cgroup's.
    pub fn memory_limit_bytes(&self) -> u64 {
        match self.memory_bytes {
            0 => machine_memory_bytes() / 4 * 3,
            n => n,
        }
    }

    /// Bytes of shared memory for segments.
    pub fn segment_memory_limit_bytes(&self) -> u64 {
        match self.segment_memory_bytes {
            0 => self.memory_limit_bytes() / 4,
            n => n,
        }
    }

    /// Bytes of shared memory for cached columns.
    pub fn cache_memory_limit_bytes(&self) -> u64 {
        match self.cache_memory_bytes {
            0 => self.memory_limit_bytes() / 4,
            n => n,
        }
    }

    /// Bytes of memory for blocks of remote objects, beside those on disk.
    pub fn range_memory_limit_bytes(&self) -> u64 {
        (self.memory_limit_bytes() / 64).min(256 * MIB)
    }

    /// Bytes of operator memory for all functions of this machine. An eighth stays for what nobody counts: columns while they
    /// are decoded, plans, the coordinator.
    pub fn operator_memory_limit_bytes(&self) -> u64 {
        let all = self.memory_limit_bytes();
        let columns = if self.cache { self.cache_memory_limit_bytes() } else { 0 };
        let left = all.saturating_sub(self.segment_memory_limit_bytes()).saturating_sub(columns);
        left.saturating_sub(all / 8).max(all / 8)
    }

    /// Threads of each of `functions` functions: `max(1, cores / functions)`.
    pub fn threads_per_function(&self, functions: usize) -> usize {
        (self.vcpu_count() / functions.max(1)).max(1)
    }

    /// The directory for the disk tier and spills.
    pub fn spill_root(&self) -> std::path::PathBuf {
        match self.spill_dir.as_str() {
            "" => std::env::temp_dir(),
            dir => dir.into(),
        }
    }
}

/// Memory of the machine, or of this process's cgroup (v2) where that is less.
fn machine_memory_bytes() -> u64 {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("MemTotal:"))?.to_owned();
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * KIB)
    });
    let cgroup = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    machine.unwrap_or(4 * GIB).min(cgroup.unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_the_memory_are_no_more_than_it() {
        let config = Config { memory_bytes: 8 * GIB, ..Config::default() };
        let shares = |config: &Config| {
            let columns = if config.cache { config.cache_memory_limit_bytes() } else { 0 };
            config.segment_memory_limit_bytes() + columns + config.operator_memory_limit_bytes()
        };
        assert_eq!(shares(&config), 7 * GIB);
        assert_eq!(shares(&Config { cache: false, ..config.clone() }), 7 * GIB);
        assert_eq!(shares(&Config { cache_memory_bytes: GIB, ..config.clone() }), 7 * GIB);
        let greedy = Config { cache_memory_bytes: 8 * GIB, ..config };
        assert_eq!(greedy.operator_memory_limit_bytes(), GIB, "operators have an eighth whatever is said of others");
    }

    #[test]
    fn functions_share_the_cores_and_never_get_less_than_one_thread() {
        let config = Config { vcpus: 2, ..Config::default() };
        assert_eq!([1, 2, 4].map(|n| config.threads_per_function(n)), [2, 1, 1]);
    }

    #[test]
    fn every_setting_is_documented() {
        assert!(SETTINGS.iter().all(|setting| setting.doc.trim().len() > 10));
    }
}
