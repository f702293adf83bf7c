//! [`StoreRegistry`]: the stores of a process, built when a URL first needs one.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use datafusion::error::Result;
use datafusion::execution::object_store::ObjectStoreRegistry;
use object_store::ObjectStore;
use onward_wire::message::StoreSpec;
use parking_lot::RwLock;
use url::Url;

use crate::checks::VersionChecks;
use crate::confine::{ConfinedStore, Confinement};
use crate::error::StoreError;
use crate::meter::{MeteredStore, RequestCounters};
use crate::ranges::RangeClient;
use crate::store::{StoreHandle, build_store, store_key};
use crate::uploads::OpenUploads;
use crate::versions::{ExpectedVersions, SeenVersions};

/// All stores of a process by scheme and authority. A store that nobody registered is built from the environment when
/// a plan first names it.
///
/// One bucket has one set of options: registering it again replaces them for everybody.
#[derive(Default)]
pub struct StoreRegistry {
    stores: RwLock<HashMap<String, Entry>>,
    versions: Arc<SeenVersions>,
    uploads: Arc<OpenUploads>,
    checks: Arc<VersionChecks>,
}

#[derive(Clone)]
struct Entry {
    spec: StoreSpec,
    handle: StoreHandle,
}

impl fmt::Debug for StoreRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreRegistry").field("stores", &self.stores.read().keys()).finish()
    }
}

impl StoreRegistry {
    /// Builds and registers the store of `spec`; nothing happens when it is there with the same options.
    pub fn register(&self, spec: &StoreSpec) -> Result<(), StoreError> {
        let url = parse(&spec.url)?;
        let key = store_key(&url);
        if self.stores.read().get(&key).is_some_and(|entry| entry.spec.options == spec.options) {
            return Ok(());
        }
        let handle = build_store(spec)?;
        let spec = StoreSpec { url: format!("{key}/"), options: spec.options.clone() };
        self.stores.write().insert(key, Entry { spec, handle });
        Ok(())
    }

    /// Registers a store that exists already (tests, embedding).
    pub fn register_handle(&self, url: &Url, handle: StoreHandle) {
        let key = store_key(url);
        let spec = StoreSpec { url: format!("{key}/"), options: vec![] };
        self.stores.write().insert(key, Entry { spec, handle });
    }

    /// The store of `url`.
    pub fn handle(&self, url: &Url) -> Result<StoreHandle, StoreError> {
        Ok(self.entry(url)?.handle)
    }

    /// What a function needs to build the store of `url` itself. Options may hold credentials: never log it.
    pub fn spec(&self, url: &Url) -> Result<StoreSpec, StoreError> {
        Ok(self.entry(url)?.spec)
    }

    /// Versions of the objects seen through [`MeteredRegistry`].
    pub fn versions(&self) -> &Arc<SeenVersions> {
        &self.versions
    }

    /// What remote stores said of versions while statements were planned.
    pub fn checks(&self) -> &Arc<VersionChecks> {
        &self.checks
    }

    /// Uploads of writes that run.
    pub fn uploads(&self) -> &Arc<OpenUploads> {
        &self.uploads
    }

    /// A view for one session or one attempt: requests are counted apart, local paths are confined.
    pub fn metered(self: &Arc<Self>, confinement: Option<Arc<Confinement>>) -> Arc<MeteredRegistry> {
        self.view(confinement, Arc::default())
    }

    /// [`Self::metered`] for planning: a read of an object that has changed since it was listed fails.
    pub fn planning(self: &Arc<Self>, confinement: Option<Arc<Confinement>>) -> Arc<MeteredRegistry> {
        let view = MeteredRegistry {
            stores: self.clone(),
            counters: Arc::default(),
            confinement,
            expected: Arc::default(),
            reads_listed: true,
            ranges: None,
            source: None,
        };
        Arc::new(view)
    }

    /// [`Self::metered`] for a plan: objects that it names are read in the version it was made for, or not at all.
    pub fn expecting(self: &Arc<Self>, expected: Arc<ExpectedVersions>) -> Arc<MeteredRegistry> {
        self.view(None, expected)
    }

    fn view(
        self: &Arc<Self>,
        confinement: Option<Arc<Confinement>>,
        expected: Arc<ExpectedVersions>,
    ) -> Arc<MeteredRegistry> {
        Arc::new(MeteredRegistry {
            stores: self.clone(),
            counters: Arc::default(),
            confinement,
            expected,
            reads_listed: false,
            ranges: None,
            source: None,
        })
    }

    fn entry(&self, url: &Url) -> Result<Entry, StoreError> {
        let key = store_key(url);
        if let Some(entry) = self.stores.read().get(&key) {
            return Ok(entry.clone());
        }
        let spec = StoreSpec { url: format!("{key}/"), options: vec![] };
        let handle = build_store(&spec)?;
        let entry = Entry { spec, handle };
        Ok(self.stores.write().entry(key).or_insert(entry).clone())
    }
}

/// Where a process has its stores from, when it does not build them.
pub trait StoreSource: fmt::Debug + Send + Sync {
    /// The store of `url`.
    ///
    /// # Errors
    /// When there is none.
    fn handle(&self, url: &Url) -> Result<StoreHandle, StoreError>;
}

fn parse(url: &str) -> Result<Url, StoreError> {
    Url::parse(url).map_err(|_| StoreError::UnknownScheme { url: url.to_owned(), scheme: url.to_owned() })
}

/// A [`StoreRegistry`] for a `RuntimeEnv`: hands out [`MeteredStore`]s.
#[derive(Debug)]
pub struct MeteredRegistry {
    stores: Arc<StoreRegistry>,
    counters: Arc<RequestCounters>,
    confinement: Option<Arc<Confinement>>,
    expected: Arc<ExpectedVersions>,
    reads_listed: bool,
    ranges: Option<Arc<dyn RangeClient>>,
    source: Option<Arc<dyn StoreSource>>,
}

impl MeteredRegistry {
    /// Requests made through this view.
    pub fn counters(&self) -> &Arc<RequestCounters> {
        &self.counters
    }

    /// The same view, counted with it, for a plan: as [`StoreRegistry::expecting`].
    pub fn expecting(&self, expected: Arc<ExpectedVersions>) -> Arc<Self> {
        Arc::new(Self { expected, reads_listed: false, ..self.copy() })
    }

    /// The same view, reading remote objects through the range tier.
    pub fn reading_through(self: Arc<Self>, ranges: Option<Arc<dyn RangeClient>>) -> Arc<Self> {
        Arc::new(Self { ranges, ..self.copy() })
    }

    /// The same view, of the stores of `source`.
    pub fn of(self: Arc<Self>, source: Arc<dyn StoreSource>) -> Arc<Self> {
        Arc::new(Self { source: Some(source), ..self.copy() })
    }

    fn copy(&self) -> Self {
        Self {
            stores: self.stores.clone(),
            counters: self.counters.clone(),
            confinement: self.confinement.clone(),
            expected: self.expected.clone(),
            reads_listed: self.reads_listed,
            ranges: self.ranges.clone(),
            source: self.source.clone(),
        }
    }

    /// The registry behind it.
    pub fn stores(&self) -> &Arc<StoreRegistry> {
        &self.stores
    }
}

impl ObjectStoreRegistry for MeteredRegistry {
    fn register_store(&self, url: &Url, store: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        let is_local = url.scheme() == "file";
        self.stores.register_handle(url, StoreHandle { store, multipart: None, is_local });
        None
    }

    fn get_store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        let mut handle = match &self.source {
            Some(source) => source.handle(url)?,
            None => self.stores.handle(url)?,
        };
        if let Some(confinement) = &self.confinement
            && handle.is_local
        {
            handle.store = Arc::new(ConfinedStore::new(handle.store, confinement.clone()));
        }
        let base = format!("{}/", store_key(url));
        let store = MeteredStore::new(handle, base, self.counters.clone(), self.stores.versions.clone());
        let mut store = store.expecting(self.expected.clone());
        if let Some(ranges) = &self.ranges {
            store = store.reading_through(ranges.clone());
        }
        if self.reads_listed {
            store = store.reading_listed(&self.stores.checks);
        }
        Ok(Arc::new(store))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_built_when_a_plan_first_names_it_and_debug_shows_no_options() {
        let registry = Arc::new(StoreRegistry::default());
        let url = Url::parse("http://127.0.0.1:9/data/a.csv").unwrap();
        assert_eq!(registry.spec(&url).unwrap().url, "http://127.0.0.1:9/");
        let metered = registry.metered(None);
        assert!(metered.get_store(&url).is_ok());
        assert!(metered.get_store(&Url::parse("ftp://host/x").unwrap()).is_err());
        let spec = StoreSpec {
            url: "s3://b/x".into(),
            options: [("aws.access_key_id", "id"), ("aws.secret_access_key", "hush")]
                .map(|(key, value)| onward_wire::message::KeyValue { key: key.into(), value: value.into() })
                .to_vec(),
        };
        registry.register(&spec).unwrap();
        assert!(!format!("{registry:?}").contains("hush"));
        assert_eq!(registry.spec(&Url::parse("s3://b/other").unwrap()).unwrap().options.len(), 2);
    }
}
