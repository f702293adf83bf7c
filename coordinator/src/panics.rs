//! Panics of what we call, as errors of the statement that ran into them: readers of damaged files panic, and one
//! statement must not end the others.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use onward_wire::{ErrorKind, WireError};

/// What `work` gives; a panic in it is an error of kind Internal.
pub(crate) async fn caught<T>(work: impl Future<Output = T>) -> Result<T, WireError> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|panic| error(panic.as_ref()))
}

/// What a panic said.
pub(crate) fn error(panic: &(dyn Any + Send)) -> WireError {
    let message = panic.downcast_ref::<&str>().copied();
    let message = message.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    WireError::new(ErrorKind::Internal, format!("a part of the engine panicked: {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_and_its_message_stays() {
        let error = caught(async { panic!("page {} is broken", 7) }).await.map(|(): ()| ()).expect_err("a panic");
        assert_eq!(error.kind(), ErrorKind::Internal);
        assert!(error.message.contains("page 7 is broken"), "{error}");
    }
}
