//! What the line editor asks us: is the input complete, and which words could come here.

use std::sync::Arc;

use rustyline::completion::Completer;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Context, Helper};

use super::commands;
use super::words::Words;
use crate::shell::statements;

/// Knows SQL and the catalog's names.
pub(super) struct ShellHelper {
    words: Arc<Words>,
}

impl ShellHelper {
    pub(super) fn new(words: Arc<Words>) -> Self {
        Self { words }
    }
}

impl Helper for ShellHelper {}
impl Highlighter for ShellHelper {}
impl Hinter for ShellHelper {
    type Hint = String;
}

impl Validator for ShellHelper {
    /// Enter ends the input when no statement is open; commands are one line.
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let input = context.input();
        let is_complete = commands::is_command(input) || !statements::split(input).1;
        Ok(if is_complete { ValidationResult::Valid(None) } else { ValidationResult::Incomplete })
    }
}

impl Completer for ShellHelper {
    type Candidate = String;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let start = word_start(&line[..at]);
        let word = &line[start..at];
        if word.is_empty() {
            return Ok((at, Vec::new()));
        }
        if word.starts_with('\\') {
            let names = commands::NAMES.iter().filter(|name| name.starts_with(word));
            return Ok((start, names.map(|name| (*name).to_owned()).collect()));
        }
        Ok((start, self.words.starting_with(word)))
    }
}

/// Where the word before the cursor begins.
fn word_start(before: &str) -> usize {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '"' | '\\' | '?');
    before.char_indices().rev().take_while(|(_, c)| is_part(*c)).last().map_or(before.len(), |(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_ends_at_what_cannot_be_in_a_name() {
        for (before, word) in [("select n_na", "n_na"), ("t.\"A", "\"A"), ("\\ti", "\\ti"), ("f(", ""), ("é", "é")] {
            assert_eq!(&before[word_start(before)..], word, "{before}");
        }
    }
}
