//! Hosts of two versions side by side.

use arrow_flight::FlightData;
use arrow_flight::flight_service_client::FlightServiceClient;
use onward_wire::Config;
use onward_wire::cluster::{Join, ToCoordinator, ToMember, to_member};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

use super::hosts::Hosts;
use super::{JOIN, define, expected, rows, small};

/// A host of another version is taken in and given nothing: plans are for functions of the coordinator's version.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_of_another_version_waits_for_a_coordinator_of_its_own() {
    let hosts = Hosts::start(None, 1, Config { heartbeat_ms: 50, ..small() }).await;
    let (say, said) = mpsc::channel(8);
    let join = Join {
        engine_version: "9.9.9".to_owned(),
        address: "grpc://127.0.0.1:9".to_owned(),
        vcpus: 64,
        operator_memory_bytes: 64 << 30,
        max_functions: 64,
        name: "newer".to_owned(),
        ..Join::default()
    };
    let frame = FlightData { app_metadata: ToCoordinator::from(join).encode_to_vec().into(), ..FlightData::default() };
    say.send(frame).await.expect("a stream");
    let living = say.clone();
    let living = tokio::spawn(async move {
        let mut beats = tokio::time::interval(std::time::Duration::from_millis(50));
        let beat = || ToCoordinator::from(onward_wire::cluster::Heartbeat::default()).encode_to_vec().into();
        loop {
            beats.tick().await;
            if living.send(FlightData { app_metadata: beat(), ..FlightData::default() }).await.is_err() {
                return;
            }
        }
    });
    let endpoint = Endpoint::from_shared(hosts.join.replace("grpc://", "http://")).expect("an address");
    let mut client = FlightServiceClient::new(endpoint.connect().await.expect("it listens"));
    let mut told = client.do_exchange(ReceiverStream::new(said)).await.expect("it is let in").into_inner();
    let mut next = async || {
        let message = told.message().await.expect("a stream").expect("a message");
        ToMember::decode(message.app_metadata).expect("a message").body.expect("a body")
    };
    assert!(matches!(next().await, to_member::Body::Joined(_)));

    let data = define(&hosts).await;
    let right = expected(&data, JOIN).await;
    let session = hosts.session(&["SET onward.functions = 4"]).await;
    for _ in 0..3 {
        assert_eq!(rows(&session, JOIN).await, right);
    }
    let versions = "SELECT version, functions FROM system.hosts WHERE name = 'newer'";
    assert_eq!(rows(&session, versions).await, [["9.9.9", "0"]]);
    // What it heard until the next sign of life: who else is there, and no command.
    let mut heard_alive = 0;
    while heard_alive < 2 {
        match next().await {
            to_member::Body::Alive(_) => heard_alive += 1,
            to_member::Body::Peers(_) => {}
            to_member::Body::ForgetQuery(_) | to_member::Body::RemoveSegments(_) => {
                panic!("it has nothing of any query")
            }
            other => panic!("{other:?}"),
        }
    }
    living.abort();
    drop(say);
    hosts.stop().await;
}
