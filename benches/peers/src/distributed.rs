//! datafusion-distributed: workers are gRPC servers, the client plans and runs the last stage. Its defaults, but for the
//! partitions of a task: as many as a worker has threads.

use std::net::{Ipv4Addr, SocketAddr};

use datafusion::common::DataFusionError;
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion_distributed::{DistributedExt, SessionStateBuilderExt, Worker, WorkerResolver};
use tonic::transport::Server;
use url::Url;

use crate::BoxError;

/// Serves until it is killed.
pub async fn worker(port: u16) -> Result<(), BoxError> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    Ok(Server::builder().add_service(Worker::default().into_worker_server()).serve(address).await?)
}

/// A context that sends stages to the workers at `ports`.
pub fn context(threads: usize, ports: &[u16]) -> Result<SessionContext, BoxError> {
    let urls = ports.iter().map(|port| Url::parse(&format!("http://localhost:{port}")));
    let workers = Workers(urls.collect::<Result<_, _>>()?);
    let state = SessionStateBuilder::new()
        .with_config(SessionConfig::new().with_target_partitions(threads))
        .with_default_features()
        .with_distributed_worker_resolver(workers)
        .with_distributed_planner()
        .build();
    Ok(SessionContext::from(state))
}

struct Workers(Vec<Url>);

impl WorkerResolver for Workers {
    fn get_urls(&self) -> Result<Vec<Url>, DataFusionError> {
        Ok(self.0.clone())
    }
}
