//! Settings reach the engine from every source, and mistakes in them are found.

use super::{Ran, Workspace};

#[test]
fn flags_win_over_variables_and_those_over_the_file() {
    let workspace = Workspace::new();
    std::fs::write(workspace.path("onward.toml"), "max_attempts = 7\nfunctions = 3\nvcpus = 5\n").expect("a file");
    let mut command = workspace.onward(&["config", "--config", "onward.toml", "--functions", "2", "--memory", "3GiB"]);
    command.env("ONWARD_VCPUS", "6").env("ONWARD_FUNCTIONS", "4");
    let text = Ran::of(command).expect_success();
    for line in ["max_attempts = 7", "functions = 2", "vcpus = 6", "memory_bytes = \"3GiB\""] {
        assert!(text.lines().any(|found| found.starts_with(line)), "{line} is not in {text}");
    }
}

#[test]
fn unknown_settings_are_refused_with_the_nearest_name() {
    let workspace = Workspace::new();
    std::fs::write(workspace.path("onward.toml"), "max_atempts = 7").expect("a file");
    let ran = workspace.run(&["config", "--config", "onward.toml"]);
    ran.expect_error(&["`max_atempts`", "onward.toml", "did you mean `max_attempts`"]);
    workspace.run(&["sql", "--set", "nope=1", "-c", "select 1"]).expect_error(&["`nope`", "--set"]);
    let mut command = workspace.onward(&["config"]);
    command.env("ONWARD_SPIL_DIR", "/tmp");
    Ran::of(command).expect_error(&["ONWARD_SPIL_DIR", "did you mean `spill_dir`"]);
}

#[test]
fn a_forced_number_of_functions_is_the_sessions_setting() {
    let workspace = Workspace::new();
    let sql = "select value from information_schema.df_settings where name = 'onward.functions'";
    assert_eq!(workspace.sql(sql, &["--functions", "3", "--format", "csv"]), "value\n3\n");
}
