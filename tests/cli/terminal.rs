//! The shell on a terminal, driven by `terminal.py`.

use super::{Ran, Workspace};

#[test]
fn the_shell_edits_runs_completes_cancels_and_remembers() {
    let workspace = Workspace::new();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/terminal.py");
    let mut command = workspace.program("python3");
    command.args([script, env!("CARGO_BIN_EXE_onward")]);
    assert_eq!(Ran::of(command).expect_success(), "");
    workspace.assert_nothing_left();
}
