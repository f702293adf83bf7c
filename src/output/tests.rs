//! Formats: what a result looks like, whatever its types, names and size.

use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, Decimal128Array, Float64Array, Int32Array, Int64Array, ListArray, NullArray, StringArray,
};
use datafusion::arrow::datatypes::Int32Type;

use super::*;

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
        .expect("a batch")
}

fn sample() -> RecordBatch {
    let decimals = Decimal128Array::from(vec![Some(12_345), None]).with_precision_and_scale(10, 2).expect("decimals");
    batch(vec![
        ("name", Arc::new(StringArray::from(vec![Some("a|\"ü\n,"), None]))),
        ("price", Arc::new(decimals)),
        ("tags", Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>([Some([Some(1), None]), None]))),
    ])
}

fn render(format: Format, batches: &[RecordBatch]) -> String {
    String::from_utf8(bytes(format, batches)).expect("text")
}

fn bytes(format: Format, batches: &[RecordBatch]) -> Vec<u8> {
    let target = Target::memory();
    let mut writer = open(format, batches[0].schema(), &target, true).expect("a writer");
    batches.iter().for_each(|batch| writer.write(batch).expect("written"));
    writer.finish().expect("finished");
    target.into_memory()
}

#[test]
fn tables_align_numbers_right_and_keep_lines_in_their_column() {
    let expected = "\
+------+--------+-----------+
| name | price  | tags      |
+------+--------+-----------+
| a|\"ü | 123.45 | [1, NULL] |
| ,    |        |           |
| NULL |   NULL | NULL      |
+------+--------+-----------+
(2 rows)
";
    assert_eq!(render(Format::Table, &[sample()]), expected);
}

#[test]
fn values_cannot_move_the_cursor() {
    let text = render(Format::Table, &[batch(vec![("\r", Arc::new(StringArray::from(vec!["\u{1b}[2J\t"])))])]);
    assert!(text.contains("| \\r          |\n") && text.contains("| \\u{1b}[2J\\t |"), "{text}");
}

#[test]
fn a_table_prints_every_row_even_those_wider_than_its_sample() {
    let narrow = batch(vec![("n", Arc::new(Int64Array::from_iter_values(0..8_192)))]);
    let wide = batch(vec![("n", Arc::new(Int64Array::from(vec![i64::MAX])))]);
    let text = render(Format::Table, &[narrow.clone(), narrow, wide]);
    assert_eq!(text.lines().count(), 2 * 8_192 + 1 + 5);
    assert!(text.contains("\n| 9223372036854775807 |\n") && text.ends_with("(16385 rows)\n"));
}

#[test]
fn csv_quotes_and_writes_nested_values_as_text() {
    assert_eq!(render(Format::Csv, &[sample()]), "name,price,tags\n\"a|\"\"ü\n,\",123.45,\"[1, ]\"\n,,\n");
    assert_eq!(render(Format::Csv, &[sample().slice(0, 0)]), "name,price,tags\n");
}

#[test]
fn json_has_every_key_in_every_object() {
    let lines = render(Format::Ndjson, &[sample()]);
    let expected = "{\"name\":\"a|\\\"ü\\n,\",\"price\":123.45,\"tags\":[1,null]}\n\
                    {\"name\":null,\"price\":null,\"tags\":null}\n";
    assert_eq!(lines, expected);
    let array: serde_json::Value = serde_json::from_str(&render(Format::Json, &[sample(), sample()])).expect("JSON");
    assert_eq!(array.as_array().map(Vec::len), Some(4));
    assert_eq!(render(Format::Json, &[sample().slice(0, 0)]), "[]\n");
}

#[test]
fn json_keeps_both_columns_of_one_name_and_nulls_for_not_a_number() {
    let twins = batch(vec![
        ("a", Arc::new(Int32Array::from(vec![1])) as ArrayRef),
        ("a", Arc::new(Float64Array::from(vec![f64::NAN]))),
        ("a_2", Arc::new(NullArray::new(1))),
    ]);
    assert_eq!(render(Format::Ndjson, &[twins]), "{\"a\":1,\"a_3\":null,\"a_2\":null}\n");
}

#[test]
fn markdown_escapes_its_own_syntax() {
    let text = render(Format::Markdown, &[sample()]);
    assert!(text.starts_with("| name | price | tags |\n| --- | ---: | --- |\n| a\\|\"ü<br>, | 123.45 |"), "{text}");
}

#[test]
fn vertical_has_a_line_per_value() {
    let text = render(Format::Vertical, &[sample()]);
    assert!(text.starts_with("-[ row 1 ]----\nname  | a|\"ü\n      | ,\nprice | 123.45\n"), "{text}");
}

#[test]
fn parquet_comes_back_as_it_was() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("out.parquet");
    let target = Target::file(&path).expect("a target");
    let mut writer = open(Format::Parquet, sample().schema(), &target, true).expect("a writer");
    writer.write(&sample()).expect("written");
    writer.finish().expect("finished");
    assert!(!path.exists(), "a file that may still fail has no name");
    assert!(matches!(open(Format::Parquet, sample().schema(), &target, true), Err(OutputError::SecondResult(_))));
    target.commit().expect("committed");
    let file = std::fs::File::open(&path).expect("the file");
    let mut reader =
        datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReader::try_new(file, 10).expect("Parquet");
    assert_eq!(reader.next().expect("a batch").expect("readable"), sample());
}

#[test]
fn an_uncommitted_file_leaves_what_was_there() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("out.csv");
    std::fs::write(&path, "before").expect("a file");
    let target = Target::file(&path).expect("a target");
    let mut writer = open(Format::Csv, sample().schema(), &target, true).expect("a writer");
    writer.write(&sample()).expect("written");
    drop((writer, target));
    assert_eq!(std::fs::read_to_string(&path).expect("the file"), "before");
    assert_eq!(std::fs::read_dir(dir.path()).expect("the directory").count(), 1);
}
