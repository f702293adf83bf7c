//! Random tables: few rows, few distinct values, NULLs in every column but the id, any number of files.

use std::path::Path;

use proptest::prelude::*;

use crate::oracle::single::single_process;
use crate::oracle::tables;

/// Columns of every table and of everything in a FROM clause.
pub const COLUMNS: [&str; 7] = ["id", "k", "s", "d", "t", "b", "f"];

/// One row, as SQL literals in the order of [`COLUMNS`] without the id.
#[derive(Clone, Debug)]
struct Row([String; 6]);

/// A table of several files.
#[derive(Clone, Debug)]
pub struct Table {
    rows: Vec<Row>,
    files: usize,
}

fn nullable(value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    prop::option::weighted(0.85, value).prop_map(|value| value.unwrap_or_else(|| "NULL".to_owned()))
}

fn row() -> impl Strategy<Value = Row> {
    (
        nullable((-2..7i32).prop_map(|k| k.to_string())),
        nullable(
            prop::sample::select(vec!["''", "'a'", "'b'", "'ab'", "'ä'", "'a longer string than twelve'"])
                .prop_map(String::from),
        ),
        nullable((-500..500i32).prop_map(|cents| format!("{}", f64::from(cents) / 100.0))),
        nullable((1..6u32, 1..4u32).prop_map(|(month, day)| format!("'2024-{month:02}-{day:02}'"))),
        nullable(any::<bool>().prop_map(|b| b.to_string())),
        // Quarters: sums of them are exact in any order.
        nullable((-40..40i32).prop_map(|quarters| format!("{}", f64::from(quarters) / 4.0))),
    )
        .prop_map(|(k, s, d, t, b, f)| Row([k, s, d, t, b, f]))
}

/// Any table: often empty or tiny, seldom larger than a few row groups.
pub fn table() -> impl Strategy<Value = Table> {
    let rows = prop_oneof![
        1 => prop::collection::vec(row(), 0..3),
        4 => prop::collection::vec(row(), 3..70),
    ];
    (rows, 1..6usize).prop_map(|(rows, files)| Table { rows, files })
}

impl Table {
    /// Writes the files into `directory`; row `i` goes to file `i % files`.
    pub async fn write(&self, directory: &Path) {
        let context = single_process();
        for file in 0..self.files {
            let rows = self.rows.iter().enumerate().skip(file).step_by(self.files);
            let rows: Vec<_> = rows.map(|(id, Row(values))| format!("({id}, {})", values.join(", "))).collect();
            let query = match rows.is_empty() {
                true => {
                    format!("SELECT {} FROM (VALUES (0, 0, '', 0, '2024-01-01', true, 0.0)) WHERE false", columns())
                }
                false => format!("SELECT {} FROM (VALUES {})", columns(), rows.join(", ")),
            };
            tables::write(&context, &query, directory, file, "parquet").await;
        }
    }
}

fn columns() -> String {
    let types = ["BIGINT", "INT", "VARCHAR", "DECIMAL(10, 2)", "DATE", "BOOLEAN", "DOUBLE"];
    let columns = COLUMNS.iter().zip(types).zip(1..);
    // NULLIF: no column is declared as never NULL, which some outer joins of DataFusion 55 do not expect.
    columns
        .map(|((name, data_type), position)| match *name {
            "id" => format!("nullif(CAST(column{position} AS {data_type}), -1) AS id"),
            name => format!("CAST(column{position} AS {data_type}) AS {name}"),
        })
        .collect::<Vec<_>>()
        .join(", ")
}
