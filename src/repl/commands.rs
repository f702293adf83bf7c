//! What begins with a backslash.

use clap::ValueEnum;

use crate::output::Format;

/// A command of the shell.
#[derive(Debug, PartialEq)]
pub(super) enum Command {
    Quit,
    Help,
    /// On, off, or the other one.
    Timing(Option<bool>),
    Expanded(Option<bool>),
    Format(Format),
    MaxRows(Option<usize>),
    /// One that SQL answers.
    Query(String),
    Include(String),
}

/// `\?`.
pub(super) const HELP: &str = "\
Statements end with a semicolon and may span lines. Ctrl-C cancels the running one, Ctrl-D leaves.
  \\d             tables and views
  \\d NAME        columns of one
  \\df            functions
  \\set           settings of this session; SET name = value changes one
  \\i FILE        run the SQL in a file
  \\format NAME   table, vertical, csv, json, ndjson or markdown
  \\x [on|off]    one line per value
  \\timing [on|off]
  \\maxrows N     print at most N rows of a result; 0 prints all
  \\q             leave";

/// Names of the commands, for completion.
pub(super) const NAMES: [&str; 10] =
    ["\\?", "\\d", "\\df", "\\set", "\\i", "\\format", "\\x", "\\timing", "\\maxrows", "\\q"];

const TABLES: &str = "SELECT table_schema AS schema, table_name AS name, table_type AS type \
     FROM information_schema.tables WHERE table_schema <> 'information_schema' ORDER BY 1, 2";
const FUNCTIONS: &str = "SELECT DISTINCT routine_name AS name, function_type AS type, description \
     FROM information_schema.routines ORDER BY 1";
const SETTINGS: &str = "SELECT name, value FROM information_schema.df_settings ORDER BY 1";

/// Whether `input` is a command: a line with a backslash, or a word that people try first.
pub(super) fn is_command(input: &str) -> bool {
    input.trim_start().starts_with('\\') || plain_word(input).is_some()
}

/// The command that a word by itself stands for, as in psql.
fn plain_word(input: &str) -> Option<Command> {
    match input.trim().trim_end_matches(';').trim_end().to_ascii_lowercase().as_str() {
        "exit" | "quit" => Some(Command::Quit),
        "help" => Some(Command::Help),
        _ => None,
    }
}

impl Command {
    /// Reads a command; the error says what is wrong with it.
    pub(super) fn parse(input: &str) -> Result<Self, String> {
        if let Some(command) = plain_word(input) {
            return Ok(command);
        }
        let input = input.trim().trim_end_matches(';').trim_end();
        let (name, argument) = input.split_once(char::is_whitespace).unwrap_or((input, ""));
        let argument = argument.trim();
        Ok(match name {
            "\\q" | "\\quit" | "\\exit" => Self::Quit,
            "\\?" | "\\h" | "\\help" => Self::Help,
            "\\timing" => Self::Timing(switch(argument)?),
            "\\x" => Self::Expanded(switch(argument)?),
            "\\d" | "\\dt" | "\\d+" if argument.is_empty() => Self::Query(TABLES.to_owned()),
            "\\d" | "\\dt" | "\\d+" => Self::Query(format!("DESCRIBE {argument}")),
            "\\df" => Self::Query(FUNCTIONS.to_owned()),
            "\\set" => Self::Query(SETTINGS.to_owned()),
            "\\i" if !argument.is_empty() => Self::Include(argument.to_owned()),
            "\\format" => match Format::from_str(argument, true) {
                Ok(format) if format != Format::Parquet => Self::Format(format),
                _ => return Err("\\format takes table, vertical, csv, json, ndjson or markdown".to_owned()),
            },
            "\\maxrows" => match argument.parse() {
                Ok(0) => Self::MaxRows(None),
                Ok(rows) => Self::MaxRows(Some(rows)),
                Err(_) => return Err("\\maxrows takes a number; 0 prints all rows".to_owned()),
            },
            _ => return Err(format!("{name} is no command, or lacks its argument; \\? lists them")),
        })
    }
}

fn switch(argument: &str) -> Result<Option<bool>, String> {
    match argument {
        "" => Ok(None),
        "on" => Ok(Some(true)),
        "off" => Ok(Some(false)),
        _ => Err(format!("`{argument}` is neither on nor off")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_with_their_arguments() {
        for (input, command) in [
            ("\\q", Command::Quit),
            (" \\timing on ", Command::Timing(Some(true))),
            ("\\x", Command::Expanded(None)),
            ("\\d nation;", Command::Query("DESCRIBE nation".to_owned())),
            ("\\maxrows 0", Command::MaxRows(None)),
            ("\\maxrows 7", Command::MaxRows(Some(7))),
            ("\\format CSV", Command::Format(Format::Csv)),
            ("\\i a b.sql", Command::Include("a b.sql".to_owned())),
            ("exit", Command::Quit),
            (" QUIT; ", Command::Quit),
            ("help", Command::Help),
        ] {
            assert!(is_command(input), "{input}");
            assert_eq!(Command::parse(input), Ok(command), "{input}");
        }
        assert!(!is_command("select 1;") && !is_command("exit now") && !is_command("helper"));
        for wrong in ["\\nope", "\\i", "\\x maybe", "\\format parquet", "\\maxrows all"] {
            assert!(Command::parse(wrong).is_err(), "{wrong}");
        }
    }
}
