//! Hosts as pods of a Kubernetes cluster.
//!
//! ```text
//!   start --- POST ---> API server --- LIST, then WATCH ---> View ---> list
//!   stop -- DELETE -->
//! ```
//!
//! A pod is a host, and its name is the host's. What there is, the API server says: a watch follows it, and [`Provider::list`] waits until
//! the watch has come to what this instance wrote. So a list costs no request, and is never older than the last start.
//!
//! It is not: a controller. Pods belong to the object that runs coordinators ([`Owner`]), and go with it; which of them are wanted is
//! decided by whoever holds the provider.

mod failure;
mod follow;
mod owner;
mod pod;
mod pod_template;
mod state;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client, Config};
use tokio::sync::OnceCell;

use self::failure::{Failure, Request};
use self::follow::Follower;
pub use self::owner::{Owner, OwnerError};
pub use self::pod_template::{PodTemplate, PodTemplateError};
use crate::{ClusterName, HostName, HostSpec, HostState, Listed, Provider, ProviderError};

/// See [`Kubernetes`].
#[derive(Clone, Debug)]
pub struct KubernetesOptions {
    /// Whose hosts.
    pub cluster: ClusterName,
    /// Where pods are made. `None`: in the namespace of the coordinator's service account, or of the context of its kubeconfig.
    pub namespace: Option<String>,
    /// The image of hosts. Its entry point is the program `onward`, which is run with the arguments of a host.
    pub image: String,
    /// What pods are besides: node selectors, tolerations, a service account, volumes.
    pub template: PodTemplate,
    /// What runs coordinators, in the same namespace: when it is deleted, hosts are. `None`: hosts stay until a coordinator stops them.
    pub owner: Option<Owner>,
    /// A host that is told to leave is killed after this long; rounded up to seconds.
    pub grace: Duration,
    /// A request to the API server that takes longer has failed. A watch that was lost for longer makes lists fail.
    pub timeout: Duration,
}

/// Launches hosts as pods.
///
/// The API server is that of the kubeconfig (`KUBECONFIG` or `~/.kube/config`) if there is one, else that of the cluster that the
/// coordinator runs in. Its service account needs, in the namespace of the pods, the verbs `create`, `get`, `list`, `watch` and `delete` on
/// `pods`, and `get` on what the [`Owner`] is.
#[derive(Debug)]
pub struct Kubernetes {
    options: KubernetesOptions,
    connection: OnceCell<Connection>,
    /// The version of the newest pod that this instance made or found.
    written: AtomicU64,
}

#[derive(Debug)]
struct Connection {
    pods: Api<Pod>,
    namespace: String,
    follower: Follower,
}

impl Kubernetes {
    /// Contacts nobody yet: the API server is looked for at the first call.
    pub fn new(options: KubernetesOptions) -> Self {
        Self { options, connection: OnceCell::new(), written: AtomicU64::new(0) }
    }

    async fn connection(&self) -> Result<&Connection, ProviderError> {
        let connect = || async {
            let config = Config::infer().await;
            let config = config.map_err(|error| ProviderError::Failed(format!("no API server: {error}")))?;
            Connection::new(&self.options, config)
        };
        self.connection.get_or_try_init(connect).await
    }

    async fn answer<T>(&self, asked: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
        failure::answer(self.options.timeout, asked).await
    }

    /// From now on lists are not older than this pod.
    fn remember(&self, pod: &Pod) -> Result<(), ProviderError> {
        let version = follow::version(pod.metadata.resource_version.as_deref())?;
        self.written.fetch_max(version, Ordering::Relaxed);
        Ok(())
    }

    async fn owner(&self, connection: &Connection) -> Result<Option<OwnerReference>, ProviderError> {
        let Some(owner) = &self.options.owner else { return Ok(None) };
        let client = connection.pods.clone().into_client();
        let found = self.answer(owner.find(client, &connection.namespace)).await;
        found.map(Some).map_err(|failure| failure.of(connection.request("get", &owner.resource())))
    }

    /// Whether a pod that has the name of a host that is to be started made room for it.
    async fn make_room(&self, connection: &Connection, name: &HostName) -> Result<bool, ProviderError> {
        let found = self.answer(connection.pods.get_opt(name.as_str())).await;
        let found = found.map_err(|failure| failure.of(connection.request("get", "pods")))?;
        // It went in between.
        let Some(found) = found else { return Ok(true) };
        if !pod::is_host(&found, &self.options.cluster) {
            let namespace = &connection.namespace;
            return Err(ProviderError::Failed(format!("the pod `{name}` in namespace `{namespace}` is no host")));
        }
        if !matches!(state::of(&found), HostState::Over { .. }) {
            self.remember(&found)?;
            return Ok(false);
        }
        // That one, and not one that another instance made meanwhile.
        let preconditions = Some(Preconditions { uid: found.metadata.uid, resource_version: None });
        self.delete(connection, name, DeleteParams { preconditions, ..at_once() }).await?;
        Ok(true)
    }

    /// The pod that is on its way out, if it is there.
    async fn delete(
        &self,
        connection: &Connection,
        name: &HostName,
        how: DeleteParams,
    ) -> Result<Option<Pod>, ProviderError> {
        match self.answer(connection.pods.delete(name.as_str(), &how)).await {
            Ok(answer) => Ok(answer.left()),
            Err(failure) if failure.is_not_found() => Ok(None),
            Err(failure) => Err(failure.of(connection.request("delete", "pods"))),
        }
    }
}

impl Connection {
    fn new(options: &KubernetesOptions, mut config: Config) -> Result<Self, ProviderError> {
        // Whoever asks knows better when to ask again than a client that waits.
        config.default_retry = false;
        let client = Client::try_from(config);
        let client = client.map_err(|error| ProviderError::Failed(format!("no client of the API server: {error}")))?;
        let namespace = options.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
        let pods = Api::namespaced(client, &namespace);
        let follower = Follower::new(pods.clone(), &namespace, options);
        Ok(Self { pods, namespace, follower })
    }

    fn request<'a>(&'a self, verb: &'a str, resource: &'a str) -> Request<'a> {
        Request { verb, resource, namespace: &self.namespace }
    }
}

/// Without a time to leave in.
fn at_once() -> DeleteParams {
    DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() }
}

#[async_trait]
impl Provider for Kubernetes {
    fn kind(&self) -> &'static str {
        "kubernetes"
    }

    fn output(&self) -> &'static str {
        "the log of its pod, as the cluster keeps it"
    }

    /// A pod of that name that is over makes room; one that is leaving is left alone.
    async fn start(&self, host: &HostSpec) -> Result<(), ProviderError> {
        let connection = self.connection().await?;
        let pod = pod::of(&self.options, host, self.owner(connection).await?);
        let params = PostParams::default();
        let create = || self.answer(connection.pods.create(&params, &pod));
        let made = match create().await {
            Err(failure) if failure.is_already_exists() => match self.make_room(connection, &host.name).await? {
                true => create().await,
                false => return Ok(()),
            },
            made => made,
        };
        self.remember(&made.map_err(|failure| failure.of(connection.request("create", "pods")))?)
    }

    /// The API server knows best how much time a pod needs: all of its grace period, or none when it never ran or is over. One whose node
    /// does not answer is given up.
    async fn stop(&self, name: &HostName) -> Result<(), ProviderError> {
        if HostName::of(&self.options.cluster, name.as_str()).is_none() {
            return Ok(());
        }
        let connection = self.connection().await?;
        let leaving = self.delete(connection, name, DeleteParams::default()).await?;
        if leaving.is_some_and(|pod| state::is_overdue(&pod)) {
            tracing::warn!(host = %name, "the node of a host that is to leave does not say that it ended: it is given up");
            self.delete(connection, name, at_once()).await?;
        }
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Listed>, ProviderError> {
        self.connection().await?.follower.hosts(self.written.load(Ordering::Relaxed)).await
    }
}
