//! What outlives a coordinator, in etcd: who leads, who else is there, and state that only the leader writes.
//!
//! ```text
//!   Candidate --- its announcement, with a lease ---> PREFIX/coordinators/NAME
//!       |    <--- one watch: who is there, who leads
//!       |
//!      lead() --- created if it is not there -------> PREFIX/leader        its create_revision is the epoch
//!       v                                             PREFIX/write         the last write of this leadership
//!   Leadership -- keep-alives every third of a ttl
//!       |
//!     Fenced ---- if the leader key is of this epoch, and no later write was done ---> PREFIX/state/KEY
//! ```
//!
//! Guaranteed:
//! - Of two leaderships the later one has the greater epoch, for as long as etcd keeps its data.
//! - [`Leadership::is_valid`] is false before etcd gives the lease up, whatever the process was doing: a clock that goes on while it is
//!   stopped says so. Two are valid at once only where somebody else deletes the key or revokes the lease.
//! - A write of a leader that was replaced is refused by etcd, whatever that leader believes. A write that was done stays done, and one
//!   whose answer was lost is never done after a later one.
//!
//! It is not: a client of etcd for others. `etcd-client` generates its messages with `protoc`, a program that builds of Onward do without;
//! the few that are needed here are written down in `message.rs`. Everything is read in transactions, so that every read can be fenced.

mod backoff;
mod candidate;
mod client;
mod clock;
mod error;
mod fenced;
mod follow;
mod leadership;
mod lease;
mod limits;
mod message;
mod range;
#[cfg(test)]
mod tests;
mod trust;

pub use self::candidate::Candidate;
pub use self::client::{Etcd, StateOptions, Tls};
pub use self::error::StateError;
pub use self::fenced::{Change, Fenced};
pub use self::follow::{Announcement, LeaderInfo};
pub use self::leadership::{Leadership, Validity};
pub use self::limits::{MAX_CHANGES, MAX_WRITE_BYTES};
