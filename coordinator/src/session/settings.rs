//! SET and RESET.

use datafusion::common::Result;
use datafusion::logical_expr::Statement as PlanStatement;

use super::error::SessionError;

/// Settings that every plan relies on, and why they cannot be changed.
const FIXED: [(&str, &str); 5] = [
    ("datafusion.runtime.", "see `onward serve --help` and the configuration file for memory and disk limits"),
    ("datafusion.catalog.create_default_catalog_and_schema", "the catalog lives in the data directory"),
    ("datafusion.catalog.information_schema", "the information schema is always there"),
    (
        "datafusion.catalog.default_catalog",
        "tables live in the catalog `onward`; use datafusion.catalog.default_schema",
    ),
    ("datafusion.optimizer.enable_physical_uncorrelated_scalar_subquery", "such plans cannot be sent to functions"),
];

/// Errors for a SET or RESET that a session must not do.
pub fn check(statement: &PlanStatement) -> Result<()> {
    let variable = match statement {
        PlanStatement::SetVariable(set) => &set.variable,
        PlanStatement::ResetVariable(reset) => &reset.variable,
        _ => return Ok(()),
    };
    match FIXED.iter().find(|(fixed, _)| variable.to_lowercase().starts_with(fixed)) {
        Some((_, advice)) => Err(SessionError::ProcessSetting { setting: variable.clone(), advice }.into()),
        None => Ok(()),
    }
}
