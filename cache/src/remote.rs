//! [`RemoteStore`]: a store behind a network, whose errors say where and what, of their kind, and nothing secret.
//!
//! ```text
//!   Generic S3 error: Error performing GET http://10.0.0.7:9000/b/t/0.parquet?X-Amz-... - Server returned non-2xx status ...
//!   `s3://b/t/0.parquet` cannot be read: the store answered 503 Service Unavailable: SlowDown: Please reduce your request rate.
//! ```
//!
//! What callers decide on (`NotFound`, `Precondition`, `AlreadyExists` ...) keeps its variant.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::client::{HttpError, HttpErrorKind};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartId, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, RetryConfig,
    UploadPart,
};
use onward_wire::{ErrorKind, WireError};

/// Characters of a server's answer that is not S3's XML.
const MAX_ANSWER_CHARACTERS: usize = 200;

/// `S` with errors of ours.
pub(crate) struct RemoteStore<S> {
    inner: Arc<S>,
    names: Names,
}

/// Names the objects of a store in errors.
#[derive(Clone)]
struct Names {
    /// `s3://bucket/`, without user info.
    base: Arc<str>,
    max_retries: usize,
}

impl<S> RemoteStore<S> {
    /// `base` is the URL of the store's root, without user info and with a slash at its end.
    pub(crate) fn new(inner: S, base: &str, retry: &RetryConfig) -> Self {
        Self { inner: Arc::new(inner), names: Names { base: base.into(), max_retries: retry.max_retries } }
    }
}

impl Names {
    /// For what is about to be done with `location`: makes the error that it may end with.
    fn failing(&self, action: &'static str, location: &str) -> impl Fn(Error) -> Error + Send + use<> {
        let (names, began, what) = (self.clone(), Instant::now(), format!("`{}{location}`", self.base));
        move |error| names.explain(&what, action, began.elapsed(), error)
    }

    fn explain(&self, what: &str, action: &str, elapsed: Duration, error: Error) -> Error {
        let wire = |kind, source: &(dyn StdError + 'static), tries: String| {
            Box::new(WireError::new(kind, format!("{what} cannot be {action}: {}{tries}", cause(source))))
        };
        match error {
            // Ours already: an operation that is made of others.
            Error::Generic { ref source, .. } if source.is::<WireError>() => error,
            Error::Generic { store, source } => {
                let retries = self.max_retries;
                let tries = format!(" (given up after {:.1} s, at most {retries} retries)", elapsed.as_secs_f64());
                Error::Generic { store, source: wire(ErrorKind::Unavailable, source.as_ref(), tries) }
            }
            Error::PermissionDenied { path, source } => {
                Error::PermissionDenied { path, source: wire(ErrorKind::Denied, source.as_ref(), String::new()) }
            }
            Error::Unauthenticated { path, source } => {
                Error::Unauthenticated { path, source: wire(ErrorKind::Denied, source.as_ref(), String::new()) }
            }
            // Callers decide on these; their text has the URL all the same.
            Error::NotFound { path, source } => Error::NotFound { path, source: told(what, source) },
            Error::AlreadyExists { path, source } => Error::AlreadyExists { path, source: told(what, source) },
            Error::Precondition { path, source } => Error::Precondition { path, source: told(what, source) },
            Error::NotModified { path, source } => Error::NotModified { path, source: told(what, source) },
            other => other,
        }
    }
}

/// `source` of an error of `what`, without the URL of the request.
fn told(what: &str, source: Box<dyn StdError + Send + Sync>) -> Box<dyn StdError + Send + Sync> {
    if source.is::<WireError>() { source } else { format!("{what}: {}", cause(source.as_ref())).into() }
}

/// Why a request failed. The outer errors of the chain have its URL, which may hold a signature; the inner ones have not.
fn cause(error: &(dyn StdError + 'static)) -> String {
    let chain: Vec<_> = std::iter::successors(Some(error), |error| (*error).source()).collect();
    let innermost = chain.last().map_or_else(String::new, ToString::to_string);
    let Some(http) = chain.iter().find_map(|error| error.downcast_ref::<HttpError>()) else {
        return answered(&innermost);
    };
    match http.kind() {
        HttpErrorKind::Connect => format!("the store cannot be connected to: {innermost}"),
        HttpErrorKind::Timeout => format!("no whole answer within the store's `timeout`: {innermost}"),
        _ => format!("the connection to the store broke: {innermost}"),
    }
}

/// What a server answered in place of what was asked for. Of S3's XML its code and message: the rest may name keys.
fn answered(text: &str) -> String {
    let text = text.strip_prefix("Server returned non-2xx status code: ").unwrap_or(text);
    let Some((status, _)) = text.split_once("<?xml").or_else(|| text.split_once("<Error>")) else {
        let shown: String = text.trim_end_matches([':', ' ']).chars().take(MAX_ANSWER_CHARACTERS).collect();
        return format!("the store answered {shown}");
    };
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        Some(format!(": {}", rest.split_once("</")?.0))
    };
    let (code, message) = (element("Code").unwrap_or_default(), element("Message").unwrap_or_default());
    format!("the store answered {}{code}{message}", status.trim_end_matches([':', ' ']))
}

/// The directory that a listing is of, with a slash at its end.
fn directory(prefix: Option<&Path>) -> String {
    prefix.filter(|prefix| !prefix.as_ref().is_empty()).map(|prefix| format!("{prefix}/")).unwrap_or_default()
}

impl<S: fmt::Display> fmt::Debug for RemoteStore<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The store's own Debug may show credentials.
        write!(f, "RemoteStore({})", self.inner)
    }
}

impl<S: fmt::Display> fmt::Display for RemoteStore<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl<S: ObjectStore> ObjectStore for RemoteStore<S> {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let failing = self.names.failing("written", location.as_ref());
        self.inner.put_opts(location, payload, opts).await.map_err(failing)
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let failing = self.names.failing("written", location.as_ref());
        let inner = self.inner.put_multipart_opts(location, opts).await.map_err(failing)?;
        Ok(Box::new(RemoteUpload { inner, names: self.names.clone(), location: location.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let failing = self.names.failing("read", location.as_ref());
        let result = self.inner.get_opts(location, options).await.map_err(&failing)?;
        let payload = match result.payload {
            GetResultPayload::Stream(stream) => GetResultPayload::Stream(stream.map_err(failing).boxed()),
            file @ GetResultPayload::File(..) => file,
        };
        Ok(GetResult { payload, ..result })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        // Objects go in batches: an error is of any of them.
        self.inner.delete_stream(locations).map_err(self.names.failing("removed from", "")).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix).map_err(self.names.failing("listed", &directory(prefix))).boxed()
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        let failing = self.names.failing("listed", &directory(prefix));
        self.inner.list_with_offset(prefix, offset).map_err(failing).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let failing = self.names.failing("listed", &directory(prefix));
        self.inner.list_with_delimiter(prefix).await.map_err(failing)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let failing = self.names.failing("copied", from.as_ref());
        self.inner.copy_opts(from, to, options).await.map_err(failing)
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let failing = self.names.failing("renamed", from.as_ref());
        self.inner.rename_opts(from, to, options).await.map_err(failing)
    }
}

#[async_trait]
impl<S: MultipartStore> MultipartStore for RemoteStore<S> {
    async fn create_multipart(&self, path: &Path) -> Result<MultipartId> {
        let failing = self.names.failing("written", path.as_ref());
        self.inner.create_multipart(path).await.map_err(failing)
    }

    async fn put_part(&self, path: &Path, id: &MultipartId, part_idx: usize, data: PutPayload) -> Result<PartId> {
        let failing = self.names.failing("written", path.as_ref());
        self.inner.put_part(path, id, part_idx, data).await.map_err(failing)
    }

    async fn complete_multipart(&self, path: &Path, id: &MultipartId, parts: Vec<PartId>) -> Result<PutResult> {
        let failing = self.names.failing("written", path.as_ref());
        self.inner.complete_multipart(path, id, parts).await.map_err(failing)
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<()> {
        let failing = self.names.failing("removed", path.as_ref());
        self.inner.abort_multipart(path, id).await.map_err(failing)
    }
}

/// An upload of a [`RemoteStore`].
#[derive(Debug)]
struct RemoteUpload {
    inner: Box<dyn MultipartUpload>,
    names: Names,
    location: Path,
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.base)
    }
}

#[async_trait]
impl MultipartUpload for RemoteUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let failing = self.names.failing("written", self.location.as_ref());
        self.inner.put_part(data).map(|done| done.map_err(failing)).boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let failing = self.names.failing("written", self.location.as_ref());
        self.inner.complete().await.map_err(failing)
    }

    async fn abort(&mut self) -> Result<()> {
        let failing = self.names.failing("removed", self.location.as_ref());
        self.inner.abort().await.map_err(failing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_answer_in_xml_code_and_message_are_shown_and_no_key() {
        let text = "Server returned non-2xx status code: 403 Forbidden: <?xml version=\"1.0\"?>\n<Error><Code>\
                    SignatureDoesNotMatch</Code><Message>No match.</Message><AWSAccessKeyId>AKIA1</AWSAccessKeyId></Error>";
        assert_eq!(answered(text), "the store answered 403 Forbidden: SignatureDoesNotMatch: No match.");
        let text = "Server returned non-2xx status code: 502 Bad Gateway: ";
        assert_eq!(answered(text), "the store answered 502 Bad Gateway");
    }

    /// The coordinator tells a missing object from a store that is down by the variant.
    #[test]
    fn what_callers_decide_on_keeps_its_variant() {
        let names = Names { base: "s3://b/".into(), max_retries: 1 };
        let failing = names.failing("read", "t/a.parquet");
        let missing = failing(Error::NotFound { path: "t/a.parquet".to_owned(), source: "gone".into() });
        assert!(matches!(missing, Error::NotFound { .. }), "{missing}");
        let down = failing(Error::Generic { store: "S3", source: "503 Slow Down".into() });
        let again = failing(down);
        assert!(again.to_string().contains("`s3://b/t/a.parquet` cannot be read: the store answered 503"), "{again}");
        assert_eq!(again.to_string().matches("cannot be read").count(), 1, "{again}");
    }
}
