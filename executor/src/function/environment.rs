//! What every attempt needs, built once per process.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::TaskContext;
use datafusion::execution::cache::cache_manager::CacheManager;
use datafusion::execution::disk_manager::{DiskManager, DiskManagerMode};
use datafusion::execution::memory_pool::{MemoryPool, PeakRecordingPool, TrackConsumersPool};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::{AggregateUDF, HigherOrderUDF, ScalarUDF, WindowUDF};
use datafusion::prelude::SessionConfig;
use onward_cache::ranges::RangeClient;
use onward_cache::{ExpectedVersions, MeteredRegistry, StoreRegistry, StoreSource, UploadLog, versioned_cache_manager};
use onward_planner::codec::Functions;
use onward_planner::scalar_subquery::single_value;
use onward_planner::session::function_session_config;
use onward_wire::AttemptId;
use onward_wire::message::{KeyValue, Welcome};
use parking_lot::Mutex;

use super::memory::OperatorPool;

/// Consumers that an out-of-memory error names.
const REPORTED_CONSUMERS: NonZeroUsize = NonZeroUsize::new(5).expect("5 is not zero");
/// Decoded Parquet footers kept between attempts.
const FOOTER_BYTES: usize = 32 << 20;
/// File statistics are the planner's business: a function asks for none.
const STATISTICS_BYTES: usize = 0;

/// The functions SQL may call.
pub struct Registry {
    scalar: HashMap<String, Arc<ScalarUDF>>,
    higher_order: HashMap<String, Arc<HigherOrderUDF>>,
    aggregate: HashMap<String, Arc<AggregateUDF>>,
    window: HashMap<String, Arc<WindowUDF>>,
    /// Scalar functions that depend on settings, such as `to_timestamp` on the time zone.
    configured: Vec<String>,
}

impl Registry {
    /// DataFusion's default functions and the planner's own, as in every session.
    pub fn build() -> Self {
        let state = SessionStateBuilder::new().with_default_features().build();
        let mut aggregate = state.aggregate_functions().clone();
        let single_value = single_value();
        aggregate.insert(single_value.name().to_owned(), single_value);
        let scalar = state.scalar_functions().clone();
        let depends = |function: &ScalarUDF| function.inner().with_updated_config(state.config_options()).is_some();
        let configured = scalar.iter().filter(|(_, function)| depends(function)).map(|(name, _)| name.clone());
        Self {
            configured: configured.collect(),
            scalar,
            higher_order: state.higher_order_functions().clone(),
            aggregate,
            window: state.window_functions().clone(),
        }
    }

    /// With another function in the place of the one of its name.
    #[cfg(test)]
    pub(crate) fn with_scalar(mut self, function: ScalarUDF) -> Self {
        self.scalar.insert(function.name().to_owned(), Arc::new(function));
        self
    }

    /// Scalar functions as `settings` make them.
    fn scalar(&self, settings: &ConfigOptions) -> HashMap<String, Arc<ScalarUDF>> {
        let mut scalar = self.scalar.clone();
        for name in &self.configured {
            if let Some(function) = scalar.get_mut(name)
                && let Some(updated) = function.inner().with_updated_config(settings)
            {
                *function = Arc::new(updated);
            }
        }
        scalar
    }
}

/// What plans are decoded with. What runs has its functions in it.
pub(super) struct Decoder {
    settings: Vec<KeyValue>,
    /// The session's settings,
    pub(super) config: SessionConfig,
    /// and the functions of SQL as they make them.
    pub(super) functions: Arc<Functions>,
}

/// Memory, disk, stores, footers and functions of this process.
pub(super) struct Environment {
    registry: Registry,
    /// The last one: sessions mostly have the same settings.
    decoder: Mutex<Option<Arc<Decoder>>>,
    pool: Arc<dyn MemoryPool>,
    disk: Arc<DiskManager>,
    caches: Arc<CacheManager>,
    /// Of no store: it knows the versions of what was read.
    stores: Arc<StoreRegistry>,
}

/// What an attempt reads tables with.
pub(super) struct Reads {
    /// Objects are read in these versions,
    pub(super) expected: Arc<ExpectedVersions>,
    /// remote ones through this.
    pub(super) ranges: Arc<dyn RangeClient>,
    pub(super) stores: Arc<dyn StoreSource>,
}

/// One attempt's view of the environment, and what is measured through it.
pub(super) struct AttemptContext {
    pub(super) task: Arc<TaskContext>,
    pub(super) memory: Arc<TrackConsumersPool<PeakRecordingPool>>,
    pub(super) stores: Arc<MeteredRegistry>,
}

impl Environment {
    /// Errors when the spill directory cannot be used.
    pub(super) fn build(welcome: &Welcome, registry: Registry) -> Result<Self> {
        let stores = Arc::new(StoreRegistry::default());
        let limit = usize::try_from(welcome.memory_bytes).unwrap_or(usize::MAX);
        let disk = DiskManager::builder()
            .with_mode(DiskManagerMode::Directories(vec![PathBuf::from(&welcome.spill_dir)]))
            .with_max_temp_directory_size(welcome.spill_bytes)
            .build()?;
        let caches = versioned_cache_manager(stores.versions(), FOOTER_BYTES, STATISTICS_BYTES);
        Ok(Self {
            registry,
            decoder: Mutex::default(),
            pool: Arc::new(OperatorPool::new(limit)),
            disk: Arc::new(disk),
            caches: CacheManager::try_new(&caches)?,
            stores,
        })
    }

    /// What plans of a session with these settings are decoded with.
    pub(super) fn decoder(&self, settings: &[KeyValue]) -> Result<Arc<Decoder>> {
        let last = self.decoder.lock().clone();
        if let Some(decoder) = last.filter(|decoder| decoder.settings == settings) {
            return Ok(decoder);
        }
        let config = function_session_config(settings.iter().map(|pair| (pair.key.as_str(), pair.value.as_str())))?;
        let registry = &self.registry;
        let functions = Functions {
            scalar: registry.scalar(config.options()),
            higher_order: registry.higher_order.clone(),
            aggregate: registry.aggregate.clone(),
            window: registry.window.clone(),
        };
        let decoder = Arc::new(Decoder { settings: settings.to_vec(), config, functions: Arc::new(functions) });
        *self.decoder.lock() = Some(Arc::clone(&decoder));
        Ok(decoder)
    }

    /// A context for one attempt: memory and store requests are measured apart, limits are shared by all. `uploads` hears
    /// of uploads to object stores as they begin.
    pub(super) fn attempt(
        &self,
        attempt: AttemptId,
        config: SessionConfig,
        uploads: UploadLog,
        reads: Reads,
    ) -> AttemptContext {
        let config = config.with_extension(Arc::new(uploads));
        let memory = PeakRecordingPool::new(Arc::clone(&self.pool));
        let memory = Arc::new(TrackConsumersPool::new(memory, REPORTED_CONSUMERS));
        let stores = self.stores.expecting(reads.expected).reading_through(Some(reads.ranges)).of(reads.stores);
        let runtime = RuntimeEnv {
            memory_pool: Arc::clone(&memory) as Arc<dyn MemoryPool>,
            disk_manager: Arc::clone(&self.disk),
            cache_manager: Arc::clone(&self.caches),
            object_store_registry: Arc::clone(&stores) as _,
        };
        let task = TaskContext::new(
            Some(attempt.to_string()),
            attempt.query().to_string(),
            config,
            HashMap::new(),
            HashMap::new(),
            HashMap::new(),
            HashMap::new(),
            Arc::new(runtime),
        );
        AttemptContext { task: Arc::new(task), memory, stores }
    }
}
