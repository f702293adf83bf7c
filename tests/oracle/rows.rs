//! Rows as text, the way the `.slt` files hold them.

use datafusion::arrow::array::{Array, AsArray, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Float16Type, Float32Type, Float64Type, Schema};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};

/// The letter of a column in an `.slt` file; those of DataFusion's own suite.
pub fn letter(data_type: &DataType) -> char {
    match data_type {
        DataType::Boolean => 'B',
        data_type if data_type.is_integer() => 'I',
        data_type if data_type.is_numeric() => 'R',
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => 'T',
        DataType::Date32 | DataType::Date64 | DataType::Time32(_) | DataType::Time64(_) => 'D',
        DataType::Timestamp(..) => 'P',
        DataType::Dictionary(_, values) => letter(values),
        _ => '?',
    }
}

/// The letters of all columns.
pub fn letters(schema: &Schema) -> String {
    schema.fields().iter().map(|field| letter(field.data_type())).collect()
}

/// All rows in order, a string per cell: `NULL` and `(empty)` are spelled out, control characters and spaces at the ends
/// are made visible, and floats are rounded to 12 digits, since the order of additions is not fixed.
pub fn cells(batches: &[RecordBatch]) -> Result<Vec<Vec<String>>, String> {
    let options = FormatOptions::default().with_null("NULL");
    let mut rows = Vec::new();
    for batch in batches {
        let formatters: Result<Vec<_>, _> =
            batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options)).collect();
        let formatters = formatters.map_err(|error| error.to_string())?;
        for row in 0..batch.num_rows() {
            let cells = batch.columns().iter().zip(&formatters).map(|(column, formatter)| match float(column, row) {
                Some(value) => rounded(value),
                None => escaped(&formatter.value(row).to_string()),
            });
            rows.push(cells.collect());
        }
    }
    Ok(rows)
}

fn float(column: &dyn Array, row: usize) -> Option<f64> {
    if column.is_null(row) {
        return None;
    }
    match column.data_type() {
        DataType::Float16 => Some(column.as_primitive::<Float16Type>().value(row).to_f64()),
        DataType::Float32 => Some(f64::from(column.as_primitive::<Float32Type>().value(row))),
        DataType::Float64 => Some(column.as_primitive::<Float64Type>().value(row)),
        _ => None,
    }
}

fn rounded(value: f64) -> String {
    // Also makes -0 and 0 one value.
    let rounded: f64 = format!("{value:.11e}").parse().unwrap_or(value);
    format!("{}", rounded + 0.0)
}

fn escaped(text: &str) -> String {
    match text {
        "" => "(empty)".to_owned(),
        text if text.trim() != text => format!("{text:?}"),
        text => {
            text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_do_not_show_the_order_of_additions() {
        assert_eq!(rounded(0.1 + 0.2), "0.3");
        assert_eq!(rounded(-0.0), "0");
        assert_eq!(rounded(f64::NAN), "NaN");
        assert_eq!(escaped("a\nb"), "a\\nb");
    }
}
