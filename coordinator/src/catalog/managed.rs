//! Managed tables: from a definition to a table.

use std::collections::HashMap;

use datafusion::common::Result;
use datafusion::execution::session_state::SessionState;
use std::path::Path;
use std::sync::Arc;

use datafusion::catalog::TableProvider;

use super::definition::Managed;
use super::file_table::FileTableSpec;
use super::formats::{Format, FormatOptions};
use super::json::{read_constraints, read_expr};
use super::location::Location;
use super::table_files::Lease;

/// The table a definition describes: the Parquet files of its parts, which stay while the table is there.
pub fn open_managed(
    state: &SessionState,
    tables: &Path,
    managed: &Managed,
    lease: Lease,
) -> Result<Arc<dyn TableProvider>> {
    let part = |part: &String| Location::directory(&tables.join(&managed.directory).join(part));
    let locations = managed.parts.iter().map(part).collect::<Result<Vec<_>>>()?;
    let mut spec = FileTableSpec::new(locations, Format::Parquet, FormatOptions::default());
    spec.extension = ".parquet".to_owned();
    spec.constraints = read_constraints(&managed.constraints);
    let defaults = managed.defaults.iter().map(|(column, sql)| Ok((column.clone(), read_expr(state, sql)?)));
    spec.defaults = defaults.collect::<Result<HashMap<_, _>>>()?;
    Ok(Arc::new(spec.build(state, managed.columns.0.clone())?.with_lease(lease)))
}
