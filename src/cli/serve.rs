//! `onward serve`.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use onward_coordinator::{ClusterListener, ClusterOptions, Coordinator, CoordinatorOptions};
use onward_endpoint::{FlightServer, ServerOptions, TlsFiles};
use onward_shuffle::flight::parse_address;
use tokio::signal::unix::{SignalKind, signal};

use super::available::{self, Shared};
use super::global::GlobalArgs;
use super::{Failure, metrics, runtime};

const AFTER_HELP: &str = "\
Examples:
  onward serve --data-dir ./data
  onward serve --listen 0.0.0.0:50051 --token-file token --tls-cert cert.pem --tls-key key.pem
  onward serve --allow-path /srv/tables --allow-path /tmp/exports
  onward serve --cluster-listen 127.0.0.1:50052
  onward serve --data-dir /shared/data --cluster-listen 127.0.0.1:50052 --set etcd_endpoints=http://127.0.0.1:2379

SIGTERM and Ctrl-C drain: running statements get drain_timeout_ms, new ones are refused. A second signal ends at once.";

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct ServeArgs {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:50051")]
    listen: SocketAddr,
    /// Keep the catalog and tables here [default: a temporary directory]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// File with the token that clients must present
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Certificate chain (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Listen on an address that other machines reach, without token or TLS
    #[arg(long)]
    insecure: bool,
    /// Certificates (PEM) of the authorities that other coordinators' certificates come from [default: --tls-cert]
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_ca: Option<PathBuf>,
    /// Of several coordinators (etcd_endpoints): where clients and the others reach this one, such as grpc://10.0.0.1:50051
    /// [default: the address itself]
    #[arg(long, value_name = "URL")]
    advertise: Option<String>,
    /// Let other hosts join at this address (`onward host --join`); port 0 takes a free one
    #[arg(long, value_name = "ADDR")]
    cluster_listen: Option<SocketAddr>,
    /// Where hosts reach that address, such as grpc://10.0.0.1:50052 [default: the address itself]
    #[arg(long, value_name = "URL", requires = "cluster_listen")]
    cluster_advertise: Option<String>,
    /// Answer /metrics (Prometheus), /healthz and /leads there, over plain HTTP
    #[arg(long, value_name = "ADDR")]
    metrics_listen: Option<SocketAddr>,
    /// Clients may name local files below this directory; may be repeated [default: the current directory]
    #[arg(long, value_name = "DIR")]
    allow_path: Vec<PathBuf>,
}

pub(super) fn run(global: &GlobalArgs, args: ServeArgs) -> Result<(), Failure> {
    global.start_log("info")?;
    let config = global.config()?;
    let runtime = runtime()?;
    let done = runtime.block_on(serve(config, args));
    // Whatever is still blocked in a system call after a drain must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    done
}

async fn serve(config: onward_wire::Config, args: ServeArgs) -> Result<(), Failure> {
    // Before anything is started: a signal in between would leave things behind.
    let signals = Signals::listen()?;
    let allow_paths = if args.allow_path.is_empty() { vec![std::env::current_dir()?] } else { args.allow_path };
    let allow_paths = allow_paths.into_iter().map(absolute).collect::<Result<_, _>>()?;
    let tls = args.tls_cert.zip(args.tls_key).map(|(cert, key)| TlsFiles { cert, key, ca: args.tls_ca });
    let scheme = if tls.is_some() { "grpc+tls" } else { "grpc" };
    let data = args.data_dir.as_ref().map_or("temporary".to_owned(), |dir| dir.display().to_string());

    if !config.provider.is_empty() && args.cluster_listen.is_none() {
        let message = "provider starts hosts, which join at an address: give --cluster-listen, too".to_owned();
        return Err(Failure::Message(message));
    }
    let cluster = args.cluster_listen.map(|listen| ClusterOptions {
        listen,
        advertise: args.cluster_advertise,
        insecure: args.insecure,
    });
    let server = ServerOptions {
        listen: args.listen,
        token_file: args.token_file,
        tls,
        insecure: args.insecure,
        allow_paths,
        config: config.clone(),
    };
    let current = metrics::Current::new(None);
    let _metrics = match args.metrics_listen {
        Some(listen) => Some(metrics::serve(listen, &current).await?),
        None => None,
    };
    if !config.etcd_endpoints.is_empty() {
        let Some(data_dir) = args.data_dir else {
            let message = "several coordinators keep tables in one directory that all of them reach: give --data-dir";
            return Err(Failure::Message(message.to_owned()));
        };
        let cluster = match cluster {
            Some(options) => Some(ClusterListener::bind(&config, options).await?),
            None => None,
        };
        let server = FlightServer::bind_shared(server).await?;
        let client_url = match args.advertise {
            Some(url) => {
                parse_address(&url)?;
                url
            }
            None if server.local_addr().ip().is_unspecified() => {
                let message = "--advertise: say where clients and other coordinators reach this one".to_owned();
                return Err(Failure::Message(message));
            }
            None => format!("{scheme}://{}", server.local_addr()),
        };
        return available::serve(Shared { config, data_dir, server, client_url, cluster, current }, signals).await;
    }
    let options = CoordinatorOptions { config, data_dir: args.data_dir, ..CoordinatorOptions::default() };
    let coordinator = Coordinator::start(options).await?;
    coordinator.warm_up().await?;
    current.send_replace(Some(Arc::clone(&coordinator)));
    let served = serve_until_signal(server, coordinator.clone(), cluster, signals, scheme, &data).await;
    coordinator.shutdown(Duration::ZERO).await;
    served
}

async fn serve_until_signal(
    options: ServerOptions,
    coordinator: Arc<Coordinator>,
    cluster: Option<ClusterOptions>,
    mut signals: Signals,
    scheme: &str,
    data: &str,
) -> Result<(), Failure> {
    let drain_ms = options.config.drain_timeout_ms;
    // First, since it reads files: nothing is promised to hosts before all of it is known to work.
    let server = FlightServer::bind(options, Arc::clone(&coordinator)).await?;
    let version = env!("CARGO_PKG_VERSION");
    let joining = match cluster {
        Some(options) => format!("onward {version} hosts may join on {}\n", coordinator.serve_cluster(options).await?),
        None => String::new(),
    };
    let ready = format!("{joining}onward {version} ready on {scheme}://{} (data: {data})\n", server.local_addr());
    // Bound: whoever connects now is answered. Nobody needs to read the line.
    let mut stdout = std::io::stdout();
    let _ = stdout.write_all(ready.as_bytes()).and_then(|()| stdout.flush());

    let (drain, drained) = tokio::sync::oneshot::channel::<()>();
    let serving = server.serve(async {
        let _ = drained.await;
    });
    let twice = async {
        signals.next().await;
        tracing::info!(drain_ms, "draining; a second signal ends at once");
        let _ = drain.send(());
        signals.next().await;
    };
    tokio::select! {
        served = serving => Ok(served?),
        () = twice => {
            tracing::warn!("second signal: running statements are cancelled");
            Err(Failure::Code(1))
        }
    }
}

/// The signals that end a server.
pub(super) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    /// From now on they end nothing by themselves.
    pub(super) fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn absolute(dir: PathBuf) -> Result<PathBuf, Failure> {
    dir.canonicalize().map_err(|error| Failure::Message(format!("--allow-path {}: {error}", dir.display())))
}
