//! Physical planning of writes, and the stores a plan needs.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::Result;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::DataFusionError;
use datafusion::execution::context::QueryPlanner;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, PhysicalPlanner};
use onward_executor::write::{WriteExec, WritePlanner};
use url::{Position, Url};

/// DataFusion's physical planner with our writes.
pub fn query_planner() -> Arc<dyn QueryPlanner + Send + Sync> {
    Arc::new(OnwardQueryPlanner)
}

#[derive(Debug)]
struct OnwardQueryPlanner;

#[async_trait]
impl QueryPlanner for OnwardQueryPlanner {
    async fn create_physical_plan(
        &self,
        logical: &LogicalPlan,
        session: &dyn Session,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let planner = DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(WritePlanner)]);
        planner.create_physical_plan(logical, session).await
    }
}

/// Base URLs of the stores that the scans and writes of `plan` use.
pub fn store_urls(plan: &Arc<dyn ExecutionPlan>) -> Result<Vec<Url>> {
    let mut urls: Vec<Url> = Vec::new();
    plan.apply(|node| {
        let scan = node.downcast_ref::<DataSourceExec>().map(DataSourceExec::data_source);
        let url = if let Some(config) = scan.and_then(|source| source.downcast_ref::<FileScanConfig>()) {
            let url: &Url = config.object_store_url.as_ref();
            Some(url.clone())
        } else if let Some(write) = node.downcast_ref::<WriteExec>() {
            let url = Url::parse(&write.target().url).and_then(|url| Url::parse(&url[..Position::BeforePath]));
            Some(url.map_err(|error| DataFusionError::External(Box::new(error)))?)
        } else {
            None
        };
        if let Some(url) = url
            && !urls.contains(&url)
        {
            urls.push(url);
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(urls)
}

/// URL of what the attempts of `plan` write: the directory for staged files, or the object or prefix of their uploads. Empty
/// where they write nothing.
pub fn written_url(plan: &Arc<dyn ExecutionPlan>) -> String {
    let mut url = String::new();
    // It cannot fail: the closure does not.
    let _ = plan.apply(|node| {
        let Some(write) = node.downcast_ref::<WriteExec>() else { return Ok(TreeNodeRecursion::Continue) };
        let target = write.target();
        url.clone_from(if target.staging.is_empty() { &target.url } else { &target.staging });
        Ok(TreeNodeRecursion::Stop)
    });
    url
}
