//! Tables for the tests, written as files: several per table and with small row groups, so that there is something to
//! distribute.

use std::path::Path;

use super::single::{Engine, single_process};

/// Every table: a line `-- name: files format`, then the query of file number `$FILE`.
const TABLES: &str = include_str!("tables.sql");

/// Rows of a Parquet row group.
const ROW_GROUP: usize = 25;

struct Table<'a> {
    name: &'a str,
    files: usize,
    format: &'a str,
    query: &'a str,
}

fn tables() -> impl Iterator<Item = Table<'static>> {
    TABLES.split("\n-- ").skip(1).map(|text| {
        let (head, query) = text.split_once('\n').expect("a query follows");
        let (name, files) = head.split_once(": ").expect("a table has a name");
        let (files, format) = files.split_once(' ').expect("a table has files of a format");
        Table { name, files: files.parse().expect("a number of files"), format, query }
    })
}

/// Writes all files below `directory`, a directory per table.
pub async fn write_all(directory: &Path) {
    let context = single_process();
    for table in tables() {
        for file in 0..table.files {
            let query = table.query.replace("$FILE", &file.to_string());
            write(&context, &query, &directory.join(table.name), file, table.format).await;
        }
    }
}

/// Writes one file of a table.
pub async fn write(engine: &dyn Engine, query: &str, directory: &Path, file: usize, format: &str) {
    let target = directory.join(format!("{file}.{format}"));
    let options = match format {
        "parquet" => format!("OPTIONS ('format.max_row_group_size' '{ROW_GROUP}')"),
        "csv" => "OPTIONS ('format.has_header' 'true')".to_owned(),
        _ => String::new(),
    };
    let copy = format!("COPY ({query}) TO '{}' STORED AS {format} {options}", target.display());
    engine.run(&copy).await.unwrap_or_else(|error| panic!("{copy}: {error}"));
}

/// The statements that make the tables known.
pub fn definitions(directory: &Path) -> Vec<String> {
    tables().map(|table| definition(table.name, &directory.join(table.name), table.format)).collect()
}

/// The statement that makes one table known.
pub fn definition(name: &str, directory: &Path, format: &str) -> String {
    let options = if format == "csv" { "OPTIONS ('format.has_header' 'true')" } else { "" };
    format!("CREATE EXTERNAL TABLE {name} STORED AS {format} LOCATION '{}/' {options}", directory.display())
}
