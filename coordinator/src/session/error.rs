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
        DataFusionError::External(Box::new(WireError::new(ErrorKind::InvalidQuery, error)))
    }
}
