//! One line per value: for rows that are wider than the screen.

use std::io::Write;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;

use super::cells::{Cells, names, pad, width};
use super::{OutputError, Target, Writer, explain, table};

/// Writes
/// ```text
/// -[ row 1 ]----
/// n_name | ALGERIA
/// n      | 125
/// ```
pub(super) struct VerticalWriter {
    names: Vec<String>,
    target: Target,
    has_footer: bool,
    rows: usize,
}

impl VerticalWriter {
    pub(super) fn new(schema: SchemaRef, target: Target, has_footer: bool) -> Self {
        let names = names(&schema);
        let widest = names.iter().map(|name| width(name)).max().unwrap_or(0);
        let names = names.iter().map(|name| pad(name, widest, false)).collect();
        Self { names, target, has_footer, rows: 0 }
    }

    fn put(&self, text: &str) -> Result<(), OutputError> {
        (&self.target).write_all(text.as_bytes()).map_err(|error| self.target.describe(error))
    }
}

impl Writer for VerticalWriter {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), OutputError> {
        let cells = Cells::of(batch).map_err(|error| explain(&self.target, "text", &error))?;
        for row in 0..cells.rows {
            self.rows += 1;
            let mut text = format!("-[ row {} ]----\n", self.rows);
            for (column, name) in self.names.iter().enumerate() {
                let blank = " ".repeat(width(name));
                for (number, line) in cells.lines(row, column).iter().enumerate() {
                    text += &format!("{} | {line}\n", if number == 0 { name } else { &blank });
                }
            }
            self.put(&text)?;
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), OutputError> {
        if self.has_footer {
            self.put(&table::row_count(self.rows))?;
        }
        (&self.target).flush().map_err(|error| self.target.describe(error))
    }
}
