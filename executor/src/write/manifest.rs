//! The manifest: one row per staged file, [`WriteExec`](super::WriteExec)'s output.

use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{Array, AsArray, ListBuilder, RecordBatch, StringArray, StringBuilder, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt64Type};
use datafusion::common::{Result, internal_err};
use object_store::path::Path;
use onward_cache::UploadedParts;
use onward_cache::paths::store_path;

/// A file that was written whole and is not visible yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagedFile {
    /// Its final path in the target's store.
    pub path: Path,
    /// Where it is now.
    pub place: StagedPlace,
    /// Rows written; a partition's first file has the rows of all files of that partition.
    pub rows: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// Where a staged file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StagedPlace {
    /// Under this path in the same store, to be renamed.
    Path(Path),
    /// In an upload, to be completed.
    Upload(UploadedParts),
}

/// Columns of the manifest.
pub fn manifest_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        Arc::new(Schema::new(vec![
            Field::new("path", DataType::Utf8, false),
            Field::new("staged", DataType::Utf8, true),
            Field::new("upload", DataType::Utf8, true),
            Field::new("parts", DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true))), true),
            Field::new("rows", DataType::UInt64, false),
            Field::new("bytes", DataType::UInt64, false),
        ]))
    });
    SCHEMA.clone()
}

/// `files` as a batch of [`manifest_schema`].
pub(super) fn manifest_batch(files: &[StagedFile]) -> Result<RecordBatch> {
    let staged = |file: &StagedFile| match &file.place {
        StagedPlace::Path(path) => Some(path.to_string()),
        StagedPlace::Upload(_) => None,
    };
    let upload = |file: &StagedFile| match &file.place {
        StagedPlace::Path(_) => None,
        StagedPlace::Upload(upload) => Some(upload.upload.clone()),
    };
    let mut parts = ListBuilder::new(StringBuilder::new());
    for file in files {
        match &file.place {
            StagedPlace::Path(_) => parts.append(false),
            StagedPlace::Upload(upload) => parts.append_value(upload.parts.iter().map(Some)),
        }
    }
    Ok(RecordBatch::try_new(
        manifest_schema(),
        vec![
            Arc::new(StringArray::from_iter_values(files.iter().map(|file| file.path.as_ref()))),
            Arc::new(files.iter().map(staged).collect::<StringArray>()),
            Arc::new(files.iter().map(upload).collect::<StringArray>()),
            Arc::new(parts.finish()),
            Arc::new(UInt64Array::from_iter_values(files.iter().map(|file| file.rows))),
            Arc::new(UInt64Array::from_iter_values(files.iter().map(|file| file.bytes))),
        ],
    )?)
}

/// The files that result rows name.
///
/// # Errors
/// When the batch is no manifest.
pub fn read_manifest(batch: &RecordBatch) -> Result<Vec<StagedFile>> {
    if batch.num_columns() != manifest_schema().fields().len() {
        return internal_err!("the result of a write is not a manifest but {}", batch.schema());
    }
    let text = |column: usize, row: usize| {
        let column = batch.column(column).as_string::<i32>();
        column.is_valid(row).then(|| column.value(row).to_owned())
    };
    let number = |column: usize, row: usize| batch.column(column).as_primitive::<UInt64Type>().value(row);
    let parts = batch.column(3).as_list::<i32>();
    (0..batch.num_rows())
        .map(|row| {
            let place = match (text(1, row), text(2, row)) {
                (Some(staged), None) => StagedPlace::Path(store_path(&staged)?),
                (None, Some(upload)) => {
                    let names = parts.value(row);
                    let names = names.as_string::<i32>().iter().flatten().map(str::to_owned).collect();
                    StagedPlace::Upload(UploadedParts { upload, parts: names })
                }
                _ => return internal_err!("a manifest row names neither a file nor an upload"),
            };
            let path = store_path(&text(0, row).unwrap_or_default())?;
            Ok(StagedFile { path, place, rows: number(4, row), bytes: number(5, row) })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_reads_back() {
        let upload = UploadedParts { upload: "u".into(), parts: vec!["1".into(), "2".into()] };
        // As DataFusion names the partition `a/b%`, in a directory that is named like an encoded one.
        let path = |text| store_path(text).unwrap();
        let files = vec![
            StagedFile {
                path: path("d%20~/k=a%2Fb%25/x"),
                place: StagedPlace::Path(path("d%20~/.s/a")),
                rows: 3,
                bytes: 40,
            },
            StagedFile { path: path("b"), place: StagedPlace::Upload(upload), rows: 0, bytes: 50 },
        ];
        assert_eq!(read_manifest(&manifest_batch(&files).unwrap()).unwrap(), files);
        assert_eq!(read_manifest(&manifest_batch(&[]).unwrap()).unwrap(), []);
    }
}
