//! Panics of what we call, as errors of the statement or attempt that ran into them: readers of damaged files panic, and
//! one statement must not end the others.

use std::any::Any;
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::pin::pin;
use std::task::Poll;

use crate::{ErrorKind, WireError};

thread_local! {
    /// How many [`catch`]es this thread is in.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// What `work` gives; a panic in it is an error of kind Internal.
pub async fn caught<T>(work: impl Future<Output = T>) -> Result<T, WireError> {
    let mut work = pin!(work);
    poll_fn(move |cx| match catch(|| work.as_mut().poll(cx)) {
        Ok(poll) => poll.map(Ok),
        Err(error) => Poll::Ready(Err(error)),
    })
    .await
}

/// Like [`caught`], for work that does not wait.
pub fn catch<T>(work: impl FnOnce() -> T) -> Result<T, WireError> {
    DEPTH.set(DEPTH.get() + 1);
    let result = catch_unwind(AssertUnwindSafe(work));
    DEPTH.set(DEPTH.get() - 1);
    result.map_err(|panic| error(panic.as_ref()))
}

/// What a panic said.
pub fn error(panic: &(dyn Any + Send)) -> WireError {
    WireError::new(ErrorKind::Internal, format!("a part of the engine panicked: {}", text(panic)))
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let message = panic.downcast_ref::<&str>().copied();
    message.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// From now on a panic that becomes an error is a line of the log and no noise on standard error: those that [`caught`]
/// catches, and those of threads that `catches` says yes to (workers of a runtime, which catches the panics of its tasks).
pub fn log_caught(catches: fn(&str) -> bool) {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
        let thread = std::thread::current();
        let is_worker = thread.name().is_some_and(catches);
        let (message, location) = (text(info.payload()), info.location().map(ToString::to_string).unwrap_or_default());
        if DEPTH.get() > 0 {
            tracing::debug!(message, location, backtrace = %Backtrace::force_capture(), "a panic became an error");
        } else if is_worker {
            tracing::warn!(message, location, "a task panicked");
        } else {
            default(info);
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_and_its_message_stays() {
        let work = caught(async { panic!("page {} is broken", 7) });
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let Poll::Ready(Err(error)) = pin!(work).poll(&mut context).map_ok(|(): ()| ()) else { panic!("no error") };
        assert_eq!(error.kind(), ErrorKind::Internal);
        assert!(error.message.contains("page 7 is broken"), "{error}");
        assert_eq!(DEPTH.get(), 0);
    }
}
