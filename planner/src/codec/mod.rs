//! Plans as bytes: datafusion-proto with our placeholder nodes, and with expressions that are shared in the plan shared
//! again after decoding (dynamic filters hang on that).

mod file_scan;
mod marked;
mod runtime_filter;
mod stage_input;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock};

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DataFusionError, Result, internal_err, not_impl_err};
use datafusion::execution::TaskContext;
use datafusion::functions_aggregate::all_default_aggregate_functions;
use datafusion::functions_window::all_default_window_functions;
use datafusion::logical_expr::{AggregateUDF, HigherOrderUDF, ScalarUDF, WindowUDF};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr_common::physical_expr::proto_decode::PhysicalExprDecodeCtx;
use datafusion::physical_expr_common::physical_expr::proto_encode::PhysicalExprEncodeCtx;
use datafusion::physical_plan::execution_plan::replace_children_if_necessary;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{ExecutionPlan, SortOrderPushdownResult};
use datafusion_proto::bytes::{
    physical_plan_from_bytes_with_proto_converter, physical_plan_to_bytes_with_proto_converter,
};
use datafusion_proto::physical_plan::{
    DeduplicatingProtoConverter, PhysicalExtensionCodec, PhysicalPlanDecodeContext, PhysicalProtoConverterExtension,
};
use parking_lot::Mutex;
use prost::Message;
use prost::bytes::Bytes;

use crate::runtime_filter::{Place, RuntimeFilterExec, RuntimeFilterExpr, RuntimeFilterPlaces};
use crate::scalar_subquery::single_value;
use crate::stage_input::StageInputExec;
use marked::{MarkedSource, MarkedSourceNode};
use runtime_filter::RuntimeFilterNode;
use stage_input::StageInputNode;

/// Encodes a stage's plan. `extensions` encode the nodes and functions of other crates, in one byte or more; the decoder
/// needs the same list.
///
/// # Errors
/// When a node, expression or function has no encoding. Such plans run in the coordinator.
pub fn encode(plan: &Arc<dyn ExecutionPlan>, extensions: &[Arc<dyn PhysicalExtensionCodec>]) -> Result<Bytes> {
    let codec = OnwardCodec::new(extensions);
    let plan = MarkedSource::mark(plan)?;
    physical_plan_to_bytes_with_proto_converter(plan, &codec, &DeduplicatingProtoConverter {})
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
    decode_with_filters(bytes, ctx, extensions, &Arc::default()).map(|(plan, _)| plan)
}

/// Functions of SQL by name, for contexts that have none of their own: a context owns its tables, these are shared.
#[derive(Debug, Default)]
pub struct Functions {
    /// Of values.
    pub scalar: HashMap<String, Arc<ScalarUDF>>,
    /// Of functions.
    pub higher_order: HashMap<String, Arc<HigherOrderUDF>>,
    /// Of groups.
    pub aggregate: HashMap<String, Arc<AggregateUDF>>,
    /// Of windows.
    pub window: HashMap<String, Arc<WindowUDF>>,
}

/// [`decode`], and where the plan's runtime filters go. What `ctx` does not have is taken from `functions`.
///
/// # Errors
/// As [`decode`].
pub fn decode_with_filters(
    bytes: &[u8],
    ctx: &TaskContext,
    extensions: &[Arc<dyn PhysicalExtensionCodec>],
    functions: &Arc<Functions>,
) -> Result<(Arc<dyn ExecutionPlan>, RuntimeFilterPlaces)> {
    let codec = OnwardCodec { functions: Arc::clone(functions), ..OnwardCodec::new(extensions) };
    let mut plan = physical_plan_from_bytes_with_proto_converter(bytes, ctx, &codec, &DeduplicatingProtoConverter {})?;
    if ctx.session_config().options().optimizer.enable_sort_pushdown {
        plan = with_scan_hints(plan)?;
    }
    Ok((plan, RuntimeFilterPlaces::new(codec.places.into_inner())))
}

/// Tells the scans under a TopK again in which order to read their row groups: datafusion-proto drops those hints.
fn with_scan_hints(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let hinted = plan.transform_up(|node| {
        if let Some(sort) = node.downcast_ref::<SortExec>()
            && let SortOrderPushdownResult::Inexact { inner } = sort.input().try_pushdown_sort(sort.expr())?
        {
            return Ok(Transformed::yes(replace_children_if_necessary(node, vec![inner])?));
        }
        Ok(Transformed::no(node))
    })?;
    Ok(hinted.data)
}

/// First byte of an extension node: one of these, or the position in `extensions` plus one.
const STAGE_INPUT: u8 = 0;
const MARKED_SOURCE: u8 = u8::MAX;
const RUNTIME_FILTER: u8 = u8::MAX - 1;

#[derive(Debug)]
struct OnwardCodec {
    extensions: Vec<Arc<dyn PhysicalExtensionCodec>>,
    functions: Arc<Functions>,
    /// Runtime filters that were decoded.
    places: Mutex<Vec<Place>>,
}

impl OnwardCodec {
    fn new(extensions: &[Arc<dyn PhysicalExtensionCodec>]) -> Self {
        Self { extensions: extensions.to_vec(), functions: Arc::default(), places: Mutex::default() }
    }

    /// The first extension that encodes it, marked with its position.
    fn encode_by_extension(
        &self,
        buf: &mut Vec<u8>,
        what: &dyn std::fmt::Display,
        encode: impl Fn(&dyn PhysicalExtensionCodec, &mut Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        for (position, extension) in self.extensions.iter().enumerate() {
            let mut bytes = vec![position as u8 + 1];
            // Those that know nothing of functions write nothing.
            if encode(extension.as_ref(), &mut bytes).is_ok() && bytes.len() > 1 {
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
        if let Some(source) = node.downcast_ref::<MarkedSource>() {
            buf.push(MARKED_SOURCE);
            buf.extend(MarkedSourceNode::new(source, self, converter)?.encode_to_vec());
            return Ok(());
        }
        if let Some(filter) = node.downcast_ref::<RuntimeFilterExec>() {
            buf.push(RUNTIME_FILTER);
            buf.extend(RuntimeFilterNode::new(filter, self, converter)?.encode_to_vec());
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
        let context = PhysicalPlanDecodeContext::new(ctx, self);
        match buf.split_first() {
            Some((&STAGE_INPUT, rest)) => {
                let node = StageInputNode::decode(rest).map_err(|error| DataFusionError::External(Box::new(error)))?;
                return Ok(Arc::new(node.into_exec(&context, converter)?));
            }
            Some((&MARKED_SOURCE, rest)) => {
                let node =
                    MarkedSourceNode::decode(rest).map_err(|error| DataFusionError::External(Box::new(error)))?;
                return node.into_exec(inputs, &context, converter);
            }
            Some((&RUNTIME_FILTER, rest)) => {
                let node =
                    RuntimeFilterNode::decode(rest).map_err(|error| DataFusionError::External(Box::new(error)))?;
                return node.into_exec(inputs, &context, converter);
            }
            _ => {}
        }
        let (extension, rest) = self.extension(buf, "a plan node")?;
        extension.try_decode(rest, inputs, ctx, converter)
    }

    fn try_encode_expr(
        &self,
        expr: &Arc<dyn PhysicalExpr>,
        buf: &mut Vec<u8>,
        _: &PhysicalExprEncodeCtx<'_>,
    ) -> Result<()> {
        match expr.downcast_ref::<RuntimeFilterExpr>() {
            Some(filter) => runtime_filter::encode_expr(filter, buf),
            None => not_impl_err!("{expr} cannot be sent to a function"),
        }
    }

    fn try_decode_expr(
        &self,
        buf: &[u8],
        inputs: &[Arc<dyn PhysicalExpr>],
        ctx: &PhysicalExprDecodeCtx<'_>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        let place = runtime_filter::decode_expr(buf, inputs, ctx.schema())?;
        let expr = Arc::clone(&place.expr) as Arc<dyn PhysicalExpr>;
        self.places.lock().push(place);
        Ok(expr)
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
        if buf.is_empty()
            && let Some(function) = self.functions.scalar.get(name)
        {
            return Ok(Arc::clone(function));
        }
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
        if buf.is_empty()
            && let Some(function) = self.functions.aggregate.get(name)
        {
            return Ok(Arc::clone(function));
        }
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
        if buf.is_empty()
            && let Some(function) = self.functions.window.get(name)
        {
            return Ok(Arc::clone(function));
        }
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
        if buf.is_empty()
            && let Some(function) = self.functions.higher_order.get(name)
        {
            return Ok(Arc::clone(function));
        }
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
    built_in.aggregate.insert(single_value().name().to_owned());
    built_in.window.extend(all_default_window_functions().iter().map(|udf| udf.name().to_owned()));
    built_in
});
