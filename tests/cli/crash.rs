//! What is left of a process that was killed, and who removes it.

use std::process::Stdio;
use std::time::Instant;

use super::signals::children;
use super::{PATIENCE, Workspace, entries};

/// Files that a killed process had staged next to the user's are removed by the next one that starts, whether it kept its
/// catalog in a data directory or in a temporary one.
#[test]
fn what_a_killed_process_staged_is_removed_by_the_next() {
    let workspace = Workspace::new();
    // Large enough not to end before it is killed, small enough not to fill the disk if it is not.
    let rows = "select value, md5(value::varchar) from generate_series(1, 50000000)";
    let copy = format!("copy ({rows}) to 'out/' stored as csv");
    for data_dir in [&[][..], &["--data-dir", "data"]] {
        for functions in ["auto", "1"] {
            let arguments = [&["sql", "--functions", functions, "-c", &copy][..], data_dir].concat();
            let mut command = workspace.onward(&arguments);
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary");
            let deadline = Instant::now() + PATIENCE;
            let staged = || {
                let staging = std::fs::read_dir(workspace.path("out")).into_iter().flatten().flatten().next()?.path();
                (!entries(&staging).is_empty()).then_some(staging)
            };
            let staging = loop {
                assert!(child.try_wait().expect("a child").is_none(), "the statement ended");
                assert!(Instant::now() < deadline, "nothing was staged");
                if let Some(staging) = staged() {
                    break staging;
                }
            };
            let functions = children(&child);
            child.kill().expect("a kill");
            child.wait().expect("an end");
            // They end with it; a zombie has no executable.
            while functions.iter().any(|function| std::fs::read_link(function.join("exe")).is_ok()) {
                assert!(Instant::now() < deadline, "a function outlives its host");
            }
            assert!(staging.exists(), "a killed process cleans nothing up");

            // With a function, so that its host removes what the killed one had.
            let sql = "select value as a from generate_series(1, 1)";
            let next = ["sql", "--quiet", "--format", "csv", "--functions", "1", "-c", sql];
            assert_eq!(workspace.run(&[&next[..], data_dir].concat()).expect_success(), "a\n1\n");
            assert!(!staging.exists(), "{data_dir:?} {functions:?}");
            workspace.assert_nothing_left();
            std::fs::remove_dir(workspace.path("out")).expect("an empty directory");
        }
    }
}
