//! A stage as it was sent, and what every attempt of it makes of it.

use std::sync::Arc;

use datafusion::common::{Result, internal_err};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::{ExecutionPlan, Partitioning};
use datafusion_proto::physical_plan::PhysicalExtensionCodec;
use onward_cache::ExpectedVersions;
use onward_cache::scan::{WarmScans, with_tags};
use onward_planner::codec::Functions;
use onward_planner::{RuntimeFilterPlaces, StageInputExec, bind_inputs, codec, narrow_decimals, slice};
use onward_shuffle::{InputFeed, OutputMapping, SegmentSource, ShuffleReaderExec};
use onward_wire::filters::SketchSpec;
use onward_wire::message::{CacheUse, DefineStage, OutputKind};

use super::environment::{Decoder, Environment};

/// Nodes of this crate in encoded plans. The coordinator encodes with the same list.
pub fn extensions() -> Vec<Arc<dyn PhysicalExtensionCodec>> {
    vec![Arc::new(crate::write::WriteCodec)]
}

/// A stage. The plan stays encoded: every attempt decodes its own, because a plan that ran has state (dynamic filters,
/// metrics, broadcast builds).
pub(super) struct Stage {
    definition: DefineStage,
    expected: Arc<ExpectedVersions>,
}

/// One attempt's plan.
pub(super) struct AttemptPlan {
    /// The stage's whole plan, as the coordinator knows it, for the shape of metrics.
    pub(super) planned: Arc<dyn ExecutionPlan>,
    /// What this attempt runs: partition `i` is partition `partitions[i]` of the stage.
    pub(super) runs: Arc<dyn ExecutionPlan>,
    /// Where its rows go.
    pub(super) mapping: OutputMapping,
    /// Where its runtime filters go.
    pub(super) places: RuntimeFilterPlaces,
}

impl Stage {
    pub(super) fn new(definition: DefineStage) -> Self {
        let expected = Arc::new(ExpectedVersions::new(&definition.objects));
        Self { definition, expected }
    }

    /// The versions of the objects that the stage was planned for.
    pub(super) fn expected(&self) -> Arc<ExpectedVersions> {
        Arc::clone(&self.expected)
    }

    /// Scans read and fill the cache.
    pub(super) fn uses_cache(&self) -> bool {
        self.definition.cache() != CacheUse::Off
    }

    /// Sketches that its attempts make.
    pub(super) fn sketches(&self) -> Vec<SketchSpec> {
        self.definition.sketches.clone()
    }

    /// What its plan is decoded with.
    pub(super) fn decoder(&self, environment: &Environment) -> Result<Arc<Decoder>> {
        environment.decoder(&self.definition.settings)
    }

    /// Decodes the plan, cuts it down to `partitions`, and binds its inputs to the committed attempts that `inputs` tell of.
    pub(super) fn plan(
        &self,
        context: &TaskContext,
        functions: &Arc<Functions>,
        partitions: &[u32],
        inputs: &[Arc<InputFeed>],
        source: &Arc<dyn SegmentSource>,
        scans: &WarmScans,
    ) -> Result<AttemptPlan> {
        let (planned, places) = codec::decode_with_filters(&self.definition.plan, context, &extensions(), functions)?;
        let sliced = slice(&planned, partitions)?;
        let bound = bind_inputs(sliced, &mut |input| reader(input, inputs, source))?;
        let tagged = |bound| with_tags(bound, &self.definition.objects);
        let bound = match self.definition.cache() {
            CacheUse::Off => bound,
            CacheUse::On => scans.apply(tagged(bound)?)?,
            CacheUse::Fill => scans.filling().apply(tagged(bound)?)?,
        };
        let bound = narrow_decimals(bound)?;
        let (runs, mapping) = match self.definition.output.kind() {
            OutputKind::Hash | OutputKind::RoundRobin => repartitioned(&bound)?,
            OutputKind::Preserve => (bound, OutputMapping::Preserve),
            OutputKind::Single => (bound, OutputMapping::Single),
        };
        Ok(AttemptPlan { planned, runs, mapping, places })
    }
}

fn reader(
    input: &StageInputExec,
    inputs: &[Arc<InputFeed>],
    source: &Arc<dyn SegmentSource>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let Some(feed) = inputs.iter().find(|feed| feed.stage() == input.stage()) else {
        return internal_err!("the task came without the output of stage {}, which it reads", input.stage());
    };
    let (properties, partitions) = (Arc::clone(input.properties()), input.partitions().to_vec());
    Ok(Arc::new(ShuffleReaderExec::new(properties, partitions, Arc::clone(feed), Arc::clone(source))))
}

/// The root says where rows go; the partition writer does its work.
fn repartitioned(plan: &Arc<dyn ExecutionPlan>) -> Result<(Arc<dyn ExecutionPlan>, OutputMapping)> {
    let Some(repartition) = plan.downcast_ref::<RepartitionExec>() else {
        return internal_err!("the root of an exchange by hash or in turns is {}, not RepartitionExec", plan.name());
    };
    let mapping = match repartition.partitioning() {
        Partitioning::Hash(exprs, partitions) => OutputMapping::Hash { exprs: exprs.clone(), partitions: *partitions },
        Partitioning::RoundRobinBatch(partitions) => OutputMapping::RoundRobin { partitions: *partitions },
        other => return internal_err!("an exchange by {other}"),
    };
    Ok((Arc::clone(repartition.input()), mapping))
}
