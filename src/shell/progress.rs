//! One line on standard error that says how far a statement is, when somebody can see it.

use std::time::{Duration, Instant};

use bytesize::ByteSize;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use onward_coordinator::QueryProgress;
use tokio::sync::watch;

/// Quick statements show nothing.
const DELAY: Duration = Duration::from_millis(300);
const REDRAW_INTERVAL: Duration = Duration::from_millis(100);

/// The line of one statement; gone when dropped.
pub(super) struct ProgressLine {
    bar: ProgressBar,
    started: Instant,
}

impl ProgressLine {
    /// A line, or nothing at all when standard error is no terminal or `is_wanted` is false.
    pub(super) fn new(is_wanted: bool) -> Self {
        let target = if is_wanted { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed}  {msg}") {
            bar.set_style(style);
        }
        Self { bar, started: Instant::now() }
    }

    /// Redraws until the future is dropped.
    pub(super) async fn follow(&self, progress: Option<watch::Receiver<QueryProgress>>) {
        if self.bar.is_hidden() {
            return std::future::pending().await;
        }
        tokio::time::sleep_until((self.started + DELAY).into()).await;
        let mut ticks = tokio::time::interval(REDRAW_INTERVAL);
        loop {
            ticks.tick().await;
            if let Some(progress) = &progress {
                self.bar.set_message(describe(&progress.borrow()));
            }
            self.bar.tick();
        }
    }

    /// Takes the line off the screen, before rows are printed.
    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn describe(progress: &QueryProgress) -> String {
    if progress.position > 0 {
        return format!("waits for its place: {} of {}", progress.position, progress.queued);
    }
    if progress.tasks == 0 {
        return "running".to_owned();
    }
    format!(
        "{}/{} tasks, {} functions, {} rows, {}",
        progress.tasks_done,
        progress.tasks,
        progress.functions,
        progress.rows,
        ByteSize(progress.bytes).display().iec()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_is_done() {
        let progress = QueryProgress {
            tasks: 8,
            tasks_done: 3,
            functions: 2,
            rows: 10,
            bytes: 2 << 20,
            ..QueryProgress::default()
        };
        let waiting = QueryProgress { position: 2, queued: 5, ..QueryProgress::default() };
        assert_eq!(describe(&waiting), "waits for its place: 2 of 5");
        assert_eq!(describe(&progress), "3/8 tasks, 2 functions, 10 rows, 2.0 MiB");
    }
}
