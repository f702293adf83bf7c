//! CACHE TABLE and UNCACHE TABLE: from the statement to a query that reads the columns.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::TreeNode;
use datafusion::common::{Result, plan_err};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::FilterExec;
use onward_cache::columns::{ColumnInfo, ColumnTier};
use onward_cache::scan::tags_of;
use onward_planner::cache_statement::CacheStatement;
use onward_planner::statement::{Statement as Parsed, parse};

use super::context::SqlSession;
use super::statement::{Statement, describe};

/// What a statement about the cache does once its plan has run, or is known.
#[derive(Clone, Debug)]
pub struct CacheOrder {
    /// As it was named.
    pub table: String,
    /// Columns to keep; `None` = let go of the table.
    pub columns: Option<HashSet<String>>,
}

impl SqlSession {
    /// Plans a query that reads what is to be cached, or all of the table that is to be let go.
    pub(super) async fn plan_cache(&self, statement: CacheStatement) -> Result<Statement> {
        let table = statement.table().to_string();
        let whole = self.plan_text(&format!("SELECT * FROM {table}")).await?;
        let (plan, columns) = match &statement {
            CacheStatement::Uncache { .. } => (whole, None),
            CacheStatement::Cache { columns, .. } => {
                let mut names: Vec<String> = columns.iter().map(|column| self.context().normalized(column)).collect();
                if names.is_empty() {
                    names = whole.schema().fields().iter().map(|field| field.name().clone()).collect();
                }
                let plan = self.plan_text(&statement.reading_query(&names)).await?;
                (plan, Some(names.into_iter().collect()))
            }
        };
        let described = describe(plan, None)?;
        Ok(Statement {
            cache: Some(CacheOrder { table, columns }),
            schema: cache_schema(),
            is_query: true,
            ..described
        })
    }

    async fn plan_text(&self, sql: &str) -> Result<datafusion::logical_expr::LogicalPlan> {
        match parse(sql)?.pop() {
            Some(Parsed::DataFusion(statement)) => self.plan_ast(*statement).await,
            _ => datafusion::common::internal_err!("`{sql}` is no query"),
        }
    }
}

/// A name as the session's parser takes it.
trait Normalized {
    fn normalized(&self, name: &datafusion::sql::sqlparser::ast::Ident) -> String;
}

impl Normalized for datafusion::prelude::SessionContext {
    fn normalized(&self, name: &datafusion::sql::sqlparser::ast::Ident) -> String {
        let folds = self.state_ref().read().config_options().sql_parser.enable_ident_normalization;
        match (name.quote_style, folds) {
            (None, true) => name.value.to_lowercase(),
            _ => name.value.clone(),
        }
    }
}

/// Columns of the one row that a statement about the cache gives.
pub fn cache_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("table", DataType::Utf8, false),
        Field::new("columns", DataType::UInt64, false),
        Field::new("bytes", DataType::UInt64, false),
        Field::new("pinned", DataType::UInt64, false),
    ]))
}

/// Pins what `plans` read, or lets go of all they name. Gives the row that the client sees: columns of row groups that are (were)
/// cached, their bytes, and how many of them are pinned.
///
/// # Errors
/// When there is nothing to cache.
pub fn carry_out(order: &CacheOrder, plans: &[Arc<dyn ExecutionPlan>], tier: &ColumnTier) -> Result<RecordBatch> {
    let mut objects = HashSet::new();
    for plan in plans {
        objects.extend(tags_of(plan)?.into_iter().map(|tag| format!("{}{}", tag.store, tag.path)));
    }
    let is_meant = |info: &ColumnInfo| {
        objects.contains(&info.key.object.url)
            && order.columns.as_ref().is_none_or(|columns| columns.contains(&info.name))
    };
    let meant: Vec<ColumnInfo> = tier.columns().into_iter().filter(is_meant).collect();
    let pinned = match &order.columns {
        Some(columns) => {
            if meant.is_empty() {
                return plan_err!(
                    "nothing of `{}` was cached: only columns of Parquet files are (see SHOW CACHE)",
                    order.table
                );
            }
            tier.set_pinned(true, |key, name| objects.contains(&key.object.url) && columns.contains(name))
        }
        None => {
            tier.remove(|key, _| objects.contains(&key.object.url));
            0
        }
    };
    let bytes = meant.iter().map(|info| info.bytes).sum();
    let number = |number: u64| Arc::new(UInt64Array::from(vec![number])) as ArrayRef;
    let columns = vec![
        Arc::new(StringArray::from(vec![order.table.as_str()])) as ArrayRef,
        number(meant.len() as u64),
        number(bytes),
        number(pinned as u64),
    ];
    Ok(RecordBatch::try_new(cache_schema(), columns)?)
}

/// Refuses a plan that reads rows by more than their partition: columns are cached whole.
///
/// # Errors
/// When a filter is left in it.
pub fn check_whole(order: &CacheOrder, plan: &Arc<dyn ExecutionPlan>) -> Result<()> {
    if order.columns.is_some() && plan.exists(|node| Ok(node.is::<FilterExec>()))? {
        return plan_err!(
            "the WHERE of CACHE TABLE chooses partitions of `{}`: it can name its partition columns only",
            order.table
        );
    }
    Ok(())
}
