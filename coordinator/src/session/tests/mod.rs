//! Sessions end to end in one process: SQL in, rows out, files on disk. Plans run with DataFusion, as one task.

mod external;
mod files;
mod managed;
mod metadata;
mod names;
mod paths;
mod statements;
mod stores;
mod writes;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::common::{ParamValues, Result};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::collect;
use onward_planner::error::classify;
use onward_planner::session::{OnwardOptions, session_config};
use onward_wire::{ErrorKind, WireError};
use tempfile::TempDir;

use super::{SharedResources, SqlSession, Statement, Work};
use crate::catalog::{Catalog, DataDirectory};

/// A data directory, a working directory, and a session.
pub(super) struct Fixture {
    pub(super) root: TempDir,
    pub(super) session: SqlSession,
}

impl Fixture {
    pub(super) fn new() -> Self {
        Self::below("")
    }

    /// Data and working directory are below `name`.
    pub(super) fn below(name: &str) -> Self {
        let root = tempfile::Builder::new().prefix(name).tempdir().unwrap();
        std::fs::create_dir(root.path().join("work")).unwrap();
        let session = open(root.path(), None);
        Self { root, session }
    }

    /// The same directories in a new "process".
    pub(super) fn restart(self) -> Self {
        let Self { root, session } = self;
        drop(session);
        let session = open(root.path(), None);
        Self { root, session }
    }

    /// Another session of the same coordinator, confined.
    pub(super) fn confined(&self, allowed: &[PathBuf]) -> SqlSession {
        SqlSession::open(self.session.shared().clone(), session_config(2, OnwardOptions::default()), Some(allowed))
            .unwrap()
    }

    /// A path below the working directory.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join("work").join(name)
    }

    pub(super) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub(super) async fn run(&self, sql: &str) -> Result<Vec<RecordBatch>> {
        run(&self.session, sql, None).await
    }

    /// Rows as text: `a|b`, one line each, in order.
    pub(super) async fn rows(&self, sql: &str) -> Vec<String> {
        let batches = self.run(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        lines(&batches)
    }

    pub(super) async fn error(&self, sql: &str) -> WireError {
        match self.run(sql).await {
            Ok(rows) => panic!("{sql} gave {:?}", lines(&rows)),
            Err(error) => classify(&error),
        }
    }

    /// Everything below the working directory, hidden files too.
    pub(super) fn tree(&self) -> Vec<String> {
        tree(&self.path(""))
    }
}

fn open(root: &Path, allowed: Option<&[PathBuf]>) -> SqlSession {
    let catalog = Catalog::open(DataDirectory::open(Some(&root.join("data")), root).unwrap()).unwrap();
    let work = root.join("work");
    let shared = SharedResources::in_directory(catalog, None, &std::env::temp_dir(), None, work).unwrap();
    SqlSession::open(shared, session_config(2, OnwardOptions::default()), allowed).unwrap()
}

pub(super) async fn run(session: &SqlSession, sql: &str, values: Option<ParamValues>) -> Result<Vec<RecordBatch>> {
    run_statement(session, session.plan(sql).await?, values).await
}

pub(super) async fn run_statement(
    session: &SqlSession,
    statement: Statement,
    values: Option<ParamValues>,
) -> Result<Vec<RecordBatch>> {
    match session.work(statement, values).await? {
        Work::Done(rows) => Ok(rows.batches),
        Work::Query(plan) => collect_plan(session, &plan).await,
        Work::Explain { plan, .. } | Work::Cache { plan, .. } => collect_plan(session, &plan).await,
        Work::Write(mut write) | Work::AnalyzeWrite(mut write) => {
            write.begin(onward_wire::QueryId(1))?;
            for batch in collect_plan(session, write.plan()).await? {
                write.add(&batch)?;
            }
            let rows = write.commit().await?;
            Ok(vec![super::statement::count_batch(rows)])
        }
    }
}

async fn collect_plan(session: &SqlSession, plan: &datafusion::logical_expr::LogicalPlan) -> Result<Vec<RecordBatch>> {
    let state = session.context().state();
    let plan = state.create_physical_plan(&state.optimize(plan)?).await?;
    collect(plan, Arc::new(TaskContext::from(&state))).await
}

pub(super) fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let table = pretty_format_batches(batches).unwrap().to_string();
    let cells =
        |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>().join("|");
    table.lines().filter(|line| line.starts_with('|')).skip(1).map(cells).collect()
}

pub(super) fn tree(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path.clone());
            }
            let slash = if path.is_dir() { "/" } else { "" };
            found.push(format!("{}{slash}", path.strip_prefix(root).unwrap().display()));
        }
    }
    found.sort();
    found
}

pub(super) fn kind(error: &WireError) -> ErrorKind {
    error.kind()
}
