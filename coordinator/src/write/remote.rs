//! Open uploads to visible objects.

use datafusion::object_store::ObjectStoreExt;
use datafusion::object_store::path::Path;
use onward_cache::deferred::complete_upload;
use onward_cache::{StoreHandle, UploadedParts};

type Result<T> = std::result::Result<T, datafusion::object_store::Error>;

/// Completes all uploads, in order. On an error those of new objects are deleted again and the rest is aborted.
pub async fn publish(store: &StoreHandle, uploads: &[(Path, UploadedParts)]) -> Result<()> {
    let Some(multipart) = &store.multipart else { return Err(no_uploads(store)) };
    for (number, (path, upload)) in uploads.iter().enumerate() {
        if let Err(error) = complete_upload(multipart.as_ref(), path, upload).await {
            for (path, _) in &uploads[..number] {
                let _ = store.store.delete(path).await;
            }
            let rest = uploads[number..].iter().map(|(path, upload)| (path.clone(), upload.upload.clone()));
            abort(store, &rest.collect::<Vec<_>>()).await;
            return Err(error);
        }
    }
    Ok(())
}

/// Takes back uploads, by the store's names for them. What cannot be taken back now is invisible, and the bucket's lifecycle rule ends it.
pub async fn abort(store: &StoreHandle, uploads: &[(Path, String)]) {
    let Some(multipart) = &store.multipart else { return };
    for (path, upload) in uploads {
        if let Err(error) = multipart.abort_multipart(path, upload).await {
            tracing::warn!(%path, %error, "an upload could not be aborted; a lifecycle rule of the bucket should");
        }
    }
}

fn no_uploads(store: &StoreHandle) -> datafusion::object_store::Error {
    let source = format!("{} has no multipart uploads", store.store).into();
    datafusion::object_store::Error::Generic { store: "onward", source }
}
