//! A [`StageInputExec`] on the wire.

use std::sync::Arc;

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::{Result, internal_err};
use datafusion::physical_expr::equivalence::EquivalenceClass;
use datafusion::physical_expr::{AcrossPartitions, ConstExpr, EquivalenceProperties, LexOrdering, PhysicalExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::from_proto::{parse_physical_sort_exprs, parse_protobuf_partitioning};
use datafusion_proto::physical_plan::to_proto::{
    serialize_partitioning, serialize_physical_exprs, serialize_physical_sort_exprs,
};
use datafusion_proto::physical_plan::{PhysicalPlanDecodeContext, PhysicalProtoConverterExtension};
use datafusion_proto::protobuf;

use super::OnwardCodec;
use crate::stage_input::StageInputExec;

/// A [`StageInputExec`] on the wire, with all that operators above rely on: order, constants, equal columns, partitioning.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StageInputNode {
    #[prost(uint32, tag = "1")]
    stage: u32,
    #[prost(uint32, repeated, tag = "2")]
    partitions: Vec<u32>,
    #[prost(message, optional, tag = "3")]
    schema: Option<protobuf::Schema>,
    #[prost(message, optional, tag = "4")]
    partitioning: Option<protobuf::Partitioning>,
    #[prost(message, repeated, tag = "5")]
    orderings: Vec<Ordering>,
    #[prost(message, repeated, tag = "6")]
    classes: Vec<EqualExprs>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Ordering {
    #[prost(message, repeated, tag = "1")]
    exprs: Vec<protobuf::PhysicalSortExprNode>,
}

/// Expressions with equal values in every row.
#[derive(Clone, PartialEq, prost::Message)]
struct EqualExprs {
    #[prost(message, repeated, tag = "1")]
    exprs: Vec<protobuf::PhysicalExprNode>,
    #[prost(enumeration = "Constancy", tag = "2")]
    constancy: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
enum Constancy {
    Varies = 0,
    PerPartition = 1,
    Everywhere = 2,
}

impl StageInputNode {
    pub(super) fn new(
        input: &StageInputExec,
        codec: &OnwardCodec,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Self> {
        let equivalences = input.properties().equivalence_properties();
        let orderings = encode_orderings(equivalences, codec, converter)?;
        let constants = equivalences.constants();
        let classes = equivalences
            .eq_group()
            .iter()
            .map(|class: &EquivalenceClass| {
                let constant = constants.iter().find(|constant| class.iter().any(|expr| expr.eq(&constant.expr)));
                let constancy = match constant.map(|constant| &constant.across_partitions) {
                    None => Constancy::Varies,
                    Some(AcrossPartitions::Heterogeneous) => Constancy::PerPartition,
                    Some(AcrossPartitions::Uniform(_)) => Constancy::Everywhere,
                };
                let exprs = serialize_physical_exprs(class.iter(), codec, converter)?;
                Ok(EqualExprs { exprs, constancy: constancy as i32 })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            stage: input.stage(),
            partitions: input.partitions().to_vec(),
            schema: Some(input.input_schema().as_ref().try_into()?),
            partitioning: Some(serialize_partitioning(input.properties().output_partitioning(), codec, converter)?),
            orderings,
            classes,
        })
    }

    pub(super) fn into_exec(
        self,
        ctx: &PhysicalPlanDecodeContext<'_>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<StageInputExec> {
        let Some(schema) = &self.schema else {
            return internal_err!("a stage input without a schema");
        };
        let schema: SchemaRef = Arc::new(Schema::try_from(schema)?);
        let orderings = decode_orderings(&self.orderings, &schema, ctx, converter)?;
        let mut equivalences = EquivalenceProperties::new_with_orderings(Arc::clone(&schema), orderings);
        for class in &self.classes {
            let exprs = class
                .exprs
                .iter()
                .map(|expr| converter.proto_to_physical_expr(expr, &schema, ctx))
                .collect::<Result<Vec<Arc<dyn PhysicalExpr>>>>()?;
            for pair in exprs.windows(2) {
                equivalences.add_equal_conditions(Arc::clone(&pair[0]), Arc::clone(&pair[1]))?;
            }
            let across = match class.constancy() {
                Constancy::Varies => continue,
                Constancy::PerPartition => AcrossPartitions::Heterogeneous,
                Constancy::Everywhere => AcrossPartitions::Uniform(None),
            };
            equivalences.add_constants(exprs.first().map(|expr| ConstExpr::new(Arc::clone(expr), across)))?;
        }
        match parse_protobuf_partitioning(self.partitioning.as_ref(), ctx, &schema, converter)? {
            Some(partitioning) => Ok(StageInputExec::new(self.stage, self.partitions, equivalences, partitioning)),
            None => internal_err!("a stage input without a partitioning"),
        }
    }
}

pub(super) fn encode_orderings(
    equivalences: &EquivalenceProperties,
    codec: &OnwardCodec,
    converter: &dyn PhysicalProtoConverterExtension,
) -> Result<Vec<Ordering>> {
    let encode = |ordering: &LexOrdering| {
        let exprs = serialize_physical_sort_exprs(ordering.iter().cloned(), codec, converter)?;
        Ok(Ordering { exprs })
    };
    equivalences.oeq_class().iter().map(encode).collect()
}

pub(super) fn decode_orderings(
    orderings: &[Ordering],
    schema: &Schema,
    ctx: &PhysicalPlanDecodeContext<'_>,
    converter: &dyn PhysicalProtoConverterExtension,
) -> Result<Vec<LexOrdering>> {
    let mut decoded = Vec::with_capacity(orderings.len());
    for ordering in orderings {
        decoded.extend(LexOrdering::new(parse_physical_sort_exprs(&ordering.exprs, ctx, schema, converter)?));
    }
    Ok(decoded)
}
