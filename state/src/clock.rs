//! The clock of leases.

/// Milliseconds since the machine was started. It goes on while the process is stopped and while the machine sleeps, and nobody sets it;
/// `std::time::Instant` stands still in sleep.
pub(crate) fn now_ms() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a `timespec` that lives through the call.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    assert_eq!(result, 0, "Linux has this clock since 2.6.39");
    u64::try_from(time.tv_sec * 1_000 + time.tv_nsec / 1_000_000).expect("time since the start is not negative")
}
