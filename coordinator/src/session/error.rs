//! What sessions refuse.

use datafusion::error::DataFusionError;
use onward_wire::{ErrorKind, WireError};

/// An error of a statement itself.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Several statements where one is wanted.
    #[error("{0} statements in one text: send them one by one")]
    ManyStatements(usize),
    /// Nothing but white space and comments.
    #[error("the text holds no statement")]
    NoStatement,
    /// Parameters without values.
    #[error("the statement has the parameters {0}: prepare it and give them values")]
    MissingValues(String),
    /// PREPARE past the limit.
    #[error("the session has max_prepared_statements = {0} prepared statements: DEALLOCATE some")]
    ManyPrepared(usize),
    /// A prepared statement over a table that is another one now.
    #[error("the {what} of the statement changed since it was prepared, from ({told}) to ({now}): prepare it again")]
    Changed {
        /// `columns` or `parameters`.
        what: &'static str,
        /// What they were.
        told: String,
        /// What they are.
        now: String,
    },
    /// Statements that make no sense here.
    #[error("{statement} is not supported: {advice}")]
    Unsupported {
        /// Which.
        statement: String,
        /// What to do instead.
        advice: &'static str,
    },
    /// A setting that belongs to the whole process.
    #[error("`{setting}` is a setting of the whole process: {advice}")]
    ProcessSetting {
        /// Which.
        setting: String,
        /// Where it is set.
        advice: &'static str,
    },
}

impl From<SessionError> for DataFusionError {
    fn from(error: SessionError) -> Self {
        let kind = match &error {
            SessionError::ManyPrepared(_) => ErrorKind::ResourceExhausted,
            _ => ErrorKind::InvalidQuery,
        };
        DataFusionError::External(Box::new(WireError::new(kind, error)))
    }
}
