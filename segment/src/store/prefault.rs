//! The thread that makes files ahead of need, so that writers find pages that exist.
//!
//! A fresh shared-memory page costs several times a copy (the kernel clears it under locks). The thread learns sizes from
//! requests that found the pool empty, makes one file more of that size, and sleeps otherwise. It starts with the first
//! such request: a process that writes no segment has no thread.

use std::sync::Weak;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use parking_lot::Mutex;

use super::{Shared, file};
use crate::mapping::Mapping;

/// Sizes that wait; more are forgotten, the next request asks again.
const QUEUED_SIZES: usize = 16;

#[derive(Debug)]
pub(super) struct Prefaulter {
    shared: Weak<Shared>,
    running: Mutex<Option<(SyncSender<u64>, JoinHandle<()>)>>,
}

impl Prefaulter {
    pub fn new(shared: Weak<Shared>) -> Self {
        Self { shared, running: Mutex::default() }
    }

    /// A request for `size` bytes found no file.
    pub fn want(&self, size: u64) {
        let is_on = self.shared.upgrade().is_some_and(|shared| shared.options.prefault_bytes >= size);
        if !is_on {
            return;
        }
        let mut running = self.running.lock();
        if running.is_none() {
            let (sender, receiver) = sync_channel(QUEUED_SIZES);
            let shared = self.shared.clone();
            let thread = std::thread::Builder::new().name("segment-prefault".to_owned());
            *running = match thread.spawn(move || run(&shared, &receiver)) {
                Ok(handle) => Some((sender, handle)),
                Err(error) => {
                    tracing::warn!(%error, "segments are not pre-faulted: no thread");
                    None
                }
            };
        }
        if let Some((sender, _)) = running.as_ref() {
            let _ = sender.try_send(size);
        }
    }
}

impl Prefaulter {
    /// Ends the thread, after the sizes that it was asked for.
    pub fn stop(&self) {
        if let Some((sender, handle)) = self.running.lock().take() {
            drop(sender);
            drop(handle.join());
        }
    }
}

impl Drop for Prefaulter {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(shared: &Weak<Shared>, sizes: &Receiver<u64>) {
    while let Ok(size) = sizes.recv() {
        let Some(shared) = shared.upgrade() else { return };
        let limit = shared.options.prefault_bytes.min(shared.options.pool_bytes);
        if shared.state.lock().pool.bytes() + size > limit {
            continue;
        }
        // Half of the budget stays free for files that somebody asked for.
        let Some(number) = shared.reserve_memory(size, shared.options.memory_bytes / 2) else { continue };
        let made = file::create(shared.memory.path(), number, size)
            .and_then(|file| Mapping::writable(file, usize::try_from(size).unwrap_or(usize::MAX)));
        let mut state = shared.state.lock();
        match made {
            Ok(_) => state.pool.put(number, size),
            Err(error) => {
                tracing::debug!(%error, size, "no file was made ahead of need");
                state.memory_bytes -= size;
            }
        }
    }
}
