//! Hosts that come when queries want them: asks the driver what is wanted and who joined, the launcher what is there, and has the launcher
//! carry out what [`Scaler`] makes of it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use onward_provider::{
    ClusterName, Command, CommandOptions, HostName, HostSpec, Kubernetes, KubernetesOptions, Lambda, LambdaOptions,
    Listed, Members, Observed, Order, PodTemplate, Process, ProcessOptions, Provider, ProviderError, Scaler,
    ScalerLimits, Template, TemplateError, Unjoined, words,
};
use onward_wire::{Config, ErrorKind, WireError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::engine::{Engine, Wanted};

/// Hosts that are started or stopped at once.
const AT_ONCE: usize = 16;
/// Between two looks, however many queries come.
const LEAST_BETWEEN: Duration = Duration::from_millis(50);
/// A host that lost its coordinator ends after this long, unless another one is there.
const ORPHAN_TIMEOUT_MS: u64 = 120_000;
/// An invocation is paid for meanwhile.
const LAMBDA_ORPHAN_TIMEOUT_MS: u64 = 30_000;
/// Past `host_leave_timeout_ms`, for a process to end.
const LEAVE_GRACE_MS: u64 = 5_000;

/// Starts and stops hosts until it is told to end.
pub(crate) struct Hosts {
    stop: CancellationToken,
    running: AbortOnDropHandle<()>,
}

impl Hosts {
    /// `None` when no provider is set.
    ///
    /// # Errors
    /// Settings that make no sense.
    pub(crate) fn start(
        engine: &Engine,
        config: &Config,
        join: &str,
        program: &Path,
    ) -> Result<Option<Self>, WireError> {
        let Some(keeper) = Keeper::new(engine, config, join, program)? else { return Ok(None) };
        let stop = CancellationToken::new();
        let running = AbortOnDropHandle::new(tokio::spawn(keeper.run(stop.clone())));
        Ok(Some(Self { stop, running }))
    }

    /// Tells all hosts that were started to leave.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        // A panic there was logged.
        let _ = self.running.await;
    }
}

struct Keeper {
    engine: Engine,
    provider: Arc<dyn Provider>,
    scaler: Scaler,
    cluster: ClusterName,
    /// Of every host: only names differ.
    vcpus: u32,
    memory_bytes: u64,
    arguments: Vec<String>,
    interval: Duration,
    begun: Instant,
    /// Why the launcher did not answer, the last time: said once.
    failure: Option<String>,
}

impl Keeper {
    fn new(engine: &Engine, config: &Config, join: &str, program: &Path) -> Result<Option<Self>, WireError> {
        let invalid = |setting: &str, why: String| WireError::new(ErrorKind::InvalidQuery, format!("{setting}: {why}"));
        if config.provider.is_empty() {
            return Ok(None);
        }
        let cluster: ClusterName =
            config.cluster_name.parse().map_err(|error| invalid("cluster_name", format!("{error}")))?;
        let provider = provider(engine, config, &cluster, program)?;
        let arguments = arguments(config, join).map_err(|error| invalid("provider_arguments", error.to_string()))?;
        if config.max_hosts == 0 || config.min_hosts > config.max_hosts {
            let why = format!("{} is not between 1 and max_hosts, {}", config.min_hosts, config.max_hosts);
            return Err(invalid("min_hosts", why));
        }
        let vcpus = config.host_vcpus.max(1);
        let limits = ScalerLimits {
            min_hosts: config.min_hosts as usize,
            max_hosts: config.max_hosts as usize,
            functions_per_host: vcpus as usize,
            idle_timeout_ms: config.host_idle_timeout_ms,
            start_timeout_ms: config.host_start_timeout_ms,
            leave_timeout_ms: config.host_leave_timeout_ms.saturating_add(LEAVE_GRACE_MS),
        };
        Ok(Some(Self {
            engine: engine.clone(),
            provider,
            scaler: Scaler::new(cluster.clone(), limits, fastrand::Rng::new()),
            cluster,
            vcpus,
            memory_bytes: config.host_memory_bytes,
            arguments,
            interval: Duration::from_millis(config.provider_interval_ms.max(10)),
            begun: Instant::now(),
            failure: None,
        }))
    }

    async fn run(mut self, stop: CancellationToken) {
        tracing::info!(provider = self.provider.kind(), cluster = %self.cluster, "hosts are started as queries want them");
        while let Some(wanted) = self.engine.wanted().await {
            let is_settled = tokio::select! {
                is_settled = self.look(&wanted) => is_settled,
                () = stop.cancelled() => break,
            };
            let next = async {
                let next_look = async {
                    match is_settled {
                        true => std::future::pending().await,
                        false => tokio::time::sleep(self.interval).await,
                    }
                };
                tokio::select! {
                    () = next_look => {}
                    () = self.engine.submitted() => tokio::time::sleep(LEAST_BETWEEN).await,
                }
            };
            tokio::select! {
                () = next => {}
                () = stop.cancelled() => break,
            }
        }
        self.stop_all().await;
    }

    /// Looks once, and does what is to do; whether nothing would be done until a query comes.
    async fn look(&mut self, wanted: &Wanted) -> bool {
        let listed = match self.provider.list().await {
            Ok(listed) => {
                self.failure = None;
                Some(listed)
            }
            Err(error) => {
                self.say_failure(&error);
                None
            }
        };
        let name = |(name, is_busy): (&String, &bool)| Some((HostName::of(&self.cluster, name)?, *is_busy));
        let joined: BTreeMap<HostName, bool> = wanted.joined.iter().filter_map(name).collect();
        let orders = self.scaler.observe(Observed {
            now_ms: self.now_ms(),
            wanted_functions: wanted.demand.wanted_functions,
            joined: &joined,
            listed: listed.as_deref(),
        });
        for Unjoined { name, reason } in self.scaler.take_unjoined() {
            let output = self.provider.output();
            tracing::warn!(host = %name, reason, output, "a host that was started did not join");
        }
        self.carry_out(orders).await;
        listed.is_some() && self.scaler.is_settled(wanted.demand.wanted_functions)
    }

    async fn carry_out(&mut self, orders: Vec<Order>) {
        let (provider, this) = (&self.provider, &*self);
        let carried_out = futures::stream::iter(orders).map(|order| async move {
            let done = match &order {
                Order::Start(name) => {
                    tracing::info!(host = %name, provider = provider.kind(), "a host is started");
                    provider.start(&this.spec(name)).await
                }
                Order::Stop(name) => {
                    tracing::info!(host = %name, provider = provider.kind(), "a host is told to leave");
                    provider.stop(name).await
                }
            };
            (order, done)
        });
        let carried_out: Vec<_> = carried_out.buffer_unordered(AT_ONCE).collect().await;
        for (order, done) in carried_out {
            let Err(error) = done else { continue };
            self.say_failure(&error);
            // One that failed may be there all the same: the next list tells.
            if let (Order::Start(name), ProviderError::Full(_)) = (&order, &error) {
                self.scaler.refused(name, self.now_ms());
            }
        }
    }

    fn say_failure(&mut self, error: &ProviderError) {
        let why = error.to_string();
        if self.failure.as_ref() != Some(&why) {
            tracing::warn!(
                provider = self.provider.kind(),
                error = why,
                "the launcher of hosts did not do what it was asked"
            );
            self.failure = Some(why);
        }
    }

    fn spec(&self, name: &HostName) -> HostSpec {
        let mut arguments = self.arguments.clone();
        arguments.extend(["--name".to_owned(), name.to_string()]);
        HostSpec { name: name.clone(), vcpus: self.vcpus, memory_bytes: self.memory_bytes, arguments }
    }

    async fn stop_all(&mut self) {
        let listed: Vec<Listed> = self.provider.list().await.unwrap_or_else(|error| {
            self.say_failure(&error);
            Vec::new()
        });
        let orders = listed.into_iter().map(|host| Order::Stop(host.name)).collect();
        self.carry_out(orders).await;
    }

    fn now_ms(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }
}

fn provider(
    engine: &Engine,
    config: &Config,
    cluster: &ClusterName,
    program: &Path,
) -> Result<Arc<dyn Provider>, WireError> {
    let program = match config.provider_program.as_str() {
        "" => program.to_owned(),
        program => program.into(),
    };
    let invalid = |message: String| WireError::new(ErrorKind::InvalidQuery, message);
    match config.provider.as_str() {
        "process" => Ok(Arc::new(Process::new(ProcessOptions {
            cluster: cluster.clone(),
            program,
            most_hosts: config.max_hosts as usize,
            grace: Duration::from_millis(config.host_leave_timeout_ms.saturating_add(LEAVE_GRACE_MS)),
        }))),
        "command" => {
            let template = |setting: &str, text: &str| {
                Template::parse(text).map_err(|error| invalid(format!("{setting}: {error}")))
            };
            Ok(Arc::new(Command::new(CommandOptions {
                cluster: cluster.clone(),
                start: template("provider_start", &config.provider_start)?,
                stop: template("provider_stop", &config.provider_stop)?,
                list: template("provider_list", &config.provider_list)?,
                program,
                timeout: Duration::from_millis(config.provider_timeout_ms.max(1)),
            })))
        }
        "lambda" => Ok(Arc::new(Lambda::new(lambda(engine, config, cluster).map_err(invalid)?))),
        "kubernetes" => Ok(Arc::new(Kubernetes::new(kubernetes(config, cluster).map_err(invalid)?))),
        other => Err(invalid(format!(
            "provider: `{other}` is none; there are `process`, `command`, `kubernetes` and `lambda`"
        ))),
    }
}

/// Hosts that joined: invocations cannot be listed or ended by anybody but the host itself.
struct Joined(Engine);

impl fmt::Debug for Joined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Joined").finish_non_exhaustive()
    }
}

#[async_trait]
impl Members for Joined {
    async fn joined(&self) -> Vec<String> {
        self.0.wanted().await.unwrap_or_default().joined.into_keys().collect()
    }

    async fn leave(&self, name: &HostName) {
        self.0.tell_to_leave(name.as_str()).await;
    }
}

fn lambda(engine: &Engine, config: &Config, cluster: &ClusterName) -> Result<LambdaOptions, String> {
    let set = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    if config.lambda_function.is_empty() {
        return Err("lambda_function: it is empty; name the function whose invocations are hosts".to_owned());
    }
    let lifetime = Duration::from_millis(config.lambda_lifetime_ms);
    if lifetime > Lambda::MOST_LIFETIME {
        let most = Lambda::MOST_LIFETIME.as_millis();
        return Err(format!(
            "lambda_lifetime_ms: {} is more than {most}: AWS ends invocations then",
            lifetime.as_millis()
        ));
    }
    Ok(LambdaOptions {
        cluster: cluster.clone(),
        function: config.lambda_function.clone(),
        qualifier: set(&config.lambda_qualifier),
        endpoint: set(&config.lambda_endpoint),
        region: set(&config.lambda_region),
        most_hosts: config.max_hosts as usize,
        connect_timeout: Duration::from_millis(config.provider_timeout_ms.max(1)),
        accept_wait: Duration::from_millis(config.lambda_accept_wait_ms),
        lifetime,
        members: Arc::new(Joined(engine.clone())),
    })
}

fn kubernetes(config: &Config, cluster: &ClusterName) -> Result<KubernetesOptions, String> {
    if config.provider_image.is_empty() {
        return Err("provider_image: it is empty; name the image of hosts".to_owned());
    }
    let template = match config.provider_pod_template.as_str() {
        "" => PodTemplate::default(),
        path => {
            let text =
                std::fs::read_to_string(path).map_err(|error| format!("provider_pod_template: {path}: {error}"))?;
            text.parse().map_err(|error| format!("provider_pod_template: {error}"))?
        }
    };
    let owner = match config.provider_owner.as_str() {
        "" => None,
        owner => Some(owner.parse().map_err(|error| format!("provider_owner: {error}"))?),
    };
    Ok(KubernetesOptions {
        cluster: cluster.clone(),
        namespace: Some(config.provider_namespace.clone()).filter(|namespace| !namespace.is_empty()),
        image: config.provider_image.clone(),
        template,
        owner,
        grace: Duration::from_millis(config.host_leave_timeout_ms.saturating_add(LEAVE_GRACE_MS)),
        timeout: Duration::from_millis(config.provider_timeout_ms.max(1)),
    })
}

/// What a host is run with, but for its name. Settings that all hosts of a cluster share go with it.
fn arguments(config: &Config, join: &str) -> Result<Vec<String>, TemplateError> {
    let more = words(&config.provider_arguments)?;
    let mut arguments = vec!["host".to_owned(), "--join".to_owned(), join.to_owned()];
    let mut set = |name: &str, value: String| arguments.extend(["--set".to_owned(), format!("{name}={value}")]);
    set("vcpus", config.host_vcpus.max(1).to_string());
    // Launchers end a host that takes more than it was given.
    set("memory_bytes", (config.host_memory_bytes / 5 * 4).to_string());
    let is_lambda = config.provider == "lambda";
    let orphan_timeout_ms = if is_lambda { LAMBDA_ORPHAN_TIMEOUT_MS } else { ORPHAN_TIMEOUT_MS };
    set("host_orphan_timeout_ms", orphan_timeout_ms.to_string());
    set("host_leave_timeout_ms", config.host_leave_timeout_ms.to_string());
    set("function_lifetime_ms", config.function_lifetime_ms.to_string());
    for (name, value) in
        [("cluster_dir", &config.cluster_dir), ("spill_dir", &config.spill_dir), ("segment_dir", &config.segment_dir)]
    {
        // Directories of this machine mean nothing in an invocation.
        if !value.is_empty() && !is_lambda {
            set(name, value.clone());
        }
    }
    if is_lambda {
        arguments.push("--outbound".to_owned());
    } else if more.is_empty() {
        arguments.extend(["--advertise".to_owned(), "auto".to_owned()]);
    }
    arguments.extend(more);
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_every_provider_have_arguments_where_none_are_set() {
        for (provider, own) in [
            ("process", &["--advertise", "auto"][..]),
            ("command", &["--advertise", "auto"]),
            ("kubernetes", &["--advertise", "auto"]),
            ("lambda", &["--outbound"]),
        ] {
            let config = Config { provider: provider.to_owned(), ..Config::default() };
            let none = arguments(&config, "grpc://c:1").expect("arguments");
            assert_eq!(none[..3], ["host", "--join", "grpc://c:1"]);
            assert!(none.ends_with(&own.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()), "{none:?}");
        }
    }
}
