//! What clients ask about tables.

use super::Fixture;

#[tokio::test]
async fn show_describe_and_information_schema_know_all_kinds_of_tables() {
    let f = Fixture::new();
    f.write("t.csv", "a,b\n1,x\n");
    f.run("create external table e stored as csv location 't.csv'").await.unwrap();
    f.run("create table m (k int primary key, v text)").await.unwrap();
    f.run("create view v as select a from e").await.unwrap();
    let tables = f
        .rows("select table_name, table_type from information_schema.tables where table_schema = 'public' order by 1")
        .await;
    assert_eq!(tables, ["e|BASE TABLE", "m|BASE TABLE", "v|VIEW"]);
    assert_eq!(
        f.rows("describe e").await,
        ["a|Int64|YES", "b|Utf8|YES"].map(|row| row.replace("Utf8", &string_type()))
    );
    assert_eq!(f.rows("show columns from v").await.len(), 1);
    assert!(f.rows("show tables").await.iter().any(|row| row.starts_with("onward|public|m|")));
    let created = f.rows("show create table e").await.join("");
    assert!(created.contains("STORED AS CSV") && created.contains("t.csv"), "{created}");
}

fn string_type() -> String {
    "Utf8".to_owned()
}

#[tokio::test]
async fn a_view_follows_its_tables_and_a_broken_one_hides_nothing_else() {
    let f = Fixture::new();
    f.run("create table t as select 1 as a").await.unwrap();
    f.run("create view v as select * from t").await.unwrap();
    f.run("create view w as select a + 1 as b from v").await.unwrap();
    f.run("create or replace table t as select 5 as a, 'new' as c").await.unwrap();
    assert_eq!(f.rows("select * from v").await, ["5|new"]);
    assert_eq!(f.rows("select * from w").await, ["6"]);
    f.run("drop table t").await.unwrap();
    let error = f.error("select * from w").await;
    assert!(error.message.contains("`public.t`"), "{error}");
    assert_eq!(f.rows("select count(*) from information_schema.columns where table_name = 'w'").await, ["1"]);
}

#[tokio::test]
async fn a_view_that_names_itself_is_an_error() {
    let f = Fixture::new();
    f.run("create view a as select 1 as x").await.unwrap();
    f.run("create view b as select * from a").await.unwrap();
    f.run("create or replace view a as select * from b").await.unwrap();
    let error = f.error("select * from a").await;
    assert!(error.message.contains("name themselves"), "{error}");
}

#[tokio::test]
async fn relative_files_of_a_view_are_those_of_its_creation() {
    let f = Fixture::new();
    f.write("x.csv", "a\n1\n");
    f.run("create view v as select * from 'x.csv'").await.unwrap();
    let elsewhere = super::super::SharedResources::in_directory(
        f.session.shared().catalog().clone(),
        None,
        &std::env::temp_dir(),
        None,
        "/".into(),
    )
    .unwrap();
    let config = onward_planner::session::session_config(2, Default::default());
    let session = super::SqlSession::open(elsewhere, config, None).unwrap();
    assert_eq!(super::lines(&super::run(&session, "select * from v", None).await.unwrap()), ["1"]);
}
