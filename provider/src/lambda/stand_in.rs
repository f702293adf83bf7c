//! Lambda's Invoke as a server of this process: it runs what it is invoked with as processes. What it does besides, the function's name says.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::process::ExitStatus;
use std::sync::Arc;

use async_trait::async_trait;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;

use super::Members;
use crate::HostName;

/// Of the path, around the function's name.
const PATH: (&str, &str) = ("/2015-03-31/functions/", "/invocations");

/// A region of AWS with room for some invocations. Ends when it is dropped; what it runs ends with the test.
#[derive(Debug)]
pub(super) struct StandIn {
    pub(super) address: SocketAddr,
    pub(super) region: Arc<Region>,
    serving: JoinHandle<()>,
}

/// What runs in it.
#[derive(Debug)]
pub(super) struct Region {
    processes: Mutex<BTreeMap<String, OwnedFd>>,
    room: usize,
    /// Requests that came.
    requests: Mutex<Vec<Value>>,
    /// Answers of `late` wait for one of these.
    pub(super) gate: Semaphore,
}

/// A process is taken for a host that joined.
#[async_trait]
impl Members for Region {
    async fn joined(&self) -> Vec<String> {
        self.processes.lock().keys().cloned().collect()
    }

    async fn leave(&self, name: &HostName) {
        self.signal(name.as_str(), Signal::TERM);
    }
}

impl Region {
    pub(super) fn signal(&self, name: &str, signal: Signal) {
        if let Some(process) = self.processes.lock().get(name) {
            // It may have ended just now.
            let _ = pidfd_send_signal(process, signal);
        }
    }

    pub(super) fn requests(&self) -> usize {
        self.requests.lock().len()
    }

    /// The last event.
    pub(super) fn event(&self) -> Value {
        self.requests.lock().last().cloned().expect("a request")
    }

    /// Runs the arguments; how they end.
    fn run(self: &Arc<Self>, event: &Value) -> Option<oneshot::Receiver<ExitStatus>> {
        let name = event["name"].as_str().expect("a name").to_owned();
        let arguments = event["arguments"].as_array().expect("arguments").iter();
        let arguments = arguments.map(|argument| argument.as_str().expect("a word"));
        let mut processes = self.processes.lock();
        if processes.len() >= self.room {
            return None;
        }
        let mut command = tokio::process::Command::new("/bin/sh");
        // A test that fails leaves none.
        let mut child = command.args(arguments).kill_on_drop(true).spawn().expect("a shell");
        let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).expect("it runs");
        processes.insert(name.clone(), pidfd_open(pid, PidfdFlags::empty()).expect("it was not waited for"));
        let (end, ended) = oneshot::channel();
        let region = Arc::clone(self);
        // It goes on whoever hangs up.
        tokio::spawn(async move {
            let status = child.wait().await.expect("a child");
            region.processes.lock().remove(&name);
            // The client may have hung up.
            let _ = end.send(status);
        });
        Some(ended)
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
        let path = request.uri().path().to_owned();
        let function = path.strip_prefix(PATH.0).and_then(|rest| rest.strip_suffix(PATH.1)).expect("an invocation");
        let kind = request.headers().get("x-amz-invocation-type").expect("a type");
        assert_eq!(kind, "RequestResponse");
        let body = request.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
        let event: Value = serde_json::from_slice(&body).expect("JSON");
        self.requests.lock().push(event.clone());
        match function {
            "onward" => Ok(self.invoke(&event).await),
            "missing" => Ok(refused(404, "ResourceNotFoundException", "Function not found: missing")),
            "broken" => Ok(refused(500, "ServiceException", "An error occurred and the request cannot be processed.")),
            "strange" => Ok(plain(502, None, "<html>Bad Gateway</html>".to_owned())),
            "late" => {
                self.gate.acquire().await.expect("it stays open").forget();
                Ok(throttled())
            }
            "slow" => Ok(failed("Sandbox.Timedout", "RequestId: 1 Error: Task timed out after 900.00 seconds")),
            // The line goes dead while the host runs.
            "cut" => {
                drop(self.run(&event));
                Err(io::ErrorKind::ConnectionReset.into())
            }
            // And before it does.
            "dead" => Err(io::ErrorKind::ConnectionReset.into()),
            other => panic!("{other}"),
        }
    }

    async fn invoke(self: &Arc<Self>, event: &Value) -> Response<Full<Bytes>> {
        let Some(ended) = self.run(event) else { return throttled() };
        let status = ended.await.expect("it is waited for");
        match status.success() {
            true => plain(200, None, json!({ "name": event["name"], "ended": "it was told to leave" }).to_string()),
            false => failed("Runtime.ExitError", &format!("RequestId: 1 Error: Runtime exited with error: {status}")),
        }
    }
}

fn plain(status: u16, header: Option<(&str, &str)>, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::builder().status(status);
    if let Some((name, value)) = header {
        response = response.header(name, value);
    }
    response.body(Full::new(body.into())).expect("a response")
}

fn refused(status: u16, code: &str, message: &str) -> Response<Full<Bytes>> {
    plain(status, Some(("x-amzn-errortype", code)), json!({ "Type": "User", "Message": message }).to_string())
}

fn throttled() -> Response<Full<Bytes>> {
    refused(429, "TooManyRequestsException", "Rate Exceeded.")
}

/// As Lambda says that a function did not answer.
fn failed(kind: &str, message: &str) -> Response<Full<Bytes>> {
    let body = json!({ "errorType": kind, "errorMessage": message }).to_string();
    plain(200, Some(("x-amz-function-error", "Unhandled")), body)
}

impl StandIn {
    /// Serves on a free port.
    pub(super) async fn start(room: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let (processes, requests) = Default::default();
        let region = Arc::new(Region { processes, room, requests, gate: Semaphore::new(0) });
        let served = Arc::clone(&region);
        let serving = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let region = Arc::clone(&served);
                let service = service_fn(move |request| Arc::clone(&region).answer(request));
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                // An error is a line that goes dead, as ordered.
                tokio::spawn(async move { drop(connection.await) });
            }
        });
        Self { address, region, serving }
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
