//! [`WriteNode`]: a write in a logical plan.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::common::{DFSchema, DFSchemaRef, Result, internal_err, plan_err};
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore};

use super::manifest::manifest_schema;
use super::target::WriteTarget;

/// Writes the rows of its input to staged files; gives the manifest of them.
#[derive(Clone, Debug)]
pub struct WriteNode {
    input: LogicalPlan,
    target: Arc<WriteTarget>,
    schema: DFSchemaRef,
}

impl WriteNode {
    /// A plan that writes the rows of `input` to `target`.
    ///
    /// # Errors
    /// When rows are partitioned by a column whose name cannot be that of a directory.
    pub fn plan(input: LogicalPlan, target: WriteTarget) -> Result<LogicalPlan> {
        let is_unreadable = |name: &&String| name.contains(['/', '=']) || name.contains(|c: char| c.is_ascii_control());
        if let Some(name) = target.partition_by.iter().find(is_unreadable) {
            return plan_err!("`{name}` cannot be the name of a directory, so not of a partition: rename the column");
        }
        let schema = Arc::new(DFSchema::try_from(manifest_schema())?);
        let node = Self { input, target: Arc::new(target), schema };
        Ok(LogicalPlan::Extension(Extension { node: Arc::new(node) }))
    }

    /// Where it writes to.
    pub fn target(&self) -> &Arc<WriteTarget> {
        &self.target
    }
}

impl PartialEq for WriteNode {
    fn eq(&self, other: &Self) -> bool {
        self.target == other.target && self.input == other.input
    }
}

impl Eq for WriteNode {}

impl Hash for WriteNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.target.url.hash(state);
        self.target.file_prefix.hash(state);
        self.input.hash(state);
    }
}

impl PartialOrd for WriteNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self == other).then_some(Ordering::Equal)
    }
}

impl UserDefinedLogicalNodeCore for WriteNode {
    fn name(&self) -> &str {
        "Write"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        vec![]
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Write: {} as {}", self.target.display(), self.target.format)
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        let Ok([input]) = <[LogicalPlan; 1]>::try_from(inputs) else {
            return internal_err!("a write has one input");
        };
        Ok(Self { input, target: self.target.clone(), schema: self.schema.clone() })
    }
}
