//! Names of tables, and the one a user may have meant.

use std::fmt;

use datafusion::common::utils::datafusion_strsim::levenshtein;
use datafusion::common::{ResolvedTableReference, Result, TableReference};

use super::error::CatalogError;
use super::provider::CATALOG;

/// A table or view of the catalog: `schema.name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableName {
    /// Schema.
    pub schema: String,
    /// Name in the schema.
    pub table: String,
}

impl TableName {
    /// Table `table` of `schema`.
    pub fn new(schema: impl Into<String>, table: impl Into<String>) -> Self {
        Self { schema: schema.into(), table: table.into() }
    }

    /// The name a statement means in a session with this default schema.
    ///
    /// # Errors
    /// When it names a catalog other than ours, which statements cannot change.
    pub fn resolve(reference: &TableReference, default_catalog: &str, default_schema: &str) -> Result<Self> {
        let ResolvedTableReference { catalog, schema, table } =
            reference.clone().resolve(default_catalog, default_schema);
        if catalog.as_ref() != CATALOG {
            let error = format!("`{catalog}` is not a catalog that can be changed; tables live in `{CATALOG}`");
            return Err(CatalogError::Invalid(error).into());
        }
        Ok(Self::new(schema.as_ref(), table.as_ref()))
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.table)
    }
}

/// `; did you mean ...?` when one of `names` is close to `name`, else nothing.
pub fn did_you_mean<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    let lower = name.to_lowercase();
    let nearest = names
        .into_iter()
        .map(|candidate| (levenshtein(&lower, &candidate.to_lowercase()), candidate))
        .min_by_key(|(distance, _)| *distance);
    match nearest {
        Some((distance, candidate)) if distance <= 1 + name.len() / 4 => format!("; did you mean `{candidate}`?"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_name_is_offered_and_a_far_one_is_not() {
        assert_eq!(did_you_mean("lineitm", ["orders", "lineitem"]), "; did you mean `lineitem`?");
        assert_eq!(did_you_mean("nation", ["orders", "lineitem"]), "");
    }
}
