//! The ends of a statement other than its last row: cancel, a dropped stream, timeouts, retention, drain.

use arrow_flight::sql::{Any, CommandStatementQuery, ProstMessageExt, TicketStatementQuery};
use arrow_flight::{CancelFlightInfoRequest, CancelStatus, FlightClient, FlightDescriptor};
use futures::StreamExt;
use prost::Message;
use tonic::{Code, Request};

use super::server::{ENDLESS_ROWS, ENDLESS_SUM, PATIENCE, TestServer, assert_idle, code, fetch, open, query, rows};

/// A result that waits is cancelled: nothing runs any more, and who fetches learns it.
#[tokio::test(flavor = "multi_thread")]
async fn cancel_ends_a_statement_before_it_is_fetched() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let info = client.execute(ENDLESS_SUM.to_owned(), None).await.expect("it starts");
    let mut flight = FlightClient::new(server.channel().await);
    let cancel = CancelFlightInfoRequest::new(info.clone());
    let done = flight.cancel_flight_info(cancel.clone()).await.expect("an answer");
    assert_eq!(done.status(), CancelStatus::Cancelled);
    assert_eq!(code(fetch(&mut client, &info).await).0, Code::Cancelled);
    let again = flight.cancel_flight_info(cancel).await.expect("an answer");
    assert_eq!(again.status(), CancelStatus::NotCancellable);
    assert_idle(&server.coordinator).await;
    server.stop().await;
}

/// A statement that is being fetched is cancelled by another connection, with and without functions.
#[tokio::test(flavor = "multi_thread")]
async fn cancel_ends_a_statement_while_it_is_fetched() {
    let server = TestServer::start().await;
    let mut flight = FlightClient::new(server.channel().await);
    for functions in [0, 2] {
        for sql in [ENDLESS_ROWS, ENDLESS_SUM] {
            let mut client = server.client().await;
            query(&mut client, &format!("SET onward.functions = {functions}")).await.expect("a setting");
            let info = client.execute(sql.to_owned(), None).await.expect("it starts");
            let mut stream = open(&mut client, &info).await.expect("a stream");
            if sql == ENDLESS_ROWS && functions == 0 {
                stream.next().await.expect("rows").expect("rows");
            }
            let cancel = CancelFlightInfoRequest::new(info);
            flight.cancel_flight_info(cancel).await.expect("an answer");
            let end = async {
                loop {
                    if let Err(error) = stream.next().await.expect("an error ends the stream") {
                        return error;
                    }
                }
            };
            let error = tokio::time::timeout(PATIENCE, end).await.expect("it ends");
            assert_eq!(code(Err::<(), _>(error)).0, Code::Cancelled, "{sql}");
        }
    }
    assert_idle(&server.coordinator).await;
    server.stop().await;
}

/// A client that goes away, or drops its stream, takes its statement with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_stream_cancels() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let info = client.execute(ENDLESS_ROWS.to_owned(), None).await.expect("it starts");
    let mut stream = open(&mut client, &info).await.expect("a stream");
    stream.next().await.expect("rows").expect("rows");
    drop(stream);
    let info = client.execute(ENDLESS_SUM.to_owned(), None).await.expect("it starts");
    let stream = open(&mut client, &info).await.expect("a stream");
    drop((stream, client));
    assert_idle(&server.coordinator).await;
    server.stop().await;
}

/// A query that is explained by running it is no different.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_takes_what_it_explains_with_it() {
    let server = TestServer::start().await;
    for functions in [0, 2] {
        let mut client = server.client().await;
        query(&mut client, &format!("SET onward.functions = {functions}")).await.expect("a setting");
        let info = client.execute(format!("EXPLAIN ANALYZE {ENDLESS_SUM}"), None).await.expect("it starts");
        let stream = open(&mut client, &info).await.expect("a stream");
        drop((stream, client));
    }
    assert_idle(&server.coordinator).await;
    server.stop().await;
}

/// A client whose connection is closed takes what it did not fetch with it. One that is known by name may come back.
#[tokio::test(flavor = "multi_thread")]
async fn a_closed_connection_cancels_what_nobody_fetched() {
    let server = TestServer::start().await;
    let mut named = server.client().await;
    named.set_header(onward_endpoint::SESSION_HEADER, "it-comes-back");
    let kept = named.execute("SELECT 42".to_owned(), None).await.expect("it starts");
    drop(named);
    let mut client = server.client().await;
    client.execute(ENDLESS_SUM.to_owned(), None).await.expect("it starts");
    drop(client);

    let mut other = server.client().await;
    let running = "SELECT count(*) FROM system.queries WHERE state = 'running' AND sql LIKE '%9000000000000000%' \
                   AND sql NOT LIKE '%system.queries%'";
    let ended = async {
        while rows(&mut other, running).await != ["0"] {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.expect("it is cancelled");
    assert_eq!(super::server::text(&fetch(&mut other, &kept).await.expect("rows")), ["42"]);
    assert_idle(&server.coordinator).await;
    server.stop().await;
}

/// A write is over when its client gets the ticket: saying that it was cancelled would be a lie.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_has_committed_cannot_be_cancelled() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let mut flight = FlightClient::new(server.channel().await);
    let info = client.execute("CREATE TABLE t AS SELECT 1 AS a".to_owned(), None).await.expect("it runs");
    let done = flight.cancel_flight_info(CancelFlightInfoRequest::new(info.clone())).await.expect("an answer");
    assert_eq!(done.status(), CancelStatus::NotCancellable);
    assert_eq!(super::server::text(&fetch(&mut client, &info).await.expect("its answer")), ["1"]);
    assert_eq!(rows(&mut client, "SELECT count(*) FROM t").await, ["1"]);
    server.stop().await;
}

/// The three ways to limit a statement all end it as DEADLINE_EXCEEDED.
#[tokio::test(flavor = "multi_thread")]
async fn timeouts_end_a_statement() {
    // The last client below may give up before the server heard of its fetch: then the retention ends the statement.
    let server = TestServer::start_with(|options| options.config.result_retention_ms = 10_000).await;

    let mut client = server.client().await;
    client.set_header(onward_endpoint::TIMEOUT_HEADER, "50");
    assert_eq!(code(query(&mut client, ENDLESS_SUM).await).0, Code::DeadlineExceeded);

    let mut client = server.client().await;
    query(&mut client, "SET onward.statement_timeout_ms = 50").await.expect("a setting");
    assert_eq!(code(query(&mut client, ENDLESS_SUM).await).0, Code::DeadlineExceeded);
    let (kind, message) = code(client.execute_update(ENDLESS_SUM.to_owned(), None).await);
    assert_eq!(kind, Code::DeadlineExceeded, "{message}");
    // A timeout also ends what nobody fetches: seen by its ticket.
    let info = client.execute(ENDLESS_SUM.to_owned(), None).await.expect("it starts");
    assert_eq!(code(fetch(&mut client, &info).await).0, Code::DeadlineExceeded);

    let mut client = server.client().await;
    let info = client.execute(ENDLESS_SUM.to_owned(), None).await.expect("it starts");
    let mut get = Request::new(info.endpoint[0].ticket.clone().expect("a ticket"));
    get.set_timeout(std::time::Duration::from_millis(50));
    let mut stream = client.inner_mut().do_get(get).await.expect("a stream").into_inner();
    let end = loop {
        if let Err(end) = stream.message().await {
            break end;
        }
    };
    // The client watches its own deadline too, and may be first.
    assert!(matches!(end.code(), Code::DeadlineExceeded | Code::Cancelled), "{end}");
    assert_idle(&server.coordinator).await;
    server.stop().await;
}

/// A ticket is good for one fetch, and for nothing when it was made up.
#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_works_once_and_cannot_be_guessed() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let info = client.execute("SELECT 1".to_owned(), None).await.expect("it starts");
    fetch(&mut client, &info).await.expect("rows");
    assert_eq!(code(fetch(&mut client, &info).await).0, Code::NotFound);
    for handle in ["", "0", "00000000000000000000000000000000"] {
        let ticket = TicketStatementQuery { statement_handle: handle.into() };
        let ticket = arrow_flight::Ticket::new(ticket.as_any().encode_to_vec());
        assert_eq!(code(client.do_get(ticket).await).0, Code::NotFound, "{handle:?}");
    }
    server.stop().await;
}

/// A result that nobody fetches within the retention is given up; its statement does not run for ever.
#[tokio::test(flavor = "multi_thread")]
async fn an_unfetched_result_expires() {
    let server = TestServer::start_with(|options| options.config.result_retention_ms = 20).await;
    let mut client = server.client().await;
    let info = client.execute(ENDLESS_SUM.to_owned(), None).await.expect("it starts");
    assert_idle(&server.coordinator).await;
    assert_eq!(code(fetch(&mut client, &info).await).0, Code::NotFound);
    server.stop().await;
}

/// A server that was told to end refuses new statements, and still hands out what it has started.
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_clients_fetch_what_they_started() {
    let server = TestServer::start().await;
    let (mut client, mut other) = (server.client().await, server.client().await);
    rows(&mut other, "SELECT 1").await;
    let info = client.execute("SELECT 42".to_owned(), None).await.expect("it starts");
    let (serving, coordinator, _dir) = server.begin_stop();
    // Statements are refused from some moment on: that moment is the event to wait for.
    let refused = async {
        loop {
            match other.execute("SELECT 1".to_owned(), None).await {
                Ok(started) => drop(fetch(&mut other, &started).await.expect("rows")),
                Err(error) => return code(Err::<(), _>(error)).0,
            }
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, refused).await.expect("it refuses"), Code::Unavailable);
    assert_eq!(super::server::text(&fetch(&mut client, &info).await.expect("rows")), ["42"]);
    drop((client, other));
    tokio::time::timeout(PATIENCE, serving).await.expect("it ends").expect("it ends well");
    coordinator.shutdown(std::time::Duration::ZERO).await;
}

/// RenewFlightEndpoint answers with the endpoint and its new time, and refuses what is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_result_can_be_renewed_until_it_is_fetched() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let mut flight = FlightClient::new(server.channel().await);
    let info = client.execute("SELECT 1".to_owned(), None).await.expect("it starts");
    let renew = arrow_flight::RenewFlightEndpointRequest::new(info.endpoint[0].clone());
    let renewed = flight.renew_flight_endpoint(renew.clone()).await.expect("renewed");
    assert_eq!(renewed.ticket, info.endpoint[0].ticket);
    assert!(renewed.expiration_time.is_some_and(|time| time.seconds > 1_700_000_000));
    fetch(&mut client, &info).await.expect("rows");
    assert_eq!(code(flight.renew_flight_endpoint(renew).await).0, Code::NotFound);
    server.stop().await;
}

/// The older action of Flight SQL does the same as CancelFlightInfo.
#[tokio::test(flavor = "multi_thread")]
async fn the_deprecated_cancel_query_works() {
    let server = TestServer::start().await;
    let mut flight = FlightClient::new(server.channel().await);
    let command = CommandStatementQuery { query: ENDLESS_SUM.to_owned(), transaction_id: None };
    let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
    let info = flight.get_flight_info(descriptor).await.expect("it starts");
    // ActionCancelQueryRequest { info: bytes = 1 }, ActionCancelQueryResult { result: enum = 1 }; 1 is CANCELLED.
    let info = info.encode_to_vec();
    let mut request = vec![0x0a];
    prost::encoding::encode_varint(info.len() as u64, &mut request);
    request.extend(info);
    let type_url = "type.googleapis.com/arrow.flight.protocol.sql.ActionCancelQueryRequest".to_owned();
    let action = arrow_flight::Action::new("CancelQuery", Any { type_url, value: request.into() }.encode_to_vec());
    let mut answers = flight.do_action(action).await.expect("an answer");
    let answer = Any::decode(answers.next().await.expect("an answer").expect("an answer")).expect("a message");
    assert_eq!(answer.value.as_ref(), [0x08, 0x01]);
    assert_idle(&server.coordinator).await;
    server.stop().await;
}
