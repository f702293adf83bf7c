//! Running statements: rows, schemas, counts, errors, big results.

use arrow_flight::sql::{CommandStatementQuery, ProstMessageExt};
use arrow_flight::{FlightClient, FlightDescriptor};
use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use futures::TryStreamExt;
use onward_wire::QueryId;
use prost::Message;
use tonic::Code;

use super::server::{TestServer, code, fetch, query, rows, status, text};

fn statement(sql: &str) -> FlightDescriptor {
    let command = CommandStatementQuery { query: sql.to_owned(), transaction_id: None };
    FlightDescriptor::new_cmd(command.as_any().encode_to_vec())
}

/// The first answer has the schema and the query id, the second the rows, and both agree.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_gives_its_schema_its_id_and_its_rows() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let sql = "SELECT 1 AS one, 'two' AS two, arrow_cast('three', 'Utf8View') AS three, NULL AS four";
    let info = client.execute(sql.to_owned(), None).await.expect("it starts");
    let id = String::from_utf8(info.app_metadata.to_vec()).expect("text");
    assert!(id.parse::<QueryId>().is_ok(), "{id}");
    let batches = fetch(&mut client, &info).await.expect("rows");
    let schema = info.try_decode_schema().expect("a schema");
    assert_eq!(&schema, batches[0].schema_ref().as_ref());
    // pyarrow can do little with string views, so none are sent.
    assert_eq!(schema.field(2).data_type(), &DataType::Utf8);
    assert_eq!(text(&batches), ["1|two|three|NULL"]);
    server.stop().await;
}

/// The same through function processes: what the coordinator maps from their segments reaches the client.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_over_functions_gives_the_same_rows() {
    let server = TestServer::start().await;
    super::server::write_parquet(
        &server.dir.path().join("numbers.parquet"),
        "SELECT value AS n, 'name ' || (value % 10) AS name FROM generate_series(1, 1000)",
    )
    .await;
    let mut client = server.client().await;
    let table =
        format!("CREATE EXTERNAL TABLE numbers STORED AS PARQUET LOCATION '{}'", server.path("numbers.parquet"));
    query(&mut client, &table).await.expect("a table");
    let sql = "SELECT name, count(*), sum(n) FROM numbers GROUP BY name ORDER BY name LIMIT 2";
    let expected = ["name 0|100|50500", "name 1|100|49600"];
    assert_eq!(rows(&mut client, sql).await, expected);
    for functions in [1, 2, 4] {
        query(&mut client, &format!("SET onward.functions = {functions}")).await.expect("a setting");
        assert_eq!(rows(&mut client, sql).await, expected, "{functions} functions");
    }
    server.stop().await;
}

/// A query is planned when its FlightInfo is made. What becomes of the table until functions have opened its files, and until the
/// client fetches, is nothing to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_outlives_the_files_of_its_table() {
    let server = TestServer::start().await;
    let (mut reader, mut writer) = (server.client().await, server.client().await);
    // 0: the planner's choice for so few bytes is the coordinator, which reads as rows are fetched.
    for functions in [0, 2] {
        query(&mut reader, &format!("SET onward.functions = {functions}")).await.expect("a setting");
        for end in ["DROP TABLE t", "INSERT OVERWRITE t SELECT 7, 'y'", "CREATE OR REPLACE TABLE t AS SELECT 'x' AS b"]
        {
            let table = "CREATE OR REPLACE TABLE t AS SELECT value AS a, 'x' AS b FROM generate_series(1, 10000)";
            query(&mut writer, table).await.expect("a table");
            query(&mut writer, "INSERT INTO t VALUES (-1, 'z')").await.expect("one more file");
            let sql = "SELECT b, count(*), sum(a) FROM t GROUP BY b ORDER BY b";
            let info = reader.execute(sql.to_owned(), None).await.expect("it starts");
            query(&mut writer, end).await.expect("it does not wait for readers");
            let read = fetch(&mut reader, &info).await.unwrap_or_else(|error| panic!("{end}, {functions}: {error}"));
            assert_eq!(text(&read), ["x|10000|50005000", "z|1|-1"], "{end}, {functions} functions");
        }
    }
    server.stop().await;
}

/// Errors of a statement come with the first answer, and say what the client can do about them.
#[tokio::test(flavor = "multi_thread")]
async fn a_bad_statement_is_refused_with_its_kind() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let (kind, message) = code(client.execute("SELECT * FORM t".to_owned(), None).await);
    assert_eq!(kind, Code::InvalidArgument, "{message}");
    assert!(message.contains("Line: 1, Column: 10"), "the position helps: {message}");
    let (kind, message) = code(client.execute("SELECT no_such_column FROM (SELECT 1)".to_owned(), None).await);
    assert_eq!(kind, Code::InvalidArgument, "{message}");
    let (kind, message) = code(client.execute("SELECT 1; SELECT 2".to_owned(), None).await);
    assert_eq!(kind, Code::InvalidArgument, "{message}");
    let (kind, message) = code(client.execute("SELECT * FROM nowhere".to_owned(), None).await);
    assert!(matches!(kind, Code::NotFound | Code::InvalidArgument) && message.contains("nowhere"), "{kind} {message}");
    // The connection survives all that.
    assert_eq!(rows(&mut client, "SELECT 1").await, ["1"]);
    server.stop().await;
}

/// An error while rows are made ends the stream with the same kinds, and names the query.
#[tokio::test(flavor = "multi_thread")]
async fn an_error_while_running_reaches_the_client() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let sql = "SELECT 1 / (value - 3) FROM generate_series(1, 5)";
    let failed = status(query(&mut client, sql).await);
    assert_eq!(failed.code(), Code::InvalidArgument, "{failed}");
    assert!(failed.message().to_lowercase().contains("divide by zero"), "{failed}");
    let header = |name: &str| failed.metadata().get(name).map(|value| value.to_str().expect("text").to_owned());
    assert_eq!(header(onward_endpoint::status::ERROR_KIND_HEADER).as_deref(), Some("InvalidQuery"));
    assert!(header(onward_endpoint::status::QUERY_ID_HEADER).is_some_and(|id| id.parse::<QueryId>().is_ok()));
    server.stop().await;
}

/// Updates answer with the rows they wrote; definitions with 0. Neither needs to be fetched to have happened.
#[tokio::test(flavor = "multi_thread")]
async fn updates_count_rows_and_are_done_when_they_answer() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let mut update = async |sql: &str| client.execute_update(sql.to_owned(), None).await.expect("it runs");
    assert_eq!(update("CREATE VIEW v AS SELECT 1 AS a UNION ALL SELECT 2").await, 0);
    assert_eq!(update("CREATE TABLE t AS SELECT a FROM v").await, 2);
    assert_eq!(update("INSERT INTO t SELECT a + 10 FROM v").await, 2);
    assert_eq!(update("SELECT * FROM t").await, -1, "rows of a query are not an update count");
    // As ADBC runs them: by GetFlightInfo, and the stream may never be read.
    client.execute("INSERT INTO t VALUES (100)".to_owned(), None).await.expect("it runs");
    assert_eq!(rows(&mut client, "SELECT count(*), sum(a) FROM t").await, ["5|126"]);
    server.stop().await;
}

/// EXPLAIN ANALYZE of a write writes, as in PostgreSQL, in the coordinator (0) and in functions, whether or not its client
/// fetches what it took. EXPLAIN writes nothing, and neither does one that fails.
#[tokio::test(flavor = "multi_thread")]
async fn explain_analyze_of_a_write_writes() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    for functions in [0, 2] {
        rows(&mut client, &format!("SET onward.functions = {functions}")).await;
        let create = format!("CREATE TABLE t{functions} AS SELECT value AS a FROM generate_series(1, 1000)");
        rows(&mut client, &format!("EXPLAIN {create}")).await;
        let count = format!("SELECT count(*), sum(a) FROM t{functions}");
        assert!(query(&mut client, &count).await.is_err(), "EXPLAIN creates nothing");
        let shown = rows(&mut client, &format!("EXPLAIN ANALYZE {create}")).await.join("\n");
        assert!(shown.contains("WriteExec") && shown.contains("committed: 1000 rows, in "), "{shown}");
        assert!(shown.contains("metrics=["), "{shown}");
        // Not fetched.
        client.execute(format!("EXPLAIN ANALYZE INSERT INTO t{functions} VALUES (7)"), None).await.expect("it runs");
        assert_eq!(rows(&mut client, &count).await, ["1001|500507"]);
        let failing = format!("EXPLAIN ANALYZE INSERT INTO t{functions} SELECT 1 / (a - a) FROM t{functions}");
        assert!(query(&mut client, &failing).await.is_err());
        assert_eq!(rows(&mut client, &count).await, ["1001|500507"]);
        let file = server.path(&format!("out{functions}.csv"));
        let shown = rows(&mut client, &format!("EXPLAIN ANALYZE COPY t{functions} TO '{file}'")).await.join("\n");
        assert!(shown.contains("committed: 1001 rows"), "{shown}");
        assert_eq!(std::fs::read_to_string(&file).expect("the file").lines().count(), 1_002);
    }
    server.stop().await;
}

/// Messages stay below the 4 MiB that clients accept by default, however the rows are spread.
#[tokio::test(flavor = "multi_thread")]
async fn a_big_result_fits_default_clients() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let sql = "SELECT value, repeat('x', CASE WHEN value % 1000 < 3 THEN 1000000 ELSE 10 END) AS text \
               FROM generate_series(1, 20000)";
    let batches = query(&mut client, sql).await.expect("rows");
    let lengths = |batch: &datafusion::arrow::array::RecordBatch| {
        batch.column(1).as_string::<i32>().iter().flatten().map(str::len).sum::<usize>()
    };
    assert_eq!(batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), 20_000);
    assert_eq!(batches.iter().map(lengths).sum::<usize>(), 60 * 1_000_000 + (20_000 - 60) * 10);
    server.stop().await;
}

/// GetSchema plans and does not run; PollFlightInfo starts like GetFlightInfo. Both are missing in arrow-flight's service.
#[tokio::test(flavor = "multi_thread")]
async fn schema_and_poll_work_without_their_default_implementation() {
    let server = TestServer::start().await;
    let mut client = FlightClient::new(server.channel().await);
    let schema = client.get_schema(statement("SELECT 1 AS one")).await.expect("a schema");
    assert_eq!(schema, Schema::new(vec![Field::new("one", DataType::Int64, false)]));
    client.get_schema(statement("CREATE VIEW v AS SELECT 1")).await.expect("an empty schema");
    let (kind, message) = code(client.get_flight_info(statement("SELECT * FROM v")).await);
    assert_ne!(kind, Code::Ok, "GetSchema must not run the statement: {message}");
    let poll = client.poll_flight_info(statement("SELECT 1 AS one")).await.expect("it starts");
    let info = poll.info.expect("an info");
    assert!(poll.flight_descriptor.is_none(), "there is nothing to poll for");
    let ticket = info.endpoint[0].ticket.clone().expect("a ticket");
    let batches: Vec<_> = client.do_get(ticket).await.expect("rows").try_collect().await.expect("rows");
    assert_eq!(text(&batches), ["1"]);
    server.stop().await;
}

/// Commands that are no Flight SQL are the client's error, not the server's.
#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_refused() {
    let server = TestServer::start().await;
    let mut client = FlightClient::new(server.channel().await);
    let (kind, _) = code(client.get_flight_info(FlightDescriptor::new_cmd(&b"\xff\xff"[..])).await);
    assert_eq!(kind, Code::InvalidArgument);
    let ticket = arrow_flight::Ticket::new(&b"\x0a\x03abc"[..]);
    assert_ne!(code(client.do_get(ticket).await).0, Code::Internal);
    assert_eq!(code(client.list_flights(&b""[..]).await.map(drop)).0, Code::Unimplemented);
    server.stop().await;
}
