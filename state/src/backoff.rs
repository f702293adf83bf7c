//! How long to wait before something is tried again.

use std::time::Duration;

use crate::limits::{FIRST_WAIT, LAST_WAIT};

/// Waits that double up to a limit. Each is shortened at random, so that those who failed together do not come back together.
#[derive(Debug)]
pub(crate) struct Backoff(Duration);

impl Backoff {
    pub(crate) fn new() -> Self {
        Self(FIRST_WAIT)
    }

    pub(crate) fn next(&mut self) -> Duration {
        let wait = self.0.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.0 = LAST_WAIT.min(self.0 * 2);
        wait
    }
}
