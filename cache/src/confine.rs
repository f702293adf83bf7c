//! [`Confinement`]: the local directories a session may use.

use std::fmt;
use std::ops::Range;
use std::path::{Component, Path as FsPath, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, RenameOptions, Result,
};

use crate::error::StoreError;
use crate::paths::local_path;

/// Local paths must lie below one of some directories, after symbolic links are followed.
#[derive(Clone, Debug, Default)]
pub struct Confinement {
    /// Canonical; a directory that does not exist allows nothing.
    allowed: Vec<PathBuf>,
}

impl Confinement {
    /// Allows `directories` and everything below them.
    pub fn new(directories: impl IntoIterator<Item = PathBuf>) -> Self {
        Self { allowed: directories.into_iter().filter_map(|directory| directory.canonicalize().ok()).collect() }
    }

    /// Errors when `path` lies elsewhere. What does not exist yet is judged by its nearest existing ancestor, so that
    /// the same answer is given for files that exist and for those that do not.
    pub fn check(&self, path: &FsPath) -> Result<(), StoreError> {
        let denied = || StoreError::Denied {
            path: path.display().to_string(),
            allowed: self.allowed.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "),
        };
        let real = resolve(path).ok_or_else(denied)?;
        match self.allowed.iter().any(|allowed| real.starts_with(allowed)) {
            true => Ok(()),
            false => Err(denied()),
        }
    }
}

/// The path without links: of what exists canonical, of the rest as it is written. `None`: `..` below what is missing.
fn resolve(path: &FsPath) -> Option<PathBuf> {
    let mut missing = Vec::new();
    let mut existing = path;
    loop {
        // A dangling link "does not exist", yet writing to it writes elsewhere: symlink_metadata sees it.
        if let Ok(real) = existing.canonicalize() {
            return Some(missing.iter().rev().fold(real, |real: PathBuf, part| real.join(part)));
        }
        if existing.symlink_metadata().is_ok() {
            return None;
        }
        match existing.components().next_back()? {
            Component::Normal(part) => missing.push(part.to_owned()),
            _ => return None,
        }
        existing = existing.parent()?;
    }
}

/// A local store that refuses what its [`Confinement`] refuses.
pub(crate) struct ConfinedStore {
    inner: Arc<dyn ObjectStore>,
    confinement: Arc<Confinement>,
}

impl ConfinedStore {
    pub(crate) fn new(inner: Arc<dyn ObjectStore>, confinement: Arc<Confinement>) -> Self {
        Self { inner, confinement }
    }

    fn check(&self, location: &Path) -> Result<()> {
        Ok(self.confinement.check(&local_path(location))?)
    }

    /// Hides listed files that a link leads out of the allowed directories.
    fn filter(&self, stream: BoxStream<'static, Result<ObjectMeta>>) -> BoxStream<'static, Result<ObjectMeta>> {
        let confinement = self.confinement.clone();
        stream
            .filter(move |meta| {
                let is_allowed = match meta {
                    Ok(meta) => confinement.check(&local_path(&meta.location)).is_ok(),
                    Err(_) => true,
                };
                futures::future::ready(is_allowed)
            })
            .boxed()
    }
}

impl fmt::Debug for ConfinedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConfinedStore({})", self.inner)
    }
}

impl fmt::Display for ConfinedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for ConfinedStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.check(location)?;
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.check(location)?;
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.check(location)?;
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.check(location)?;
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let confinement = self.confinement.clone();
        let checked = locations.map(move |location| {
            let location = location?;
            confinement.check(&local_path(&location))?;
            Ok(location)
        });
        self.inner.delete_stream(checked.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match prefix.map_or(Ok(()), |prefix| self.check(prefix)) {
            Ok(()) => self.filter(self.inner.list(prefix)),
            Err(error) => futures::stream::once(async { Err(error) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        prefix.map_or(Ok(()), |prefix| self.check(prefix))?;
        let mut result = self.inner.list_with_delimiter(prefix).await?;
        result.objects.retain(|meta| self.check(&meta.location).is_ok());
        result.common_prefixes.retain(|directory| self.check(directory).is_ok());
        Ok(result)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.check(from)?;
        self.check(to)?;
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.check(from)?;
        self.check(to)?;
        self.inner.rename_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_dots_and_missing_files_do_not_lead_out() {
        let root = tempfile::tempdir().unwrap();
        let (inside, outside) = (root.path().join("in"), root.path().join("out"));
        std::fs::create_dir_all(&inside).unwrap();
        std::fs::create_dir_all(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("link")).unwrap();
        std::os::unix::fs::symlink(outside.join("new"), inside.join("dangling")).unwrap();
        let confinement = Confinement::new([inside.clone()]);
        for path in ["in", "in/a.csv", "in/new/b.csv", "in/../in/a.csv"] {
            assert!(confinement.check(&root.path().join(path)).is_ok(), "{path}");
        }
        for path in ["out/a.csv", "in/../out/a.csv", "in/link/a.csv", "in/dangling", "in/new/../../out/a", "inner"] {
            assert!(confinement.check(&root.path().join(path)).is_err(), "{path}");
        }
    }
}
