//! Ballista: a scheduler and executors. Its defaults, but for messages of up to 256 MiB (plans of some queries are larger than
//! the default 16 MiB) and tasks that are pushed to executors (pulling adds up to 100 ms a stage).

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use ballista::prelude::{SessionConfigExt, SessionContextExt};
use ballista_core::config::TaskSchedulingPolicy;
use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::config::SchedulerConfig;
use ballista_scheduler::scheduler_process::start_server;
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};

use crate::BoxError;

const MESSAGE_BYTES: u32 = 256 << 20;

/// Serves until it is killed.
pub async fn scheduler(port: u16) -> Result<(), BoxError> {
    let config = SchedulerConfig {
        bind_port: port,
        scheduling_policy: TaskSchedulingPolicy::PushStaged,
        grpc_server_max_decoding_message_size: MESSAGE_BYTES,
        grpc_server_max_encoding_message_size: MESSAGE_BYTES,
        grpc_client_max_message_size: MESSAGE_BYTES,
        ..SchedulerConfig::default()
    };
    let cluster = BallistaCluster::new_from_config(&config).await?;
    Ok(start_server(cluster, SocketAddr::from((Ipv4Addr::LOCALHOST, port)), Arc::new(config)).await?)
}

/// Works until it is killed.
pub async fn executor(
    scheduler_port: u16,
    port: u16,
    grpc_port: u16,
    vcores: usize,
    work_dir: PathBuf,
) -> Result<(), BoxError> {
    let config = ExecutorProcessConfig {
        port,
        grpc_port,
        scheduler_port,
        scheduler_connect_timeout_seconds: 30,
        vcores,
        task_scheduling_policy: TaskSchedulingPolicy::PushStaged,
        work_dir: Some(work_dir.to_string_lossy().into_owned()),
        grpc_max_decoding_message_size: MESSAGE_BYTES,
        grpc_max_encoding_message_size: MESSAGE_BYTES,
        ..ExecutorProcessConfig::default()
    };
    Ok(start_executor_process(Arc::new(config)).await?)
}

/// A context that sends queries to the scheduler at `port`.
pub async fn context(port: u16, partitions: usize) -> Result<SessionContext, BoxError> {
    let config = SessionConfig::new_with_ballista()
        .with_target_partitions(partitions)
        .with_ballista_grpc_client_max_message_size(MESSAGE_BYTES as usize);
    let state = SessionStateBuilder::new().with_config(config).with_default_features().build();
    Ok(SessionContext::remote_with_state(&format!("df://localhost:{port}"), state).await?)
}
