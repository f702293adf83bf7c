//! Ids are newtypes that print the way logs, errors and EXPLAIN show them.

use std::fmt;
use std::str::FromStr;

/// A query: `q-7f3a`. Unique in one coordinator's life, and unlikely to repeat across restarts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueryId(pub u64);

impl QueryId {
    /// A random id; collisions within one data directory are resolved by the caller drawing again.
    pub fn random() -> Self {
        Self(fastrand::u64(0x1000..=0xffff_ffff))
    }
}

/// A stage of a query: `q-7f3a/s2`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StageId {
    /// The query.
    pub query: QueryId,
    /// Position in the query's stage graph.
    pub stage: u32,
}

/// A task of a stage: `q-7f3a/s2/t5`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId {
    /// The stage.
    pub stage: StageId,
    /// Position in the stage.
    pub task: u32,
}

/// One try at a task: `q-7f3a/s2/t5#1`. Attempts count from 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AttemptId {
    /// The task.
    pub task: TaskId,
    /// Which try.
    pub attempt: u32,
}

/// A function process: `f-3`. Never reused in one coordinator's life.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FunctionId(pub u64);

/// A host: `h-2`. The coordinator's own is `h-0`; one that joins gets a new number, also when it was there before.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostId(pub u32);

impl HostId {
    /// The host in the coordinator's process.
    pub const EMBEDDED: Self = Self(0);
}

/// A segment in one host's store: `seg-12`. Never reused in one host's life, unlike the file behind it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentId(pub u64);

impl StageId {
    /// Stage `stage` of `query`.
    pub fn new(query: QueryId, stage: u32) -> Self {
        Self { query, stage }
    }

    /// Task `task` of this stage.
    pub fn task(self, task: u32) -> TaskId {
        TaskId { stage: self, task }
    }
}

impl TaskId {
    /// Attempt `attempt` of this task.
    pub fn attempt(self, attempt: u32) -> AttemptId {
        AttemptId { task: self, attempt }
    }
}

impl AttemptId {
    /// The query this attempt works for.
    pub fn query(self) -> QueryId {
        self.task.stage.query
    }
}

/// An id that could not be parsed.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is not {expected}")]
pub struct ParseIdError {
    text: String,
    expected: &'static str,
}

impl FromStr for QueryId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.strip_prefix("q-")
            .and_then(|hex| u64::from_str_radix(hex, 16).ok())
            .map(Self)
            .ok_or_else(|| ParseIdError { text: text.to_owned(), expected: "a query id like q-7f3a" })
    }
}

macro_rules! prints {
    ($($name:ident => |$id:ident, $f:ident| $body:expr;)*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, $f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let $id = self;
                $body
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}

prints! {
    QueryId => |id, f| write!(f, "q-{:04x}", id.0);
    StageId => |id, f| write!(f, "{}/s{}", id.query, id.stage);
    TaskId => |id, f| write!(f, "{}/t{}", id.stage, id.task);
    AttemptId => |id, f| write!(f, "{}#{}", id.task, id.attempt);
    FunctionId => |id, f| write!(f, "f-{}", id.0);
    HostId => |id, f| write!(f, "h-{}", id.0);
    SegmentId => |id, f| write!(f, "seg-{}", id.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_print_as_the_design_says() {
        let attempt = StageId::new(QueryId(0x7f3a), 2).task(5).attempt(1);
        assert_eq!(attempt.to_string(), "q-7f3a/s2/t5#1");
        assert_eq!("q-7f3a".parse::<QueryId>().ok(), Some(QueryId(0x7f3a)));
        assert!("7f3a".parse::<QueryId>().is_err());
    }
}
