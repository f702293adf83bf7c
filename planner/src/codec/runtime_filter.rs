//! Runtime filters on the wire: the operator, and the expression, which functions decode as a dynamic filter.

use std::sync::Arc;

use datafusion::common::{Result, internal_err};
use datafusion::physical_expr::expressions::{DynamicFilterPhysicalExpr, lit};
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};
use datafusion_proto::physical_plan::{PhysicalPlanDecodeContext, PhysicalProtoConverterExtension};
use datafusion_proto::protobuf;
use prost::Message;

use super::OnwardCodec;
use crate::runtime_filter::{Place, RuntimeFilterExec, RuntimeFilterExpr};

/// A [`RuntimeFilterExec`] on the wire; its input is an input of the node.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RuntimeFilterNode {
    #[prost(message, optional, tag = "1")]
    filter: Option<protobuf::PhysicalExprNode>,
}

impl RuntimeFilterNode {
    pub(super) fn new(
        exec: &RuntimeFilterExec,
        codec: &OnwardCodec,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Self> {
        Ok(Self { filter: Some(converter.physical_expr_to_proto(exec.filter(), codec)?) })
    }

    pub(super) fn into_exec(
        self,
        inputs: &[Arc<dyn ExecutionPlan>],
        ctx: &PhysicalPlanDecodeContext<'_>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let ([input], Some(filter)) = (inputs, &self.filter) else {
            return internal_err!("a runtime filter without its filter or its input");
        };
        let filter = converter.proto_to_physical_expr(filter, &input.schema(), ctx)?;
        Ok(Arc::new(RuntimeFilterExec::new(Arc::clone(input), filter)))
    }
}

/// A [`RuntimeFilterExpr`] on the wire; its keys are inputs of the node.
#[derive(Clone, PartialEq, prost::Message)]
struct RuntimeFilterExprNode {
    #[prost(uint32, tag = "1")]
    filter: u32,
}

pub(super) fn encode_expr(expr: &RuntimeFilterExpr, buf: &mut Vec<u8>) -> Result<()> {
    buf.extend(RuntimeFilterExprNode { filter: expr.filter() }.encode_to_vec());
    Ok(())
}

/// A dynamic filter in the place of the expression.
pub(super) fn decode_expr(
    bytes: &[u8],
    keys: &[Arc<dyn PhysicalExpr>],
    schema: &datafusion::arrow::datatypes::Schema,
) -> Result<Place> {
    let Ok(RuntimeFilterExprNode { filter }) = RuntimeFilterExprNode::decode(bytes) else {
        return internal_err!("a runtime filter that cannot be read");
    };
    let types = keys.iter().map(|key| key.data_type(schema)).collect::<Result<_>>()?;
    let expr = Arc::new(DynamicFilterPhysicalExpr::new(keys.to_vec(), lit(true)));
    Ok(Place { filter, types, expr })
}
