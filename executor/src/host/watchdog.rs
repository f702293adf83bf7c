//! The memory of a function, seen from outside: what it takes beside what its operators account for is nobody's in the process.

use std::time::Duration;

use super::function::Function;

/// How often a function that works is looked at, and one that does not.
const WORKING: Duration = Duration::from_millis(100);
const IDLE: Duration = Duration::from_millis(500);
/// What a function takes beside what its operators account for: code that was written to, stacks, buffers of scans, footers; and a
/// quarter of its limit.
const ALLOWANCE_BYTES: u64 = 256 << 20;

/// The most anonymous memory that a function may have. Mapped segments and columns are not its memory.
fn limit_bytes(function: &Function) -> u64 {
    (function.memory_bytes / 4 * 5).saturating_add(ALLOWANCE_BYTES)
}

/// Resolves, with why it must end, when the function's process takes too much.
pub(super) async fn takes_too_much(function: &Function, pid: u32) -> String {
    let limit = limit_bytes(function);
    loop {
        tokio::time::sleep(if function.working_since().is_some() { WORKING } else { IDLE }).await;
        // A process that is gone takes nothing.
        let taken = anonymous_bytes(pid).unwrap_or(0);
        if taken > limit {
            let (taken, limit, given) = (taken >> 20, limit >> 20, function.memory_bytes >> 20);
            return format!(
                "it took {taken} MiB of memory, {limit} MiB are the most for one that was given {given} MiB: set function_memory_bytes, \
                 or fewer functions"
            );
        }
    }
}

/// `RssAnon` of a process.
fn anonymous_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_how_much_a_process_takes() {
        let before = anonymous_bytes(std::process::id()).unwrap();
        let touched = vec![1_u8; 64 << 20];
        let after = anonymous_bytes(std::process::id()).unwrap();
        assert!(after > before.max(60 << 20), "{before} {after} {}", touched.len());
        assert_eq!(anonymous_bytes(0), None);
    }
}
