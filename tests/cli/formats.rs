//! One result in every format.

use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReader;

use super::Workspace;

const SQL: &str = "select 1 as n, 'a|b' as s, null as x, cast(1.5 as decimal(5, 2)) as d";

#[test]
fn every_format_shows_the_same_row() {
    let workspace = Workspace::new();
    for (format, expected) in [
        ("table", "| 1 | a|b | NULL | 1.50 |\n"),
        ("vertical", "-[ row 1 ]----\nn | 1\ns | a|b\nx | NULL\nd | 1.50\n"),
        ("csv", "n,s,x,d\n1,a|b,,1.50\n"),
        ("json", "[{\"n\":1,\"s\":\"a|b\",\"x\":null,\"d\":1.50}]\n"),
        ("ndjson", "{\"n\":1,\"s\":\"a|b\",\"x\":null,\"d\":1.50}\n"),
        ("markdown", "| n | s | x | d |\n| ---: | --- | --- | ---: |\n| 1 | a\\|b | NULL | 1.50 |\n"),
    ] {
        let text = workspace.sql(SQL, &["--format", format]);
        match format {
            "table" => assert!(text.contains(expected) && text.ends_with("+\n"), "{text}"),
            _ => assert_eq!(text, expected, "{format}"),
        }
    }
}

#[test]
fn parquet_goes_through_a_pipe_and_into_a_file() {
    let workspace = Workspace::new();
    let path = workspace.parquet("t.parquet", 20_000);
    let mut piped = workspace.onward(&["sql", "-c", "select * from 't.parquet'", "--format", "parquet"]);
    let output = piped.output().expect("the binary");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::write(workspace.path("piped.parquet"), &output.stdout).expect("a file");
    for path in [path, workspace.path("piped.parquet")] {
        let file = std::fs::File::open(path).expect("the file");
        let rows =
            ParquetRecordBatchReader::try_new(file, 8_192).expect("Parquet").map(|b| b.expect("rows").num_rows());
        assert_eq!(rows.sum::<usize>(), 20_000);
    }
    workspace.assert_nothing_left();
}

#[test]
fn people_are_told_how_many_rows_and_scripts_are_not() {
    let workspace = Workspace::new();
    let sql = "set datafusion.execution.batch_size = 100; select value from generate_series(1, 25000)";
    let text = workspace.run(&["sql", "-c", sql]).expect_success();
    assert!(text.starts_with("OK\n") && text.ends_with("(25000 rows)\n"), "no row is left out");
    assert_eq!(text.lines().count(), 1 + 25_000 + 5);
    assert_eq!(workspace.sql(sql, &["--format", "csv"]).lines().count(), 1 + 25_000);
    assert_eq!(workspace.run(&["sql", "-c", "set onward.functions = 1", "--format", "json"]).expect_success(), "");
}

#[test]
fn a_failed_run_leaves_the_output_file_as_it_was() {
    let workspace = Workspace::new();
    std::fs::write(workspace.path("out.csv"), "before").expect("a file");
    let script = "select 1; select * from missing";
    let ran = workspace.run(&["sql", "-c", script, "--format", "csv", "--output", "out.csv"]);
    ran.expect_error(&["missing"]);
    assert_eq!(std::fs::read_to_string(workspace.path("out.csv")).expect("the file"), "before");
    assert_eq!(workspace.run(&["sql", "-c", "select 1 as a", "--format", "csv", "-o", "out.csv"]).expect_success(), "");
    assert_eq!(std::fs::read_to_string(workspace.path("out.csv")).expect("the file"), "a\n1\n");
}
