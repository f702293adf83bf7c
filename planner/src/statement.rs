//! SQL text to statements: DataFusion's parser with one extension, shared by Flight, the CLI and `-f` files.

use std::collections::VecDeque;

use datafusion::common::format::ExplainStatementOptions;
use datafusion::common::{Result, plan_err};
use datafusion::config::SqlParserOptions;
use datafusion::sql::parser::{DFParser, DFParserBuilder, ExplainStatement, Statement as DfStatement};
use datafusion::sql::sqlparser::ast::UtilityOption;
use datafusion::sql::sqlparser::dialect::dialect_from_str;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use crate::placeholders;

use crate::cache_statement::{self, CacheStatement, SHOW_CACHE};

/// A statement of Onward.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// `EXPLAIN q`, `EXPLAIN ANALYZE q`, `EXPLAIN (FORMAT dot) q`: about our stages.
    Explain {
        /// How to show them.
        mode: ExplainMode,
        /// What is explained; never an EXPLAIN itself.
        statement: Box<DfStatement>,
    },
    /// `CACHE TABLE`, `UNCACHE TABLE`.
    Cache(CacheStatement),
    /// Everything else, with DataFusion's own EXPLAIN VERBOSE and EXPLAIN FORMAT indent, tree, pgjson, graphviz.
    DataFusion(Box<DfStatement>),
}

/// How EXPLAIN shows the stages of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExplainMode {
    /// As text.
    Text,
    /// As a graph in graphviz' language.
    Dot,
    /// As text, with the metrics of a run.
    Analyze,
}

/// Parses `sql`: any number of statements, separated by `;`. Placeholders `?` are `$1`, `$2`, ... in what it gives.
///
/// # Errors
/// DataFusion's parser errors, with line and column.
pub fn parse(sql: &str) -> Result<Vec<Statement>> {
    parse_with(sql, &SqlParserOptions::default())
}

/// [`parse`] with a session's `datafusion.sql_parser.*` settings.
///
/// # Errors
/// As [`parse`], and when the session's dialect is unknown.
pub fn parse_with(sql: &str, options: &SqlParserOptions) -> Result<Vec<Statement>> {
    let name = options.dialect.to_string();
    let Some(dialect) = dialect_from_str(&name) else {
        return plan_err!("`{name}` is not an SQL dialect; see datafusion.sql_parser.dialect");
    };
    let tokens = Tokenizer::new(dialect.as_ref(), sql).tokenize_with_location().map_err(ParserError::from)?;
    let mut parser = OnwardParser {
        inner: DFParserBuilder::new(placeholders::number(tokens)?)
            .with_dialect(dialect.as_ref())
            .with_recursion_limit(options.recursion_limit.get())
            .build()?,
    };
    parser.statements()
}

/// [`DFParser`] with our own statements in front. New ones start at [`OnwardParser::statement`].
struct OnwardParser<'a> {
    inner: DFParser<'a>,
}

impl OnwardParser<'_> {
    fn statements(&mut self) -> Result<Vec<Statement>> {
        let mut statements = Vec::new();
        loop {
            while self.inner.parser.consume_token(&Token::SemiColon) {}
            let next = self.inner.parser.peek_token();
            if next.token == Token::EOF {
                return Ok(statements);
            }
            statements.push(self.statement()?);
            let next = self.inner.parser.peek_token();
            if next.token != Token::EOF && next.token != Token::SemiColon {
                return Ok(self.inner.parser.expected("end of statement", next)?);
            }
        }
    }

    fn statement(&mut self) -> Result<Statement> {
        if let Some(statement) = cache_statement::parse(&mut self.inner)? {
            return Ok(Statement::Cache(statement));
        }
        match self.inner.parser.peek_token().token {
            Token::Word(word) if word.keyword == Keyword::EXPLAIN => self.explain(),
            Token::Word(word) if word.keyword == Keyword::SHOW && self.is_show_cache() => {
                self.inner.parser.next_token();
                self.inner.parser.next_token();
                let shown = DFParser::parse_sql(SHOW_CACHE)?.pop_front();
                Ok(Statement::DataFusion(Box::new(shown.expect("SHOW_CACHE is one statement"))))
            }
            _ => Ok(Statement::DataFusion(Box::new(self.inner.parse_statement()?))),
        }
    }

    fn is_show_cache(&self) -> bool {
        matches!(self.inner.parser.peek_nth_token(1).token,
            Token::Word(word) if word.quote_style.is_none() && word.value.eq_ignore_ascii_case("CACHE"))
    }

    fn explain(&mut self) -> Result<Statement> {
        let parser = &mut self.inner.parser;
        // Look ahead without consuming: DataFusion's parser reads its own variants from the keyword on.
        let word = |nth: usize| match parser.peek_nth_token(nth).token {
            Token::Word(word) => word.value.to_ascii_uppercase(),
            Token::SingleQuotedString(text) => text.to_ascii_uppercase(),
            Token::LParen => "(".to_owned(),
            _ => String::new(),
        };
        let words: Vec<String> = (1..=4).map(word).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let (mode, skip) = match words.as_slice() {
            ["FORMAT", "DOT", ..] => (ExplainMode::Dot, 3),
            ["ANALYZE", "VERBOSE" | "FORMAT", ..] | ["VERBOSE" | "FORMAT", ..] => return self.datafusion(),
            ["ANALYZE", ..] => (ExplainMode::Analyze, 2),
            ["(", "FORMAT" | "ANALYZE" | "VERBOSE" | "COSTS" | "METRICS" | "LEVEL" | "TIMING" | "SUMMARY", ..] => {
                return self.explain_with_options();
            }
            _ => (ExplainMode::Text, 1),
        };
        for _ in 0..skip {
            parser.next_token();
        }
        self.explained(mode)
    }

    /// `EXPLAIN (option, ...) statement`: ours when the options are `FORMAT dot` or ANALYZE alone.
    fn explain_with_options(&mut self) -> Result<Statement> {
        self.inner.parser.next_token();
        let options = self.inner.parser.parse_utility_options()?;
        match options.as_slice() {
            [format] if is_option(format, "FORMAT", &["DOT"]) => return self.explained(ExplainMode::Dot),
            [analyze] if is_option(analyze, "ANALYZE", &["", "TRUE", "ON"]) => {
                return self.explained(ExplainMode::Analyze);
            }
            _ => {}
        }
        let options = ExplainStatementOptions::from_utility_options(&options)?;
        let statement = Box::new(self.inner.parse_statement()?);
        Ok(Statement::DataFusion(Box::new(DfStatement::Explain(ExplainStatement { options, statement }))))
    }

    fn explained(&mut self, mode: ExplainMode) -> Result<Statement> {
        match self.inner.parse_statement()? {
            DfStatement::Explain(_) => plan_err!("EXPLAIN of an EXPLAIN is not supported"),
            statement => Ok(Statement::Explain { mode, statement: Box::new(statement) }),
        }
    }

    fn datafusion(&mut self) -> Result<Statement> {
        Ok(Statement::DataFusion(Box::new(self.inner.parse_statement()?)))
    }
}

fn is_option(option: &UtilityOption, name: &str, values: &[&str]) -> bool {
    let value = option.arg.as_ref().map(ToString::to_string).unwrap_or_default();
    let value = value.trim_matches('\'').to_ascii_uppercase();
    option.name.value.eq_ignore_ascii_case(name) && values.contains(&value.as_str())
}

/// SQL text cut at the `;` between statements, for REPLs, files and messages that quote one statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitText<'a> {
    /// Complete statements, trimmed, without their `;`. Empty ones are left out.
    pub statements: Vec<&'a str>,
    /// What follows the last `;`, trimmed: a statement that may go on. Empty when only blanks and comments follow.
    pub rest: &'a str,
    /// The text ends inside a string, a quoted name, a comment or a dollar quote.
    pub is_open: bool,
}

/// Cuts `sql` at its semicolons. Knows strings (`'it''s'`, `E'\\''`), quoted names, `--` and nested `/* */` comments, and
/// dollar quotes (`$tag$ ; $tag$`).
pub fn split(sql: &str) -> SplitText<'_> {
    let bytes = sql.as_bytes();
    let mut pieces = VecDeque::new();
    let (mut start, mut at, mut is_open) = (0, 0, false);
    // Whether the current piece holds anything but blanks and comments.
    let mut has_text = false;
    while at < bytes.len() {
        if bytes[at] == b';' {
            pieces.push_back((has_text, sql[start..at].trim()));
            (start, has_text) = (at + 1, false);
            at += 1;
            continue;
        }
        let is_comment = bytes[at..].starts_with(b"--") || bytes[at..].starts_with(b"/*");
        has_text |= !is_comment && !bytes[at].is_ascii_whitespace();
        match skip(bytes, at) {
            Some(next) => at = next,
            None => {
                is_open = true;
                break;
            }
        }
    }
    SplitText {
        statements: pieces.into_iter().filter_map(|(has_text, piece)| has_text.then_some(piece)).collect(),
        rest: if has_text || is_open { sql[start..].trim() } else { "" },
        is_open,
    }
}

/// The position after the quote, comment or byte that starts at `at`; `None` when it does not end.
fn skip(bytes: &[u8], at: usize) -> Option<usize> {
    let find = |needle: &[u8], from: usize| {
        bytes[from..].windows(needle.len()).position(|window| window == needle).map(|found| from + found + needle.len())
    };
    match bytes[at] {
        b'\'' => {
            let is_escape = at > 0 && bytes[at - 1].eq_ignore_ascii_case(&b'E') && !is_word(bytes, at.wrapping_sub(2));
            skip_quoted(bytes, at, is_escape)
        }
        quote @ (b'"' | b'`') => find(&[quote], at + 1),
        b'-' if bytes[at..].starts_with(b"--") => Some(find(b"\n", at).unwrap_or(bytes.len())),
        b'/' if bytes[at..].starts_with(b"/*") => skip_block_comment(bytes, at),
        b'$' if !is_word(bytes, at.wrapping_sub(1)) => {
            let tag = bytes[at + 1..].iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_').count();
            let is_tag = bytes.get(at + 1 + tag) == Some(&b'$') && !bytes[at + 1].is_ascii_digit();
            if is_tag { find(&bytes[at..at + tag + 2], at + tag + 2) } else { Some(at + 1) }
        }
        _ => Some(at + 1),
    }
}

fn is_word(bytes: &[u8], at: usize) -> bool {
    bytes.get(at).is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}

fn skip_quoted(bytes: &[u8], at: usize, is_escape: bool) -> Option<usize> {
    let mut at = at + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if is_escape => at += 2,
            b'\'' if bytes.get(at + 1) == Some(&b'\'') => at += 2,
            b'\'' => return Some(at + 1),
            _ => at += 1,
        }
    }
    None
}

fn skip_block_comment(bytes: &[u8], at: usize) -> Option<usize> {
    let (mut at, mut depth) = (at + 2, 1);
    while depth > 0 {
        let rest = bytes.get(at..)?;
        match rest {
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [] => return None,
            _ => at += 1,
        }
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(sql: &str) -> Option<ExplainMode> {
        match parse(sql).expect(sql).as_slice() {
            [Statement::Explain { mode, .. }] => Some(*mode),
            [Statement::DataFusion(_)] => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn explain_is_ours_unless_a_format_of_datafusion_is_named() {
        assert_eq!(mode("EXPLAIN SELECT 1"), Some(ExplainMode::Text));
        assert_eq!(mode("explain (select 1)"), Some(ExplainMode::Text));
        assert_eq!(mode("EXPLAIN (FORMAT dot) SELECT 1"), Some(ExplainMode::Dot));
        assert_eq!(mode("EXPLAIN FORMAT dot SELECT 1"), Some(ExplainMode::Dot));
        assert_eq!(mode("EXPLAIN ANALYZE SELECT 1"), Some(ExplainMode::Analyze));
        assert_eq!(mode("EXPLAIN (ANALYZE) SELECT 1"), Some(ExplainMode::Analyze));
        assert_eq!(mode("EXPLAIN VERBOSE SELECT 1"), None);
        assert_eq!(mode("EXPLAIN ANALYZE VERBOSE SELECT 1"), None);
        assert_eq!(mode("EXPLAIN FORMAT TREE SELECT 1"), None);
        assert_eq!(mode("EXPLAIN (FORMAT tree) SELECT 1"), None);
        assert_eq!(mode("SELECT 'EXPLAIN'"), None);
        assert_eq!(mode("EXPLAIN COPY t TO 'x.parquet'"), Some(ExplainMode::Text));
    }

    #[test]
    fn errors_keep_the_position() {
        let error = parse("SELECT 1;\n  SELEC 2").expect_err("a typo").to_string();
        assert!(error.contains("Line: 2, Column: 3"), "{error}");
        assert!(parse("EXPLAIN EXPLAIN SELECT 1").is_err());
        assert!(parse("SELECT 1 SELECT 2").is_err());
    }

    #[test]
    fn several_statements_parse() {
        assert_eq!(parse(";; SELECT 1; ;EXPLAIN SELECT ';' ;").expect("parses").len(), 2);
        assert!(parse(" -- nothing\n").expect("parses").is_empty());
    }

    #[test]
    fn text_is_split_outside_of_quotes_and_comments() {
        let sql = "select ';', 'it''s;' ; -- a; comment\n/* ; /* ; */ ; */ select \"a;b\"; select $$;$$, $t$ $$ ; $t$;\
                   select E'\\';' ; select $1; ; select 2 -- open";
        let split = split(sql);
        assert_eq!(split.statements.len(), 5, "{split:#?}");
        assert_eq!(split.statements[0], "select ';', 'it''s;'");
        assert!(split.statements[1].ends_with("select \"a;b\""));
        assert_eq!(split.statements[4], "select $1");
        assert_eq!(split.rest, "select 2 -- open");
        assert!(!split.is_open);
    }

    #[test]
    fn open_text_says_so() {
        for sql in ["select 'a;", "select \"a;", "select /* ;", "select $q$ ; $$"] {
            let split = split(sql);
            assert!(split.is_open && split.statements.is_empty() && split.rest == sql, "{split:?}");
        }
        assert_eq!(split("select 1; -- done").rest, "");
        assert_eq!(split("").statements.len(), 0);
    }
}
