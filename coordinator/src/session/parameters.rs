//! Parameters of statements: `$1` (which a `?` is once it was parsed) and `$name`.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{ParamValues, Result, plan_err};
use datafusion::logical_expr::LogicalPlan;

use super::error::SessionError;

/// A client that binds by position has a value for each number up to the highest.
const MAX_PARAMETERS: usize = 65_535;

/// One nullable field per parameter: numbered ones first, in order, then named ones.
pub fn infer(plan: &LogicalPlan) -> Result<SchemaRef> {
    let mut parameters: Vec<(String, DataType)> = plan
        .get_parameter_types()?
        .into_iter()
        .map(|(name, data_type)| (name, data_type.unwrap_or(DataType::Null)))
        .collect();
    let order = |name: &str| (name[1..].parse::<usize>().unwrap_or(usize::MAX), name.to_owned());
    parameters.sort_by_key(|(name, _)| order(name));
    // `$2` without `$1`: clients bind by position.
    let highest = parameters.iter().filter_map(|(name, _)| name[1..].parse::<usize>().ok()).max().unwrap_or(0);
    if highest > MAX_PARAMETERS {
        return plan_err!("`${highest}`: parameters are numbered from $1 to ${MAX_PARAMETERS}");
    }
    let mut fields: Vec<Field> = (1..=highest).map(|n| Field::new(format!("${n}"), DataType::Null, true)).collect();
    for (name, data_type) in parameters {
        let field = Field::new(&name, data_type, true);
        match name[1..].parse::<usize>() {
            Ok(number) if number > 0 => fields[number - 1] = field,
            _ => fields.push(field),
        }
    }
    Ok(Arc::new(Schema::new(fields)))
}

/// The plan with values in place of its parameters.
pub fn bind(plan: LogicalPlan, values: Option<ParamValues>) -> Result<LogicalPlan> {
    match values {
        Some(values) => plan.with_param_values(values),
        None if matches!(plan, LogicalPlan::Statement(_)) => Ok(plan),
        None => {
            let mut names: Vec<_> = plan.get_parameter_names()?.into_iter().collect();
            names.sort();
            if names.is_empty() { Ok(plan) } else { Err(SessionError::MissingValues(names.join(", ")).into()) }
        }
    }
}
