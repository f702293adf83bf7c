//! [`GatedStore`]: an object store in memory where one kind of request waits until the test lets it pass, and where answers
//! get lost.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartId, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

/// What waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Reads of objects.
    Reads,
    /// Parts of uploads.
    Parts,
    /// The completion of uploads.
    Completions,
    /// Nothing.
    Nothing,
}

/// What comes of a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    Happens,
    /// It happens, and its caller hears of an error.
    LosesItsAnswer,
    Fails,
}

/// See the module.
#[derive(Debug)]
pub struct GatedStore {
    pub memory: InMemory,
    gate: Gate,
    arrived: Semaphore,
    open: Semaphore,
    /// What comes of the next completions; the others happen.
    pub completions: Mutex<VecDeque<Completion>>,
    /// It does not tell which objects it has.
    pub is_blind: AtomicBool,
}

fn lost() -> Error {
    Error::Generic { store: "gated", source: "the connection was lost".into() }
}

impl GatedStore {
    pub fn new(gate: Gate) -> Self {
        Self {
            memory: InMemory::new(),
            gate,
            arrived: Semaphore::new(0),
            open: Semaphore::new(0),
            completions: Mutex::default(),
            is_blind: AtomicBool::new(false),
        }
    }

    /// Waits until a request waits at the gate.
    pub async fn arrival(&self) {
        tokio::time::timeout(super::PATIENCE, self.arrived.acquire()).await.expect("a request").unwrap().forget();
    }

    /// Lets everything pass from now on.
    pub fn open(&self) {
        self.open.add_permits(Semaphore::MAX_PERMITS / 2);
    }

    /// Names of the objects.
    pub async fn objects(&self) -> Vec<String> {
        self.memory.list(None).map(|object| object.unwrap().location.to_string()).collect().await
    }

    async fn pass(&self, gate: Gate) {
        if gate == self.gate {
            self.arrived.add_permits(1);
            self.open.acquire().await.unwrap().forget();
        }
    }
}

impl fmt::Display for GatedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GatedStore")
    }
}

#[async_trait]
impl ObjectStore for GatedStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.memory.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.memory.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.pass(Gate::Reads).await;
        if options.head && self.is_blind.load(Ordering::Relaxed) {
            return Err(lost());
        }
        self.memory.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.memory.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.memory.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.memory.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.memory.copy_opts(from, to, options).await
    }
}

#[async_trait]
impl MultipartStore for GatedStore {
    async fn create_multipart(&self, path: &Path) -> Result<MultipartId> {
        self.memory.create_multipart(path).await
    }

    async fn put_part(&self, path: &Path, id: &MultipartId, part: usize, data: PutPayload) -> Result<PartId> {
        self.pass(Gate::Parts).await;
        self.memory.put_part(path, id, part, data).await
    }

    async fn complete_multipart(&self, path: &Path, id: &MultipartId, parts: Vec<PartId>) -> Result<PutResult> {
        self.pass(Gate::Completions).await;
        let outcome = self.completions.lock().pop_front().unwrap_or(Completion::Happens);
        match outcome {
            Completion::Happens => self.memory.complete_multipart(path, id, parts).await,
            Completion::LosesItsAnswer => {
                self.memory.complete_multipart(path, id, parts).await?;
                Err(lost())
            }
            Completion::Fails => Err(lost()),
        }
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<()> {
        self.memory.abort_multipart(path, id).await
    }
}
