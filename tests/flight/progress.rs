//! PollFlightInfo: how far a statement is.

use arrow_flight::sql::{CommandStatementQuery, ProstMessageExt};
use arrow_flight::{CancelFlightInfoRequest, FlightClient, FlightDescriptor, PollInfo};
use futures::TryStreamExt;
use onward_endpoint::Progress;
use prost::Message;
use tonic::Code;

use super::server::{ENDLESS_SUM, PATIENCE, TestServer, assert_idle, code, rows, text};

fn statement(sql: &str) -> FlightDescriptor {
    let command = CommandStatementQuery { query: sql.to_owned(), transaction_id: None };
    FlightDescriptor::new_cmd(command.as_any().encode_to_vec())
}

fn progress(poll: &PollInfo) -> Progress {
    let info = poll.info.as_ref().expect("an info");
    Progress::decode(info.endpoint[0].app_metadata.clone()).expect("a message")
}

/// Polls until `is_seen`; gives the last answer.
async fn poll_until(client: &mut FlightClient, mut poll: PollInfo, is_seen: impl Fn(&PollInfo) -> bool) -> PollInfo {
    let seen = async {
        while !is_seen(&poll) {
            let next = poll.flight_descriptor.expect("it is not over");
            poll = client.poll_flight_info(next).await.expect("an answer");
        }
        poll
    };
    tokio::time::timeout(PATIENCE, seen).await.expect("it is seen in time")
}

/// A query that functions work on says how many tasks and functions it has until it is cancelled; so does a write, which
/// the first poll does not wait for.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_statement_tells_how_far_it_is() {
    let server = TestServer::start().await;
    let mut sql = server.client().await;
    let mut client = FlightClient::new_from_inner(sql.inner().clone());
    rows(&mut sql, "SET onward.functions = 1").await;
    for running in [ENDLESS_SUM.to_owned(), format!("CREATE TABLE t AS {ENDLESS_SUM}")] {
        let poll = client.poll_flight_info(statement(&running)).await.expect("it starts");
        let poll = poll_until(&mut client, poll, |poll| progress(poll).functions > 0).await;
        let seen = progress(&poll);
        assert_eq!((seen.tasks, seen.tasks_done, seen.functions), (1, 0, 1), "{running}");
        assert_eq!(poll.progress, Some(0.0));
        let next = poll.flight_descriptor.expect("it is not over");
        let info = poll.info.expect("an info");
        client.cancel_flight_info(CancelFlightInfoRequest::new(info)).await.expect("cancelled");
        assert_eq!(code(client.poll_flight_info(next).await).0, Code::Cancelled, "{running}");
    }
    let coordinator = server.coordinator.clone();
    server.stop().await;
    assert_idle(&coordinator).await;
}

/// What is over says so, and its rows can be fetched: at once when the coordinator runs it, else when the functions are
/// done. A write that was polled for has happened then.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_is_over_has_nothing_to_poll_for() {
    let server = TestServer::start().await;
    let mut sql = server.client().await;
    let mut client = FlightClient::new_from_inner(sql.inner().clone());
    for functions in [0, 2] {
        rows(&mut sql, &format!("SET onward.functions = {functions}")).await;
        for (polled, expected) in [
            ("SELECT count(*) FROM generate_series(1, 100000)", "100000"),
            ("CREATE OR REPLACE TABLE t AS SELECT value FROM generate_series(1, 1000)", "1000"),
            ("EXPLAIN ANALYZE INSERT INTO t VALUES (7)", "committed: 1 row"),
        ] {
            let poll = client.poll_flight_info(statement(polled)).await.expect("it starts");
            let poll = poll_until(&mut client, poll, |poll| poll.flight_descriptor.is_none()).await;
            assert_eq!(poll.progress, Some(1.0), "{polled}");
            let ticket = poll.info.expect("an info").endpoint[0].ticket.clone().expect("a ticket");
            let batches: Vec<_> = client.do_get(ticket).await.expect("rows").try_collect().await.expect("rows");
            let shown = text(&batches).join("\n");
            assert!(shown.contains(expected), "{polled}: {shown}");
        }
        assert_eq!(rows(&mut sql, "SELECT count(*) FROM t").await, ["1001"]);
    }
    let gone = FlightDescriptor::new_cmd(
        arrow_flight::sql::TicketStatementQuery { statement_handle: "gone".into() }.as_any().encode_to_vec(),
    );
    assert_eq!(code(client.poll_flight_info(gone).await).0, Code::NotFound);
    server.stop().await;
}

/// Queries that wait say at which place, to their clients and in `system.queries`, until the one before them is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_waits_tells_its_place() {
    let server = TestServer::start_with(|options| options.config.max_running_queries = 1).await;
    let mut watcher = server.client().await;
    let mut polls = Vec::new();
    for (user, position) in [("ann", 0), ("bob", 1), ("ann", 2)] {
        let mut sql = server.client().await;
        sql.set_header("x-onward-user", user);
        rows(&mut sql, "SET onward.functions = 1").await;
        let mut client = FlightClient::new_from_inner(sql.inner().clone());
        client.add_header("x-onward-user", user).expect("a header");
        let poll = client.poll_flight_info(statement(ENDLESS_SUM)).await.expect("it starts");
        let is_there =
            |poll: &PollInfo| progress(poll).position == position && (position > 0 || progress(poll).functions > 0);
        let poll = poll_until(&mut client, poll, is_there).await;
        assert_eq!(progress(&poll).queued, position, "{user}");
        polls.push((sql, client, poll));
    }
    let listed = "SELECT \"user\", state, queue, queue_position FROM system.queries WHERE state IN ('running', 'queued') \
                  AND sql LIKE '%sum%' AND sql NOT LIKE '%system%' ORDER BY queue_position";
    let expected = ["ann|running|default|0", "bob|queued|default|1", "ann|queued|default|2"];
    assert_eq!(rows(&mut watcher, listed).await, expected);
    // Whoever is first leaves, and the others move up.
    let (_, mut first, poll) = polls.remove(0);
    first.cancel_flight_info(CancelFlightInfoRequest::new(poll.info.expect("an info"))).await.expect("cancelled");
    let (_, mut second, poll) = polls.remove(0);
    let poll = poll_until(&mut second, poll, |poll| progress(poll).functions > 0).await;
    assert_eq!(progress(&poll).position, 0);
    let (_, mut third, last) = polls.remove(0);
    let last = poll_until(&mut third, last, |poll| progress(poll).position == 1).await;
    for (client, poll) in [(&mut second, poll), (&mut third, last)] {
        let info = poll.info.expect("an info");
        client.cancel_flight_info(CancelFlightInfoRequest::new(info)).await.expect("cancelled");
    }
    let waited =
        "SELECT count(*) FROM system.queries WHERE \"user\" = 'bob' AND sql LIKE '%sum%' AND queue_position = 0";
    assert_eq!(rows(&mut watcher, waited).await, ["1"]);
    let coordinator = server.coordinator.clone();
    server.stop().await;
    assert_idle(&coordinator).await;
}

/// A query that is over says what it took and cost: in the application metadata behind its id, and by an action.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_is_over_tells_its_cost() {
    let server = TestServer::start().await;
    let mut sql = server.client().await;
    let mut client = FlightClient::new_from_inner(sql.inner().clone());
    rows(&mut sql, "SET onward.functions = 2").await;
    let polled = "SELECT count(*), sum(value) FROM generate_series(1, 100000)";
    let poll = client.poll_flight_info(statement(polled)).await.expect("it starts");
    let poll = poll_until(&mut client, poll, |poll| poll.flight_descriptor.is_none()).await;
    let metadata = String::from_utf8(poll.info.expect("an info").app_metadata.to_vec()).expect("text");
    let (query, told) = metadata.split_once('\n').expect("an id and its cost");
    let told: serde_json::Value = serde_json::from_str(told).expect("JSON");
    assert_eq!((&told["query_id"], &told["sql"]), (&query.into(), &polled.into()));
    assert!(told["cold_starts"].as_u64() >= Some(1) && told["gb_seconds"].as_f64() > Some(0.0), "{told}");
    assert!(told["cost_usd"].as_f64() > Some(0.0) && told["is_final"] == true, "{told}");
    let asked = client.do_action(arrow_flight::Action::new("QueryCost", query.to_owned())).await.expect("an answer");
    let answer: Vec<_> = asked.try_collect().await.expect("one");
    let answer: serde_json::Value = serde_json::from_slice(&answer[0]).expect("JSON");
    assert_eq!((&answer["cost_usd"], &answer["gb_seconds"]), (&told["cost_usd"], &told["gb_seconds"]));
    let unknown = client.do_action(arrow_flight::Action::new("QueryCost", "q-0000")).await;
    let unknown = match unknown {
        Ok(stream) => stream.try_collect::<Vec<_>>().await.map(drop),
        Err(error) => Err(error),
    };
    assert_eq!(code(unknown).0, Code::NotFound);
    let coordinator = server.coordinator.clone();
    server.stop().await;
    assert_idle(&coordinator).await;
}
