//! [`classify`]: DataFusion's errors as [`WireError`]s, by type through every wrapper.

use std::error::Error;

use datafusion::arrow::error::ArrowError;
use datafusion::common::{DataFusionError, SchemaError};
use datafusion::object_store;
use datafusion::parquet::errors::ParquetError;
use onward_wire::{ErrorKind, WireError};

/// What kind of error this is, and whether trying again may help. The message is DataFusion's own, with the position
/// where the parser knows it; a [`WireError`] inside keeps its kind, its flags and its message.
pub fn classify(error: &DataFusionError) -> WireError {
    if let Some(wire) = find_wire(error) {
        return wire.clone();
    }
    let (kind, mut message) = (kind(error), message(error));
    if kind == ErrorKind::ResourceExhausted && is_spill(error) {
        message.push_str(": operators spill to the disk of spill_dir");
    }
    WireError::new(kind, message)
}

/// Only spill files are written as Arrow by operators; an error of writing one names no file.
fn is_spill(error: &(dyn Error + 'static)) -> bool {
    matches!(error.downcast_ref(), Some(ArrowError::IoError(..))) || inner(error).is_some_and(is_spill)
}

/// The [`WireError`] as an error that DataFusion's operators pass through.
pub fn external(error: WireError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

fn find_wire<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a WireError> {
    if let Some(wire) = error.downcast_ref::<WireError>() {
        return Some(wire);
    }
    if let Some(DataFusionError::Collection(errors)) = error.downcast_ref::<DataFusionError>() {
        return errors.iter().find_map(|error| find_wire(error));
    }
    inner(error).and_then(find_wire)
}

/// The next error inside. `Error::source` of some wrappers skips the error they hold, so those are opened by type.
fn inner<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    if let Some(error) = error.downcast_ref::<DataFusionError>() {
        return match error {
            DataFusionError::ArrowError(inner, _) => Some(inner.as_ref()),
            DataFusionError::ParquetError(inner) => Some(inner.as_ref()),
            DataFusionError::ObjectStore(inner) => Some(inner.as_ref()),
            DataFusionError::IoError(inner) => Some(inner),
            DataFusionError::External(inner) => Some(inner.as_ref()),
            DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => Some(inner.as_ref()),
            DataFusionError::Shared(inner) => Some(inner.as_ref()),
            DataFusionError::Collection(errors) => errors.first().map(|error| error as _),
            _ => None,
        };
    }
    if let Some(ArrowError::ExternalError(inner)) = error.downcast_ref::<ArrowError>() {
        return Some(inner.as_ref());
    }
    if let Some(ParquetError::External(inner)) = error.downcast_ref::<ParquetError>() {
        return Some(inner.as_ref());
    }
    // `io::Error::source` skips the error it was made from.
    if let Some(error) = error.downcast_ref::<std::io::Error>() {
        return error.get_ref().map(|inner| inner as _);
    }
    error.source()
}

fn kind(error: &(dyn Error + 'static)) -> ErrorKind {
    if let Some(error) = error.downcast_ref::<DataFusionError>() {
        match error {
            DataFusionError::SQL(..)
            | DataFusionError::Plan(_)
            | DataFusionError::NotImplemented(_)
            | DataFusionError::Configuration(_)
            | DataFusionError::Substrait(_)
            | DataFusionError::Execution(_)
            | DataFusionError::Ffi(_) => return ErrorKind::InvalidQuery,
            DataFusionError::SchemaError(schema, _) => return schema_kind(schema),
            DataFusionError::ResourcesExhausted(_) => return ErrorKind::ResourceExhausted,
            DataFusionError::Internal(_) => return ErrorKind::Internal,
            DataFusionError::ExecutionJoin(join) => {
                return if join.is_cancelled() { ErrorKind::Cancelled } else { ErrorKind::Internal };
            }
            _ => {}
        }
    } else if let Some(error) = error.downcast_ref::<ArrowError>() {
        match error {
            ArrowError::ExternalError(_) | ArrowError::IoError(..) => {}
            ArrowError::MemoryError(_) => return ErrorKind::ResourceExhausted,
            ArrowError::CDataInterface(_) | ArrowError::DictionaryKeyOverflowError | ArrowError::IpcError(_) => {
                return ErrorKind::Internal;
            }
            // Casts, divisions, overflows, data that does not parse: the query or its data.
            _ => return ErrorKind::InvalidQuery,
        }
    } else if let Some(error) = error.downcast_ref::<ParquetError>() {
        match error {
            ParquetError::External(_) => {}
            _ => return ErrorKind::InvalidQuery,
        }
    } else if let Some(error) = error.downcast_ref::<object_store::Error>() {
        return store_kind(error);
    } else if let Some(error) = error.downcast_ref::<std::io::Error>() {
        if error.get_ref().is_none() {
            return io_kind(error);
        }
    } else if error.is::<object_store::path::Error>() {
        return ErrorKind::InvalidQuery;
    }
    match inner(error) {
        Some(inner) => kind(inner),
        None => error.downcast_ref::<std::io::Error>().map_or(ErrorKind::Internal, io_kind),
    }
}

fn schema_kind(error: &SchemaError) -> ErrorKind {
    match error {
        SchemaError::AmbiguousReference { .. }
        | SchemaError::DuplicateQualifiedField { .. }
        | SchemaError::DuplicateUnqualifiedField { .. }
        | SchemaError::FieldNotFound { .. } => ErrorKind::InvalidQuery,
    }
}

fn store_kind(error: &object_store::Error) -> ErrorKind {
    use object_store::Error;
    match error {
        Error::NotFound { .. } => ErrorKind::NotFound,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => ErrorKind::Denied,
        Error::InvalidPath { .. }
        | Error::NotSupported { .. }
        | Error::AlreadyExists { .. }
        | Error::UnknownConfigurationKey { .. } => ErrorKind::InvalidQuery,
        // The object changed while the query read it: what was read is gone, a new try lists again.
        Error::Precondition { .. } | Error::NotModified { .. } => ErrorKind::Unavailable,
        Error::Generic { source, .. } => match find_io(source.as_ref()) {
            Some(error) => io_kind(error),
            None => ErrorKind::Unavailable,
        },
        Error::JoinError { source } if source.is_cancelled() => ErrorKind::Cancelled,
        _ => ErrorKind::Internal,
    }
}

fn find_io<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a std::io::Error> {
    error.downcast_ref::<std::io::Error>().or_else(|| error.source().and_then(find_io))
}

fn io_kind(error: &std::io::Error) -> ErrorKind {
    use std::io::ErrorKind as Io;
    match error.kind() {
        Io::NotFound | Io::NotADirectory | Io::IsADirectory => ErrorKind::NotFound,
        Io::PermissionDenied | Io::ReadOnlyFilesystem => ErrorKind::Denied,
        Io::StorageFull | Io::QuotaExceeded | Io::OutOfMemory | Io::FileTooLarge => ErrorKind::ResourceExhausted,
        Io::InvalidData | Io::InvalidInput | Io::UnexpectedEof => ErrorKind::InvalidQuery,
        _ => ErrorKind::Unavailable,
    }
}

/// DataFusion's message. The banner of internal errors ("this issue was likely caused by a bug in DataFusion") is theirs.
fn message(error: &DataFusionError) -> String {
    match error {
        DataFusionError::Diagnostic(_, inner) => message(inner),
        DataFusionError::Shared(inner) => message(inner),
        DataFusionError::Collection(errors) => errors.iter().map(message).collect::<Vec<_>>().join("\n"),
        error => error.strip_backtrace(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::common::{Diagnostic, context};
    use datafusion::prelude::SessionContext;

    use super::*;

    fn found(error: &DataFusionError) -> (ErrorKind, bool) {
        let wire = classify(error);
        (ErrorKind::try_from(wire.kind).expect("a known kind"), wire.is_retryable)
    }

    async fn of_query(sql: &str) -> WireError {
        let ctx = SessionContext::new();
        let error = match ctx.sql(sql).await {
            Ok(frame) => frame.collect().await.expect_err(sql),
            Err(error) => error,
        };
        classify(&error)
    }

    /// Retrying a user's mistake wastes the cluster, whatever operators wrapped around it.
    #[tokio::test]
    async fn mistakes_in_queries_are_never_retried() {
        for sql in [
            "select 1 +",
            "select nothing from (select 1 a)",
            "select * from missing_table",
            "select cast('x' as int)",
            "select 1 / a from (values (0)) v(a)",
            "select cast(300 as tinyint) from (values (1)) v(a)",
            "select a::date from (values ('no date')) v(a)",
            "select no_such_function(1)",
            "select sum(a) from (values ('x')) v(a)",
        ] {
            let wire = of_query(sql).await;
            assert_eq!((wire.kind, wire.is_retryable), (ErrorKind::InvalidQuery as i32, false), "{sql}: {wire:?}");
        }
        assert!(of_query("selec 1").await.message.contains("Line: 1"), "positions stay in the message");
    }

    #[test]
    fn kinds_survive_every_wrapper() {
        let not_found = || object_store::Error::NotFound { path: "t/0.parquet".to_owned(), source: "gone".into() };
        let wrap = |error: DataFusionError| {
            let shared = DataFusionError::Shared(Arc::new(context!("in a repartition", error)));
            let arrow = ArrowError::ExternalError(Box::new(shared));
            let diagnostic = Diagnostic::new_error("here", None);
            DataFusionError::External(Box::new(DataFusionError::from(arrow))).with_diagnostic(diagnostic)
        };
        assert_eq!(found(&wrap(not_found().into())), (ErrorKind::NotFound, false));
        let parquet = ParquetError::External(Box::new(not_found()));
        assert_eq!(found(&wrap(parquet.into())), (ErrorKind::NotFound, false));
        assert_eq!(
            found(&wrap(ParquetError::General("bad footer".to_owned()).into())),
            (ErrorKind::InvalidQuery, false)
        );
        assert_eq!(found(&wrap(ArrowError::DivideByZero.into())), (ErrorKind::InvalidQuery, false));
        let memory = DataFusionError::ResourcesExhausted("pool".to_owned());
        assert_eq!(found(&wrap(memory)), (ErrorKind::ResourceExhausted, false));
        let denied = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        assert_eq!(found(&wrap(denied.into())), (ErrorKind::Denied, false));
        let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        assert_eq!(found(&wrap(reset.into())), (ErrorKind::Unavailable, true));
    }

    /// A full disk has a name.
    #[test]
    fn a_spill_that_does_not_fit_says_which_disk_is_full() {
        let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
        let spill = ArrowError::IoError("IO error".to_owned(), full());
        let spill = classify(&DataFusionError::from(spill).context("in a sort"));
        assert!(spill.kind() == ErrorKind::ResourceExhausted && spill.message.contains("spill_dir"), "{spill}");
        let other = classify(&DataFusionError::from(full()));
        assert!(other.kind() == ErrorKind::ResourceExhausted && !other.message.contains("spill_dir"), "{other}");
    }

    /// What a function or a reader said travels unchanged, flags and all.
    #[test]
    fn wire_errors_pass_through() {
        let lost = WireError { counts_as_failure: false, ..WireError::new(ErrorKind::Unavailable, "host left") };
        let wrapped =
            DataFusionError::ArrowError(Box::new(ArrowError::ExternalError(Box::new(external(lost.clone())))), None);
        let wrapped = DataFusionError::Shared(Arc::new(wrapped.context("while reading stage 3")));
        assert_eq!(classify(&wrapped), lost);
        let many = DataFusionError::Collection(vec![DataFusionError::Plan("other".to_owned()), external(lost.clone())]);
        assert_eq!(classify(&many), lost);
    }
}
