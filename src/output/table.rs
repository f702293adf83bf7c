//! Boxes, for people.

use std::io::{self, Write};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;

use super::cells::{Cells, is_right_aligned, names, pad, width};
use super::{OutputError, Target, Writer, explain};

/// Rows that are looked at before the first is printed, to find how wide the columns are. Later values that are wider
/// stick out of their column; they are never cut.
pub const SAMPLE_ROWS: usize = 10_000;

/// Writes
/// ```text
/// +-------------+-----+
/// | n_name      |   n |
/// +-------------+-----+
/// | ALGERIA     | 125 |
/// +-------------+-----+
/// (1 row)
/// ```
pub(super) struct TableWriter {
    schema: SchemaRef,
    target: Target,
    has_footer: bool,
    sample: Vec<RecordBatch>,
    /// Known once the header is out.
    widths: Option<Vec<usize>>,
    is_right: Vec<bool>,
    rows: usize,
}

impl TableWriter {
    pub(super) fn new(schema: SchemaRef, target: Target, has_footer: bool) -> Self {
        let is_right = is_right_aligned(&schema);
        Self { schema, target, has_footer, sample: Vec::new(), widths: None, is_right, rows: 0 }
    }

    fn start(&mut self) -> Result<(), OutputError> {
        let names = names(&self.schema);
        let mut widths: Vec<usize> = names.iter().map(|name| width(name)).collect();
        let sample = std::mem::take(&mut self.sample);
        for batch in &sample {
            let cells = self.cells(batch)?;
            for (column, widest) in widths.iter_mut().enumerate() {
                let cell_width = |row| cells.lines(row, column).iter().map(|line| width(line)).max().unwrap_or(0);
                *widest = (0..cells.rows).map(cell_width).max().unwrap_or(0).max(*widest);
            }
        }
        let header = names.into_iter().zip(&widths).map(|(name, width)| pad(&name, *width, false));
        let (header, rule) = (line(header), rule(&widths));
        self.widths = Some(widths);
        self.put(|out| write!(out, "{rule}{header}{rule}"))?;
        sample.iter().try_for_each(|batch| self.print(batch))
    }

    fn print(&mut self, batch: &RecordBatch) -> Result<(), OutputError> {
        let cells = self.cells(batch)?;
        let widths = self.widths.as_deref().unwrap_or_default();
        for row in 0..cells.rows {
            let values: Vec<_> = (0..widths.len()).map(|column| cells.lines(row, column)).collect();
            let height = values.iter().map(Vec::len).max().unwrap_or(1);
            for number in 0..height {
                let cell = |column: usize| {
                    let text = values[column].get(number).map_or("", String::as_str);
                    pad(text, widths[column], self.is_right[column])
                };
                let line = line((0..widths.len()).map(cell));
                self.put(|out| out.write_all(line.as_bytes()))?;
            }
        }
        Ok(())
    }

    fn cells<'a>(&self, batch: &'a RecordBatch) -> Result<Cells<'a>, OutputError> {
        Cells::of(batch).map_err(|error| explain(&self.target, "a table", &error))
    }

    fn put(&self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), OutputError> {
        write(&mut &self.target).map_err(|error| self.target.take_error().unwrap_or(self.target.describe(error)))
    }
}

impl Writer for TableWriter {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), OutputError> {
        self.rows += batch.num_rows();
        if self.widths.is_some() {
            return self.print(batch);
        }
        self.sample.push(batch.clone());
        if self.rows >= SAMPLE_ROWS { self.start() } else { Ok(()) }
    }

    fn finish(mut self: Box<Self>) -> Result<(), OutputError> {
        if self.widths.is_none() {
            self.start()?;
        }
        let rule = rule(self.widths.as_deref().unwrap_or_default());
        let footer = if self.has_footer { row_count(self.rows) } else { String::new() };
        self.put(|out| write!(out, "{rule}{footer}").and_then(|()| out.flush()))
    }
}

/// `(3 rows)` and a line break.
pub(super) fn row_count(rows: usize) -> String {
    format!("({rows} {})\n", if rows == 1 { "row" } else { "rows" })
}

fn line(cells: impl Iterator<Item = String>) -> String {
    cells.fold(String::from("|"), |line, cell| line + " " + &cell + " |") + "\n"
}

fn rule(widths: &[usize]) -> String {
    widths.iter().fold(String::from("+"), |rule, width| rule + &"-".repeat(width + 2) + "+") + "\n"
}
