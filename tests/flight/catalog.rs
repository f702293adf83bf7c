//! What clients learn about catalog and server.

use arrow_flight::sql::{
    CommandGetCrossReference, CommandGetDbSchemas, CommandGetExportedKeys, CommandGetImportedKeys,
    CommandGetPrimaryKeys, CommandGetTables, CommandGetXdbcTypeInfo, SqlInfo,
};
use arrow_flight::{FlightInfo, IpcMessage};
use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Schema, UInt32Type};

use super::server::{SqlClient, TestServer, fetch, query, text};

async fn answer(client: &mut SqlClient, info: FlightInfo) -> Vec<RecordBatch> {
    let batches = fetch(client, &info).await.expect("rows");
    let schema = info.try_decode_schema().expect("a schema");
    assert!(batches.iter().all(|batch| batch.schema_ref().as_ref() == &schema), "both answers have one schema");
    batches
}

/// Tables come with the schema that a query of them would have, views with theirs, and filters are kept.
#[tokio::test(flavor = "multi_thread")]
async fn tables_are_listed_with_their_schemas() {
    let server = TestServer::start().await;
    super::server::write_parquet(
        &server.dir.path().join("nation.parquet"),
        "SELECT 1::bigint AS n_nationkey, 'FRANCE' AS n_name, DATE '1995-01-01' AS since, 1.5::decimal(15,2) AS tax",
    )
    .await;
    let mut client = server.client().await;
    let table = format!("CREATE EXTERNAL TABLE nation STORED AS PARQUET LOCATION '{}'", server.path("nation.parquet"));
    query(&mut client, &table).await.expect("a table");
    query(&mut client, "CREATE VIEW names AS SELECT n_name FROM nation").await.expect("a view");

    let wanted = CommandGetTables {
        table_name_filter_pattern: Some("na%".to_owned()),
        include_schema: true,
        ..CommandGetTables::default()
    };
    let info = client.get_tables(wanted).await.expect("an answer");
    let tables = answer(&mut client, info).await;
    let [tables] = tables.as_slice() else { panic!("{} batches", tables.len()) };
    let described = tables.project(&[2, 3]).expect("columns");
    assert_eq!(text(&[described]), ["names|VIEW", "nation|TABLE"]);
    let schemas = tables.column(4).as_binary::<i32>();
    let schema = |row: usize| Schema::try_from(IpcMessage(schemas.value(row).to_vec().into())).expect("a schema");
    let queried = query(&mut client, "SELECT * FROM nation").await.expect("rows");
    let types = |schema: &Schema| schema.fields().iter().map(|f| (f.name().clone(), f.data_type().clone())).collect();
    let (listed, seen): (Vec<(String, DataType)>, Vec<_>) = (types(&schema(1)), types(queried[0].schema_ref()));
    assert_eq!(listed, seen);
    assert_eq!(schema(0).field(0).data_type(), &DataType::Utf8);

    let views = CommandGetTables { table_types: vec!["VIEW".to_owned()], ..CommandGetTables::default() };
    let info = client.get_tables(views).await.expect("an answer");
    let views = answer(&mut client, info).await;
    assert_eq!(text(&[views[0].project(&[2]).expect("a column")]), ["names"]);
    server.stop().await;
}

/// Catalogs and schemas are those that SQL knows.
#[tokio::test(flavor = "multi_thread")]
async fn catalogs_and_schemas_are_listed() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let info = client.get_catalogs().await.expect("an answer");
    let catalogs = text(&answer(&mut client, info).await);
    let info = client.get_db_schemas(CommandGetDbSchemas::default()).await.expect("an answer");
    let schemas = text(&answer(&mut client, info).await);
    let current = "SELECT DISTINCT table_catalog || '|' || table_schema FROM information_schema.tables";
    for schema in text(&query(&mut client, current).await.expect("rows")) {
        assert!(schemas.contains(&schema), "{schema} is not in {schemas:?}");
        assert!(catalogs.iter().any(|catalog| schema.starts_with(&format!("{catalog}|"))), "{catalogs:?}");
    }
    let info = client.get_table_types().await.expect("an answer");
    assert!(text(&answer(&mut client, info).await).contains(&"TABLE".to_owned()));
    server.stop().await;
}

/// JDBC and ADBC ask these at connect; an error would make them give up.
#[tokio::test(flavor = "multi_thread")]
async fn questions_about_server_types_and_keys_are_answered() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let info = client.get_sql_info(vec![SqlInfo::FlightSqlServerName, SqlInfo::FlightSqlServerReadOnly]).await;
    let infos = answer(&mut client, info.expect("an answer")).await;
    assert_eq!(infos[0].column(0).as_primitive::<UInt32Type>().values(), &[0, 3]);
    let info = client.get_sql_info(vec![]).await.expect("an answer");
    assert!(answer(&mut client, info).await[0].num_rows() > 30);
    let info = client.get_xdbc_type_info(CommandGetXdbcTypeInfo::default()).await.expect("an answer");
    let types = answer(&mut client, info).await;
    assert!(types[0].column(0).as_string::<i32>().iter().flatten().any(|name| name == "BIGINT"));

    let table = || "t".to_owned();
    let keys = CommandGetPrimaryKeys { table: table(), ..CommandGetPrimaryKeys::default() };
    let mut infos = vec![client.get_primary_keys(keys).await.expect("an answer")];
    let keys = CommandGetImportedKeys { table: table(), ..CommandGetImportedKeys::default() };
    infos.push(client.get_imported_keys(keys).await.expect("an answer"));
    let keys = CommandGetExportedKeys { table: table(), ..CommandGetExportedKeys::default() };
    infos.push(client.get_exported_keys(keys).await.expect("an answer"));
    let keys = CommandGetCrossReference { pk_table: table(), fk_table: table(), ..CommandGetCrossReference::default() };
    infos.push(client.get_cross_reference(keys).await.expect("an answer"));
    for (info, columns) in infos.into_iter().zip([6, 13, 13, 13]) {
        assert_eq!(info.clone().try_decode_schema().expect("a schema").fields().len(), columns);
        assert_eq!(answer(&mut client, info).await.iter().map(RecordBatch::num_rows).sum::<usize>(), 0);
    }
    server.stop().await;
}
