//! [`SegmentCopy`]: a segment made of the messages of others, as they lie there.

use std::os::fd::OwnedFd;

use onward_wire::SegmentId;
use onward_wire::exchange::ReadEntry;

use crate::error::{Result, SegmentError};
use crate::format::{ALIGNMENT, Entry, HEADER_BYTES, header, tail, tail_bytes};
use crate::mapping::Mapping;
use crate::writer::Finished;

/// What is to be copied: known before the first message comes, so that the file can be asked for at once.
#[derive(Debug)]
pub struct CopyPlan {
    schema: Vec<u8>,
    entries: Vec<Entry>,
    first_partition: u32,
    last_partition: u32,
    message_bytes: usize,
}

impl CopyPlan {
    /// A segment of these entries, their messages one after the other, whose partitions `renumber` gives.
    ///
    /// Errors with `Corrupt` when the lengths cannot be those of messages.
    pub fn new(
        schema: &[u8],
        entries: &[ReadEntry],
        mut renumber: impl FnMut(&ReadEntry) -> Option<u32>,
    ) -> Result<Self> {
        let corrupt = |detail: &str| SegmentError::Corrupt { id: SegmentId(0), detail: detail.to_owned() };
        let mut plan = Self {
            schema: schema.to_vec(),
            entries: Vec::with_capacity(entries.len()),
            first_partition: u32::MAX,
            last_partition: 0,
            message_bytes: 0,
        };
        for entry in entries {
            let length = usize::try_from(entry.length).ok().filter(|length| length.is_multiple_of(ALIGNMENT));
            let end = length.and_then(|length| plan.message_bytes.checked_add(length));
            let end = end.filter(|end| *end <= MOST_BYTES);
            let end = end.ok_or_else(|| corrupt("an entry of an impossible length was announced"))?;
            let partition = renumber(entry).ok_or_else(|| corrupt("an entry that was not asked for was announced"))?;
            let offset = (HEADER_BYTES + plan.message_bytes) as u64;
            plan.entries.push(Entry {
                partition,
                messages: entry.messages,
                offset,
                length: entry.length,
                rows: entry.rows,
            });
            plan.first_partition = plan.first_partition.min(partition);
            plan.last_partition = plan.last_partition.max(partition);
            plan.message_bytes = end;
        }
        Ok(plan)
    }

    /// Bytes of the file.
    pub fn segment_bytes(&self) -> u64 {
        let partitions = match self.entries.is_empty() {
            true => 0,
            false => (self.last_partition - self.first_partition) as usize + 1,
        };
        (HEADER_BYTES + self.message_bytes + tail_bytes(self.schema.len(), self.entries.len(), partitions)) as u64
    }
}

/// No segment is larger: what comes beside the messages fits in the rest of the address space.
const MOST_BYTES: usize = isize::MAX as usize / 4;

/// A segment that is being copied. Dropping it leaves a file without footer, which no reader takes for a segment.
#[derive(Debug)]
pub struct SegmentCopy {
    id: SegmentId,
    mapping: Mapping,
    plan: CopyPlan,
    position: usize,
}

impl SegmentCopy {
    /// Maps `file`, which has [`CopyPlan::segment_bytes`] or more, and closes the descriptor.
    pub fn create(id: SegmentId, file: OwnedFd, plan: CopyPlan) -> Result<Self> {
        let length = usize::try_from(plan.segment_bytes()).unwrap_or(usize::MAX);
        let mut mapping = Mapping::writable(file, length)?;
        mapping.bytes_mut()[..HEADER_BYTES].copy_from_slice(&header(id));
        Ok(Self { id, mapping, plan, position: HEADER_BYTES })
    }

    /// The bytes that are still to come; fill some of them and say how many with [`SegmentCopy::advance`].
    pub fn rest_mut(&mut self) -> &mut [u8] {
        let end = HEADER_BYTES + self.plan.message_bytes;
        &mut self.mapping.bytes_mut()[self.position..end]
    }

    /// `bytes` of [`SegmentCopy::rest_mut`] were filled.
    pub fn advance(&mut self, bytes: usize) {
        self.position = (self.position + bytes).min(HEADER_BYTES + self.plan.message_bytes);
    }

    /// The next messages, whole or in parts. Errors with `Corrupt` when there are more than were announced.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let (id, rest) = (self.id, self.rest_mut());
        let detail = || format!("{} bytes came for the {} that were left", bytes.len(), rest.len());
        if bytes.len() > rest.len() {
            return Err(SegmentError::Corrupt { id, detail: detail() });
        }
        rest[..bytes.len()].copy_from_slice(bytes);
        self.advance(bytes.len());
        Ok(())
    }

    /// Writes index and footer, and unmaps. Errors with `Torn` when messages are missing.
    pub fn finish(mut self) -> Result<Finished> {
        let missing = self.rest_mut().len();
        if missing > 0 {
            return Err(SegmentError::Torn { id: self.id, detail: format!("{missing} bytes of it did not come") });
        }
        let tail = tail(self.id, self.position, &self.plan.schema, &mut self.plan.entries);
        let end = self.position + tail.len();
        self.mapping.bytes_mut()[self.position..end].copy_from_slice(&tail);
        let rows = self.plan.entries.iter().fold(0_u64, |rows, entry| rows.saturating_add(entry.rows));
        Ok(Finished { length_bytes: end as u64, rows, partitions: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, RecordBatch};
    use onward_wire::FunctionId;
    use onward_wire::message::SegmentRef;

    use super::*;
    use crate::{MappedSegment, SegmentStore, SegmentWriter, StoreOptions};

    fn batch(values: &[i64]) -> RecordBatch {
        RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(values.to_vec())) as _)]).unwrap()
    }

    fn committed(store: &Arc<SegmentStore>, batches: &[(u32, &[i64])]) -> Arc<MappedSegment> {
        let file = store.create(FunctionId(1), 64 << 10).unwrap();
        let schema = batch(&[]).schema();
        let mut writer = SegmentWriter::create(file.id, file.file, file.capacity_bytes, schema).unwrap();
        batches.iter().for_each(|(partition, values)| writer.append(*partition, &batch(values)).unwrap());
        let written = writer.finish().unwrap();
        let segment = SegmentRef { segment: file.id.0, length_bytes: written.length_bytes, rows: written.rows };
        store.commit(&segment).unwrap();
        store.map(file.id).unwrap()
    }

    fn announced(segment: &MappedSegment, group: u32, partitions: &[u32]) -> (Vec<ReadEntry>, Vec<u8>) {
        let entries = segment.all_entries().filter(|entry| partitions.contains(&entry.partition));
        let (mut announced, mut bytes) = (Vec::new(), Vec::new());
        for entry in entries {
            bytes.extend_from_slice(segment.messages(&entry));
            let (partition, messages) = (entry.partition, entry.messages);
            announced.push(ReadEntry { partition, group, messages, length: entry.length, rows: entry.rows });
        }
        (announced, bytes)
    }

    fn values(segment: &Arc<MappedSegment>, partition: u32) -> Vec<i64> {
        let column = |batch: RecordBatch| batch.column(0).as_any().downcast_ref::<Int64Array>().unwrap().clone();
        segment.batches(partition).flat_map(|batch| column(batch.unwrap()).values().to_vec()).collect()
    }

    #[test]
    fn a_copy_has_the_partitions_that_were_asked_for_group_by_group() {
        let root = tempfile::tempdir().unwrap();
        let store = SegmentStore::open(StoreOptions::below(root.path(), 1 << 20, 1 << 20)).unwrap();
        let first = committed(&store, &[(0, &[1]), (1, &[2, 3]), (2, &[4]), (1, &[5])]);
        let second = committed(&store, &[(1, &[6]), (2, &[7])]);
        let ((mut entries, mut bytes), more) = (announced(&first, 0, &[1, 2]), announced(&second, 1, &[1, 2]));
        entries.extend(more.0);
        bytes.extend(more.1);
        let renumber = |entry: &ReadEntry| Some((entry.partition - 1) * 2 + entry.group);
        let plan = CopyPlan::new(first.schema_message(), &entries, renumber).unwrap();
        let file = store.create(FunctionId(2), plan.segment_bytes()).unwrap();
        let mut copy = SegmentCopy::create(file.id, file.file, plan).unwrap();
        for part in bytes.chunks(100) {
            copy.write(part).unwrap();
        }
        assert!(copy.write(&[0]).is_err(), "more than was announced");
        let written = copy.finish().unwrap();
        store
            .commit(&SegmentRef { segment: file.id.0, length_bytes: written.length_bytes, rows: written.rows })
            .unwrap();
        let mapped = store.map(file.id).unwrap();
        assert_eq!(
            [0, 1, 2, 3].map(|partition| values(&mapped, partition)),
            [vec![2, 3, 5], vec![6], vec![4], vec![7]]
        );
    }

    #[test]
    fn a_copy_without_its_last_bytes_is_torn() {
        let root = tempfile::tempdir().unwrap();
        let store = SegmentStore::open(StoreOptions::below(root.path(), 1 << 20, 1 << 20)).unwrap();
        let first = committed(&store, &[(0, &[1])]);
        let (entries, bytes) = announced(&first, 0, &[0]);
        let plan = CopyPlan::new(first.schema_message(), &entries, |entry| Some(entry.partition)).unwrap();
        let file = store.create(FunctionId(2), plan.segment_bytes()).unwrap();
        let mut copy = SegmentCopy::create(file.id, file.file, plan).unwrap();
        copy.write(&bytes[..bytes.len() - 1]).unwrap();
        assert!(matches!(copy.finish(), Err(SegmentError::Torn { .. })));
        let odd = [ReadEntry { length: 63, ..entries[0] }];
        assert!(CopyPlan::new(first.schema_message(), &odd, |_| Some(0)).is_err());
        let huge = [ReadEntry { length: u64::MAX - 63, ..entries[0] }];
        assert!(CopyPlan::new(first.schema_message(), &huge, |_| Some(0)).is_err());
        assert!(CopyPlan::new(first.schema_message(), &entries, |_| None).is_err());
    }
}
