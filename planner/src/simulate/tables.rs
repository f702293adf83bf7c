//! Small tables with NULLs, duplicates, ties and skew, as several Parquet and CSV files.

use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::array::{Float64Array, Int32Array, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::dataframe::DataFrameWriteOptions;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::prelude::{CsvReadOptions, ParquetReadOptions, SessionConfig, SessionContext};
use tempfile::TempDir;

use crate::session::{OnwardOptions, session_config, session_state_builder};

/// Rows per file of `t` and `u`.
const ROWS: i32 = 60;

/// The directory with the files; they go with it.
pub(super) struct Tables {
    dir: TempDir,
}

impl Tables {
    pub(super) async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let ctx = SessionContext::new();
        for file in 0..3 {
            write(&ctx, dir.path(), &format!("t/{file}.parquet"), rows(file * ROWS, ROWS, 7)).await;
            write(&ctx, dir.path(), &format!("u/{file}.parquet"), rows(file * 20 + 30, 20, 5)).await;
        }
        write(&ctx, dir.path(), "one/0.parquet", rows(3, 1, 3)).await;
        write(&ctx, dir.path(), "none/0.parquet", rows(0, 0, 3)).await;
        let csv = ctx.read_batch(rows(0, 200, 11)).expect("a batch is a table");
        csv.write_csv(&path(dir.path(), "c/0.csv"), DataFrameWriteOptions::new(), None).await.expect("CSV is written");
        Self { dir }
    }

    /// Where the files of a table are.
    pub(super) fn location(&self, table: &str) -> String {
        path(self.dir.path(), table) + "/"
    }

    /// A session of Onward over the tables.
    pub(super) async fn onward(&self, settings: &[(&str, &str)]) -> SessionContext {
        let mut config = session_config(2, OnwardOptions::default());
        for (key, value) in settings {
            config.options_mut().set(key, value).expect("a known setting");
        }
        let state = session_state_builder(config, Arc::new(RuntimeEnv::default())).build();
        self.register(SessionContext::new_with_state(state)).await
    }

    /// DataFusion as it comes: the oracle.
    pub(super) async fn single_process(&self) -> SessionContext {
        self.register(SessionContext::new()).await
    }

    /// DataFusion with settings.
    pub(super) async fn single_process_with(&self, settings: &[(&str, &str)]) -> SessionContext {
        let mut config = SessionConfig::new();
        for (key, value) in settings {
            config.options_mut().set(key, value).expect("a known setting");
        }
        self.register(SessionContext::new_with_config(config)).await
    }

    async fn register(&self, ctx: SessionContext) -> SessionContext {
        for table in ["t", "u", "one", "none"] {
            let files = path(self.dir.path(), table) + "/";
            ctx.register_parquet(table, &files, ParquetReadOptions::default()).await.expect("a Parquet table");
        }
        let files = path(self.dir.path(), "c") + "/";
        ctx.register_csv("c", &files, CsvReadOptions::default()).await.expect("a CSV table");
        ctx
    }
}

fn path(dir: &Path, name: &str) -> String {
    dir.join(name).to_string_lossy().into_owned()
}

async fn write(ctx: &SessionContext, dir: &Path, name: &str, rows: RecordBatch) {
    let file = path(dir, name);
    let table = ctx.read_batch(rows).expect("a batch is a table");
    table
        .write_parquet(&file, DataFrameWriteOptions::new().with_single_file_output(true), None)
        .await
        .expect("Parquet");
}

/// `id` is unique over all files of a table, `k` repeats and has NULLs, `s` is a string with NULLs, `x` has exact halves.
fn rows(first: i32, count: i32, modulo: i32) -> RecordBatch {
    let ids = first..first + count;
    let schema = Schema::new(vec![
        Field::new("id", DataType::Int32, false),
        Field::new("k", DataType::Int64, true),
        Field::new("s", DataType::Utf8, true),
        Field::new("x", DataType::Float64, true),
    ]);
    let keys: Int64Array = ids.clone().map(|id| (id % 4 != 1).then_some(i64::from(id * id % modulo))).collect();
    let strings: StringArray = ids.clone().map(|id| (id % 5 != 2).then(|| format!("s{}", id % 9))).collect();
    let halves: Float64Array = ids.clone().map(|id| Some(f64::from(id % 13) / 2.0)).collect();
    let columns = vec![
        Arc::new(Int32Array::from_iter_values(ids)) as _,
        Arc::new(keys) as _,
        Arc::new(strings) as _,
        Arc::new(halves) as _,
    ];
    RecordBatch::try_new(Arc::new(schema), columns).expect("columns fit the schema")
}
