//! Plans as bytes: datafusion-proto with our placeholder nodes, and with expressions that are shared in the plan shared
//! again after decoding (dynamic filters hang on that).

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::{DataFusionError, Result, internal_err, not_impl_err};
use datafusion::execution::TaskContext;
use datafusion::functions_aggregate::all_default_aggregate_functions;
use datafusion::functions_window::all_default_window_functions;
use datafusion::logical_expr::{AggregateUDF, HigherOrderUDF, ScalarUDF, WindowUDF};
use datafusion::physical_expr::equivalence::EquivalenceClass;
use datafusion::physical_expr::{AcrossPartitions, ConstExpr, EquivalenceProperties, LexOrdering, PhysicalExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::bytes::{
    physical_plan_from_bytes_with_proto_converter, physical_plan_to_bytes_with_proto_converter,
};
use datafusion_proto::physical_plan::from_proto::{parse_physical_sort_exprs, parse_protobuf_partitioning};
use datafusion_proto::physical_plan::to_proto::{
    serialize_partitioning, serialize_physical_exprs, serialize_physical_sort_exprs,
};
use datafusion_proto::physical_plan::{
    DeduplicatingProtoConverter, PhysicalExtensionCodec, PhysicalPlanDecodeContext, PhysicalProtoConverterExtension,
};
use datafusion_proto::protobuf;
use prost::Message;
use prost::bytes::Bytes;

use crate::stage_input::StageInputExec;

/// Encodes a stage's plan. `extensions` encode the nodes and functions of other crates; the decoder needs the same list.
///
/// # Errors
/// When a node, expression or function has no encoding. Such plans run in the coordinator.
pub fn encode(plan: &Arc<dyn ExecutionPlan>, extensions: &[Arc<dyn PhysicalExtensionCodec>]) -> Result<Bytes> {
    let codec = OnwardCodec { extensions: extensions.to_vec() };
    physical_plan_to_bytes_with_proto_converter(Arc::clone(plan), &codec, &DeduplicatingProtoConverter {})
}

/// Decodes what [`encode`] made. `ctx` has the function registry and the session's settings.
///
/// # Errors
/// When the bytes are not a plan of this engine version, or name a function that `ctx` does not have.
pub fn decode(
    bytes: &[u8],
    ctx: &TaskContext,
    extensions: &[Arc<dyn PhysicalExtensionCodec>],
) -> Result<Arc<dyn ExecutionPlan>> {
    let codec = OnwardCodec { extensions: extensions.to_vec() };
    physical_plan_from_bytes_with_proto_converter(bytes, ctx, &codec, &DeduplicatingProtoConverter {})
}

/// First byte of an extension node: one of ours, or the position in `extensions` plus one.
const STAGE_INPUT: u8 = 0;

#[derive(Debug)]
struct OnwardCodec {
    extensions: Vec<Arc<dyn PhysicalExtensionCodec>>,
}

impl OnwardCodec {
    /// The first extension that encodes it, marked with its position.
    fn encode_by_extension(
        &self,
        buf: &mut Vec<u8>,
        what: &dyn std::fmt::Display,
        encode: impl Fn(&dyn PhysicalExtensionCodec, &mut Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        for (position, extension) in self.extensions.iter().enumerate() {
            let mut bytes = vec![position as u8 + 1];
            if encode(extension.as_ref(), &mut bytes).is_ok() {
                buf.extend(bytes);
                return Ok(());
            }
        }
        not_impl_err!("{what} cannot be sent to a function")
    }

    fn extension<'a>(&self, buf: &'a [u8], what: &str) -> Result<(&dyn PhysicalExtensionCodec, &'a [u8])> {
        match buf.split_first() {
            Some((position, rest)) if (1..=self.extensions.len()).contains(&(*position as usize)) => {
                Ok((self.extensions[*position as usize - 1].as_ref(), rest))
            }
            _ => internal_err!("{what} is not known to this function"),
        }
    }
}

impl PhysicalExtensionCodec for OnwardCodec {
    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        buf: &mut Vec<u8>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        if let Some(input) = node.downcast_ref::<StageInputExec>() {
            buf.push(STAGE_INPUT);
            buf.extend(StageInputNode::new(input, self, converter)?.encode_to_vec());
            return Ok(());
        }
        self.encode_by_extension(buf, &node.name(), |extension, bytes| {
            extension.try_encode(Arc::clone(&node), bytes, converter)
        })
    }

    fn try_decode(
        &self,
        buf: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        ctx: &TaskContext,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if let Some((&STAGE_INPUT, rest)) = buf.split_first() {
            let node = StageInputNode::decode(rest).map_err(|error| DataFusionError::External(Box::new(error)))?;
            return Ok(Arc::new(node.into_exec(&PhysicalPlanDecodeContext::new(ctx, self), converter)?));
        }
        let (extension, rest) = self.extension(buf, "a plan node")?;
        extension.try_decode(rest, inputs, ctx, converter)
    }

    // Functions of DataFusion travel by name. Others would only fail in the function, so they are refused here unless an
    // extension knows them.
    fn try_encode_udf(&self, udf: &ScalarUDF, buf: &mut Vec<u8>) -> Result<()> {
        if BUILT_IN.scalar.contains(udf.name()) {
            return Ok(());
        }
        self.encode_by_extension(buf, &udf.name(), |extension, bytes| extension.try_encode_udf(udf, bytes))
    }

    fn try_decode_udf(&self, name: &str, buf: &[u8]) -> Result<Arc<ScalarUDF>> {
        let (extension, rest) = self.extension(buf, name)?;
        extension.try_decode_udf(name, rest)
    }

    fn try_encode_udaf(&self, udaf: &AggregateUDF, buf: &mut Vec<u8>) -> Result<()> {
        if BUILT_IN.aggregate.contains(udaf.name()) {
            return Ok(());
        }
        self.encode_by_extension(buf, &udaf.name(), |extension, bytes| extension.try_encode_udaf(udaf, bytes))
    }

    fn try_decode_udaf(&self, name: &str, buf: &[u8]) -> Result<Arc<AggregateUDF>> {
        let (extension, rest) = self.extension(buf, name)?;
        extension.try_decode_udaf(name, rest)
    }

    fn try_encode_udwf(&self, udwf: &WindowUDF, buf: &mut Vec<u8>) -> Result<()> {
        if BUILT_IN.window.contains(udwf.name()) {
            return Ok(());
        }
        self.encode_by_extension(buf, &udwf.name(), |extension, bytes| extension.try_encode_udwf(udwf, bytes))
    }

    fn try_decode_udwf(&self, name: &str, buf: &[u8]) -> Result<Arc<WindowUDF>> {
        let (extension, rest) = self.extension(buf, name)?;
        extension.try_decode_udwf(name, rest)
    }

    fn try_encode_higher_order_function(&self, function: &HigherOrderUDF, buf: &mut Vec<u8>) -> Result<()> {
        if BUILT_IN.higher_order.contains(function.name()) {
            return Ok(());
        }
        self.encode_by_extension(buf, &function.name(), |extension, bytes| {
            extension.try_encode_higher_order_function(function, bytes)
        })
    }

    fn try_decode_higher_order_function(&self, name: &str, buf: &[u8]) -> Result<Arc<HigherOrderUDF>> {
        let (extension, rest) = self.extension(buf, name)?;
        extension.try_decode_higher_order_function(name, rest)
    }
}

/// Names of the functions every function process has.
struct BuiltIn {
    scalar: HashSet<String>,
    aggregate: HashSet<String>,
    window: HashSet<String>,
    higher_order: HashSet<String>,
}

static BUILT_IN: LazyLock<BuiltIn> = LazyLock::new(|| {
    let state = datafusion::execution::SessionStateBuilder::new().with_default_features().build();
    let mut built_in = BuiltIn {
        scalar: state.scalar_functions().values().map(|udf| udf.name().to_owned()).collect(),
        aggregate: state.aggregate_functions().values().map(|udf| udf.name().to_owned()).collect(),
        window: state.window_functions().values().map(|udf| udf.name().to_owned()).collect(),
        higher_order: state.higher_order_functions().values().map(|udf| udf.name().to_owned()).collect(),
    };
    built_in.aggregate.extend(all_default_aggregate_functions().iter().map(|udf| udf.name().to_owned()));
    built_in.window.extend(all_default_window_functions().iter().map(|udf| udf.name().to_owned()));
    built_in
});

/// A [`StageInputExec`] on the wire, with all that operators above rely on: order, constants, equal columns, partitioning.
#[derive(Clone, PartialEq, prost::Message)]
struct StageInputNode {
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
struct Ordering {
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
    fn new(
        input: &StageInputExec,
        codec: &OnwardCodec,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Self> {
        let equivalences = input.properties().equivalence_properties();
        let orderings = equivalences
            .oeq_class()
            .iter()
            .map(|ordering| {
                let exprs = serialize_physical_sort_exprs(ordering.iter().cloned(), codec, converter)?;
                Ok(Ordering { exprs })
            })
            .collect::<Result<_>>()?;
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

    fn into_exec(
        self,
        ctx: &PhysicalPlanDecodeContext<'_>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<StageInputExec> {
        let Some(schema) = &self.schema else {
            return internal_err!("a stage input without a schema");
        };
        let schema: SchemaRef = Arc::new(Schema::try_from(schema)?);
        let mut orderings = Vec::with_capacity(self.orderings.len());
        for ordering in &self.orderings {
            orderings.extend(LexOrdering::new(parse_physical_sort_exprs(&ordering.exprs, ctx, &schema, converter)?));
        }
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
