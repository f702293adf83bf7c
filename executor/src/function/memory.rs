//! The memory of a function's operators.

use std::fmt;

use datafusion::common::{DataFusionError, Result, human_readable_size};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};
use parking_lot::Mutex;

/// Part of the limit that operators which spill leave to those that cannot, beyond their fair share: 1/4.
const RESERVE_DIVISOR: usize = 4;

/// One limit for all operators of a function, shared by those that can spill (sorts, aggregations) and those that
/// cannot (hash joins).
///
/// DataFusion's greedy pool lets whoever comes first take everything: a join that comes later fails although a sort could
/// have spilled. Its fair pool gives each spilling operator the same share whether the others use theirs or not, so that
/// one big aggregation among ten small operators spills with most of the memory free. Here an operator that spills
///
/// - may always grow up to its fair share, while the limit holds;
/// - may grow past it only while a quarter of the limit stays free for the others.
pub(super) struct OperatorPool {
    limit: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    spillers: usize,
    spillable: usize,
    unspillable: usize,
}

impl State {
    fn used(&self) -> usize {
        self.spillable + self.unspillable
    }
}

impl OperatorPool {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, state: Mutex::default() }
    }

    /// What a consumer that holds `held` bytes may take more.
    fn available(&self, state: &State, can_spill: bool, held: usize) -> usize {
        let free = self.limit.saturating_sub(state.used());
        if !can_spill {
            return free;
        }
        let share = self.limit.saturating_sub(state.unspillable) / state.spillers.max(1);
        let past_share = free.saturating_sub(self.limit / RESERVE_DIVISOR);
        free.min(share.saturating_sub(held)).max(past_share)
    }
}

impl MemoryPool for OperatorPool {
    fn name(&self) -> &str {
        "function"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        if consumer.can_spill() {
            self.state.lock().spillers += 1;
        }
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        if consumer.can_spill() {
            let mut state = self.state.lock();
            state.spillers = state.spillers.saturating_sub(1);
        }
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        let mut state = self.state.lock();
        match reservation.consumer().can_spill() {
            true => state.spillable += additional,
            false => state.unspillable += additional,
        }
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        let mut state = self.state.lock();
        match reservation.consumer().can_spill() {
            true => state.spillable = state.spillable.saturating_sub(shrink),
            false => state.unspillable = state.unspillable.saturating_sub(shrink),
        }
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let can_spill = reservation.consumer().can_spill();
        let mut state = self.state.lock();
        let available = self.available(&state, can_spill, reservation.size());
        if additional > available {
            return Err(DataFusionError::ResourcesExhausted(format!(
                "{} holds {} and needs {} more, {} of the function's {} are left for it (raise function_memory_bytes)",
                reservation.consumer().name(),
                human_readable_size(reservation.size()),
                human_readable_size(additional),
                human_readable_size(available),
                human_readable_size(self.limit),
            )));
        }
        match can_spill {
            true => state.spillable += additional,
            false => state.unspillable += additional,
        }
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.state.lock().used()
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.limit)
    }
}

impl fmt::Debug for OperatorPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OperatorPool").field("limit", &self.limit).field("state", &*self.state.lock()).finish()
    }
}

impl fmt::Display for OperatorPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "function pool of {}", human_readable_size(self.limit))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn consumer(pool: &Arc<dyn MemoryPool>, can_spill: bool) -> MemoryReservation {
        MemoryConsumer::new("test").with_can_spill(can_spill).register(pool)
    }

    /// A lone aggregation uses most of the memory although nine idle operators could spill too.
    #[test]
    fn one_spiller_may_use_what_the_others_do_not() {
        let pool: Arc<dyn MemoryPool> = Arc::new(OperatorPool::new(1000));
        let _idle: Vec<_> = (0..9).map(|_| consumer(&pool, true)).collect();
        let busy = consumer(&pool, true);
        busy.try_grow(750).unwrap();
        assert!(busy.try_grow(1).is_err());
    }

    /// What a greedy spiller leaves free is there for a join, and for another spiller's fair share.
    #[test]
    fn a_join_and_a_late_spiller_find_memory() {
        let pool: Arc<dyn MemoryPool> = Arc::new(OperatorPool::new(1000));
        let (busy, late, join) = (consumer(&pool, true), consumer(&pool, true), consumer(&pool, false));
        busy.try_grow(750).unwrap();
        join.try_grow(150).unwrap();
        late.try_grow(100).unwrap();
        assert!(join.try_grow(1).is_err() && late.try_grow(1).is_err());
        drop((busy, late, join));
        assert_eq!(pool.reserved(), 0);
    }
}
