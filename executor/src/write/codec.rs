//! [`WriteCodec`]: writes inside encoded plans.

use std::sync::Arc;

use datafusion::common::{DataFusionError, Result, internal_err};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::LexOrdering;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::from_proto::parse_physical_sort_exprs;
use datafusion_proto::physical_plan::to_proto::serialize_physical_sort_exprs;
use datafusion_proto::physical_plan::{
    PhysicalExtensionCodec, PhysicalPlanDecodeContext, PhysicalProtoConverterExtension,
};
use datafusion_proto::protobuf::PhysicalSortExprNode;
use prost::Message;

use super::exec::WriteExec;
use super::target::WriteTarget;

/// Encodes [`WriteExec`].
#[derive(Debug, Default)]
pub struct WriteCodec;

#[derive(Clone, PartialEq, prost::Message)]
struct WriteProto {
    #[prost(message, required, tag = "1")]
    target: WriteTarget,
    /// Only for plans that are optimized again; a function runs the plan as it is.
    #[prost(message, repeated, tag = "2")]
    ordering: Vec<PhysicalSortExprNode>,
}

impl PhysicalExtensionCodec for WriteCodec {
    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        buf: &mut Vec<u8>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        let Some(write) = node.downcast_ref::<WriteExec>() else {
            return internal_err!("{} is not a write", node.name());
        };
        let ordering = write.ordering().iter().flatten().cloned();
        let ordering = serialize_physical_sort_exprs(ordering, self, converter)?;
        let proto = WriteProto { target: WriteTarget::clone(write.target()), ordering };
        buf.extend(proto.encode_to_vec());
        Ok(())
    }

    fn try_decode(
        &self,
        buf: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        context: &TaskContext,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let [input] = inputs else { return internal_err!("a write has one input") };
        let proto = WriteProto::decode(buf).map_err(|error| DataFusionError::External(Box::new(error)))?;
        let decode = PhysicalPlanDecodeContext::new(context, self);
        let ordering = parse_physical_sort_exprs(&proto.ordering, &decode, &input.schema(), converter)?;
        let write = WriteExec::with_ordering(Arc::clone(input), Arc::new(proto.target), LexOrdering::new(ordering));
        Ok(Arc::new(write))
    }
}
