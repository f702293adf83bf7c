//! Statements about the column cache.
//!
//! ```sql
//! CACHE TABLE t [(column, ...)] [WHERE predicate on partition columns]
//! UNCACHE TABLE t
//! SHOW CACHE
//! ```

use std::fmt::Write;

use datafusion::common::{Result, plan_err};
use datafusion::sql::parser::DFParser;
use datafusion::sql::sqlparser::ast::{Expr, Ident, ObjectName};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::Token;

/// A statement about the column cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheStatement {
    /// Decode columns now, and keep them until they are let go.
    Cache {
        /// The table.
        table: ObjectName,
        /// Its columns; empty = all.
        columns: Vec<Ident>,
        /// Which partitions.
        selection: Option<Box<Expr>>,
    },
    /// Let go of all columns of a table.
    Uncache {
        /// The table.
        table: ObjectName,
    },
}

impl CacheStatement {
    /// The table.
    pub fn table(&self) -> &ObjectName {
        match self {
            Self::Cache { table, .. } | Self::Uncache { table } => table,
        }
    }

    /// A query that reads the columns `columns` of the table whole, and gives no rows: an aggregate could be answered from
    /// statistics. Functions run offsets up to 32 bits.
    pub fn reading_query(&self, columns: &[String]) -> String {
        let mut sql = "SELECT ".to_owned();
        for (at, column) in columns.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            let _ = write!(sql, "{comma}{}", Ident::with_quote('"', column));
        }
        let _ = write!(sql, " FROM {}", self.table());
        if let Self::Cache { selection: Some(selection), .. } = self {
            let _ = write!(sql, " WHERE {selection}");
        }
        let _ = write!(sql, " OFFSET {}", u32::MAX);
        sql
    }
}

/// What `SHOW CACHE` is short for.
pub const SHOW_CACHE: &str = "SELECT * FROM system.cache";

/// The statement at the parser's place; `None`, and nothing consumed, when it is none about the cache.
pub(crate) fn parse(parser: &mut DFParser) -> Result<Option<CacheStatement>> {
    let parser = &mut parser.parser;
    let word = |nth: usize| match parser.peek_nth_token(nth).token {
        Token::Word(word) if word.quote_style.is_none() => word.value.to_ascii_uppercase(),
        _ => String::new(),
    };
    let is_cache = match (word(0).as_str(), word(1).as_str()) {
        ("CACHE", "TABLE") => true,
        ("UNCACHE", "TABLE") => false,
        ("CACHE" | "UNCACHE", _) => {
            let [first, second] = [parser.peek_nth_token(0), parser.peek_nth_token(1)];
            let place = second.span.start;
            return plan_err!(
                "Expected: TABLE after {}, found: {} at Line: {}, Column: {}",
                first.token,
                second.token,
                place.line,
                place.column
            );
        }
        _ => return Ok(None),
    };
    parser.next_token();
    parser.next_token();
    let table = parser.parse_object_name(false)?;
    if !is_cache {
        return Ok(Some(CacheStatement::Uncache { table }));
    }
    let columns = match parser.peek_token().token {
        Token::LParen => {
            parser.parse_parenthesized_column_list(datafusion::sql::sqlparser::parser::IsOptional::Mandatory, false)?
        }
        _ => vec![],
    };
    let selection = match parser.parse_keyword(Keyword::WHERE) {
        true => Some(Box::new(parser.parse_expr()?)),
        false => None,
    };
    Ok(Some(CacheStatement::Cache { table, columns, selection }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statement::{Statement, parse};

    fn cache(sql: &str) -> CacheStatement {
        match parse(sql).expect(sql).pop() {
            Some(Statement::Cache(statement)) => statement,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn statements_about_the_cache_parse() {
        let statement = cache("cache table s.t (a, \"B c\") where p = 1 and q in ('x')");
        let query = statement.reading_query(&["a".to_owned(), "B c".to_owned()]);
        assert_eq!(query, r#"SELECT "a", "B c" FROM s.t WHERE p = 1 AND q IN ('x') OFFSET 4294967295"#);
        assert!(
            matches!(cache("CACHE TABLE t"), CacheStatement::Cache { columns, selection: None, .. } if columns.is_empty())
        );
        assert!(matches!(cache("uncache table t;"), CacheStatement::Uncache { .. }));
        assert!(matches!(parse("show cache").expect("parses").as_slice(), [Statement::DataFusion(_)]));
    }

    #[test]
    fn what_is_wrong_says_where() {
        let error = parse("cache tabel t").expect_err("a typo").to_string();
        assert!(error.contains("Expected: TABLE") && error.contains("Column: 7"), "{error}");
        assert!(parse("cache table t where").is_err());
        assert!(parse("cache table t (a,").is_err());
        assert!(parse("select cache from t").is_ok());
    }
}
