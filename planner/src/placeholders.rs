//! `?`, the placeholder of JDBC and ADBC, made `$1`, `$2`, ... before a statement is parsed: in the order of the text, wherever
//! they stand. A syntax tree keeps clauses in an order of its own (`OFFSET ? LIMIT ?`), and DataFusion infers types for
//! numbered ones only.

use datafusion::common::{Result, plan_err};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

/// Numbers the `?` of each statement from 1.
///
/// # Errors
/// When a statement has both `?` and `$1`: which value would be whose?
pub(crate) fn number(mut tokens: Vec<TokenWithSpan>) -> Result<Vec<TokenWithSpan>> {
    let (mut questions, mut named) = (0, None);
    for TokenWithSpan { token, span } in &mut tokens {
        match token {
            Token::SemiColon => (questions, named) = (0, None),
            Token::Placeholder(name) if name == "?" => {
                questions += 1;
                *name = format!("${questions}");
            }
            Token::Placeholder(name) if name.starts_with('$') => named = Some(name.clone()),
            _ => continue,
        }
        if let Some(name) = named.as_ref().filter(|_| questions > 0) {
            let (line, column) = (span.start.line, span.start.column);
            return plan_err!(
                "a statement has parameters of one kind, not `?` and `{name}` (Line: {line}, Column: {column})"
            );
        }
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use crate::statement::{Statement, parse};

    fn parsed(sql: &str) -> Vec<String> {
        let statements = parse(sql).expect(sql).into_iter().map(|statement| match statement {
            Statement::Cache(_) => panic!("{sql}"),
            Statement::DataFusion(statement) | Statement::Explain { statement, .. } => statement.to_string(),
        });
        statements.collect()
    }

    /// The numbers follow the text and not the syntax tree, which has LIMIT before OFFSET and CTEs wherever.
    #[test]
    fn question_marks_are_numbered_in_the_order_of_the_text() {
        for sql in [
            "SELECT a FROM t WHERE a > ? OFFSET ? LIMIT ?",
            "SELECT a FROM t ORDER BY a + ? LIMIT ? OFFSET ?",
            "WITH c AS (SELECT ? AS x) SELECT ?, (SELECT ? FROM c WHERE x IN (?, ?)) FROM c WHERE x = ?",
            "SELECT CASE ? WHEN ? THEN ? ELSE ? END",
            "SELECT a FROM t WHERE a BETWEEN ? AND ? AND EXISTS (SELECT ? FROM u) GROUP BY a + ? HAVING count(*) > ?",
            "INSERT INTO t VALUES (?, ?), (?, ?)",
            "COPY (SELECT ? AS a, ? AS b) TO 'x.csv'",
            "SELECT a FROM t OFFSET ? ROWS FETCH FIRST ? ROWS ONLY",
            "EXPLAIN SELECT a FROM t OFFSET ? LIMIT ?",
        ] {
            let mut parts = sql.split('?').enumerate();
            let first = parts.next().expect("text").1.to_owned();
            let numbered = parts.fold(first, |text, (number, part)| format!("{text}${number}{part}"));
            assert_eq!(parsed(sql), parsed(&numbered), "{sql}");
        }
    }

    #[test]
    fn each_statement_has_its_own_numbers_and_one_kind_of_parameter() {
        assert_eq!(parsed("SELECT ?; SELECT ?, '?', \"?\" -- ?"), ["SELECT $1", "SELECT $1, '?', \"?\""]);
        assert_eq!(parsed("SELECT ?; SELECT $2"), ["SELECT $1", "SELECT $2"]);
        for sql in ["SELECT ?, $1", "SELECT 1;\nSELECT $name, ?"] {
            let error = parse(sql).expect_err("two kinds").to_string();
            assert!(error.contains("not `?` and `$") && error.contains("Line: "), "{error}");
        }
    }
}
