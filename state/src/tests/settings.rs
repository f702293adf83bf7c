//! What cannot work says what to change.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::task::{Context, Poll};

use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{BoxFuture, Service};
use tonic::server::{Grpc, UnaryService};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_prost::ProstCodec;

use super::{candidate, client, options, soon, until};
use crate::{Etcd, StateError, StateOptions, Tls};

/// A gRPC server that is no etcd: it does not know the call, or answers it with a message that says nothing.
#[derive(Clone)]
enum Stranger {
    Unknowing,
    Empty,
}

impl UnaryService<()> for Stranger {
    type Response = ();
    type Future = Ready<Result<tonic::Response<()>, tonic::Status>>;

    fn call(&mut self, _: tonic::Request<()>) -> Self::Future {
        ready(match self {
            Self::Unknowing => Err(tonic::Status::unimplemented("")),
            Self::Empty => Ok(tonic::Response::new(())),
        })
    }
}

impl Service<Request<Body>> for Stranger {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Response<Body>, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { Ok(Grpc::new(ProstCodec::<(), ()>::default()).unary(this, request).await) })
    }
}

async fn serve(stranger: Stranger) -> (SocketAddr, AbortOnDropHandle<Result<(), tonic::transport::Error>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let serving = Server::builder().serve_with_incoming(stranger, TcpIncoming::from(listener));
    (address, AbortOnDropHandle::new(tokio::spawn(serving)))
}

#[tokio::test]
async fn what_is_no_etcd_is_named_with_its_setting() {
    for (stranger, why) in [
        (Stranger::Unknowing, "grpc status Unimplemented: Operation is not implemented or not supported"),
        (Stranger::Empty, "its answer is empty"),
    ] {
        let (address, _serving) = serve(stranger).await;
        let refused = soon(candidate(&client(format!("http://{address}")), "a").lead()).await.map(drop);
        let message = format!("etcd_endpoints: http://{address}: it answers, but not as etcd does ({why})");
        assert_eq!(refused, Err(StateError::Invalid(message)));
    }
}

#[tokio::test]
async fn an_etcd_that_is_not_there_is_said_before_a_request_gives_up() {
    // Nobody listens where somebody did a moment ago.
    let address = TcpListener::bind("127.0.0.1:0").await.and_then(|gone| gone.local_addr()).expect("a port");
    let forever = StateOptions { timeout: super::PATIENCE * 100, ..options(format!("http://{address}")) };
    let candidate = candidate(&Etcd::new(forever).expect("options"), "a");
    let trouble = until(&mut candidate.trouble(), Option::is_some).await.expect("a trouble");
    assert!(trouble.is_retryable() && trouble.to_string().contains("Connection refused"), "{trouble}");
}

#[tokio::test]
async fn options_that_cannot_be_name_their_setting() {
    let https = || options("https://127.0.0.1:2379".to_owned());
    let tls = |ca: &str, identity| Some(Tls { ca: ca.into(), identity });
    let here = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let identity = |cert: &str, key: &str| Some((cert.into(), key.into()));
    for (options, named) in [
        (StateOptions { endpoints: Vec::new(), ..https() }, "etcd_endpoints: "),
        (StateOptions { lease_ttl: std::time::Duration::ZERO, ..https() }, "leader_lease_ms: it is 0"),
        (https(), "https://127.0.0.1:2379 needs etcd_ca"),
        (StateOptions { tls: tls("no.pem", None), ..https() }, "etcd_ca: no.pem: "),
        (StateOptions { tls: tls(here, identity("no.pem", "no.pem")), ..https() }, "etcd_cert: no.pem: "),
        (StateOptions { tls: tls(here, identity(here, "no.pem")), ..https() }, "etcd_key: no.pem: "),
    ] {
        let said = Etcd::new(options).map(drop).map_err(|error| error.to_string());
        assert!(said.as_ref().is_err_and(|said| said.starts_with(named)), "{named}: {said:?}");
    }
}
