//! Requests to the stand-in, and its answers.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::{Method, Request, Response};
use k8s_openapi::serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::NAMESPACE;
use super::cluster::{Change, Cluster, Created, Fault};
use super::validity;
use crate::kubernetes::pod_template;

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// What is asked of the API: a verb of roles, and a resource.
struct Asked<'a> {
    verb: &'static str,
    resource: &'a str,
    namespace: &'a str,
    name: Option<&'a str>,
    query: BTreeMap<String, String>,
}

/// An error closes the connection.
pub(super) async fn answer(cluster: Arc<Cluster>, request: Request<Incoming>) -> io::Result<Response<Body>> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let segments: Vec<&str> = parts.uri.path().trim_start_matches('/').split('/').collect();
    let query = query(parts.uri.query().unwrap_or_default());
    let (namespace, resource, name) = match segments[..] {
        ["api", "v1", "namespaces", namespace, resource] => (namespace, resource, None),
        ["api", "v1", "namespaces", namespace, resource, name] => (namespace, resource, Some(name)),
        ["apis", "apps", "v1", "namespaces", namespace, resource, name] => (namespace, resource, Some(name)),
        _ => return Ok(refusal(404, "NotFound", "the server could not find the requested resource")),
    };
    let verb = match (parts.method, name) {
        (Method::POST, None) => "create",
        (Method::DELETE, Some(_)) => "delete",
        (Method::GET, Some(_)) => "get",
        (Method::GET, None) if query.get("watch").is_some_and(|watch| watch == "true") => "watch",
        (Method::GET, None) => "list",
        _ => return Ok(refusal(405, "MethodNotAllowed", "the server does not allow this method")),
    };
    let token = parts.headers.get("authorization").and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    if cluster.rules(|rules| rules.token.as_deref().is_some_and(|wanted| token != Some(wanted))) {
        return Ok(refusal(401, "Unauthorized", "Unauthorized"));
    }
    let fault = cluster.fault(verb);
    match fault {
        Some(Fault::Refuse(code, reason, message)) => return Ok(refusal(code, reason, message)),
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::LoseAnswer) | None => {}
    }
    let asked = Asked { verb, resource, namespace, name, query };
    let answered = asked.answer(&cluster, &body);
    match fault {
        // It was carried out all the same.
        Some(_) => Err(io::ErrorKind::ConnectionReset.into()),
        None => Ok(answered),
    }
}

impl Asked<'_> {
    fn answer(&self, cluster: &Arc<Cluster>, body: &[u8]) -> Response<Body> {
        if cluster.rules(|rules| rules.denied.contains(self.verb)) || self.namespace != NAMESPACE {
            return refusal(403, "Forbidden", &self.denial());
        }
        match (self.verb, self.resource, self.name) {
            ("create", "pods", _) => self.create(cluster, body),
            ("list", "pods", _) => self.list(cluster),
            ("watch", "pods", _) => self.watch(cluster),
            ("get", "pods", Some(name)) => match cluster.pod(name) {
                Some(pod) => object(200, &pod),
                None => not_found("pods", name),
            },
            ("delete", "pods", Some(name)) => delete(cluster, name, body),
            ("get", "statefulsets", Some(name)) => {
                match cluster.rules(|rules| rules.stateful_sets.get(name).cloned()) {
                    Some(uid) => {
                        let metadata =
                            json!({"name": name, "namespace": NAMESPACE, "uid": uid, "resourceVersion": "1"});
                        let set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata});
                        object(200, &set)
                    }
                    None => not_found("statefulsets.apps", name),
                }
            }
            _ => refusal(404, "NotFound", "the server could not find the requested resource"),
        }
    }

    fn denial(&self) -> String {
        let Self { verb, resource, namespace, name, .. } = self;
        let named = name.map(|name| format!(" \"{name}\"")).unwrap_or_default();
        let group = if *resource == "pods" { "" } else { "apps" };
        format!(
            "{resource}{named} is forbidden: User \"system:serviceaccount:{NAMESPACE}:onward\" cannot {verb} resource \
             \"{resource}\" in API group \"{group}\" in the namespace \"{namespace}\""
        )
    }

    fn create(&self, cluster: &Arc<Cluster>, body: &[u8]) -> Response<Body> {
        let given: Value = serde_json::from_slice(body).expect("JSON");
        let pod = match pod_template::parse(&given) {
            Ok(pod) => pod,
            Err(error) => return refusal(400, "BadRequest", &format!("strict decoding error: {error}")),
        };
        assert_eq!((&given["apiVersion"], &given["kind"]), (&json!("v1"), &json!("Pod")));
        let name = pod.metadata.name.clone().unwrap_or_default();
        let problems = validity::problems(&pod);
        if !problems.is_empty() {
            let message = format!("Pod \"{name}\" is invalid: {}", problems.join(", "));
            return refusal(422, "Invalid", &message);
        }
        let violations = validity::violations(pod.spec.as_ref().expect("it is valid"));
        if !violations.is_empty() {
            let what = violations.join(", ");
            let message = format!("pods \"{name}\" is forbidden: violates PodSecurity \"restricted:latest\": {what}");
            return refusal(403, "Forbidden", &message);
        }
        match cluster.create(pod) {
            Created::Pod(pod) => object(201, &*pod),
            Created::Exists => refusal(409, "AlreadyExists", &format!("pods \"{name}\" already exists")),
            Created::NoRoom => {
                let message = format!(
                    "pods \"{name}\" is forbidden: exceeded quota: hosts, requested: pods=1, used: pods=4, limited: pods=4"
                );
                refusal(403, "Forbidden", &message)
            }
        }
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let selector = self.query.get("labelSelector").map(String::as_str).unwrap_or_default();
        let pairs = selector.split(',').filter_map(|pair| pair.split_once('='));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    fn list(&self, cluster: &Cluster) -> Response<Body> {
        let limit = self.query.get("limit").map_or(usize::MAX, |limit| limit.parse().expect("a number"));
        let after = self.query.get("continue").map(String::as_str).unwrap_or_default();
        let (pods, version, is_more) = cluster.list(&self.labels(), after, limit);
        let last = pods.last().and_then(|pod| pod.metadata.name.clone());
        let token = if is_more { last.unwrap_or_default() } else { String::new() };
        let metadata = json!({"resourceVersion": version.to_string(), "continue": token});
        object(200, &json!({"apiVersion": "v1", "kind": "PodList", "metadata": metadata, "items": pods}))
    }

    fn watch(&self, cluster: &Arc<Cluster>) -> Response<Body> {
        let from = self.query["resourceVersion"].parse().expect("a version");
        let asked = self.query["timeoutSeconds"].parse().expect("seconds");
        let limit = cluster.rules(|rules| rules.watch_limit).min(Duration::from_secs(asked));
        let labels = self.labels();
        let is_known = cluster.changes(&labels, from).is_some();
        if !is_known && cluster.rules(|rules| rules.is_gone_a_status) {
            return refusal(410, "Expired", "too old resource version");
        }
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(tell(Arc::clone(cluster), labels, from, Instant::now() + limit, sender));
        let lines = stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) });
        Response::new(StreamBody::new(lines).boxed_unsync())
    }
}

type Lines = mpsc::Sender<io::Result<Frame<Bytes>>>;

/// Tells a watch what changes, until its time is up, the connections are cut or nobody listens.
async fn tell(cluster: Arc<Cluster>, labels: BTreeMap<String, String>, from: u64, until: Instant, lines: Lines) {
    let line = |kind: &str, object: Value| {
        Ok(Frame::data(Bytes::from(format!("{}\n", json!({"type": kind, "object": object})))))
    };
    let (mut ticks, mut version) = (cluster.ticks(), from);
    let cuts = ticks.borrow().cuts;
    loop {
        if ticks.borrow_and_update().cuts != cuts {
            // Nobody may be there to hear of it.
            let _ = lines.send(Ok(Frame::data(Bytes::from_static(b"{\"type\":\"MODI")))).await;
            let _ = lines.send(Err(io::ErrorKind::ConnectionReset.into())).await;
            return;
        }
        let Some((changes, now)) = cluster.changes(&labels, version) else {
            let _ = lines.send(line("ERROR", status(410, "Expired", "too old resource version"))).await;
            return;
        };
        for Change { kind, pod, .. } in changes {
            if lines.send(line(kind, serde_json::to_value(&pod).expect("JSON"))).await.is_err() {
                return;
            }
        }
        version = now;
        let is_over = tokio::select! {
            changed = tokio::time::timeout_at(until, ticks.changed()) => changed.is_err(),
            () = lines.closed() => return,
        };
        if is_over {
            let metadata = json!({"resourceVersion": version.to_string(), "creationTimestamp": null});
            let mark = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": null}});
            let _ = lines.send(line("BOOKMARK", mark)).await;
            return;
        }
    }
}

fn delete(cluster: &Cluster, name: &str, body: &[u8]) -> Response<Body> {
    let options: Value = if body.is_empty() { json!({}) } else { serde_json::from_slice(body).expect("JSON") };
    let uid = options["preconditions"]["uid"].as_str();
    match cluster.delete(name, options["gracePeriodSeconds"].as_u64(), uid) {
        Ok(Some(pod)) => object(200, &pod),
        Ok(None) => not_found("pods", name),
        Err(why) => refusal(409, "Conflict", &why),
    }
}

fn not_found(resource: &str, name: &str) -> Response<Body> {
    refusal(404, "NotFound", &format!("{resource} \"{name}\" not found"))
}

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "code": code, "reason": reason, "message": message,
    })
}

fn refusal(code: u16, reason: &str, message: &str) -> Response<Body> {
    let mut response = object(code, &status(code, reason, message));
    if code == 429 {
        response.headers_mut().insert("retry-after", 1.into());
    }
    response
}

fn object(code: u16, object: &impl Serialize) -> Response<Body> {
    let body = Full::new(Bytes::from(serde_json::to_vec(object).expect("JSON")));
    let body = body.map_err(|never: Infallible| match never {}).boxed_unsync();
    let response = Response::builder().status(code).header("content-type", "application/json");
    response.body(body).expect("a response")
}

/// What stands behind the question mark.
fn query(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), decoded(value))).collect()
}

fn decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let mut decoded = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = u8::from_str_radix(&part[..2], 16).expect("two digits");
        decoded.push(char::from(code));
        decoded.push_str(&part[2..]);
    }
    decoded
}
