//! README's snippets, in order, as written; only the port is another one, since 50051 may be somebody's.

use std::path::Path;

use super::serve::Server;
use super::{Ran, Workspace};

const PORT: &str = "50051";

/// A fenced block behind `<!-- run: KIND -->`.
struct Snippet {
    kind: String,
    text: String,
}

fn snippets(readme: &str) -> Vec<Snippet> {
    let marked = readme.split("<!-- run: ").skip(1);
    let parse = |part: &str| {
        let (kind, rest) = part.split_once(" -->\n```").expect("a fence behind the mark");
        let (_, rest) = rest.split_once('\n').expect("a language");
        let (text, _) = rest.split_once("\n```").expect("the end of the fence");
        Snippet { kind: kind.to_owned(), text: text.to_owned() }
    };
    marked.map(parse).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn snippets_run_as_written() {
    let readme = include_str!("../../README.md");
    let workspace = Workspace::new();
    let binary = Path::new(env!("CARGO_BIN_EXE_onward")).parent().expect("a directory");
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").expect("a path"));
    let mut server: Option<Server> = None;
    let mut kinds = Vec::new();
    for snippet in snippets(readme) {
        let port = server.as_ref().map_or(PORT, |server| server.url.rsplit(':').next().expect("a port"));
        let text = snippet.text.replace(PORT, port);
        let mut command = match snippet.kind.as_str() {
            "shell" => {
                let mut bash = workspace.program("bash");
                bash.args(["-euo", "pipefail", "-c", &text]);
                bash
            }
            "python" => {
                let mut python = workspace.program(crate::flight::python::python().await);
                python.args(["-c", &text]);
                python
            }
            "server" => {
                let arguments: Vec<&str> = text.split(' ').collect();
                assert_eq!(arguments[..2], ["onward", "serve"]);
                server = Some(Server::start(&workspace, &arguments[2..]));
                continue;
            }
            kind => panic!("no such kind of snippet: {kind}"),
        };
        command.env("PATH", &path);
        let ran = Ran::of(command);
        assert_eq!(ran.code, Some(0), "{text}\n{ran:?}");
        assert!(!ran.stdout.trim().is_empty(), "{text} says nothing");
        kinds.push(snippet.kind);
    }
    assert_eq!(kinds, ["shell", "shell", "shell", "python", "python", "shell"], "all snippets were found");
    server.expect("a server").stop();
    workspace.assert_nothing_left();
}
