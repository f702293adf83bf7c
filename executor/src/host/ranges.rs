//! Reads bytes of remote objects for one function.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use onward_cache::StoreRegistry;
use onward_cache::paths::store_path;
use onward_cache::ranges::{RangeTier, read_direct};
use onward_planner::error::classify;
use onward_wire::columns::ObjectTag;
use onward_wire::message::{RequestFailed, ToFunction};
use onward_wire::ranges::{MAX_RANGES, MAX_READ_BYTES, PrefetchRanges, RangesRead, ReadRanges};
use onward_wire::{ErrorKind, WireError};
use rustix::fs::MemfdFlags;
use tokio::task::JoinSet;

use super::Shared;
use super::function::Function;
use crate::socket::{Sender, SocketError};

/// Reads of one function at once; more is a broken function.
const MOST_READS: usize = 4096;

/// One function's use of the range tier.
pub(super) struct RangeService {
    tier: Option<Arc<RangeTier>>,
    stores: Arc<StoreRegistry>,
    function: Arc<Function>,
    sender: Sender<ToFunction>,
    reads: JoinSet<()>,
}

impl RangeService {
    pub(super) fn new(host: &Shared, function: Arc<Function>, sender: Sender<ToFunction>) -> Self {
        let (tier, stores) = (host.ranges.clone(), Arc::clone(&host.stores));
        Self { tier, stores, function, sender, reads: JoinSet::new() }
    }

    /// Reads, in a task of its own that ends with the function.
    pub(super) fn read(&mut self, asked: ReadRanges) -> Result<(), String> {
        let bytes =
            asked.ranges.iter().try_fold(0_u64, |sum, range| sum.checked_add(range.end.checked_sub(range.start)?));
        if asked.ranges.len() > MAX_RANGES || bytes.is_none_or(|bytes| bytes > MAX_READ_BYTES) {
            return Err(format!("it asked for {} ranges of {bytes:?} bytes at once", asked.ranges.len()));
        }
        while self.reads.try_join_next().is_some() {}
        if self.reads.len() >= MOST_READS {
            return Err(format!("it reads {MOST_READS} times at once"));
        }
        let tier = self.tier.clone().filter(|_| !asked.is_direct && is_versioned(&asked.object));
        let is_allowed = self.may_read(&asked.object)?;
        let (stores, sender) = (Arc::clone(&self.stores), self.sender.clone());
        self.reads.spawn(async move {
            let request = asked.request;
            let read = if is_allowed { read(tier, &stores, asked).await } else { Err(denied(&asked.object)) };
            let sent = match read {
                Ok((read, file)) => sender.send(read, vec![file]).await,
                Err(error) => sender.send(RequestFailed { request, error }, vec![]).await,
            };
            match sent {
                // A function that is gone needs no answer.
                Ok(()) | Err(SocketError::Closed) => {}
                Err(error) => {
                    tracing::warn!(%error, "a function cannot be told what was read for it: its connection ends");
                    sender.close();
                }
            }
        });
        Ok(())
    }

    /// Some stage that the function has names the object.
    fn may_read(&self, object: &ObjectTag) -> Result<bool, String> {
        let path = store_path(&object.path).map_err(|error| format!("it reads no object: {error}"))?;
        Ok(self.function.may(|access| access.may_read(&object.store, &path)))
    }

    /// Begins to read what the function will need.
    pub(super) fn prefetch(&self, asked: PrefetchRanges) -> Result<(), String> {
        if asked.ranges.len() > MAX_RANGES {
            return Err(format!("it announced {} ranges at once", asked.ranges.len()));
        }
        if let Some(tier) = &self.tier
            && self.may_read(&asked.object)?
            && is_versioned(&asked.object)
        {
            let ranges: Vec<_> = asked.ranges.iter().map(Into::into).collect();
            tier.prefetch(&Arc::new(asked.object), &ranges);
        }
        Ok(())
    }
}

/// Blocks are kept by version.
fn is_versioned(object: &ObjectTag) -> bool {
    object.e_tag.is_some() || object.modified_ns != 0
}

fn denied(object: &ObjectTag) -> WireError {
    let message = format!("`{}{}` is no object of what this function runs", object.store, object.path);
    WireError::new(ErrorKind::Denied, message)
}

async fn read(
    tier: Option<Arc<RangeTier>>,
    stores: &Arc<StoreRegistry>,
    asked: ReadRanges,
) -> Result<(RangesRead, OwnedFd), WireError> {
    let ranges: Vec<_> = asked.ranges.iter().map(Into::into).collect();
    let read = match tier {
        Some(tier) => tier.read(&Arc::new(asked.object), &ranges).await.map_err(|error| classify(&error))?,
        None => read_direct(stores, &asked.object, &ranges).await.map_err(|error| classify(&error))?,
    };
    let answer = RangesRead {
        request: asked.request,
        store_requests: read.store_requests,
        store_bytes: read.store_bytes,
        kept_bytes: read.kept_bytes,
    };
    // Its pages are cleared and filled here: too long for a thread that others wait for.
    let file = tokio::task::spawn_blocking(move || anonymous_file(&read.bytes)).await;
    match file {
        Ok(Ok(file)) => Ok((answer, file)),
        Ok(Err(error)) => Err(WireError::new(
            ErrorKind::ResourceExhausted,
            format!("no memory for bytes of a remote object: {error}"),
        )),
        Err(error) => Err(WireError::new(ErrorKind::Internal, error)),
    }
}

/// `parts` one after the other, in a file without a name: it goes with its last descriptor, whoever holds it.
fn anonymous_file(parts: &[Bytes]) -> io::Result<OwnedFd> {
    let mut file = File::from(rustix::fs::memfd_create("onward-ranges", MemfdFlags::CLOEXEC)?);
    for part in parts {
        file.write_all(part)?;
    }
    Ok(file.into())
}
