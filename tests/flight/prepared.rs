//! Prepared statements: schemas, bound parameters, counts, limits.

use std::sync::Arc;

use arrow_flight::Action;
use arrow_flight::sql::{
    ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult, Any, CommandPreparedStatementQuery,
    ProstMessageExt,
};
use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use futures::StreamExt;
use prost::Message;
use tonic::Code;

use super::server::{SqlClient, TestServer, code, fetch, rows, text};

/// The command that binds parameters to a new prepared statement of `sql`.
pub async fn bind_command(client: &mut SqlClient, sql: &str) -> Any {
    let request = ActionCreatePreparedStatementRequest { query: sql.to_owned(), transaction_id: None };
    let action = Action::new("CreatePreparedStatement", request.as_any().encode_to_vec());
    let mut answers = client.do_action(action).await.expect("prepared");
    let answer = answers.next().await.expect("an answer").expect("an answer");
    let any = Any::decode(answer.body).expect("a message");
    let prepared: ActionCreatePreparedStatementResult = any.unpack().expect("a message").expect("the right one");
    CommandPreparedStatementQuery { prepared_statement_handle: prepared.prepared_statement_handle }.as_any()
}

fn parameters(rows: &[(i64, &str)]) -> RecordBatch {
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0)));
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.1)));
    RecordBatch::try_from_iter([("0", numbers), ("1", texts)]).expect("rows")
}

/// A prepared query runs again and again with other values, and once per bound row.
#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_query_runs_with_bound_values() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let sql = "SELECT value, $2 AS text FROM generate_series(1, 10) WHERE value > $1 ORDER BY value";
    let mut prepared = client.prepare(sql.to_owned(), None).await.expect("prepared");
    // JDBC takes an empty result schema for an update.
    assert_eq!(prepared.dataset_schema().expect("a schema").fields().len(), 2);
    assert_eq!(prepared.parameter_schema().expect("a schema").fields().len(), 2);
    assert_eq!(code(prepared.execute().await).0, Code::InvalidArgument, "nothing is bound yet");
    for (given, expected) in [
        (&[(8, "a")][..], &["9|a", "10|a"][..]),
        (&[(9, "it's")], &["10|it's"]),
        (&[(9, "x"), (8, "y")], &["10|x", "9|y", "10|y"]),
        (&[(10, "none")], &[]),
    ] {
        prepared.set_parameters(parameters(given)).expect("parameters");
        let info = prepared.execute().await.expect("it starts");
        assert_eq!(text(&fetch(&mut client, &info).await.expect("rows")), expected);
    }
    prepared.set_parameters(parameters(&[(1, "a")]).project(&[0]).expect("a column")).expect("parameters");
    assert_eq!(code(prepared.execute().await).0, Code::InvalidArgument, "too few values");
    prepared.close().await.expect("closed");
    server.stop().await;
}

/// A prepared write adds up the rows of all its executions.
#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_update_runs_once_per_bound_row() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    client.execute_update("CREATE TABLE t AS SELECT 0::bigint AS a, '' AS b".to_owned(), None).await.expect("a table");
    let mut prepared = client.prepare("INSERT INTO t VALUES ($1, $2)".to_owned(), None).await.expect("prepared");
    assert_eq!(prepared.dataset_schema().expect("a schema").fields().len(), 0, "it is an update");
    prepared.set_parameters(parameters(&[(1, "x"), (2, "y"), (3, "z")])).expect("parameters");
    assert_eq!(prepared.execute_update().await.expect("it runs"), 3);
    assert_eq!(rows(&mut client, "SELECT a, b FROM t ORDER BY a").await, ["0|", "1|x", "2|y", "3|z"]);
    server.stop().await;
}

/// Clients keep prepared statements for hours: an execution reads what is in the tables then.
#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_query_sees_what_was_written_since() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    client.execute_update("CREATE TABLE t AS SELECT 1 AS a".to_owned(), None).await.expect("a table");
    let mut prepared = client.prepare("SELECT sum(a) AS s FROM t".to_owned(), None).await.expect("prepared");
    for expected in ["1", "11", "21"] {
        let info = prepared.execute().await.expect("it starts");
        assert_eq!(text(&fetch(&mut client, &info).await.expect("rows")), [expected]);
        client.execute_update("INSERT INTO t VALUES (10)".to_owned(), None).await.expect("a row");
    }
    client.execute_update("CREATE OR REPLACE TABLE t AS SELECT 1.5 AS a".to_owned(), None).await.expect("a table");
    let (code, message) = code(prepared.execute().await);
    assert_eq!(code, Code::InvalidArgument, "{message}");
    assert!(message.contains("changed since it was prepared"), "{message}");
    server.stop().await;
}

/// Statements are bounded per session, given back by close, and gone with it.
#[tokio::test(flavor = "multi_thread")]
async fn prepared_statements_are_bounded_and_closed() {
    let server = TestServer::start_with(|options| options.config.max_prepared_statements = 2).await;
    let mut client = server.client().await;
    let first = client.prepare("SELECT 1".to_owned(), None).await.expect("prepared");
    let _second = client.prepare("SELECT 2".to_owned(), None).await.expect("prepared");
    assert!(client.prepare("SELECT 3".to_owned(), None).await.is_err());
    let mut copy = first.clone();
    first.close().await.expect("closed");
    let _third = client.prepare("SELECT 3".to_owned(), None).await.expect("there is room again");
    assert_eq!(code(copy.execute().await).0, Code::NotFound);
    assert!(client.prepare("SELECT FROM WHERE".to_owned(), None).await.is_err());
    server.stop().await;
}

/// Transactions are refused in clear words.
#[tokio::test(flavor = "multi_thread")]
async fn there_are_no_transactions() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let refused = client.begin_transaction().await.expect_err("refused").to_string();
    assert!(refused.contains("no transactions"), "{refused}");
    let refused = code(client.execute("SELECT 1".to_owned(), Some("t".into())).await);
    assert_eq!(refused.0, Code::Unimplemented);
    server.stop().await;
}
