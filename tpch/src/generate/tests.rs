use std::fs::{self, File};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::*;

/// Rows and CRC-32 of the text files that dbgen 3.0.1 writes for scale 0.01.
const DBGEN: [(Table, u64, u32); 8] = [
    (Table::Nation, 25, 0x0744_e8ca),
    (Table::Region, 5, 0xd3e7_1733),
    (Table::Supplier, 100, 0x226c_e16c),
    (Table::Part, 2_000, 0x2bbe_9a68),
    (Table::PartSupp, 8_000, 0x0210_a76e),
    (Table::Customer, 1_500, 0xca8b_e0cb),
    (Table::Orders, 15_000, 0x19c6_0c22),
    (Table::LineItem, 60_175, 0x1111_7fd4),
];

/// A batch as dbgen would write it: cells ended by `|`, quantities without a fraction.
fn dbgen_text(batch: &RecordBatch) -> String {
    let options = FormatOptions::default();
    let columns: Vec<_> =
        batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options).unwrap()).collect();
    let mut text = String::new();
    for row in 0..batch.num_rows() {
        for (field, column) in batch.schema().fields().iter().zip(&columns) {
            let cell = column.value(row).to_string();
            text += match field.name().as_str() {
                "l_quantity" => cell.strip_suffix(".00").unwrap(),
                _ => &cell,
            };
            text.push('|');
        }
        text.push('\n');
    }
    text
}

fn assert_is_dbgen(manifest: &Manifest, dir: &Path) {
    for (table, rows, checksum) in DBGEN {
        let is_of_table = |path: &str| {
            path.starts_with(&format!("{}.", table.name())) || path.starts_with(&format!("{}/", table.name()))
        };
        let files: Vec<_> = manifest.files.iter().filter(|file| is_of_table(&file.path)).collect();
        let mut hasher = crc32fast::Hasher::new();
        for file in &files {
            let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(dir.join(&file.path)).unwrap()).unwrap();
            for batch in reader.build().unwrap() {
                hasher.update(dbgen_text(&batch.unwrap()).as_bytes());
            }
        }
        assert_eq!(files.iter().map(|file| file.rows).sum::<u64>(), rows, "rows of {}", table.name());
        assert_eq!(hasher.finalize(), checksum, "text of {}", table.name());
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_rows_are_those_of_dbgen_in_one_file_and_in_eight() {
    let dir = tempfile::tempdir().unwrap();
    let options = GenerateOptions::new(0.01, dir.path().join("one"));
    let manifest = generate(&options).unwrap();
    assert_is_dbgen(&manifest, &options.out);
    assert_eq!(Manifest::read(&options.out).unwrap(), Some(manifest));

    let split = GenerateOptions { parts: 8, ..GenerateOptions::new(0.01, dir.path().join("eight")) };
    let manifest = generate(&split).unwrap();
    assert_is_dbgen(&manifest, &split.out);
    assert_eq!(names(&split.out.join("lineitem")).len(), 8);
    assert!(split.out.join("nation.parquet").is_file());
}

#[test]
fn a_complete_set_is_kept_and_a_damaged_one_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let options = GenerateOptions::new(0.001, dir.path());
    let manifest = generate(&options).unwrap();
    let written = || fs::metadata(dir.path().join("orders.parquet")).unwrap().modified().unwrap();
    let before = written();
    assert_eq!(generate(&options).unwrap(), manifest);
    assert_eq!(written(), before, "nothing was written again");

    File::options().write(true).open(dir.path().join("orders.parquet")).unwrap().set_len(100).unwrap();
    assert_eq!(generate(&options).unwrap(), manifest);
    assert!(manifest.is_intact(dir.path()));

    let other = GenerateOptions { scale: 0.002, ..options };
    let message = generate(&other).unwrap_err().to_string();
    assert!(message.contains("holds TPC-H data of scale 0.001"), "{message}");
}

#[test]
fn an_interrupted_run_leaves_nothing_under_a_final_name() {
    let dir = tempfile::tempdir().unwrap();
    let options = GenerateOptions::new(0.001, dir.path());
    options.cancelled.store(true, Ordering::Relaxed);
    assert!(matches!(generate(&options), Err(Error::Cancelled)));
    assert_eq!(names(dir.path()), [".lock"]);

    // A killed run cannot clean up: its scratch directory and half of its files stay, under a manifest that says so.
    fs::create_dir(dir.path().join(".scratch-1")).unwrap();
    fs::write(dir.path().join("orders.parquet"), "half").unwrap();
    let half = Manifest::new(0.001, 8);
    half.write(dir.path(), &dir.path().join(".scratch-1")).unwrap();
    options.cancelled.store(false, Ordering::Relaxed);
    let manifest = generate(&options).unwrap();
    assert!(manifest.is_intact(dir.path()));
    assert!(!names(dir.path()).iter().any(|name| name.starts_with(".scratch")));
}

#[test]
fn files_of_others_are_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("orders.parquet"), "mine").unwrap();
    let message = generate(&GenerateOptions::new(0.001, dir.path())).unwrap_err().to_string();
    assert!(message.contains("was not written by"), "{message}");
    assert_eq!(fs::read(dir.path().join("orders.parquet")).unwrap(), b"mine");
}

#[test]
fn two_runs_into_one_directory_do_not_mix() {
    let dir = tempfile::tempdir().unwrap();
    let _held = lock(dir.path()).unwrap();
    assert!(matches!(generate(&GenerateOptions::new(0.001, dir.path())), Err(Error::Busy(_))));
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (scale, parts) in [(0.0, 1), (-1.0, 1), (f64::NAN, 1), (1.0, 0)] {
        let options = GenerateOptions { parts, ..GenerateOptions::new(scale, dir.path()) };
        assert!(matches!(generate(&options), Err(Error::Invalid(_))), "{scale} {parts}");
    }
}
