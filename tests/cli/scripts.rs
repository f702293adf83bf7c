//! Statements from -c, files, standard input; embedded state; what a closed pipe does.

use std::io::Read;
use std::process::Stdio;

use super::Workspace;

#[test]
fn a_bare_parquet_file_is_a_table() {
    let workspace = Workspace::new();
    let path = workspace.parquet("t.parquet", 1_000);
    let sql = "select count(*) as n, max(id) as m from 't.parquet'";
    assert_eq!(workspace.sql(sql, &["--format", "csv"]), "n,m\n1000,1000\n");
    let sql = format!("select name from '{}' where id = 8", path.display());
    assert_eq!(workspace.sql(&sql, &["--format", "csv", "--functions", "2"]), "name\nname 1\n");
    workspace.assert_nothing_left();
}

#[test]
fn statements_run_in_order_from_commands_then_files() {
    let workspace = Workspace::new();
    std::fs::write(workspace.path("a.sql"), "-- semicolons ; in comments\nselect 'x;y' as c;\nselect 3 as d")
        .expect("a file");
    let arguments = ["sql", "-f", "a.sql", "-c", "select 1 as a; select 2 as b;", "--format", "csv"];
    assert_eq!(workspace.run(&arguments).expect_success(), "a\n1\nb\n2\nc\nx;y\nd\n3\n");
}

#[test]
fn standard_input_is_a_script() {
    let workspace = Workspace::new();
    let ran = workspace.run_with_input(&["sql", "--format", "csv"], "create view v as select 7 as n;\nselect * from v");
    assert_eq!(ran.expect_success(), "n\n7\n");
    let ran = workspace.run_with_input(&["sql"], "select 1;\nselect nope");
    ran.expect_error(&["standard input:2", "nope"]);
    assert_eq!(workspace.run_with_input(&["sql"], "").expect_success(), "");
}

/// `--data-dir .` in a folder of somebody's work must not cost a file of it.
#[test]
fn a_folder_with_files_is_not_taken_for_a_data_directory() {
    let workspace = Workspace::new();
    let precious = workspace.path("tables/precious");
    std::fs::create_dir_all(&precious).expect("a directory");
    std::fs::write(precious.join("a.csv"), "a\n1\n").expect("a file");
    let ran = workspace.run(&["sql", "--data-dir", ".", "-c", "select 1"]);
    ran.expect_error(&["is not a data directory", "name an empty or a new directory"]);
    assert_eq!(std::fs::read_to_string(precious.join("a.csv")).expect("it is there"), "a\n1\n");
    assert!(!workspace.path("lock").exists() && !workspace.path("catalog.json").exists());
    workspace.sql("create table t as select 1 as a", &["--data-dir", "data"]);
    std::fs::write(workspace.path("data/tables/mine.csv"), "a\n1\n").expect("a file");
    workspace.sql("drop table t", &["--data-dir", "data"]);
    assert!(workspace.path("data/tables/mine.csv").exists());
}

#[test]
fn a_data_directory_keeps_tables_and_a_temporary_one_does_not() {
    let workspace = Workspace::new();
    workspace.sql("create table t as select 1 as a union all select 2", &["--data-dir", "data"]);
    let rows = workspace.sql("select sum(a) as s from t", &["--data-dir", "data", "--format", "csv"]);
    assert_eq!(rows, "s\n3\n");
    workspace.run(&["sql", "-c", "select * from t"]).expect_error(&["`public.t`"]);
    workspace.assert_nothing_left();
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let workspace = Workspace::new();
    // More than any pipe holds.
    let sql = "select value from generate_series(1, 1000000)";
    for format in ["table", "csv", "ndjson"] {
        let mut command = workspace.onward(&["sql", "-c", sql, "--format", format]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary");
        let mut stdout = child.stdout.take().expect("a pipe");
        stdout.read_exact(&mut [0; 4_096]).expect("rows");
        drop(stdout);
        let output = child.wait_with_output().expect("an end");
        assert_eq!((output.status.code(), output.stderr), (Some(0), vec![]), "{format}");
    }
    workspace.assert_nothing_left();
}

#[test]
fn timing_goes_to_standard_error() {
    let workspace = Workspace::new();
    let ran = workspace.run(&["sql", "--timing", "--format", "csv", "-c", "select 1 as a"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "a\n1\n"));
    assert!(ran.stderr.starts_with("Time: ") && ran.stderr.ends_with(" ms (no function)\n"), "{}", ran.stderr);
}

/// What queries took and cost is kept with the data, and told below the rows.
#[test]
fn costs_are_told_and_kept() {
    let workspace = Workspace::new();
    let sql = "select sum(value) from generate_series(1, 1000)";
    let ran = workspace.run(&["sql", "--timing", "--data-dir", "data", "--functions", "1", "-c", sql]);
    assert!(ran.stderr.contains("1 function (1 cold), ") && ran.stderr.contains("GB-s, $0.0"), "{}", ran.stderr);
    let kept = std::fs::read_to_string(workspace.path("data/queries/queries.jsonl")).expect("a log");
    let kept: Vec<serde_json::Value> = kept.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let [kept] = kept.as_slice() else { panic!("{kept:?}") };
    assert_eq!((&kept["sql"], &kept["state"], &kept["functions"]), (&sql.into(), &"done".into(), &1.into()));
    assert!(
        kept["cost_usd"].as_f64() > Some(0.0) && kept["arrived"].as_str().is_some_and(|at| at.ends_with('Z')),
        "{kept}"
    );
}
