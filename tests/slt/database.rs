//! An [`Engine`] as the `sqllogictest` crate wants it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use sqllogictest::{AsyncDB, ColumnType, DBOutput, Runner, strict_column_validator};

use crate::oracle::rows;
use crate::oracle::single::Engine;

/// A column's letter; see [`rows::letter`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter(char);

impl ColumnType for Letter {
    fn from_char(value: char) -> Option<Self> {
        "BDIPRT?".contains(value).then_some(Self(value))
    }

    fn to_char(&self) -> char {
        self.0
    }
}

/// What the engine said.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct EngineError(String);

/// One connection of a runner. `$DATA` in a statement is the directory of the test tables.
pub struct Database<E> {
    engine: E,
    data: PathBuf,
}

#[async_trait]
impl<E: Engine> AsyncDB for Database<E> {
    type Error = EngineError;
    type ColumnType = Letter;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<Letter>, EngineError> {
        // Taken literally it would be a directory in the repository.
        if sql.contains("$__TEST_DIR__") {
            return Err(EngineError("`$__TEST_DIR__` needs `control substitution on` in the file".to_owned()));
        }
        let sql = sql.replace("$DATA", &self.data.to_string_lossy());
        let (schema, batches) = self.engine.run(&sql).await.map_err(EngineError)?;
        if schema.fields().is_empty() {
            return Ok(DBOutput::StatementComplete(0));
        }
        let rows = rows::cells(&batches).map_err(EngineError)?;
        Ok(DBOutput::Rows { types: rows::letters(&schema).chars().map(Letter).collect(), rows })
    }

    async fn shutdown(&mut self) {}

    async fn sleep(duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// Runs `file` on `engine`; says what differs.
pub async fn run<E: Engine + Clone>(file: &Path, engine: E, data: &Path) -> Result<(), String> {
    let connect = || async { Ok(Database { engine: engine.clone(), data: data.to_owned() }) };
    let mut runner = Runner::new(connect);
    runner.with_column_validator(strict_column_validator);
    runner.run_file_async(file).await.map_err(|error| error.to_string())
}

/// Writes into `file` what `engine` answers.
pub async fn update<E: Engine + Clone>(file: &Path, engine: E, data: &Path) -> Result<(), String> {
    let connect = || async { Ok(Database { engine: engine.clone(), data: data.to_owned() }) };
    let (validator, normalizer) = (sqllogictest::default_validator, sqllogictest::default_normalizer);
    let updated =
        Runner::new(connect).update_test_file(file, " ", validator, normalizer, strict_column_validator).await;
    updated.map_err(|error| error.to_string())
}
