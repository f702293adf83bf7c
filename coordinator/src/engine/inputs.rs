//! What a task is told of its inputs: when it starts, and when there is more.

use std::sync::Arc;

use onward_shuffle::flight::{GrantKey, now_ms};
use onward_wire::exchange::{Grant, PartitionRange, StageInputs};
use onward_wire::message::{DefineStage, OutputKind};
use onward_wire::{HostId, StageId};

use super::Reads;
use crate::scheduler::{Committed, Share, StageOutput};

/// Sizes of partitions that a task is told without a look at which of them it reads.
const MOST_SIZES: usize = 4_096;

/// Outputs of a stage from which on a task may have its own host copy together what it reads of them.
const GRANTED_ATTEMPTS: usize = 64;

/// What the grants of a query are made of.
pub(super) struct Granting<'a> {
    /// Its stages.
    pub(super) stages: &'a [DefineStage],
    /// Which partitions a task reads.
    pub(super) reads: &'a Reads,
    /// An input that every task reads whole, although it comes by hash.
    pub(super) broadcast: Option<u32>,
    /// What signs.
    pub(super) key: &'a GrantKey,
    /// How long a grant holds.
    pub(super) lifetime_ms: u64,
}

/// What a task of `stage` that runs on `here` is told of its inputs: of every attempt the partitions that it reads, and what
/// lets it read them of other hosts.
pub(super) fn told(
    granting: &Granting<'_>,
    stage: StageId,
    here: HostId,
    partitions: &[u32],
    outputs: &[StageOutput],
    share: Option<Share>,
) -> datafusion::common::Result<Vec<StageInputs>> {
    let mut told = all_of(granting, stage, here, partitions, outputs, share)?;
    if let Some(Share { input, part, parts }) = share {
        told.iter_mut().filter(|inputs| inputs.stage == input).for_each(|inputs| keep_part(inputs, part, parts));
    }
    Ok(told)
}

/// Leaves one segment in `parts`.
fn keep_part(inputs: &mut StageInputs, part: u32, parts: u32) {
    let mut position = 0;
    let mut is_ours = || {
        position += 1;
        (position - 1) % parts == part
    };
    for attempt in &mut inputs.attempts {
        let output = &mut attempt.output;
        if !output.inline.is_empty() && !is_ours() {
            output.inline.clear();
        }
        output.segments.retain(|_| is_ours());
        if output.inline.is_empty() && output.segments.is_empty() {
            output.partitions.clear();
        }
    }
}

fn all_of(
    granting: &Granting<'_>,
    stage: StageId,
    here: HostId,
    partitions: &[u32],
    outputs: &[StageOutput],
    share: Option<Share>,
) -> datafusion::common::Result<Vec<StageInputs>> {
    let Granting { stages, reads, key, lifetime_ms, broadcast } = granting;
    let is_elsewhere = |committed: &Arc<Committed>| committed.host != here && !committed.segments.is_empty();
    let is_far = |output: &StageOutput| output.attempts.iter().any(is_elsewhere);
    let sizes: usize = outputs.iter().map(|output| output.sizes).sum();
    if sizes <= MOST_SIZES && !outputs.iter().any(is_far) {
        let all = |output: &StageOutput| StageInputs {
            stage: output.stage,
            attempts: output.attempts.iter().map(|committed| committed.input(None)).collect(),
            is_open: output.is_open,
            ..StageInputs::default()
        };
        return Ok(outputs.iter().map(all).collect());
    }
    let read_by_stage = reads(stage.stage, partitions)?;
    let input = |output: &StageOutput| {
        let read: Vec<u32> = read_by_stage.get(&output.stage).into_iter().flatten().copied().collect();
        let is_many = output.attempts.len() >= GRANTED_ATTEMPTS;
        let grant = (is_far(output) || is_many).then(|| {
            key.sign(&Grant {
                query: stage.query.0,
                stage: output.stage,
                partitions: PartitionRange::cover(read.iter().copied()),
                expires_ms: now_ms().saturating_add(*lifetime_ms),
                may_write: false,
            })
        });
        // What is left of a share is picked from what is not packed.
        let is_packed = here != HostId::EMBEDDED && share.is_none();
        StageInputs {
            grant,
            is_shared: stages[output.stage as usize].output.kind() == OutputKind::Single
                || *broadcast == Some(output.stage),
            ..if is_packed { output.told_afar(&read) } else { output.told(&read) }
        }
    };
    Ok(outputs.iter().map(input).collect())
}
