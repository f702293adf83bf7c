//! Versions of a statement's remote files, asked for all at once.

use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::common::Result;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::source_as_provider;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};

use crate::catalog::FileTable;

/// Tables that are looked at at once.
const MOST_AT_ONCE: usize = 32;

/// Asks for the versions of the files of all remote tables in `plan`, so that planning, which looks at one table after the
/// other, waits for one round trip.
///
/// # Errors
/// When a store does not answer.
pub(crate) async fn check_versions(state: &SessionState, plan: &LogicalPlan) -> Result<()> {
    let mut providers = Vec::new();
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Ok(provider) = source_as_provider(&scan.source)
            && provider.downcast_ref::<FileTable>().is_some_and(FileTable::is_remote)
        {
            providers.push(provider);
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    // A single one is planning's to look at.
    if providers.len() < 2 {
        return Ok(());
    }
    let checks: Vec<_> = providers.into_iter().map(|provider| check(state.clone(), provider)).collect();
    stream::iter(checks).buffer_unordered(MOST_AT_ONCE).try_collect().await
}

fn check(state: SessionState, provider: Arc<dyn TableProvider>) -> BoxFuture<'static, Result<()>> {
    async move {
        match provider.downcast_ref::<FileTable>() {
            Some(table) => table.check_versions(&state).await,
            None => Ok(()),
        }
    }
    .boxed()
}
