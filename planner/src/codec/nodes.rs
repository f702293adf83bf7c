//! Our nodes on the wire.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, internal_err, not_impl_err};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::physical_plan::{CsvSource, FileScanConfig};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::equivalence::EquivalenceClass;
use datafusion::physical_expr::{AcrossPartitions, ConstExpr, EquivalenceProperties, LexOrdering, PhysicalExpr};
use datafusion::physical_plan::limit::GlobalLimitExec;
use datafusion::physical_plan::memory::LazyMemoryExec;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
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

fn encode_orderings(
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

fn decode_orderings(
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

/// Marks a generated series whose order datafusion-proto would drop. It exists in encoded plans only: decoding gives the
/// series back, with its order.
#[derive(Debug)]
pub(super) struct OrderedSource(Arc<dyn ExecutionPlan>);

impl OrderedSource {
    /// `plan` with every source marked that needs it.
    pub(super) fn mark(plan: &Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let marked = Arc::clone(plan).transform_up(|node| {
            if let Some(scan) = node.downcast_ref::<DataSourceExec>()
                && let Some(memory) = scan.data_source().downcast_ref::<MemorySourceConfig>()
                && memory.projection().is_some()
                && !memory.sort_information().is_empty()
            {
                // Its order would be decoded against the columns before the projection.
                return not_impl_err!("a sorted table in memory of which some columns are read");
            }
            refuse_what_would_not_decode(&node)?;
            let is_ordered = node.properties().equivalence_properties().output_ordering().is_some();
            if node.is::<LazyMemoryExec>() && is_ordered {
                return Ok(Transformed::yes(Arc::new(Self(node)) as _));
            }
            Ok(Transformed::no(node))
        })?;
        Ok(marked.data)
    }
}

/// Plans that datafusion-proto 55.2 encodes without an error and decodes as something else.
fn refuse_what_would_not_decode(node: &Arc<dyn ExecutionPlan>) -> Result<()> {
    let bounded = node.downcast_ref::<BoundedWindowAggExec>().map(BoundedWindowAggExec::window_expr);
    let windows = bounded.or_else(|| node.downcast_ref::<WindowAggExec>().map(WindowAggExec::window_expr));
    // The flag is in no accessor, only in the name; a column of that name is refused for nothing, which harms nobody.
    let lost = ["IGNORE NULLS", "FILTER (WHERE"];
    if windows.is_some_and(|exprs| exprs.iter().any(|expr| lost.iter().any(|clause| expr.name().contains(clause)))) {
        return not_impl_err!("a window function with IGNORE NULLS or FILTER");
    }
    if let Some(scan) = node.downcast_ref::<DataSourceExec>()
        && let Some(files) = scan.data_source().downcast_ref::<FileScanConfig>()
    {
        refuse_files(files)?;
    }
    // Numbers of rows are 32 bits wide on the wire.
    let skip = node.downcast_ref::<GlobalLimitExec>().map_or(0, GlobalLimitExec::skip);
    if skip.max(node.fetch().unwrap_or(0)) > u32::MAX as usize {
        return not_impl_err!("a LIMIT or OFFSET of more than {} rows", u32::MAX);
    }
    if node.is::<LazyMemoryExec>() && node.schema().fields().is_empty() {
        return not_impl_err!("a generated series of which no column is read");
    }
    Ok(())
}

/// Scans whose decoded source would read the bytes as something else: of files, only the schema, the names and some
/// options of CSV travel.
fn refuse_files(files: &FileScanConfig) -> Result<()> {
    let source = files.file_source();
    if files.file_compression_type.is_compressed() {
        return not_impl_err!("a scan of compressed {} files", source.file_type());
    }
    if source.file_type() == "arrow_stream" {
        return not_impl_err!("a scan of Arrow IPC streams");
    }
    if source.downcast_ref::<CsvSource>().is_some_and(|csv| csv.terminator().is_some()) {
        return not_impl_err!("a scan of CSV with a line terminator of its own");
    }
    Ok(())
}

impl DisplayAs for OrderedSource {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("OrderedSource")
    }
}

impl ExecutionPlan for OrderedSource {
    fn name(&self) -> &str {
        "OrderedSource"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.0.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.0]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        internal_err!("a marked source exists in encoded plans only")
    }
}

/// An [`OrderedSource`] on the wire; the source itself is its input.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct OrderedSourceNode {
    #[prost(message, repeated, tag = "1")]
    orderings: Vec<Ordering>,
}

impl OrderedSourceNode {
    pub(super) fn new(
        source: &OrderedSource,
        codec: &OnwardCodec,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Self> {
        let orderings = encode_orderings(source.properties().equivalence_properties(), codec, converter)?;
        Ok(Self { orderings })
    }

    pub(super) fn into_exec(
        self,
        inputs: &[Arc<dyn ExecutionPlan>],
        ctx: &PhysicalPlanDecodeContext<'_>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(series) = inputs.first().and_then(|input| input.downcast_ref::<LazyMemoryExec>()) else {
            return internal_err!("a marked source without its source");
        };
        let mut ordered = LazyMemoryExec::try_new(series.schema(), series.generators().clone())?;
        for ordering in decode_orderings(&self.orderings, &series.schema(), ctx, converter)? {
            ordered.add_ordering(ordering);
        }
        Ok(Arc::new(ordered))
    }
}
