//! Markdown tables.

use std::io::Write;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;

use super::cells::{Cells, is_right_aligned, names};
use super::{OutputError, Target, Writer, explain};

/// Writes a GitHub table, a row at a time: nothing is kept, so columns are not lined up in the source.
pub(super) struct MarkdownWriter {
    schema: SchemaRef,
    target: Target,
    is_started: bool,
}

impl MarkdownWriter {
    pub(super) fn new(schema: SchemaRef, target: Target) -> Self {
        Self { schema, target, is_started: false }
    }

    fn start(&mut self) -> Result<(), OutputError> {
        if std::mem::replace(&mut self.is_started, true) {
            return Ok(());
        }
        self.put(names(&self.schema).into_iter().map(|name| vec![name]))?;
        let rules = is_right_aligned(&self.schema).into_iter().map(|right| if right { "---:" } else { "---" });
        self.put(rules.map(|rule| vec![rule.to_owned()]))
    }

    fn put(&self, cells: impl Iterator<Item = Vec<String>>) -> Result<(), OutputError> {
        let escape_line = |line: &String| line.replace('\\', "\\\\").replace('|', "\\|").replace('<', "&lt;");
        let escape = |lines: Vec<String>| lines.iter().map(escape_line).collect::<Vec<_>>().join("<br>");
        let line = cells.fold(String::from("|"), |line, cell| line + " " + &escape(cell) + " |") + "\n";
        (&self.target).write_all(line.as_bytes()).map_err(|error| self.target.describe(error))
    }
}

impl Writer for MarkdownWriter {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), OutputError> {
        self.start()?;
        let cells = Cells::of(batch).map_err(|error| explain(&self.target, "Markdown", &error))?;
        (0..cells.rows).try_for_each(|row| self.put((0..batch.num_columns()).map(|column| cells.lines(row, column))))
    }

    fn finish(mut self: Box<Self>) -> Result<(), OutputError> {
        self.start()?;
        (&self.target).flush().map_err(|error| self.target.describe(error))
    }
}
