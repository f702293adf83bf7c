//! [`SqlSession`] and what sessions share.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::common::Result;
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::{SessionConfig, SessionContext};
use onward_cache::ranges::{RangeClient, RangeOptions, RangeTier};
use onward_cache::{Confinement, ExpectedVersions, MeteredRegistry, StoreRegistry, versioned_cache_manager};
use onward_planner::session::session_state_builder;
use onward_segment::ScratchDir;
use onward_wire::message::StoreSpec;

use super::prepared::NamedStatements;
use crate::catalog::{CATALOG, Catalog, CatalogError, DEFAULT_SCHEMA, SessionCatalogs, io};
use crate::write::store_urls;

/// Decoded Parquet footers kept for planning.
const FOOTER_CACHE_BYTES: usize = 256 << 20;
/// Directories for spills begin so.
const SPILL_PREFIX: &str = "onward-spill-";
/// File statistics kept for planning.
const STATISTICS_CACHE_BYTES: usize = 64 << 20;

/// What all sessions of a coordinator share.
#[derive(Debug)]
pub struct SharedResources {
    catalog: Arc<Catalog>,
    stores: Arc<StoreRegistry>,
    ranges: Option<Arc<RangeTier>>,
    runtime: Arc<RuntimeEnv>,
    /// Relative file names in SQL mean files below it.
    directory: PathBuf,
    /// Spills of queries that run in the coordinator.
    _spills: ScratchDir,
}

impl SharedResources {
    /// `catalog` and fresh stores; queries that run in the coordinator take their memory from `memory` (`None`: no
    /// limit) and spill below `spill_dir`; bytes of remote objects are kept as `ranges` says. Relative file names mean files
    /// below the working directory.
    pub fn new(
        catalog: Arc<Catalog>,
        memory: Option<Arc<dyn MemoryPool>>,
        spill_dir: &Path,
        ranges: Option<RangeOptions>,
    ) -> Result<Arc<Self>> {
        let directory = std::env::current_dir()?;
        Self::in_directory(catalog, memory, spill_dir, ranges, directory)
    }

    /// Like [`Self::new`], with relative file names below `directory`.
    pub fn in_directory(
        catalog: Arc<Catalog>,
        memory: Option<Arc<dyn MemoryPool>>,
        spill_dir: &Path,
        ranges: Option<RangeOptions>,
        directory: PathBuf,
    ) -> Result<Arc<Self>> {
        let spills = ScratchDir::create(spill_dir, SPILL_PREFIX);
        let spills = spills.map_err(io("creating a directory in", spill_dir))?;
        let stores = Arc::<StoreRegistry>::default();
        let caches = versioned_cache_manager(stores.versions(), FOOTER_CACHE_BYTES, STATISTICS_CACHE_BYTES);
        let mut builder = RuntimeEnvBuilder::new()
            .with_cache_manager(caches)
            .with_temp_file_path(spills.path())
            .with_object_store_registry(stores.metered(None));
        if let Some(memory) = memory {
            builder = builder.with_memory_pool(memory);
        }
        let ranges = ranges.map(|options| Arc::new(RangeTier::new(options, stores.clone())));
        Ok(Arc::new(Self { catalog, stores, ranges, runtime: builder.build_arc()?, directory, _spills: spills }))
    }

    /// The catalog.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// The object stores.
    pub fn stores(&self) -> &Arc<StoreRegistry> {
        &self.stores
    }

    /// Bytes of remote objects, when they are kept.
    pub fn ranges(&self) -> Option<&Arc<RangeTier>> {
        self.ranges.as_ref()
    }

    /// Memory, disk and caches of queries that run in the coordinator.
    pub fn runtime(&self) -> &Arc<RuntimeEnv> {
        &self.runtime
    }

    /// The stores that the scans and writes of `plan` need, for the functions that run it. May hold credentials.
    pub fn stores_of(&self, plan: &Arc<dyn ExecutionPlan>) -> Result<Vec<StoreSpec>> {
        let mut specs: Vec<StoreSpec> = Vec::new();
        for url in store_urls(plan)? {
            let spec = self.stores.spec(&url)?;
            if !specs.contains(&spec) {
                specs.push(spec);
            }
        }
        Ok(specs)
    }
}

/// One client's SQL state.
pub struct SqlSession {
    shared: Arc<SharedResources>,
    context: SessionContext,
    catalogs: SessionCatalogs,
    registry: Arc<MeteredRegistry>,
    confinement: Option<Arc<Confinement>>,
    /// Of PREPARE.
    pub(super) prepared: NamedStatements,
}

impl SqlSession {
    /// Opens a session. `config` comes from `onward_planner::session::session_config`. With `allowed_paths` the session
    /// reads and writes local files below them only, and managed tables.
    pub fn open(
        shared: Arc<SharedResources>,
        config: SessionConfig,
        allowed_paths: Option<&[PathBuf]>,
    ) -> Result<Self> {
        let confinement = allowed_paths.map(|allowed| {
            let tables = shared.catalog.directory().tables();
            Arc::new(Confinement::new(allowed.iter().cloned().chain([tables])))
        });
        let ranges = shared.ranges.clone().map(|ranges| ranges as Arc<dyn RangeClient>);
        let registry = shared.stores.planning(confinement.clone()).reading_through(ranges);
        let runtime = RuntimeEnvBuilder::from_runtime_env(&shared.runtime)
            .with_object_store_registry(registry.clone())
            .build_arc()?;
        let mut config = config.with_create_default_catalog_and_schema(false).with_information_schema(true);
        config = config.with_default_catalog_and_schema(CATALOG, DEFAULT_SCHEMA);
        let catalogs = SessionCatalogs::new(shared.catalog.clone(), shared.stores.clone(), shared.directory.clone());
        let state = session_state_builder(config, runtime)
            .with_catalog_list(Arc::new(catalogs.clone()))
            .with_query_planner(crate::write::query_planner())
            .build();
        let context = SessionContext::new_with_state(state);
        catalogs.bind(context.state_weak_ref());
        Ok(Self { shared, context, catalogs, registry, confinement, prepared: NamedStatements::default() })
    }

    /// DataFusion's context: settings, functions, tables.
    pub fn context(&self) -> &SessionContext {
        &self.context
    }

    /// What it shares with other sessions.
    pub fn shared(&self) -> &Arc<SharedResources> {
        &self.shared
    }

    /// Requests that planning (listings, footers) and queries in the coordinator made, since the session began.
    pub fn store_requests(&self) -> onward_wire::message::StoreRequests {
        self.registry.counters().snapshot()
    }

    /// The session's stores, where objects are read in the versions `expected`.
    pub(crate) fn registry_expecting(&self, expected: Arc<ExpectedVersions>) -> Arc<MeteredRegistry> {
        self.registry.expecting(expected)
    }

    /// Relative file names mean files below it.
    pub(crate) fn directory(&self) -> &Path {
        self.catalogs.directory()
    }

    /// Errors when `path` is none that this session may use. Object stores are checked again at each access.
    pub(crate) fn check_path(&self, path: &Path) -> Result<()> {
        match &self.confinement {
            Some(confinement) => Ok(confinement.check(path)?),
            None => Ok(()),
        }
    }

    /// `path` is inside the data directory, whose files only statements on managed tables change.
    pub(crate) fn check_not_ours(&self, path: &Path) -> Result<()> {
        let ours = self.shared.catalog.directory().path();
        if path.starts_with(ours) {
            let error = format!("`{}` is inside the data directory `{}`", path.display(), ours.display());
            return Err(CatalogError::Invalid(error).into());
        }
        Ok(())
    }
}
