//! Never stale: footers and statistics are cached per object *version*, not per path.
//!
//! DataFusion's caches compare size and modification time only, and key by path without the store. An object that was
//! overwritten within the clock's resolution (a second on S3), or lies in another bucket under the same path, would be
//! served from the old entry. Here the stores note the version (etag, size, time) of every object they list or read,
//! and an entry counts only while it has the version that was seen last. Listings are never cached.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use datafusion::common::TableReference;
use datafusion::execution::cache::cache_manager::{CacheManagerConfig, CachedFileMetadata, CachedFileMetadataEntry};
use datafusion::execution::cache::default_cache::DefaultCache;
use datafusion::execution::cache::{Cache, CacheEntryInfo, CacheKey, CacheValue, TableScopedPath};
use object_store::ObjectMeta;
use object_store::path::Path;
use onward_wire::columns::ObjectTag;
use parking_lot::RwLock;
use url::Url;

use crate::paths::store_path;
use crate::store::store_key;

/// Objects remembered; past it all are forgotten, which costs a re-read of their footers and nothing else.
const MAX_SEEN: usize = 200_000;

/// The version of every object, as it was seen last.
#[derive(Debug, Default)]
pub struct SeenVersions {
    seen: RwLock<HashMap<Path, Version>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    e_tag: Option<String>,
    size: u64,
    /// Nanoseconds since 1970; `None` for stores that tell no time.
    modified: Option<i64>,
}

impl Version {
    fn of(meta: &ObjectMeta) -> Self {
        let modified = meta.last_modified.timestamp_nanos_opt().filter(|time| *time != 0);
        Self { e_tag: meta.e_tag.clone(), size: meta.size, modified }
    }

    /// The same bytes. An etag decides where both have one (a plan that was sent to a function has lost it).
    fn is_same(&self, other: &Self) -> bool {
        let same_tag = match (&self.e_tag, &other.e_tag) {
            (Some(one), Some(two)) => one == two,
            _ => true,
        };
        self.is_known() && same_tag && self.size == other.size && self.modified == other.modified
    }

    /// Nothing says that these are other bytes. Stores give times more exactly in listings than with objects: where there are
    /// etags, they decide.
    fn fits(&self, other: &Self) -> bool {
        match (&self.e_tag, &other.e_tag) {
            (Some(one), Some(two)) => one == two && self.size == other.size,
            _ => self.size == other.size && (self.modified == other.modified || !self.is_known() || !other.is_known()),
        }
    }

    fn tag(&self, store_url: &str, path: &Path) -> ObjectTag {
        ObjectTag {
            store: store_url.to_owned(),
            path: path.to_string(),
            e_tag: self.e_tag.clone(),
            bytes: self.size,
            modified_ns: self.modified.unwrap_or_default(),
        }
    }

    fn is_known(&self) -> bool {
        self.e_tag.is_some() || self.modified.is_some()
    }
}

/// The version of an object as text: its etag, or size and modification time.
pub fn version_text(meta: &ObjectMeta) -> String {
    match &meta.e_tag {
        Some(e_tag) => e_tag.clone(),
        None => format!("{}-{}", meta.size, meta.last_modified.timestamp_nanos_opt().unwrap_or_default()),
    }
}

/// The version of an object, in the words of its store.
pub(crate) fn tag_of(store_url: &str, meta: &ObjectMeta) -> ObjectTag {
    ObjectTag {
        store: store_url.to_owned(),
        path: meta.location.to_string(),
        e_tag: meta.e_tag.clone(),
        bytes: meta.size,
        modified_ns: meta.last_modified.timestamp_nanos_opt().unwrap_or_default(),
    }
}

/// The versions of objects that a plan was made for. A read of another version fails.
#[derive(Debug, Default)]
pub struct ExpectedVersions {
    /// By base URL of the store (`s3://bucket/`) and path.
    objects: HashMap<(String, Path), Version>,
}

impl ExpectedVersions {
    /// The versions in `tags`.
    pub fn new(tags: &[ObjectTag]) -> Self {
        let object = |tag: &ObjectTag| {
            let store =
                Url::parse(&tag.store).map_or_else(|_| tag.store.clone(), |url| format!("{}/", store_key(&url)));
            // A path that is none names no object, and is never asked about.
            let path = store_path(&tag.path).unwrap_or_default();
            let modified = (tag.modified_ns != 0).then_some(tag.modified_ns);
            ((store, path), Version { e_tag: tag.e_tag.clone(), size: tag.bytes, modified })
        };
        Self { objects: tags.iter().map(object).collect() }
    }

    /// Nothing is expected.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// `path` is read by the plan.
    pub fn has(&self, store_url: &str, path: &Path) -> bool {
        self.objects.contains_key(&(store_url.to_owned(), path.clone()))
    }

    /// The version of `path` that is to be read; `is_known`: only if its store could tell it from others.
    pub(crate) fn tag(&self, store_url: &str, path: &Path, is_known: bool) -> Option<ObjectTag> {
        let version = self.objects.get(&(store_url.to_owned(), path.clone()))?;
        (version.is_known() || !is_known).then(|| version.tag(store_url, path))
    }

    /// The object that was just read is the one expected, or not expected at all.
    pub(crate) fn is_expected(&self, store_url: &str, meta: &ObjectMeta) -> bool {
        let expected = self.objects.get(&(store_url.to_owned(), meta.location.clone()));
        // A store that tells neither etag nor time cannot be checked.
        expected.is_none_or(|expected| expected.fits(&Version::of(meta)))
    }
}

impl SeenVersions {
    /// Notes what a store just said about an object.
    pub fn note(&self, meta: &ObjectMeta) {
        let version = Version::of(meta);
        if self.seen.read().get(&meta.location) == Some(&version) {
            return;
        }
        let mut seen = self.seen.write();
        if seen.len() >= MAX_SEEN {
            seen.clear();
        }
        seen.insert(meta.location.clone(), version);
    }

    /// The version of `path` that was seen last, where it has an etag: another store may have the same path.
    pub(crate) fn tag(&self, store_url: &str, path: &Path) -> Option<ObjectTag> {
        let seen = self.seen.read();
        let version = seen.get(path).filter(|version| version.e_tag.is_some())?;
        Some(version.tag(store_url, path))
    }

    /// `path` was seen.
    pub(crate) fn has(&self, path: &Path) -> bool {
        self.seen.read().contains_key(path)
    }

    /// Nothing says that `meta` is another version than was seen last.
    pub(crate) fn fits(&self, meta: &ObjectMeta) -> bool {
        self.seen.read().get(&meta.location).is_none_or(|seen| seen.fits(&Version::of(meta)))
    }

    /// `meta` is the version that was seen last.
    pub fn is_current(&self, meta: &ObjectMeta) -> bool {
        self.seen.read().get(&meta.location).is_some_and(|seen| seen.is_same(&Version::of(meta)))
    }
}

/// A cache manager for a `RuntimeEnv`: no listings, footers and statistics by version.
///
/// `footer_bytes` limits decoded Parquet footers, `statistics_bytes` the statistics of files.
pub fn versioned_cache_manager(
    versions: &Arc<SeenVersions>,
    footer_bytes: usize,
    statistics_bytes: usize,
) -> CacheManagerConfig {
    let footers = VersionedCache { entries: DefaultCache::new(footer_bytes), versions: versions.clone() };
    let statistics = VersionedCache { entries: DefaultCache::new(statistics_bytes), versions: versions.clone() };
    CacheManagerConfig::default()
        .with_list_files_cache(None)
        .with_list_files_cache_limit(0)
        .with_metadata_cache_limit(footer_bytes)
        .with_file_metadata_cache(Some(Arc::new(footers) as Arc<dyn Cache<Path, CachedFileMetadataEntry>>))
        .with_file_statistics_cache_limit(statistics_bytes)
        .with_file_statistics_cache(Some(Arc::new(statistics) as Arc<dyn Cache<TableScopedPath, CachedFileMetadata>>))
}

/// A value that says which version of an object it was made from.
trait Versioned {
    fn meta(&self) -> &ObjectMeta;
}

impl Versioned for CachedFileMetadata {
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
}

impl Versioned for CachedFileMetadataEntry {
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
}

/// DataFusion's least-recently-used cache, answering only for current versions.
struct VersionedCache<K: CacheKey, V: CacheValue> {
    entries: DefaultCache<K, V>,
    versions: Arc<SeenVersions>,
}

impl<K: CacheKey, V: CacheValue + Versioned> Cache<K, V> for VersionedCache<K, V>
where
    DefaultCache<K, V>: Cache<K, V>,
{
    fn get(&self, key: &K) -> Option<V> {
        self.entries.get(key).filter(|value| self.versions.is_current(value.meta()))
    }

    fn put(&self, key: &K, value: V) -> Option<V> {
        self.entries.put(key, value)
    }

    fn remove(&self, key: &K) -> Option<V> {
        self.entries.remove(key)
    }

    fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    fn len(&self) -> usize {
        self.entries.len()
    }

    fn clear(&self) {
        self.entries.clear();
    }

    fn name(&self) -> String {
        "VersionedCache".to_owned()
    }

    fn cache_limit(&self) -> usize {
        self.entries.cache_limit()
    }

    fn update_cache_limit(&self, limit: usize) {
        self.entries.update_cache_limit(limit);
    }

    fn cache_ttl(&self) -> Option<Duration> {
        self.entries.cache_ttl()
    }

    fn update_cache_ttl(&self, ttl: Option<Duration>) {
        self.entries.update_cache_ttl(ttl);
    }

    fn drop_table_entries(&self, table: &TableReference) -> datafusion::error::Result<()> {
        self.entries.drop_table_entries(table)
    }

    fn list_entries(&self) -> datafusion::common::HashMap<K, CacheEntryInfo<V>> {
        self.entries.list_entries()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(e_tag: Option<&str>, size: u64, seconds: i64) -> ObjectMeta {
        ObjectMeta {
            location: Path::from("t/a.parquet"),
            last_modified: std::time::SystemTime::UNIX_EPOCH
                .checked_add(Duration::from_secs(seconds as u64))
                .unwrap()
                .into(),
            size,
            e_tag: e_tag.map(str::to_owned),
            version: None,
        }
    }

    #[test]
    fn an_overwrite_within_one_second_and_of_the_same_size_is_noticed() {
        let versions = SeenVersions::default();
        versions.note(&meta(Some("one"), 10, 7));
        assert!(versions.is_current(&meta(Some("one"), 10, 7)));
        versions.note(&meta(Some("two"), 10, 7));
        assert!(!versions.is_current(&meta(Some("one"), 10, 7)));
    }

    #[test]
    fn what_was_never_seen_or_has_no_version_is_not_current() {
        let versions = SeenVersions::default();
        assert!(!versions.is_current(&meta(Some("one"), 10, 7)));
        versions.note(&meta(None, 10, 0));
        assert!(!versions.is_current(&meta(None, 10, 0)), "neither etag nor time: cannot be told apart");
        versions.note(&meta(None, 10, 7));
        assert!(versions.is_current(&meta(None, 10, 7)) && !versions.is_current(&meta(None, 11, 7)));
    }
}
