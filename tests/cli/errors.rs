//! Errors: on standard error, with position or path, exit code 1, and nothing of the script behind them runs.

use super::Workspace;

#[test]
fn bad_sql_shows_where() {
    let workspace = Workspace::new();
    let ran = workspace.run(&["sql", "-c", "select 1; selec 2; select 3", "--format", "csv"]);
    ran.expect_error(&["Line: 1, Column: 11", "\n 1 | selec 2\n     ^"]);
    assert_eq!(ran.stdout, "Int64(1)\n1\n", "statements before the error ran, those behind it did not");
    std::fs::write(workspace.path("a.sql"), "select 1;\n\nselect a\n  form t").expect("a file");
    workspace.run(&["sql", "-f", "a.sql"]).expect_error(&["a.sql:4", "Line: 4"]);
}

#[test]
fn what_is_missing_is_named() {
    let workspace = Workspace::new();
    workspace.run(&["sql", "-c", "select * from 'nowhere.parquet'"]).expect_error(&["nowhere.parquet"]);
    workspace.run(&["sql", "-c", "select * from nowhere"]).expect_error(&["nowhere"]);
    workspace.run(&["sql", "-c", "select nothing from (select 1 as a)"]).expect_error(&["nothing"]);
    workspace.run(&["sql", "-f", "nowhere.sql"]).expect_error(&["nowhere.sql"]);
    workspace.assert_nothing_left();
}

#[test]
fn data_errors_are_the_same_with_functions_and_without() {
    let workspace = Workspace::new();
    workspace.parquet("t.parquet", 100);
    for functions in ["auto", "2"] {
        let run = |sql: &str| workspace.run(&["sql", "--functions", functions, "-c", sql]);
        run("select sum(10 / (id - 50)) from 't.parquet'").expect_error(&["Divide by zero"]);
        run("select max(cast(name as int)) from 't.parquet'").expect_error(&["name"]);
    }
    workspace.assert_nothing_left();
}

#[test]
fn a_corrupt_file_is_named() {
    let workspace = Workspace::new();
    std::fs::write(workspace.path("bad.parquet"), "PAR1 this is no Parquet PAR1").expect("a file");
    workspace.run(&["sql", "-c", "select * from 'bad.parquet'"]).expect_error(&["bad.parquet"]);
    workspace.assert_nothing_left();
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let workspace = Workspace::new();
    let connect = |url: &str| workspace.run(&["sql", "--connect", url, "-c", "select 1"]);
    // Port 1 is nobody's.
    connect("grpc://127.0.0.1:1").expect_error(&["grpc://127.0.0.1:1", "onward serve"]);
    connect("ftp://127.0.0.1:1").expect_error(&["grpc://host:port"]);
    connect("grpc://127.0.0.1").expect_error(&["port is missing"]);
}

#[test]
fn wrong_arguments_are_told_apart_from_failed_work() {
    let workspace = Workspace::new();
    for arguments in
        [&["sqll"][..], &["sql", "--format", "xml"], &["sql", "--functions", "0"], &["serve", "--listen", "x"]]
    {
        assert_eq!(workspace.run(arguments).code, Some(2), "{arguments:?}");
    }
    let help = workspace.run(&["--help"]);
    assert!(help.code == Some(0) && help.stdout.contains("onward tpch run --scale 1 --verify"), "{help:?}");
    let is_function = |line: &str| line.trim_start().starts_with("function ");
    assert!(!help.stdout.lines().any(is_function), "function processes are not for users: {}", help.stdout);
    assert_eq!(workspace.run(&["--version"]).expect_success(), format!("onward {}\n", env!("CARGO_PKG_VERSION")));
}
