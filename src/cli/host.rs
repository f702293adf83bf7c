//! `onward host`.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use onward_coordinator::refuse_exposure;
use onward_executor::host::{Member, MemberOptions, remove_leftovers};
use onward_shuffle::flight::{ClusterTls, parse_address};
use onward_wire::Config;
use tokio::net::TcpListener;

use super::global::GlobalArgs;
use super::serve::Signals;
use super::{Failure, runtime};

const AFTER_HELP: &str = "\
Examples:
  onward host --join grpc://127.0.0.1:50052 --advertise 127.0.0.1:0
  onward host --join grpc+tls://10.0.0.1:50052 --advertise 10.0.0.2:50052 --set cluster_dir=./cluster

A host launches functions, keeps cached columns and what stages exchange, and serves the latter to other hosts. It joins
again when its coordinator was away. SIGTERM and Ctrl-C end it; what its functions ran runs again on other hosts.";

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct HostArgs {
    /// Where the coordinator listens for hosts (its --cluster-listen)
    #[arg(long, value_name = "URL")]
    join: String,
    /// Where other hosts and the coordinator reach this one; port 0 takes a free one
    #[arg(long, value_name = "ADDR")]
    advertise: String,
    /// Address to listen on [default: the advertised one]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Listen in plain text on an address that other machines reach
    #[arg(long)]
    insecure: bool,
}

pub(super) fn run(global: &GlobalArgs, args: HostArgs) -> Result<(), Failure> {
    global.start_log("info")?;
    let config = global.config()?;
    let runtime = runtime()?;
    let done = runtime.block_on(serve(config, args));
    runtime.shutdown_timeout(Duration::from_secs(1));
    done
}

async fn serve(config: Config, args: HostArgs) -> Result<(), Failure> {
    // Before anything is started: a signal in between would leave things behind.
    let mut signals = Signals::listen()?;
    parse_address(&args.join)?;
    let tls = match config.cluster_dir.as_str() {
        "" => None,
        dir => Some(ClusterTls::load(dir.as_ref())?),
    };
    let scheme = if tls.is_some() { "grpc+tls" } else { "grpc" };
    let advertised = args.advertise.rsplit_once("://").map_or(args.advertise.as_str(), |(_, place)| place);
    let listen = match args.listen {
        Some(listen) => listen,
        None => resolve(advertised).await?,
    };
    refuse_exposure(listen, &config, args.insecure)?;
    let listener = TcpListener::bind(listen).await.map_err(|error| {
        Failure::Message(format!("cannot listen on {listen}: {error}; --listen takes another address"))
    })?;
    let port = listener.local_addr()?.port();
    let place = advertised.strip_suffix(":0").map_or(advertised.to_owned(), |host| format!("{host}:{port}"));
    let options = MemberOptions {
        coordinator: args.join.clone(),
        advertise: format!("{scheme}://{place}"),
        name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
    };
    parse_address(&options.advertise)?;

    remove_leftovers(&config);
    let program = std::env::current_exe()?;
    let advertise = options.advertise.clone();
    let member = Member::start(Arc::new(config), program, None, options)?;
    let host = Arc::clone(member.host());
    let joined = |id| {
        let ready = format!("onward {} host {id} ready on {advertise}\n", env!("CARGO_PKG_VERSION"));
        // Nobody needs to read the line.
        let mut stdout = std::io::stdout();
        let _ = stdout.write_all(ready.as_bytes()).and_then(|()| stdout.flush());
    };
    let served = tokio::select! {
        refused = member.run(joined) => refused.map_err(Failure::from),
        served = host.data_plane().clone().serve(listener, tls.as_ref(), None, std::future::pending()) => {
            served.map_err(Failure::from)
        }
        () = signals.next() => Ok(()),
    };
    host.shutdown().await;
    served
}

async fn resolve(place: &str) -> Result<SocketAddr, Failure> {
    let unknown = |why: String| {
        Failure::Message(format!("--advertise {place}: {why}; give HOST:PORT of this machine, or --listen"))
    };
    let mut found = tokio::net::lookup_host(place).await.map_err(|error| unknown(error.to_string()))?;
    found.next().ok_or_else(|| unknown("no such host".to_owned()))
}
