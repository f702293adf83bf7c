//! The shell on a terminal, driven by `terminal.py`.

use super::serve::Server;
use super::{Ran, Workspace};

fn drive(workspace: &Workspace, arguments: &[&str]) {
    let mut command = workspace.program("python3");
    command.args(["-c", include_str!("terminal.py"), env!("CARGO_BIN_EXE_onward")]).args(arguments);
    assert_eq!(Ran::of(command).expect_success(), "");
}

#[test]
fn the_shell_edits_runs_completes_cancels_and_remembers() {
    let workspace = Workspace::new();
    drive(&workspace, &[]);
    workspace.assert_nothing_left();
}

/// Progress and Ctrl-C over a server, for queries and for writes.
#[test]
fn the_shell_follows_a_statement_on_a_server() {
    let workspace = Workspace::new();
    let server = Server::start(&workspace, &[]);
    drive(&workspace, &["--connect", &server.url]);
    // Nothing that the shell began is left for the drain to wait for.
    let sql = "select count(*) as n from system.queries where state = 'running'";
    assert_eq!(workspace.sql(sql, &["--format", "csv", "--connect", &server.url]), "n\n1\n");
    server.stop();
    workspace.assert_nothing_left();
}
