//! Batches that wait for their segment, and the messages that they will become.

use datafusion::arrow::array::RecordBatch;

use super::assign::Assignment;
use super::measure::Measured;

/// Batches of one lane, by reference, with the place of each row.
#[derive(Debug, Default)]
pub(super) struct Window {
    pub batches: Vec<RecordBatch>,
    pub assignments: Vec<Assignment>,
    pub measured: Vec<Measured>,
    bytes: usize,
}

/// The rows of one message: pieces of batches, in order.
#[derive(Debug)]
pub(super) struct Chunk {
    pub partition: u32,
    pub rows: usize,
    pub pieces: Vec<Piece>,
}

/// Places `start..end` of the assignment of batch `batch`, in its group `group`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub batch: u32,
    pub group: u32,
    pub start: u32,
    pub end: u32,
}

impl Window {
    /// Adds a batch.
    pub fn push(&mut self, batch: RecordBatch, assignment: Assignment, measured: Measured) {
        self.bytes += measured.row_bytes;
        self.measured.push(measured);
        self.batches.push(batch);
        self.assignments.push(assignment);
    }

    /// Bytes of the rows.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Appends another window's batches.
    pub fn append(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.batches.extend(other.batches);
        self.assignments.extend(other.assignments);
        self.measured.extend(other.measured);
    }

    /// The window's rows as messages: by partition, each with at least `batch_rows` rows where the partition has that
    /// many, and less than twice as many.
    pub fn chunks(&self, batch_rows: usize) -> Vec<Chunk> {
        let batch_rows = batch_rows.max(1);
        let mut pieces: Vec<(u32, Piece)> = Vec::new();
        for (batch, assignment) in self.assignments.iter().enumerate() {
            for (at, group) in assignment.groups.iter().enumerate() {
                let (start, end) = (group.start, group.end);
                pieces.push((group.partition, Piece { batch: batch as u32, group: at as u32, start, end }));
            }
        }
        // Stable: within a partition the order of the batches stays.
        pieces.sort_by_key(|(partition, _)| *partition);
        let mut chunks = Vec::new();
        for run in pieces.chunk_by(|left, right| left.0 == right.0) {
            let partition = run[0].0;
            let mut left: usize = run.iter().map(|(_, piece)| (piece.end - piece.start) as usize).sum();
            let mut messages = (left / batch_rows).max(1);
            let mut chunk = Chunk { partition, rows: 0, pieces: Vec::new() };
            let mut target = left.div_ceil(messages);
            for (_, piece) in run {
                let mut piece = *piece;
                while piece.start < piece.end {
                    let taken = ((piece.end - piece.start) as usize).min(target - chunk.rows);
                    let end = piece.start + taken as u32;
                    chunk.pieces.push(Piece { end, ..piece });
                    chunk.rows += taken;
                    piece.start = end;
                    if chunk.rows == target {
                        left -= target;
                        messages = messages.saturating_sub(1).max(1);
                        target = left.div_ceil(messages).max(1);
                        chunks.push(std::mem::replace(&mut chunk, Chunk { partition, rows: 0, pieces: Vec::new() }));
                    }
                }
            }
        }
        chunks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::writer::assign::Group;

    fn window(groups: &[&[(u32, u32)]]) -> Window {
        let mut window = Window::default();
        for batch in groups {
            let mut start = 0;
            let groups = (batch.iter())
                .map(|(partition, rows)| {
                    start += rows;
                    Group { partition: *partition, start: start - rows, end: start }
                })
                .collect();
            window.assignments.push(Assignment { order: Vec::new(), groups });
        }
        window
    }

    fn sizes(chunks: &[Chunk]) -> Vec<(u32, usize)> {
        chunks.iter().map(|chunk| (chunk.partition, chunk.rows)).collect()
    }

    #[test]
    fn messages_are_full_where_a_partition_has_the_rows() {
        let window = window(&[&[(0, 10), (2, 3)], &[(1, 1), (2, 25)]]);
        let chunks = window.chunks(8);
        assert_eq!(sizes(&chunks), [(0, 10), (1, 1), (2, 10), (2, 9), (2, 9)]);
        assert_eq!(
            chunks[2].pieces,
            [Piece { batch: 0, group: 1, start: 10, end: 13 }, Piece { batch: 1, group: 1, start: 1, end: 8 },]
        );
    }

    #[test]
    fn nothing_gives_nothing() {
        assert!(window(&[]).chunks(8).is_empty());
        assert!(window(&[&[]]).chunks(8).is_empty());
    }
}
