//! Names the shell can complete: keywords, and what the catalog has.

use std::collections::BTreeSet;
use std::sync::{PoisonError, RwLock};

use datafusion::arrow::array::AsArray;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::DataType;

use crate::client::Client;

const KEYWORDS: &[&str] = &[
    "ALL",
    "ANALYZE",
    "AND",
    "AS",
    "ASC",
    "BETWEEN",
    "BY",
    "CASE",
    "CAST",
    "COPY",
    "CREATE",
    "CROSS JOIN",
    "DESC",
    "DESCRIBE",
    "DISTINCT",
    "DROP TABLE",
    "DROP VIEW",
    "ELSE",
    "END",
    "EXCEPT",
    "EXISTS",
    "EXPLAIN",
    "EXTERNAL TABLE",
    "FALSE",
    "FROM",
    "FULL JOIN",
    "GROUP BY",
    "HAVING",
    "IN",
    "INNER JOIN",
    "INSERT INTO",
    "INTERSECT",
    "INTERVAL",
    "IS NULL",
    "JOIN",
    "LEFT JOIN",
    "LIKE",
    "LIMIT",
    "LOCATION",
    "NOT",
    "NULL",
    "OFFSET",
    "ON",
    "OPTIONS",
    "OR",
    "ORDER BY",
    "OVER",
    "PARTITION BY",
    "PARTITIONED BY",
    "RIGHT JOIN",
    "SELECT",
    "SET",
    "SHOW TABLES",
    "STORED AS",
    "TABLE",
    "THEN",
    "TO",
    "TRUE",
    "UNION",
    "USING",
    "VALUES",
    "VIEW",
    "WHEN",
    "WHERE",
    "WITH",
];

/// Each gives one column of names.
const CATALOG_QUERIES: [&str; 3] = [
    "SELECT DISTINCT table_name FROM information_schema.tables",
    "SELECT DISTINCT column_name FROM information_schema.columns WHERE table_schema <> 'information_schema'",
    "SELECT DISTINCT routine_name FROM information_schema.routines",
];

/// The words known now.
#[derive(Default)]
pub(super) struct Words {
    catalog: RwLock<BTreeSet<String>>,
}

impl Words {
    /// Asks the catalog again. What cannot be looked up is not completed: no error.
    pub(super) async fn refresh(&self, client: &Client) {
        let mut found = BTreeSet::new();
        for sql in CATALOG_QUERIES {
            for batch in client.collect(sql).await.unwrap_or_default() {
                if let Ok(names) = cast(batch.column(0), &DataType::Utf8) {
                    found.extend(names.as_string::<i32>().iter().flatten().map(quote_if_needed));
                }
            }
        }
        *self.catalog.write().unwrap_or_else(PoisonError::into_inner) = found;
    }

    /// Words that begin with `prefix`, whatever the case; keywords in the case of the prefix.
    pub(super) fn starting_with(&self, prefix: &str) -> Vec<String> {
        let is_lower = prefix.chars().any(char::is_lowercase);
        let keyword = |word: &&str| if is_lower { word.to_lowercase() } else { (*word).to_owned() };
        let catalog = self.catalog.read().unwrap_or_else(PoisonError::into_inner);
        let all = KEYWORDS.iter().map(keyword).chain(catalog.iter().cloned());
        let begins =
            |word: &String| word.get(..prefix.len()).is_some_and(|beginning| beginning.eq_ignore_ascii_case(prefix));
        all.filter(begins).collect::<BTreeSet<_>>().into_iter().collect()
    }
}

/// Names that SQL would fold or not read need quotes.
fn quote_if_needed(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let needs_quotes = name.is_empty() || !name.chars().all(is_plain) || name.starts_with(|c: char| c.is_ascii_digit());
    if needs_quotes { format!("\"{}\"", name.replace('"', "\"\"")) } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_follow_the_case_of_what_is_typed() {
        let words = Words::default();
        words.catalog.write().expect("a lock").extend(["n_name".to_owned(), "\"Group\"".to_owned()]);
        assert_eq!(words.starting_with("gro"), ["group by"]);
        assert_eq!(words.starting_with("GRO"), ["GROUP BY"]);
        assert_eq!(words.starting_with("N_"), ["n_name"]);
        assert_eq!(words.starting_with("\"gr"), ["\"Group\""]);
        assert!(words.starting_with("ü").is_empty());
    }

    #[test]
    fn names_are_quoted_when_sql_would_change_them() {
        assert_eq!(["a_1", "A", "1a", "a\"b"].map(quote_if_needed), ["a_1", "\"A\"", "\"1a\"", "\"a\"\"b\""]);
    }
}
