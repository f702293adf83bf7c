//! Open uploads to visible objects.
//!
//! A completion that fails may have happened: only its answer was lost. So the upload is ended first, and then the store is
//! asked whether the object is there. If it is, it was completed; if not, it never will be.

use datafusion::error::DataFusionError;
use datafusion::object_store::path::Path;
use datafusion::object_store::{Error, ObjectMeta, ObjectStoreExt};
use onward_cache::deferred::complete_upload;
use onward_cache::{StoreHandle, UploadedParts};
use onward_planner::error::classify;
use onward_wire::WireError;

type Result<T> = std::result::Result<T, Error>;

/// An upload that is to become an object.
#[derive(Clone, Debug)]
pub struct Upload {
    /// The object.
    pub path: Path,
    /// Its parts.
    pub parts: UploadedParts,
    /// Bytes of all parts.
    pub bytes: u64,
}

impl Upload {
    /// What it is called while it is open.
    pub fn name(&self) -> (Path, String) {
        (self.path.clone(), self.parts.upload.clone())
    }
}

/// Completes all uploads, in order. On an error those that were completed are deleted again and the rest is aborted.
///
/// `has_own_names`: nobody else writes objects of these names, so that one that is there is ours. Otherwise there is one
/// upload, and its object may replace another one.
pub async fn publish(store: &StoreHandle, uploads: &[Upload], has_own_names: bool) -> Result<()> {
    let Some(multipart) = &store.multipart else { return Err(no_uploads(store)) };
    for (number, upload) in uploads.iter().enumerate() {
        let before = match has_own_names {
            true => Ok(None),
            false => look(store, &upload.path).await,
        };
        let Err(error) = complete_upload(multipart.as_ref(), &upload.path, &upload.parts).await else { continue };
        abort(store, &[upload.name()]).await;
        let now = look(store, &upload.path).await;
        if matches!((&before, &now), (Ok(before), Ok(Some(now))) if is_ours(upload, before.as_ref(), now, has_own_names))
        {
            let path = &upload.path;
            tracing::info!(%path, %error, "the upload was completed, and only the answer was lost");
            continue;
        }
        let is_known = before.is_ok() && now.is_ok();
        let (completed, rest) = uploads.split_at(number);
        let mut doubtful = if is_known { vec![] } else { vec![upload.path.clone()] };
        if has_own_names {
            doubtful.extend(completed.iter().map(|upload| upload.path.clone()));
            doubtful = delete(store, doubtful).await;
        }
        abort(store, &rest.iter().skip(1).map(Upload::name).collect::<Vec<_>>()).await;
        return Err(explain(error, &doubtful));
    }
    Ok(())
}

/// What is at `path`.
async fn look(store: &StoreHandle, path: &Path) -> Result<Option<ObjectMeta>> {
    match store.store.head(path).await {
        Ok(object) => Ok(Some(object)),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The object that is there `now` is the upload, and not the one that was there `before`.
fn is_ours(upload: &Upload, before: Option<&ObjectMeta>, now: &ObjectMeta, has_own_name: bool) -> bool {
    has_own_name || (now.size == upload.bytes && before != Some(now))
}

/// Deletes objects; gives those that may still be there.
async fn delete(store: &StoreHandle, paths: Vec<Path>) -> Vec<Path> {
    let mut left = Vec::new();
    for path in paths {
        match store.store.delete(&path).await {
            Ok(()) | Err(Error::NotFound { .. }) => {}
            Err(error) => {
                tracing::warn!(%path, %error, "an object of a write that failed could not be deleted");
                left.push(path);
            }
        }
    }
    left
}

/// `error`, with what may be visible in spite of it.
fn explain(error: Error, doubtful: &[Path]) -> Error {
    if doubtful.is_empty() {
        return error;
    }
    let wire = classify(&DataFusionError::ObjectStore(Box::new(error)));
    let paths = doubtful.iter().map(|path| format!("`{path}`")).collect::<Vec<_>>().join(", ");
    let message =
        format!("{}; the store does not tell whether it has {paths}: look before you write again", wire.message);
    Error::Generic { store: "onward", source: Box::new(WireError { message, ..wire }) }
}

/// Takes back uploads, by the store's names for them. What cannot be taken back now is invisible, and the bucket's lifecycle rule ends it.
pub async fn abort(store: &StoreHandle, uploads: &[(Path, String)]) {
    let Some(multipart) = &store.multipart else { return };
    for (path, upload) in uploads {
        match multipart.abort_multipart(path, upload).await {
            // It ended before: its writer aborted it, or it is an object.
            Ok(()) | Err(Error::NotFound { .. }) => {}
            Err(error) => {
                tracing::warn!(%path, %error, "an upload could not be aborted; a lifecycle rule of the bucket should");
            }
        }
    }
}

fn no_uploads(store: &StoreHandle) -> Error {
    let source = format!("{} has no multipart uploads", store.store).into();
    Error::Generic { store: "onward", source }
}
