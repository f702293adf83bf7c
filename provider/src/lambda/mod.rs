//! Hosts as invocations of a function of AWS Lambda: `onward lambda` there runs `onward host --outbound` for as long as it may last.
//!
//! ```text
//!   start --> Invoke, and the request stays open --> the host joins, works, leaves --> the answer: it ended, and why
//!   list <--- requests that are open, and hosts that joined
//!   stop ---> the coordinator tells the host to leave, over the host's own stream
//! ```
//!
//! Lambda lists no invocations and ends none. What this instance began it knows by the open requests; all else it knows by the hosts that
//! joined ([`Members`]). After a restart there are no requests: a host is listed again when it has joined again, and one that never does
//! ends by itself, without a coordinator or at its deadline.
//!
//! The invocation type is `RequestResponse`. With `Event` Lambda answers at once, but keeps what has no room for hours, runs what failed
//! up to twice again, and may run an event twice although it did not fail: hosts would come when nobody wants them any more, and under a
//! name that another one has. An open request is never repeated (retries of the SDK are off), says at once when there is no room, and in the
//! end how the host ended. It costs a connection for each host. One that breaks ends no host: who was invoked and has not joined is
//! listed until it is told to leave, who has joined for as long as that lasts.
//!
//! There is no early answer that says yes: a request that was not refused within a moment ([`LambdaOptions::accept_wait`]) is taken for
//! accepted. A refusal that comes later is listed as the host's end.

mod answer;
mod client;
#[cfg(test)]
mod stand_in;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_lambda::Client;
use aws_sdk_lambda::operation::invoke::builders::InvokeFluentBuilder;
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::InvocationType;
use parking_lot::Mutex;
use tokio::sync::{OnceCell, oneshot};
use tokio::task::{AbortHandle, JoinSet};

use self::answer::Answer;
use crate::{ClusterName, HostName, HostSpec, HostState, Listed, Provider, ProviderError};

/// What Lambda takes with `RequestResponse`: 6 MB. (`Event`: 1 MB.)
const MOST_PAYLOAD_BYTES: usize = 6 << 20;

/// What the coordinator knows of hosts, and says to them.
#[async_trait]
pub trait Members: fmt::Debug + Send + Sync {
    /// Names of the hosts that joined, of whichever cluster.
    async fn joined(&self) -> Vec<String>;

    /// Tells a host that joined to leave: it ends what it runs, and its invocation. Returns when it was told. No host of that name: fine.
    async fn leave(&self, name: &HostName);
}

/// See [`Lambda`].
#[derive(Clone, Debug)]
pub struct LambdaOptions {
    /// Whose hosts.
    pub cluster: ClusterName,
    /// The function: its name or ARN.
    pub function: String,
    /// Its version or alias; `None`: what the ARN says, else `$LATEST`.
    pub qualifier: Option<String>,
    /// Where Lambda is reached, when not at its public address: an endpoint in a VPC, or an emulator. Over `http://` requests are not
    /// signed, and nobody is asked for credentials.
    pub endpoint: Option<String>,
    /// `None`: that of the ARN, else what the environment says.
    pub region: Option<String>,
    /// The most hosts at once.
    pub most_hosts: usize,
    /// Lambda answers a connection within this time.
    pub connect_timeout: Duration,
    /// A request that was not refused within this time is taken for accepted.
    pub accept_wait: Duration,
    /// How long an invocation may last: not longer than the function's timeout, and [`Lambda::MOST_LIFETIME`].
    pub lifetime: Duration,
    /// The hosts that joined.
    pub members: Arc<dyn Members>,
}

/// Launches hosts as invocations of a function of AWS Lambda.
#[derive(Debug)]
pub struct Lambda {
    options: LambdaOptions,
    client: OnceCell<Client>,
    invocations: Arc<Mutex<Invocations>>,
    /// Those of this instance; they end with it.
    requests: Mutex<JoinSet<()>>,
}

type Invocations = BTreeMap<HostName, Invocation>;

/// Of a host that this instance invoked.
#[derive(Debug)]
enum Invocation {
    /// Its request waits for the answer.
    Open { request: AbortHandle, has_joined: bool, was_told: bool },
    /// Its request broke before it joined: it may come, or not.
    Lost,
    /// It ended by itself, or was refused late.
    Over { reason: String },
}

impl Invocation {
    fn is_over(&self) -> bool {
        matches!(self, Self::Over { .. })
    }
}

impl Lambda {
    /// AWS ends invocations that last longer.
    pub const MOST_LIFETIME: Duration = Duration::from_secs(15 * 60);

    /// Connects to nothing yet.
    pub fn new(options: LambdaOptions) -> Self {
        Self { options, client: OnceCell::new(), invocations: Arc::default(), requests: Mutex::default() }
    }

    async fn joined(&self) -> BTreeSet<HostName> {
        let joined = self.options.members.joined().await;
        joined.iter().filter_map(|name| HostName::of(&self.options.cluster, name)).collect()
    }

    async fn request(&self, host: &HostSpec) -> Result<InvokeFluentBuilder, ProviderError> {
        let client = self.client.get_or_try_init(|| client::connect(&self.options)).await?;
        Ok(client
            .invoke()
            .function_name(&self.options.function)
            .set_qualifier(self.options.qualifier.clone())
            .invocation_type(InvocationType::RequestResponse)
            .payload(Blob::new(payload(host, self.options.lifetime)?)))
    }

    /// Sends `request`, unless the host is there or there are enough.
    fn send(
        &self,
        name: &HostName,
        joined: &BTreeSet<HostName>,
        request: InvokeFluentBuilder,
    ) -> Result<Option<oneshot::Receiver<ProviderError>>, ProviderError> {
        let mut invocations = self.invocations.lock();
        let invoked = invocations.iter().filter(|(_, invocation)| !invocation.is_over()).map(|(name, _)| name);
        let there: BTreeSet<_> = invoked.chain(joined).collect();
        if there.contains(name) {
            return Ok(None);
        }
        if there.len() >= self.options.most_hosts {
            return Err(ProviderError::Full(format!("{} hosts run as invocations", there.len())));
        }
        let (refuse, refused) = oneshot::channel();
        let mut requests = self.requests.lock();
        while requests.try_join_next().is_some() {}
        // It cannot end before it is noted: that takes the lock, too.
        let watching = watch(Arc::clone(&self.invocations), name.clone(), request, refuse);
        let request = requests.spawn(watching);
        invocations.insert(name.clone(), Invocation::Open { request, has_joined: false, was_told: false });
        Ok(Some(refused))
    }
}

/// What `onward lambda` is invoked with.
fn payload(host: &HostSpec, lifetime: Duration) -> Result<Vec<u8>, ProviderError> {
    let lifetime_ms = lifetime.as_millis() as u64;
    let event =
        serde_json::json!({ "name": host.name.as_str(), "arguments": host.arguments, "lifetime_ms": lifetime_ms });
    let payload = event.to_string().into_bytes();
    match payload.len() < MOST_PAYLOAD_BYTES {
        true => Ok(payload),
        false => {
            let bytes = payload.len();
            let why = format!("{}: its arguments are {bytes} bytes, and Lambda takes {MOST_PAYLOAD_BYTES}", host.name);
            Err(ProviderError::Failed(why))
        }
    }
}

/// Waits for the answer, and notes what it says.
async fn watch(
    invocations: Arc<Mutex<Invocations>>,
    name: HostName,
    request: InvokeFluentBuilder,
    refuse: oneshot::Sender<ProviderError>,
) {
    let answer = Answer::of(request.send().await);
    let mut invocations = invocations.lock();
    let (has_joined, was_told) = match invocations.get(&name) {
        Some(Invocation::Open { request, has_joined, was_told }) if request.id() == tokio::task::id() => {
            (*has_joined, *was_told)
        }
        // It was forgotten.
        _ => return,
    };
    invocations.remove(&name);
    let reason = match answer {
        Answer::Ended(reason) => reason,
        Answer::Refused(error) => match refuse.send(error) {
            Ok(()) => return,
            Err(error) => error.to_string(),
        },
        Answer::Lost(why) => {
            tracing::warn!(host = %name, error = why, "the request of an invocation broke: its host may run on");
            if !has_joined {
                invocations.insert(name, Invocation::Lost);
            }
            // Nobody listens when it was taken for accepted.
            let _ = refuse.send(ProviderError::Failed(why));
            return;
        }
    };
    // Nobody need hear how one ends that was told to.
    if !was_told {
        invocations.insert(name, Invocation::Over { reason });
    }
}

#[async_trait]
impl Provider for Lambda {
    fn kind(&self) -> &'static str {
        "lambda"
    }

    fn output(&self) -> &'static str {
        "CloudWatch, the log group of the function"
    }

    async fn start(&self, host: &HostSpec) -> Result<(), ProviderError> {
        let request = self.request(host).await?;
        let joined = self.joined().await;
        let Some(refused) = self.send(&host.name, &joined, request)? else { return Ok(()) };
        match tokio::time::timeout(self.options.accept_wait, refused).await {
            Ok(Ok(error)) => Err(error),
            // It has ended, or runs.
            Ok(Err(_)) | Err(_) => Ok(()),
        }
    }

    async fn stop(&self, name: &HostName) -> Result<(), ProviderError> {
        let is_joined = self.joined().await.contains(name);
        {
            let mut invocations = self.invocations.lock();
            let is_forgotten = match invocations.get_mut(name) {
                Some(Invocation::Open { request, has_joined, was_told }) => {
                    *was_told = true;
                    // It left, and its answer is lost on the way.
                    let has_left = *has_joined && !is_joined;
                    if has_left {
                        request.abort();
                    }
                    has_left
                }
                Some(Invocation::Lost | Invocation::Over { .. }) => true,
                None => false,
            };
            if is_forgotten {
                invocations.remove(name);
            }
        }
        // One that has not joined cannot be told yet.
        if is_joined {
            self.options.members.leave(name).await;
        }
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Listed>, ProviderError> {
        let mut joined = self.joined().await;
        let mut invocations = self.invocations.lock();
        invocations.retain(|name, invocation| !matches!(invocation, Invocation::Lost) || !joined.contains(name));
        let invoked = invocations.iter_mut().map(|(name, invocation)| {
            let is_joined = joined.remove(name);
            let state = match invocation {
                Invocation::Open { has_joined, .. } => {
                    *has_joined |= is_joined;
                    if *has_joined { HostState::Running } else { HostState::Pending }
                }
                Invocation::Lost => HostState::Pending,
                Invocation::Over { reason } => HostState::Over { reason: reason.clone() },
            };
            Listed { name: name.clone(), state }
        });
        let mut listed: Vec<_> = invoked.collect();
        listed.extend(joined.into_iter().map(|name| Listed { name, state: HostState::Running }));
        Ok(listed)
    }
}
