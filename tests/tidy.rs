//! Rules of the house that no compiler checks. Each failure says which file and why.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::support::root;

/// Past this a file has two subjects.
const MAX_FILE_LINES: usize = 600;
/// Too long already; may shrink, and must not get company.
const LONG_FILES: [(&str, usize); 1] = [("wire/src/message.rs", 650)];
/// rustfmt holds code at 120; this is for comments, which it does not wrap.
const MAX_LINE_CHARACTERS: usize = 150;
/// Names that say nothing about what is in the file.
const EMPTY_NAMES: [&str; 5] = ["utils", "util", "common", "helpers", "misc"];

/// Source files of the repository with these extensions, by path from its root.
fn sources(extensions: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut pending = vec![root()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            if path.is_dir() {
                if !name.starts_with('.') && name != "target" && name != "__pycache__" {
                    pending.push(path);
                }
            } else if path.extension().is_some_and(|found| extensions.iter().any(|wanted| found == *wanted)) {
                let shown = path.strip_prefix(root()).expect("below the root").display().to_string();
                found.push((shown, fs::read_to_string(&path).expect("text")));
            }
        }
    }
    assert!(found.len() > 3, "the repository has sources");
    found.sort();
    found
}

fn assert_none(problems: Vec<String>) {
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn files_have_one_subject_and_a_telling_name() {
    let mut problems = Vec::new();
    for (path, text) in sources(&["rs", "py", "sh"]) {
        let lines = text.lines().count();
        let allowed = LONG_FILES.iter().find(|(long, _)| *long == path).map_or(MAX_FILE_LINES, |(_, lines)| *lines);
        if lines > allowed {
            problems.push(format!("{path} has {lines} lines: split it by subject"));
        }
        let stem = Path::new(&path).file_stem().expect("a name").to_string_lossy().into_owned();
        if EMPTY_NAMES.contains(&stem.as_str()) {
            problems.push(format!("{path}: the name says nothing about what is inside"));
        }
    }
    assert_none(problems);
}

#[test]
fn lines_fit_a_screen() {
    let mut problems = Vec::new();
    for (path, text) in sources(&["rs", "py"]) {
        for (number, line) in text.lines().enumerate() {
            let characters = line.chars().count();
            // rustfmt leaves long strings alone, and so do we: a link or a message is not broken.
            if characters > MAX_LINE_CHARACTERS && !line.contains('"') && !line.contains("://") {
                problems.push(format!("{path}:{}: {characters} characters", number + 1));
            }
        }
    }
    assert_none(problems);
}

#[test]
fn nothing_is_left_for_later_and_no_test_waits_for_time_to_pass() {
    let mut problems = Vec::new();
    let unfinished = ["todo", "unimplemented", "dbg"].map(|name| format!("{name}!("));
    let sleeps = ["thread::sleep", "time::sleep", "time.sleep"].map(|name| format!("{name}("));
    for (path, text) in sources(&["rs", "py"]) {
        let is_test = path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("/tests.rs");
        let mut in_tests = is_test;
        for (number, line) in text.lines().enumerate() {
            in_tests |= line.trim() == "mod tests {";
            if unfinished.iter().any(|call| line.contains(call)) {
                problems.push(format!("{path}:{}: unfinished: {}", number + 1, line.trim()));
            }
            // sqllogictest's runner asks for a way to sleep; that is its definition, not a use.
            let is_definition = number > 0 && text.lines().nth(number - 1).is_some_and(|l| l.contains("fn sleep("));
            if in_tests && !is_definition && sleeps.iter().any(|call| line.contains(call)) {
                problems.push(format!("{path}:{}: a test that sleeps: {}", number + 1, line.trim()));
            }
        }
    }
    assert_none(problems);
}

/// Text of a path that is encoded or decoded once more names another file: cache/src/paths.rs knows which form is which.
#[test]
fn paths_and_urls_are_converted_in_one_place() {
    let conversions = [
        "to_file_path(",
        "from_file_path(",
        "from_directory_path(",
        "from_url_path(",
        "from_absolute_path(",
        "from_filesystem_path(",
        "path_to_filesystem(",
        "StorePath::from(",
        "path::Path::from(",
        " Path::from(",
        "(Path::from(",
    ];
    let mut problems = Vec::new();
    for (path, text) in sources(&["rs"]) {
        if path == "cache/src/paths.rs" || path.starts_with("tests/") || path.contains("/tests/") {
            continue;
        }
        let code = text.lines().take_while(|line| line.trim() != "mod tests {").enumerate();
        let found = code.filter(|(_, line)| conversions.iter().any(|call| line.contains(call)));
        problems.extend(
            found.map(|(number, line)| format!("{path}:{}: use onward_cache::paths: {}", number + 1, line.trim())),
        );
    }
    assert_none(problems);
}

#[test]
fn a_crate_opens_with_what_it_is() {
    let sources = sources(&["rs"]);
    let doors: Vec<_> = sources.iter().filter(|(path, _)| path.ends_with("src/lib.rs")).collect();
    assert!(doors.len() >= 10, "{doors:?}");
    let closed = doors.iter().filter(|(_, text)| !text.starts_with("//! "));
    assert_none(closed.map(|(path, _)| format!("{path} does not begin with //! documentation")).collect());
}

/// What a test writes where it was started, under a name that it meant to replace (`$__TEST_DIR__`), is committed sooner
/// or later.
#[test]
fn files_have_names_that_somebody_chose() {
    let is_plain = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    let mut problems = Vec::new();
    let mut pending = vec![root()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            if !is_plain(&name) {
                problems
                    .push(format!("{}: a test's left-over? make it write to a temporary directory", path.display()));
            } else if path.is_dir() && !name.starts_with('.') && name != "target" && name != "__pycache__" {
                pending.push(path);
            }
        }
    }
    assert_none(problems);
}

/// A file that no `mod` names is not compiled: it only looks as if it did something.
#[test]
fn every_rust_file_is_part_of_a_crate() {
    let sources: BTreeMap<String, String> = sources(&["rs"]).into_iter().collect();
    let mut problems = Vec::new();
    for path in sources.keys() {
        let file = Path::new(path);
        let stem = file.file_stem().expect("a name").to_string_lossy().into_owned();
        let dir = file.parent().expect("a directory");
        let module =
            if stem == "mod" { dir.file_name().map(|name| name.to_string_lossy().into_owned()) } else { Some(stem) };
        let home = if path.ends_with("/mod.rs") { dir.parent().unwrap_or(dir) } else { dir };
        let is_root = ["src", "tests", "benches", "examples"].iter().any(|top| dir.ends_with(top))
            && (path.ends_with("lib.rs")
                || path.ends_with("main.rs")
                || dir.ends_with("benches")
                || dir.ends_with("examples"));
        let module = module.expect("a name");
        let named = |text: &String| text.lines().any(|line| line.trim_end().ends_with(&format!("mod {module};")));
        let parents = sources.iter().filter(|(parent, _)| {
            let parent = Path::new(parent);
            parent.parent() == Some(home) || parent.with_extension("") == home
        });
        if !is_root && !parents.clone().any(|(_, text)| named(text)) {
            problems.push(format!("{path}: no `mod {module};` beside it"));
        }
    }
    assert_none(problems);
}

/// `cargo run` and `cargo test` resolve the same features, or every dependency would be compiled twice: half an hour.
#[test]
fn run_and_test_compile_dependencies_once() {
    let features = |arguments: &[&str]| -> BTreeMap<String, String> {
        let cargo = std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
        let common = ["tree", "--offline", "--locked", "--prefix", "none", "--format", "{p}|{f}"];
        let output = Command::new(cargo).current_dir(root()).args(common).args(arguments).output().expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).expect("text");
        let pairs = text.lines().filter_map(|line| line.split_once('|'));
        pairs.map(|(package, features)| (package.to_owned(), features.replace(" (*)", ""))).collect()
    };
    let run = features(&["--package", "onward", "--edges", "normal,build"]);
    let test = features(&["--edges", "all"]);
    assert!(run.keys().any(|package| package.starts_with("datafusion v")), "{run:?}");
    let is_large = |package: &str| ["datafusion", "arrow", "parquet"].iter().any(|name| package.starts_with(name));
    let run = run.into_iter().filter(|(package, _)| is_large(package)).collect::<BTreeMap<_, _>>();
    let differing = run.iter().filter(|(package, features)| test.get(*package).is_some_and(|other| other != *features));
    assert_none(
        differing
            .map(|(package, features)| format!("{package}: run has {features}, test has {}", test[package]))
            .collect(),
    );
}

/// `UPDATE_README=1 cargo test --release tidy` writes the table.
#[test]
fn readme_has_the_settings_as_they_are() {
    let path = root().join("README.md");
    let readme = fs::read_to_string(&path).expect("README.md");
    let (before, rest) = readme.split_once("<!-- settings:").expect("the mark before the table");
    let (mark, rest) = rest.split_once("-->\n").expect("the end of the mark");
    let (table, after) = rest.split_once("<!-- end of settings -->").expect("the mark behind the table");
    let expected = format!("\n{}\n", onward::config::markdown_table());
    if std::env::var_os("UPDATE_README").is_some() {
        let text = format!("{before}<!-- settings:{mark}-->\n{expected}<!-- end of settings -->{after}");
        fs::write(&path, text).expect("README.md");
    } else {
        assert_eq!(table, expected, "run UPDATE_README=1 cargo test --release tidy");
    }
}
