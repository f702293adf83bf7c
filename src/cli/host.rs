//! `onward host`.

use std::future::Future;
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
use tokio_util::sync::CancellationToken;

use super::global::GlobalArgs;
use super::serve::Signals;
use super::{Failure, runtime};

const AFTER_HELP: &str = "\
Examples:
  onward host --join grpc://127.0.0.1:50052 --advertise 127.0.0.1:0
  onward host --join grpc://127.0.0.1:50052 --outbound
  onward host --join grpc+tls://10.0.0.1:50052 --advertise 10.0.0.2:50052 --set cluster_dir=./cluster

A host launches functions, keeps cached columns and what stages exchange, and serves the latter to other hosts. It joins
again when its coordinator was away. At SIGTERM or Ctrl-C it takes nothing new, and leaves when nothing that it holds is needed
(host_leave_timeout_ms); at a second one it leaves at once, and what its functions ran runs again on other hosts.";

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct HostArgs {
    /// Where the coordinator listens for hosts (its --cluster-listen); of several coordinators some, separated by commas
    #[arg(long, value_name = "URL", value_delimiter = ',', required = true)]
    join: Vec<String>,
    /// Where other hosts and the coordinator reach this one; port 0 takes a free one, `auto` the address that the way to the
    /// coordinator begins at
    #[arg(long, value_name = "ADDR", required_unless_present = "outbound")]
    advertise: Option<String>,
    /// Its name in system.hosts [default: the machine's]
    #[arg(long)]
    name: Option<String>,
    /// Listen on nothing: give all output to a host that can be reached, and read from such hosts only
    #[arg(long, conflicts_with_all = ["advertise", "listen"])]
    pub(super) outbound: bool,
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
    let done = runtime.block_on(serve_until_signal(config, args));
    runtime.shutdown_timeout(Duration::from_secs(1));
    done
}

async fn serve_until_signal(config: Config, args: HostArgs) -> Result<(), Failure> {
    // Before anything is started: a signal in between would leave things behind.
    let mut signals = Signals::listen()?;
    let leaving = CancellationToken::new();
    let twice = async {
        signals.next().await;
        tracing::info!("leaving when nothing of this host is needed; a second signal ends it at once");
        leaving.cancel();
        signals.next().await;
    };
    serve(config, args, leaving.clone(), twice).await
}

/// Runs a host until the coordinator refuses it, or lets it go once `leaving` is cancelled; when `at_once` is over, it ends at once. Nothing
/// of it is left then.
pub(super) async fn serve(
    config: Config,
    args: HostArgs,
    leaving: CancellationToken,
    at_once: impl Future<Output = ()>,
) -> Result<(), Failure> {
    for coordinator in &args.join {
        parse_address(coordinator)?;
    }
    let tls = ClusterTls::from_config(&config)?;
    let place = match args.advertise.as_deref() {
        Some("auto") => {
            let advertise = format!("{}:0", own_address(&args.join[0]).await?);
            Some(listen(&advertise, &args, &config, tls.is_some()).await?)
        }
        Some(advertise) => Some(listen(advertise, &args, &config, tls.is_some()).await?),
        None => None,
    };
    let (listener, advertise) = place.unzip();
    let options = MemberOptions {
        coordinators: args.join.clone(),
        advertise: advertise.clone(),
        name: args.name.clone().unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned()),
    };

    remove_leftovers(&config);
    let program = std::env::current_exe()?;
    let member = Member::start(Arc::new(config), program, None, options)?;
    let host = Arc::clone(member.host());
    let joined = |id| {
        let place = advertise.as_ref().map_or_else(String::new, |advertise| format!(" on {advertise}"));
        let ready = format!("onward {} host {id} ready{place}\n", env!("CARGO_PKG_VERSION"));
        // Nobody needs to read the line.
        let mut stdout = std::io::stdout();
        let _ = stdout.write_all(ready.as_bytes()).and_then(|()| stdout.flush());
    };
    let data_plane = host.data_plane().clone();
    let serving = async {
        match listener {
            Some(listener) => data_plane.serve(listener, tls.as_ref(), None, std::future::pending()).await,
            None => std::future::pending().await,
        }
    };
    let served = tokio::select! {
        refused = member.run(leaving, joined) => refused.map_err(Failure::from),
        served = serving => served.map_err(Failure::from),
        () = at_once => Ok(()),
    };
    host.shutdown().await;
    served
}

/// Listens where others are told to come: the listener and its address.
async fn listen(
    advertise: &str,
    args: &HostArgs,
    config: &Config,
    has_tls: bool,
) -> Result<(TcpListener, String), Failure> {
    let advertised = advertise.rsplit_once("://").map_or(advertise, |(_, place)| place);
    let listen = match args.listen {
        Some(listen) => listen,
        None => resolve(advertised).await?,
    };
    refuse_exposure(listen, config, args.insecure)?;
    if args.listen.is_none() && listen.ip().is_unspecified() {
        let message =
            format!("--advertise {advertise} is no address that others can come to: --listen {listen} is meant");
        return Err(Failure::Message(message));
    }
    let taken = |error| Failure::Message(format!("cannot listen on {listen}: {error}; --listen takes another address"));
    let listener = TcpListener::bind(listen).await.map_err(taken)?;
    let port = listener.local_addr()?.port();
    let place = advertised.strip_suffix(":0").map_or(advertised.to_owned(), |host| format!("{host}:{port}"));
    let address = format!("{}://{place}", if has_tls { "grpc+tls" } else { "grpc" });
    parse_address(&address)?;
    Ok((listener, address))
}

/// The address of this machine from which it reaches `coordinator`, as it is written before a port.
async fn own_address(coordinator: &str) -> Result<String, Failure> {
    let place = coordinator.rsplit_once("://").map_or(coordinator, |(_, place)| place);
    let failed = |error| Failure::Message(format!("--advertise auto: no way to {coordinator}: {error}"));
    let far = tokio::net::lookup_host(place).await.map_err(failed)?.next();
    let far = far.ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))?;
    // Nothing is sent: the kernel chooses the way when a datagram socket is told where it leads.
    let socket = std::net::UdpSocket::bind(if far.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).map_err(failed)?;
    socket.connect(far).map_err(failed)?;
    Ok(match socket.local_addr().map_err(failed)?.ip() {
        std::net::IpAddr::V4(address) => address.to_string(),
        std::net::IpAddr::V6(address) => format!("[{address}]"),
    })
}

async fn resolve(place: &str) -> Result<SocketAddr, Failure> {
    let unknown = |why: String| {
        Failure::Message(format!("--advertise {place}: {why}; give HOST:PORT of this machine, or --listen"))
    };
    let mut found = tokio::net::lookup_host(place).await.map_err(|error| unknown(error.to_string()))?;
    found.next().ok_or_else(|| unknown("no such host".to_owned()))
}
