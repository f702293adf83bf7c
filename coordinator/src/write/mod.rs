//! Writes: COPY TO, CREATE TABLE, INSERT INTO.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::context::QueryPlanner;
use datafusion::logical_expr::dml::CopyTo;
use datafusion::logical_expr::{CreateMemoryTable, DmlStatement, LogicalPlan};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::sql::parser::Statement as Ast;
use url::Url;

use crate::session::SqlSession;

/// A write that has not begun.
#[derive(Debug)]
pub struct Write {
    plan: LogicalPlan,
}

impl Write {
    /// What functions run.
    pub fn plan(&self) -> &LogicalPlan {
        &self.plan
    }
}

/// Plans writes.
pub fn query_planner() -> Arc<dyn QueryPlanner + Send + Sync> {
    #[derive(Debug)]
    struct Planner;
    #[async_trait::async_trait]
    impl QueryPlanner for Planner {
        async fn create_physical_plan(
            &self,
            logical: &LogicalPlan,
            session: &dyn datafusion::catalog::Session,
        ) -> Result<Arc<dyn ExecutionPlan>> {
            use datafusion::physical_planner::{DefaultPhysicalPlanner, PhysicalPlanner};
            DefaultPhysicalPlanner::default().create_physical_plan(logical, session).await
        }
    }
    Arc::new(Planner)
}

/// URLs of the stores that the scans and writes of `plan` use.
pub fn targets_of(plan: &Arc<dyn ExecutionPlan>) -> Result<Vec<Url>> {
    let mut urls: Vec<Url> = Vec::new();
    plan.apply(|node| {
        let scan = node.downcast_ref::<DataSourceExec>().map(DataSourceExec::data_source);
        if let Some(config) = scan.and_then(|source| source.downcast_ref::<FileScanConfig>()) {
            let url: &Url = config.object_store_url.as_ref();
            if !urls.contains(url) {
                urls.push(url.clone());
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(urls)
}

/// COPY.
pub fn adapt_copy(_: &mut Ast) -> Result<()> {
    Ok(())
}

impl SqlSession {
    pub(crate) async fn copy(&self, _: CopyTo) -> Result<Write> {
        datafusion::common::not_impl_err!("COPY is being written")
    }

    pub(crate) async fn insert(&self, _: DmlStatement) -> Result<Write> {
        datafusion::common::not_impl_err!("INSERT is being written")
    }

    pub(crate) async fn create_table(&self, _: CreateMemoryTable) -> Result<Option<Write>> {
        datafusion::common::not_impl_err!("CREATE TABLE is being written")
    }
}
