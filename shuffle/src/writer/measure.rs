//! What a batch's rows need in a segment, counted once, while the batch is still in the processor's caches.

use datafusion::arrow::array::{Array, AsArray, OffsetSizeTrait, RecordBatch};
use datafusion::arrow::buffer::Buffer;
use datafusion::arrow::datatypes::DataType;

use super::assign::Group;

/// Longer values of view arrays have their bytes in a data buffer.
pub(super) const INLINE_VIEW_BYTES: u32 = 12;

/// The parts of a text or binary column.
#[derive(Clone, Copy)]
pub(super) enum Text<'a> {
    /// Utf8, Binary.
    Offsets(&'a [i32], &'a [u8]),
    /// LargeUtf8, LargeBinary.
    LargeOffsets(&'a [i64], &'a [u8]),
    /// Utf8View, BinaryView.
    Views(&'a [u128], &'a [Buffer]),
}

impl<'a> Text<'a> {
    /// `None` for other types.
    pub fn of(array: &'a dyn Array) -> Option<Self> {
        Some(match array.data_type() {
            DataType::Utf8 => {
                let array = array.as_string::<i32>();
                Self::Offsets(array.value_offsets(), array.values())
            }
            DataType::Binary => {
                let array = array.as_binary::<i32>();
                Self::Offsets(array.value_offsets(), array.values())
            }
            DataType::LargeUtf8 => {
                let array = array.as_string::<i64>();
                Self::LargeOffsets(array.value_offsets(), array.values())
            }
            DataType::LargeBinary => {
                let array = array.as_binary::<i64>();
                Self::LargeOffsets(array.value_offsets(), array.values())
            }
            DataType::Utf8View => {
                let array = array.as_string_view();
                Self::Views(array.views(), array.data_buffers())
            }
            DataType::BinaryView => {
                let array = array.as_binary_view();
                Self::Views(array.views(), array.data_buffers())
            }
            _ => return None,
        })
    }
}

/// Sizes of one batch.
#[derive(Debug, Default)]
pub(super) struct Measured {
    /// Per column, per group: bytes of values outside of offsets and views. Empty for columns without such.
    pub text_bytes: Vec<Vec<usize>>,
    /// Bytes of all rows in a segment, about: what counts against the flush window. The memory that the batch keeps alive
    /// may be larger (view arrays share buffers), and does not tell what will be written.
    pub row_bytes: usize,
}

/// Measures `batch`, whose row `i` goes to partition `targets[i]` (no targets: all to the one group). `scratch` has a 0
/// for each partition, and has so afterwards.
pub(super) fn measure(batch: &RecordBatch, targets: &[u32], groups: &[Group], scratch: &mut [usize]) -> Measured {
    let mut measured = Measured::default();
    for column in batch.columns() {
        let text = Text::of(column.as_ref());
        let bytes = match text {
            None => Vec::new(),
            Some(_) if targets.is_empty() => vec![text.map_or(0, |text| whole(text))],
            Some(text) => {
                match text {
                    Text::Offsets(offsets, _) => add_offsets(offsets, targets, scratch),
                    Text::LargeOffsets(offsets, _) => add_offsets(offsets, targets, scratch),
                    Text::Views(_, []) => {}
                    Text::Views(views, _) => {
                        views
                            .iter()
                            .zip(targets)
                            .for_each(|(view, target)| scratch[*target as usize] += outside(*view));
                    }
                }
                groups.iter().map(|group| std::mem::take(&mut scratch[group.partition as usize])).collect()
            }
        };
        measured.row_bytes += bytes.iter().sum::<usize>() + fixed_bytes(column.as_ref(), text.is_some());
        measured.text_bytes.push(bytes);
    }
    measured
}

fn add_offsets<O: OffsetSizeTrait>(offsets: &[O], targets: &[u32], scratch: &mut [usize]) {
    for (ends, target) in offsets.windows(2).zip(targets) {
        scratch[*target as usize] += (ends[1] - ends[0]).as_usize();
    }
}

fn whole(text: Text<'_>) -> usize {
    match text {
        Text::Offsets(offsets, _) => (offsets[offsets.len() - 1] - offsets[0]) as usize,
        Text::LargeOffsets(offsets, _) => (offsets[offsets.len() - 1] - offsets[0]) as usize,
        Text::Views(_, []) => 0,
        Text::Views(views, _) => views.iter().map(|view| outside(*view)).sum(),
    }
}

/// Bytes of a value outside of its view.
#[inline]
pub(super) fn outside(view: u128) -> usize {
    let length = view as u32;
    if length > INLINE_VIEW_BYTES { length as usize } else { 0 }
}

/// Bytes of everything but text.
fn fixed_bytes(column: &dyn Array, is_text: bool) -> usize {
    match column.data_type() {
        DataType::Utf8View | DataType::BinaryView => column.len() * 16,
        _ if is_text => column.len() * 8,
        other => match other.primitive_width() {
            Some(width) => column.len() * width,
            None => column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size()),
        },
    }
}
