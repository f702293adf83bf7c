//! All limits of this crate.

use std::time::Duration;

/// The most changes of one write. etcd takes 128 operations in a transaction by default (`--max-txn-ops`); one is ours.
pub const MAX_CHANGES: usize = 127;
/// The most of one write, in bytes as sent. etcd takes 1.5 MiB by default (`--max-request-bytes`), with a header of its own.
pub const MAX_WRITE_BYTES: usize = (3 << 19) - (8 << 10);

/// The longest prefix, in bytes.
pub(crate) const MAX_PREFIX_BYTES: usize = 512;
/// More than a write takes besides its changes, in bytes as sent: names of four keys, two numbers and their frames.
pub(crate) const WRITE_OVERHEAD_BYTES: usize = 8 * MAX_PREFIX_BYTES;
/// Keys that are read at once, unless they are large.
pub(crate) const PAGE_KEYS: i64 = 1_000;
/// The most of one answer, in bytes; when it does not suffice, less is asked for. More than one value that etcd takes.
pub(crate) const MAX_ANSWER_BYTES: usize = 16 << 20;
/// The most that one read gathers, in bytes of keys and values.
pub(crate) const MAX_READ_BYTES: usize = 256 << 20;
/// Times that a read begins anew because what it read was compacted meanwhile.
pub(crate) const MAX_READ_ATTEMPTS: usize = 5;

/// Keep-alives in the time of a lease.
pub(crate) const KEEP_ALIVES: u32 = 3;
/// A leadership ends this part of its lease's time before etcd ends it: clocks differ in speed, and a command that was checked takes a
/// moment to have its effect.
pub(crate) const MARGIN_PART: u32 = 8;

/// The first wait before something is tried again; it doubles up to the last.
pub(crate) const FIRST_WAIT: Duration = Duration::from_millis(20);
/// See [`FIRST_WAIT`]. Short: leaders are found through what is tried again.
pub(crate) const LAST_WAIT: Duration = Duration::from_millis(500);

/// A connection on which nothing came for so long is asked for a sign. etcd closes those that ask more often than every 5 s
/// (`--grpc-keepalive-min-time`).
pub(crate) const PING_INTERVAL: Duration = Duration::from_secs(6);
/// A server that does not answer that is gone.
pub(crate) const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// A server that did not answer is asked for so long whether it and we trust each other.
pub(crate) const TRUST_TIME: Duration = Duration::from_millis(500);

/// Who waits for leadership looks so often whether somebody leads, although a watch would tell: one that hangs is noticed late.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_secs(2);
