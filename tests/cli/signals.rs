//! Ctrl-C ends a run at once and leaves nothing behind.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use super::{ENDLESS, PATIENCE, Ran, Workspace};

/// Sends `signal`, as a terminal or a service manager does.
pub fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("it still runs");
}

#[test]
fn ctrl_c_cancels_a_statement_here_and_in_functions() {
    let workspace = Workspace::new();
    for functions in ["auto", "2"] {
        let arguments = ["sql", "--log", "onward::shell=debug", "--functions", functions, "-c", ENDLESS];
        let mut child =
            workspace.onward(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary");
        let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut line = String::new();
        stderr.read_line(&mut line).expect("a line");
        assert!(line.contains("sent"), "{line}");
        if functions == "2" {
            wait_for_a_function(&mut child);
        }
        send(&child, Signal::INT);
        let rest = std::io::read_to_string(stderr).expect("text");
        let ran = Ran::from(child.wait_with_output().expect("an end"));
        assert_eq!((ran.code, ran.stdout.as_str(), rest.as_str()), (Some(130), "", "cancelled\n"), "{functions}");
        workspace.assert_nothing_left();
    }
}

/// Looks until the process has a child.
fn wait_for_a_function(parent: &mut Child) {
    let deadline = Instant::now() + PATIENCE;
    while children(parent).is_empty() {
        assert!(parent.try_wait().expect("a child").is_none(), "the statement ended");
        assert!(Instant::now() < deadline, "no function was started");
    }
}

/// Processes that a process started.
pub fn children(parent: &Child) -> Vec<PathBuf> {
    let id = parent.id().to_string();
    // Fields behind the name in parentheses: state, parent.
    let is_child = |stat: String| stat.rsplit(')').next().and_then(|rest| rest.split(' ').nth(2)) == Some(id.as_str());
    let processes = std::fs::read_dir("/proc").expect("processes").flatten().map(|process| process.path());
    processes.filter(|process| std::fs::read_to_string(process.join("stat")).is_ok_and(is_child)).collect()
}
