//! Uploads that one process makes and another completes.
//!
//! A function uploads the parts of a file; only the coordinator, once the query has committed, makes it visible:
//!
//! ```text
//!   function:     put_multipart_opts(path, extensions: DeferredUpload) -> put_part* -> complete   (nothing visible)
//!                 DeferredUpload::take() -> UploadedParts -> manifest row
//!   coordinator:  complete_multipart(path, upload, parts)                                          (visible, whole)
//! ```

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::FutureExt;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{Error, MultipartUpload, PutPayload, PutResult, Result, UploadPart};
use parking_lot::Mutex;

use crate::uploads::UploadLog;

/// An upload that is whole but not visible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadedParts {
    /// The store's name for the upload.
    pub upload: String,
    /// The store's names for its parts, in order.
    pub parts: Vec<String>,
}

/// Put into [`object_store::PutMultipartOptions::extensions`] to defer the completion of an upload.
#[derive(Clone, Debug, Default)]
pub struct DeferredUpload {
    outcome: Arc<Mutex<Option<UploadedParts>>>,
    log: Option<Arc<UploadLog>>,
}

/// Put into the extensions of a write that the user asked for; other writes count as intermediate data.
#[derive(Clone, Copy, Debug)]
pub struct UserWrite;

impl DeferredUpload {
    /// Tells `log` when the upload begins.
    pub fn logged(log: Option<Arc<UploadLog>>) -> Self {
        Self { outcome: Arc::default(), log }
    }

    /// What was uploaded, once: `None` before the upload's `complete`, or when the store ignored the wish.
    pub fn take(&self) -> Option<UploadedParts> {
        self.outcome.lock().take()
    }
}

/// The upload handed to a writer that asked for [`DeferredUpload`].
pub(crate) struct DeferredMultipart {
    store: Arc<dyn MultipartStore>,
    path: Path,
    upload: String,
    /// Part names by index; parts finish in any order.
    parts: Arc<Mutex<Vec<Option<String>>>>,
    outcome: DeferredUpload,
    is_open: bool,
}

impl DeferredMultipart {
    pub(crate) async fn start(store: Arc<dyn MultipartStore>, path: Path, outcome: DeferredUpload) -> Result<Self> {
        let upload = store.create_multipart(&path).await?;
        if let Some(log) = &outcome.log {
            log.note(&path, &upload);
        }
        Ok(Self { store, path, upload, parts: Arc::default(), outcome, is_open: true })
    }
}

impl fmt::Debug for DeferredMultipart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeferredMultipart({})", self.path)
    }
}

#[async_trait]
impl MultipartUpload for DeferredMultipart {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let index = {
            let mut parts = self.parts.lock();
            parts.push(None);
            parts.len() - 1
        };
        let (store, path, upload, parts) =
            (self.store.clone(), self.path.clone(), self.upload.clone(), self.parts.clone());
        async move {
            let part = store.put_part(&path, &upload, index, data).await?;
            parts.lock()[index] = Some(part.content_id);
            Ok(())
        }
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        // S3 has no upload of zero parts.
        if self.parts.lock().is_empty() {
            self.put_part(PutPayload::new()).await?;
        }
        let parts: Option<Vec<String>> = self.parts.lock().iter().cloned().collect();
        let parts = parts.ok_or_else(|| Error::Generic {
            store: "onward",
            source: format!("upload of `{}` was completed before its parts were", self.path).into(),
        })?;
        *self.outcome.outcome.lock() = Some(UploadedParts { upload: self.upload.clone(), parts });
        self.is_open = false;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn abort(&mut self) -> Result<()> {
        self.is_open = false;
        self.store.abort_multipart(&self.path, &self.upload).await
    }
}

impl Drop for DeferredMultipart {
    /// A cancelled writer drops its upload: take it back, so that the store keeps no paid-for left-overs.
    fn drop(&mut self) {
        if self.is_open
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (store, path, upload) = (self.store.clone(), self.path.clone(), self.upload.clone());
            runtime.spawn(async move { store.abort_multipart(&path, &upload).await });
        }
    }
}

/// Completes an upload that another process made: afterwards the object is there, whole.
pub async fn complete_upload(store: &dyn MultipartStore, path: &Path, upload: &UploadedParts) -> Result<()> {
    let parts = upload.parts.iter().map(|content_id| PartId { content_id: content_id.clone() }).collect();
    store.complete_multipart(path, &upload.upload, parts).await.map(|_| ())
}
