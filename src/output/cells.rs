//! Values as text.

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use unicode_width::UnicodeWidthStr;

const OPTIONS: FormatOptions<'static> = FormatOptions::new().with_null("NULL").with_display_error(true);

/// The values of a batch as text that is safe in a terminal.
pub(super) struct Cells<'a> {
    columns: Vec<ArrayFormatter<'a>>,
    /// Number of rows.
    pub(super) rows: usize,
}

impl<'a> Cells<'a> {
    pub(super) fn of(batch: &'a RecordBatch) -> Result<Self, ArrowError> {
        let format =
            |column: &'a datafusion::arrow::array::ArrayRef| ArrayFormatter::try_new(column.as_ref(), &OPTIONS);
        Ok(Self { columns: batch.columns().iter().map(format).collect::<Result<_, _>>()?, rows: batch.num_rows() })
    }

    /// The lines of the value, at least one, with control characters escaped.
    pub(super) fn lines(&self, row: usize, column: usize) -> Vec<String> {
        let text = self.columns[column].value(row).to_string();
        if !text.contains('\n') {
            return vec![escape(text)];
        }
        text.trim_end_matches('\n').split('\n').map(|line| escape(line.to_owned())).collect()
    }
}

/// `\t`, `\r`, `\u{1b}`: a value must not move the cursor or colour the rest of the screen.
fn escape(text: String) -> String {
    if !text.chars().any(char::is_control) {
        return text;
    }
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

/// Columns a text takes in a terminal.
pub(super) fn width(text: &str) -> usize {
    text.width()
}

/// `text` padded to `width` columns.
pub(super) fn pad(text: &str, width: usize, is_right: bool) -> String {
    let blank = " ".repeat(width.saturating_sub(self::width(text)));
    if is_right { blank + text } else { text.to_owned() + &blank }
}

/// Numbers are easier to compare when they end in one column.
pub(super) fn is_right_aligned(schema: &Schema) -> Vec<bool> {
    schema.fields().iter().map(|field| field.data_type().is_numeric()).collect()
}

/// Column names, safe in a terminal.
pub(super) fn names(schema: &Schema) -> Vec<String> {
    schema.fields().iter().map(|field| escape(field.name().clone())).collect()
}

/// A type that plain text formats hold as it is.
pub(super) fn is_flat(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, value) => is_flat(value),
        _ => !data_type.is_nested(),
    }
}
