//! Errors as people read them: the message, and the place in the text it speaks of.

use std::fmt::Write;

use onward_wire::WireError;

use super::statements::Statement;

/// The message for `error` of `statement`. Positions in it count from the beginning of the statement; here they count
/// from the beginning of the text the statement stands in, whose name is `source`, if it has one.
pub fn describe(error: &WireError, statement: &Statement, source: Option<&str>) -> String {
    let Some(found) = Position::find(&error.message) else {
        let place = source.map(|name| format!("{name}:{}: ", statement.line)).unwrap_or_default();
        return format!("{place}{}", error.message);
    };
    let line = statement.line + found.line - 1;
    let column = if found.line == 1 { statement.column + found.column - 1 } else { found.column };
    let place = source.map(|name| format!("{name}:{line}: ")).unwrap_or_default();
    let (before, after) = (&error.message[..found.start], &error.message[found.end..]);
    let mut text = format!("{place}{before}Line: {line}, Column: {column}{after}");
    if let Some(sql) = statement.text.lines().nth(found.line - 1) {
        let number = line.to_string();
        let marker = " ".repeat(number.len() + 2 + found.column);
        let _ = write!(text, "\n {number} | {sql}\n {marker}^");
    }
    text
}

/// `Line: 2, Column: 7` in a message, as sqlparser writes it.
struct Position {
    line: usize,
    column: usize,
    start: usize,
    end: usize,
}

impl Position {
    fn find(message: &str) -> Option<Self> {
        let start = message.rfind("Line: ")?;
        let (line, after_line) = number(message, start + "Line: ".len())?;
        let after_comma = message[after_line..].strip_prefix(", Column: ").map(|_| after_line + ", Column: ".len())?;
        let (column, end) = number(message, after_comma)?;
        (line > 0 && column > 0).then_some(Self { line, column, start, end })
    }
}

fn number(text: &str, at: usize) -> Option<(usize, usize)> {
    let digits = text[at..].bytes().take_while(u8::is_ascii_digit).count();
    Some((text[at..at + digits].parse().ok()?, at + digits))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::statements::split;
    use onward_wire::ErrorKind;

    fn check(sql: &str, message: &str, source: Option<&str>) -> String {
        let (statements, _) = split(sql);
        let last = statements.last().expect("a statement");
        describe(&WireError::new(ErrorKind::InvalidQuery, message), last, source)
    }

    #[test]
    fn a_position_counts_from_the_beginning_of_the_file_and_is_marked() {
        let text = check("select 1;\nselect 1;  select\n  frm t", "Expected x at Line: 2, Column: 3", Some("a.sql"));
        assert_eq!(text, "a.sql:3: Expected x at Line: 3, Column: 3\n 3 |   frm t\n       ^");
        let text = check("select 1;  selec 2", "Expected x at Line: 1, Column: 1", None);
        assert_eq!(text, "Expected x at Line: 1, Column: 12\n 1 | selec 2\n     ^");
    }

    #[test]
    fn a_message_without_position_names_the_statement_of_a_file() {
        assert_eq!(check("select 1;\nselect 2", "no", Some("a.sql")), "a.sql:2: no");
        assert_eq!(check("select 2", "table Line: x", None), "table Line: x");
    }
}
