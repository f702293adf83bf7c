//! Brings segments of other hosts to one function.

use std::sync::Arc;

use onward_segment::SegmentStore;
use onward_wire::exchange::FetchSegments;
use onward_wire::message::{RequestFailed, SegmentsMapped, ToFunction};
use onward_wire::{FunctionId, WireError};
use tokio::task::JoinSet;

use super::Shared;
use super::neighbours::{Brought, Neighbours};
use crate::socket::{Sender, SocketError};

/// Requests of one function at once; more is a broken function.
const MOST_FETCHES: usize = 4096;

/// One function's use of other hosts.
pub(super) struct FetchService {
    neighbours: Arc<Neighbours>,
    store: Arc<SegmentStore>,
    function: FunctionId,
    sender: Sender<ToFunction>,
    fetches: JoinSet<()>,
}

impl FetchService {
    pub(super) fn new(host: &Shared, function: FunctionId, sender: Sender<ToFunction>) -> Self {
        let (neighbours, store) = (Arc::clone(&host.neighbours), Arc::clone(&host.store));
        Self { neighbours, store, function, sender, fetches: JoinSet::new() }
    }

    /// Fetches, in a task of its own that ends with the function.
    pub(super) fn fetch(&mut self, asked: FetchSegments) -> Result<(), String> {
        while self.fetches.try_join_next().is_some() {}
        if self.fetches.len() >= MOST_FETCHES {
            return Err(format!("it fetches {MOST_FETCHES} times at once"));
        }
        let (neighbours, store) = (Arc::clone(&self.neighbours), Arc::clone(&self.store));
        let (function, sender) = (self.function, self.sender.clone());
        self.fetches.spawn(async move {
            let request = asked.request;
            let leased = match neighbours.fetch(&asked).await {
                Ok(brought) => lease(&store, function, brought),
                Err(error) => Err(error),
            };
            let sent = match leased {
                Ok((file, segment)) => {
                    sender.send(SegmentsMapped { request, segments: vec![segment] }, vec![file]).await
                }
                Err(error) => sender.send(RequestFailed { request, error }, vec![]).await,
            };
            match sent {
                // A function that is gone needs no answer.
                Ok(()) | Err(SocketError::Closed) => {}
                Err(error) => {
                    tracing::warn!(%error, "a function cannot be told what was fetched for it: its connection ends");
                    sender.close();
                }
            }
        });
        Ok(())
    }

    /// Ends all requests: afterwards none of them leases a segment to the function any more.
    pub(super) async fn take_back(&mut self) {
        self.fetches.shutdown().await;
    }
}

/// Leases what was brought to its reader, with whom it goes unless others read it.
fn lease(
    store: &SegmentStore,
    function: FunctionId,
    brought: Brought,
) -> Result<(std::os::fd::OwnedFd, onward_wire::message::SegmentRef), WireError> {
    let leased = store.lease(brought.segment.id(), function);
    if !brought.is_shared {
        store.remove(brought.segment.id());
    }
    Ok(leased?)
}
