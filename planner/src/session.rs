//! The planner's part of a session: the `onward.*` settings, the defaults every session starts from, and our physical
//! optimizer rules at the places they belong.

use std::any::Any;
use std::sync::Arc;

use datafusion::common::config::{ConfigEntry, ConfigExtension, ConfigOptions, ExtensionOptions};
use datafusion::common::{DataFusionError, Result, config_err};
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::optimizer::Optimizer;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::prelude::SessionConfig;
use datafusion_proto::physical_plan::PhysicalExtensionCodec;

use crate::rules::{DynamicFilters, JoinDistribution};
use crate::scalar_subquery::{SingleRowSubqueries, single_value};

/// The `onward.*` settings of a session (`SET onward.functions = 4`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnwardOptions {
    /// Functions a query uses; 0 lets the planner choose from statistics.
    pub functions: usize,
    /// A query is cancelled after this long; 0 is never.
    pub statement_timeout_ms: u64,
    /// Scans read the column cache.
    pub cache: bool,
    /// Clients fetch rows from the hosts that hold them.
    pub direct_results: bool,
    /// The queue that statements wait in when all places are taken; empty: the default one.
    pub queue: String,
    /// The worker class that functions are of; empty: the planner chooses.
    pub class: String,
    /// Tasks of a stage, which the functions work off one after the other; 0 is one for each function.
    pub stage_tasks: usize,
    /// Queues that there are besides the default one; `None`: any name is taken.
    pub queues: Option<Arc<[String]>>,
    /// Worker classes that are set up; `None`: any name is taken.
    pub classes: Option<Arc<[String]>>,
    /// Tasks of a stage in a plan for more than one function, else 0. Set by [`crate::plan_query`] on its copy of the
    /// session, never by users.
    pub(crate) tasks: usize,
    /// The session's own `repartition_file_min_size` in a plan whose number of functions is forced, where files of any
    /// size are split. Set like `tasks`.
    pub(crate) unforced_split_bytes: Option<usize>,
}

impl Default for OnwardOptions {
    fn default() -> Self {
        Self {
            functions: 0,
            statement_timeout_ms: 0,
            cache: true,
            direct_results: false,
            queue: String::new(),
            class: String::new(),
            stage_tasks: 0,
            queues: None,
            classes: None,
            tasks: 0,
            unforced_split_bytes: None,
        }
    }
}

impl ConfigExtension for OnwardOptions {
    const PREFIX: &'static str = "onward";
}

impl ExtensionOptions for OnwardOptions {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn cloned(&self) -> Box<dyn ExtensionOptions> {
        Box::new(self.clone())
    }

    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        match key {
            "functions" if value.eq_ignore_ascii_case("auto") => self.functions = 0,
            "functions" => self.functions = parse_up_to(key, value, MOST_FUNCTIONS)?,
            "tasks" => self.stage_tasks = parse_up_to(key, value, MOST_TASKS)?,
            "statement_timeout_ms" => self.statement_timeout_ms = parse(key, value)?,
            "cache" => self.cache = parse_bool(key, value)?,
            "queue" if value.eq_ignore_ascii_case("default") => self.queue.clear(),
            "queue" => self.queue = one_of(key, value, self.queues.as_deref())?,
            "class" if value.eq_ignore_ascii_case("auto") => self.class.clear(),
            "class" => self.class = one_of(key, value, self.classes.as_deref())?,
            "direct_results" => self.direct_results = parse_bool(key, value)?,
            _ => {
                return config_err!(
                    "`onward.{key}` is not a setting; there are onward.functions, onward.tasks, onward.cache, \
                     onward.class, onward.direct_results, onward.queue and onward.statement_timeout_ms"
                );
            }
        }
        Ok(())
    }

    fn entries(&self) -> Vec<ConfigEntry> {
        vec![
            ConfigEntry {
                key: "onward.functions".to_owned(),
                value: Some(self.functions.to_string()),
                description: "Functions a query uses; 0 or `auto` lets the planner choose from statistics.",
            },
            ConfigEntry {
                key: "onward.tasks".to_owned(),
                value: Some(self.stage_tasks.to_string()),
                description: "Tasks of a stage, worked off by the functions one after the other; 0 is one for each function.",
            },
            ConfigEntry {
                key: "onward.cache".to_owned(),
                value: Some(self.cache.to_string()),
                description: "Scans keep decoded columns in shared memory and read them from there.",
            },
            ConfigEntry {
                key: "onward.direct_results".to_owned(),
                value: Some(self.direct_results.to_string()),
                description: "Clients fetch rows from the hosts that hold them; GetFlightInfo answers when all are there.",
            },
            ConfigEntry {
                key: "onward.class".to_owned(),
                value: Some(if self.class.is_empty() { "auto".to_owned() } else { self.class.clone() }),
                description: "The worker class that functions are of; `auto` lets the planner choose for each stage.",
            },
            ConfigEntry {
                key: "onward.queue".to_owned(),
                value: Some(if self.queue.is_empty() { "default".to_owned() } else { self.queue.clone() }),
                description: "The queue that statements wait in when all places are taken.",
            },
            ConfigEntry {
                key: "onward.statement_timeout_ms".to_owned(),
                value: Some(self.statement_timeout_ms.to_string()),
                description: "A query is cancelled after this many milliseconds; 0 is never.",
            },
        ]
    }
}

fn parse<T: std::str::FromStr>(key: &str, value: &str) -> Result<T> {
    value.trim().parse().map_err(|_| {
        DataFusionError::Configuration(format!("onward.{key} takes a whole number that is not negative, not `{value}`"))
    })
}

/// What a plan costs grows with these, before anything runs.
const MOST_FUNCTIONS: usize = 4_096;
const MOST_TASKS: usize = 4_096;

fn parse_up_to(key: &str, value: &str, most: usize) -> Result<usize> {
    let number = parse(key, value)?;
    if number > most {
        return config_err!("onward.{key} takes at most {most}, not {number}");
    }
    Ok(number)
}

fn one_of(key: &str, value: &str, known: Option<&[String]>) -> Result<String> {
    let value = value.trim();
    match known {
        Some(known) if !value.is_empty() && !known.iter().any(|name| name == value) => {
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            config_err!("there is no {key} `{value}` (onward.{key}); the settings file names {known}")
        }
        _ => Ok(value.to_owned()),
    }
}

fn parse_bool(key: &str, value: &str) -> Result<bool> {
    match value.trim().to_ascii_lowercase().as_str() {
        "true" | "on" | "1" => Ok(true),
        "false" | "off" | "0" => Ok(false),
        _ => config_err!("onward.{key} takes true or false, not `{value}`"),
    }
}

/// The `onward.*` settings in `config`, the defaults when the session was not built by [`session_config`].
pub fn onward_options(config: &ConfigOptions) -> OnwardOptions {
    config.extensions.get::<OnwardOptions>().cloned().unwrap_or_default()
}

/// The bytes from which a scan of text is split into ranges. A range may begin inside of a quoted value with line breaks,
/// which no reader can tell: what one process would not split is not split for functions either. `None` when the plan
/// splits like the session.
pub fn text_split_bytes(config: &ConfigOptions) -> Option<usize> {
    config.extensions.get::<OnwardOptions>().and_then(|options| options.unforced_split_bytes)
}

/// What other crates add to plans. A session has it by `SessionConfig::with_extension(Arc::new(PlanExtensions { .. }))`.
#[derive(Clone, Debug, Default)]
pub struct PlanExtensions {
    /// Encode their nodes and functions; functions decode with the same list.
    pub codecs: Vec<Arc<dyn PhysicalExtensionCodec>>,
    /// Names of their nodes of which partition `i` needs partition `i` of the child and nothing else. A stage with other
    /// nodes runs as one task.
    pub partition_wise: Vec<&'static str>,
}

/// The settings every session starts from: `vcpus` partitions and what the rest of Onward relies on.
pub fn session_config(vcpus: usize, options: OnwardOptions) -> SessionConfig {
    let mut config = SessionConfig::new().with_information_schema(true).with_target_partitions(vcpus.max(1));
    let settings = config.options_mut();
    // Scalar subqueries out of their node cannot be encoded (DESIGN.md, "Sending the plan"): keep them as joins.
    settings.optimizer.enable_physical_uncorrelated_scalar_subquery = false;
    settings.execution.collect_statistics = true;
    settings.extensions.insert(options);
    config
}

/// A session state with DataFusion's defaults, `config` (from [`session_config`]) and our optimizer rules.
pub fn session_state_builder(config: SessionConfig, runtime: Arc<RuntimeEnv>) -> SessionStateBuilder {
    let mut optimizer = Optimizer::new();
    optimizer.rules.insert(0, Arc::new(SingleRowSubqueries));
    let mut builder = SessionStateBuilder::new()
        .with_default_features()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_optimizer_rules(optimizer.rules)
        .with_physical_optimizer_rules(physical_optimizer_rules());
    builder.aggregate_functions().get_or_insert_default().push(single_value());
    builder
}

/// DataFusion's rules with ours among them.
pub fn physical_optimizer_rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let mut rules = PhysicalOptimizer::new().rules;
    // After the joins chose their modes and before the exchanges that the modes need are added.
    let distribution = rules
        .iter()
        .position(|rule| rule.name() == "EnsureRequirements")
        .expect("DataFusion's optimizer has the rule EnsureRequirements");
    rules.insert(distribution, Arc::new(JoinDistribution));
    for rule in &mut rules {
        if rule.name() == "FilterPushdown(Post)" {
            *rule = Arc::new(DynamicFilters::new());
        }
    }
    rules
}

/// The DataFusion settings of `config` that differ from the defaults: what a function must be told to run a plan as the
/// session would. Our own settings stay behind, functions do not read them.
pub fn changed_settings(config: &ConfigOptions) -> Vec<(String, String)> {
    let defaults: std::collections::HashMap<String, Option<String>> =
        ConfigOptions::default().entries().into_iter().map(|entry| (entry.key, entry.value)).collect();
    config
        .entries()
        .into_iter()
        .filter(|entry| entry.key.starts_with("datafusion.") && defaults.get(&entry.key) != Some(&entry.value))
        .filter_map(|entry| entry.value.map(|value| (entry.key, value)))
        .collect()
}

/// The session of a function: DataFusion's defaults with a session's [`changed_settings`] applied.
///
/// # Errors
/// When a setting is unknown or its value cannot be read, which a matching engine version rules out.
pub fn function_session_config<'a>(settings: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<SessionConfig> {
    let mut config = SessionConfig::new();
    for (key, value) in settings {
        config.options_mut().set(key, value)?;
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_reach_a_function_unchanged() {
        let mut config = session_config(3, OnwardOptions::default());
        config.options_mut().set("datafusion.execution.batch_size", "17").expect("a known setting");
        config.options_mut().set("onward.functions", "4").expect("a known setting");
        let settings = changed_settings(config.options());
        assert!(settings.iter().all(|(key, _)| !key.starts_with("onward.")));
        let function = function_session_config(settings.iter().map(|(key, value)| (key.as_str(), value.as_str())))
            .expect("settings apply");
        assert_eq!(function.batch_size(), 17);
        assert_eq!(function.target_partitions(), 3);
        assert!(!function.options().optimizer.enable_physical_uncorrelated_scalar_subquery);
    }

    #[test]
    fn onward_settings_are_checked() {
        let mut config = session_config(2, OnwardOptions::default());
        config.options_mut().set("onward.functions", "auto").expect("auto is the default");
        assert_eq!(onward_options(config.options()).functions, 0);
        assert!(config.options_mut().set("onward.functions", "-1").is_err());
        assert!(config.options_mut().set("onward.functions", "4097").is_err());
        assert!(config.options_mut().set("onward.tasks", "100000000").is_err());
        config.options_mut().set("onward.queue", "any").expect("nobody said which there are");
        let known = Some(["etl".to_owned()].into());
        let mut config = session_config(2, OnwardOptions { queues: known, ..OnwardOptions::default() });
        config.options_mut().set("onward.queue", "etl").expect("it is there");
        config.options_mut().set("onward.queue", "default").expect("it always is");
        let unknown = config.options_mut().set("onward.queue", "elt").expect_err("a typo").to_string();
        assert!(unknown.contains("no queue `elt`") && unknown.contains("etl"), "{unknown}");
        assert!(config.options_mut().set("onward.nonsense", "1").is_err());
    }

    #[test]
    fn our_rules_stand_where_they_belong() {
        let names: Vec<_> = physical_optimizer_rules().iter().map(|rule| rule.name().to_owned()).collect();
        let at = |name: &str| names.iter().position(|found| found == name).expect(name);
        assert!(at("join_selection") < at("JoinDistribution"));
        assert_eq!(at("JoinDistribution") + 1, at("EnsureRequirements"));
        assert_eq!(at("DynamicFilters") + 1, at("SanityCheckPlan"));
    }
}
