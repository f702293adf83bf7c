//! Cuts SQL text into statements at the semicolons that are not inside of something.

/// A statement and where it begins in its text, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Without the semicolon, leading comments and blanks.
    pub text: String,
    /// Line of its first character.
    pub line: usize,
    /// Column of its first character, in characters.
    pub column: usize,
}

/// The statements of `sql` in order, and whether it ends inside of one: the last one has no semicolon then.
pub fn split(sql: &str) -> (Vec<Statement>, bool) {
    let mut scanner = Scanner { rest: sql, line: 1, column: 1 };
    let mut statements = Vec::new();
    loop {
        scanner.skip_blank();
        let (start, line, column) = (scanner.rest, scanner.line, scanner.column);
        let mut is_ended = false;
        while !is_ended && !scanner.rest.is_empty() {
            if scanner.rest.starts_with(';') {
                is_ended = true;
            } else {
                scanner.skip_token(start);
            }
        }
        let text = start[..start.len() - scanner.rest.len()].trim_end();
        if !text.is_empty() {
            statements.push(Statement { text: text.to_owned(), line, column });
        }
        if !is_ended {
            return (statements, !text.is_empty());
        }
        scanner.advance(1);
    }
}

/// Whether a statement may have an effect that its answer tells: COPY, CREATE, DROP, INSERT, EXECUTE.
pub fn may_write(statement: &str) -> bool {
    let word = statement.trim_start().split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
    ["copy", "create", "drop", "execute", "insert"].iter().any(|writes| word.eq_ignore_ascii_case(writes))
}

struct Scanner<'a> {
    rest: &'a str,
    line: usize,
    column: usize,
}

impl Scanner<'_> {
    fn advance(&mut self, bytes: usize) {
        for c in self.rest[..bytes].chars() {
            if c == '\n' {
                (self.line, self.column) = (self.line + 1, 1);
            } else {
                self.column += 1;
            }
        }
        self.rest = &self.rest[bytes..];
    }

    /// Blanks and comments before a statement.
    fn skip_blank(&mut self) {
        loop {
            let blank = self.rest.len() - self.rest.trim_start().len();
            let bytes = if blank > 0 { blank } else { comment(self.rest) };
            if bytes == 0 {
                return;
            }
            self.advance(bytes);
        }
    }

    /// One string, identifier, comment, or character of anything else. `statement` is the text from its beginning.
    fn skip_token(&mut self, statement: &str) {
        let before = &statement[..statement.len() - self.rest.len()];
        let in_word = before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let rest = self.rest;
        let first = rest.chars().next().map_or(0, char::len_utf8);
        let bytes = match rest.as_bytes().first() {
            // E'...' has backslash escapes, and only it has.
            Some(b'e' | b'E') if rest[1..].starts_with('\'') && !in_word => 1 + quoted(&rest[1..], '\'', true),
            Some(b'\'') => quoted(rest, '\'', false),
            Some(b'"') => quoted(rest, '"', false),
            Some(b'`') => quoted(rest, '`', false),
            Some(b'-' | b'/') => comment(rest).max(1),
            Some(b'$') if !in_word => dollar_quoted(rest).max(1),
            _ => first,
        };
        self.advance(bytes);
    }
}

/// Bytes of the comment that `text` begins with.
fn comment(text: &str) -> usize {
    if text.starts_with("--") {
        return text.find('\n').unwrap_or(text.len());
    }
    if !text.starts_with("/*") {
        return 0;
    }
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        match rest {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

/// Bytes of the quoted text that `text` begins with. A doubled quote ends it and begins another: the same cut.
fn quoted(text: &str, quote: char, has_escapes: bool) -> usize {
    let mut is_escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' if has_escapes => is_escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Bytes of the `$tag$...$tag$` that `text` begins with; 0 when it is a parameter such as `$1`.
fn dollar_quoted(text: &str) -> usize {
    let Some(end) = text[1..].find('$') else { return 0 };
    let (tag, inner) = text.split_at(end + 2);
    let name = &tag[1..tag.len() - 1];
    let is_tag = name.chars().all(|c| c.is_alphanumeric() || c == '_') && !name.starts_with(|c: char| c.is_numeric());
    if !is_tag {
        return 0;
    }
    inner.find(tag).map_or(text.len(), |at| 2 * tag.len() + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(sql: &str) -> Vec<String> {
        split(sql).0.into_iter().map(|statement| statement.text).collect()
    }

    #[test]
    fn semicolons_inside_of_something_do_not_cut() {
        for statement in [
            "select ';', \";\", 'it''s;'",
            "select 1 -- ; not here\n + 1",
            "select /* ; /* nested ; */ */ 1",
            "select $$a;b$$, $x$;$$;$x$",
            r"select e'\';', E';'",
            "select `a;b` from t where a = $1 and b = $2",
            "select 'ü;', '\\'",
            "select 1 / 2 - 3",
        ] {
            assert_eq!(texts(&format!("{statement};select 2")), [statement, "select 2"], "{statement}");
        }
    }

    #[test]
    fn blanks_and_comments_are_no_statements() {
        for sql in ["", " ;\n; ", "-- nothing", "/* ; */", "-- a\n;-- b"] {
            assert_eq!(split(sql), (vec![], false), "{sql}");
        }
    }

    #[test]
    fn a_statement_knows_where_it_begins() {
        let (statements, is_open) = split("-- x\nselect 1;  /* é */ select\n2; select 3");
        let places: Vec<_> = statements.iter().map(|s| (s.line, s.column)).collect();
        assert_eq!((places, is_open), (vec![(2, 1), (2, 20), (3, 4)], true));
    }

    #[test]
    fn a_statement_that_may_write_is_known_by_its_first_word() {
        assert!(
            ["insert into t values (1)", "\n COPY(select 1) to 'x.csv'", "Create"].map(may_write).iter().all(|w| *w)
        );
        assert!(
            !["select copy from t", "", "(select 1)", "explain insert into t values (1)"]
                .map(may_write)
                .contains(&true)
        );
    }

    #[test]
    fn text_that_ends_inside_of_something_is_open() {
        for sql in ["select 1", "select ';", "select $a$;", "select 1 /* ;", "select 1 -- ;"] {
            assert!(split(sql).1, "{sql}");
        }
        assert!(!split("select 1;").1);
    }
}
