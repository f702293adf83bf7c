//! Text and binary values: offsets or views, and their bytes.

use datafusion::arrow::array::{ByteView, OffsetSizeTrait};
use datafusion::arrow::buffer::Buffer;
use datafusion::arrow::datatypes::ToByteSlice;

use super::Rows;
use crate::writer::measure::{INLINE_VIEW_BYTES, Text, outside};

/// Shorter values are copied as this many bytes: a branch on the length is mispredicted for every other value, which costs
/// more than the bytes.
const BLOCK_BYTES: usize = 64;

/// Text is asked for this many rows before it is copied.
const ROWS_AHEAD: usize = 12;

/// Bytes of `rows` outside of their offsets and views.
pub(super) fn count(text: Text<'_>, rows: Rows<'_>) -> usize {
    let mut bytes = 0;
    match text {
        Text::Offsets(offsets, _) => rows.for_each(|row| bytes += (offsets[row + 1] - offsets[row]) as usize),
        Text::LargeOffsets(offsets, _) => rows.for_each(|row| bytes += (offsets[row + 1] - offsets[row]) as usize),
        Text::Views(views, _) => rows.for_each(|row| bytes += outside(views[row])),
    }
    bytes
}

/// Appends the values of `rows`: end offsets to `ends` (one per row), bytes to `data` from `filled` on.
pub(super) fn fill<O: OffsetSizeTrait>(
    ends: &mut [u8],
    data: &mut [u8],
    filled: &mut usize,
    (offsets, values): (&[O], &[u8]),
    rows: Rows<'_>,
) {
    let ends = ends.chunks_exact_mut(size_of::<O>());
    let mut end = *filled;
    match rows {
        Rows::Range(first, last) => {
            let (from, to) = (offsets[first].as_usize(), offsets[last].as_usize());
            data[end..end + to - from].copy_from_slice(&values[from..to]);
            for (place, offset) in ends.zip(&offsets[first + 1..=last]) {
                place.copy_from_slice(O::usize_as(end + offset.as_usize() - from).to_byte_slice());
            }
            end += to - from;
        }
        Rows::Listed(rows) => {
            for (at, (place, row)) in ends.zip(rows).enumerate() {
                if let Some(ahead) = rows.get(at + ROWS_AHEAD) {
                    prefetch(values, offsets[*ahead as usize].as_usize());
                    prefetch(values, offsets[*ahead as usize + 1].as_usize());
                }
                let (from, to) = (offsets[*row as usize].as_usize(), offsets[*row as usize + 1].as_usize());
                copy(data, end, values, from, to - from);
                end += to - from;
                place.copy_from_slice(O::usize_as(end).to_byte_slice());
            }
        }
    }
    *filled = end;
}

/// Appends the views of `rows` to `target`, and the bytes of long values to `data` from `filled` on: one data buffer.
pub(super) fn fill_views(
    target: &mut [u8],
    data: &mut [u8],
    filled: &mut usize,
    (views, buffers): (&[u128], &[Buffer]),
    rows: Rows<'_>,
) {
    let target = target.as_chunks_mut::<16>().0;
    match rows {
        Rows::Range(first, last) => {
            for (target, view) in target.iter_mut().zip(&views[first..last]) {
                *target = place(data, filled, *view, buffers);
            }
        }
        Rows::Listed(rows) => {
            for (at, (target, row)) in target.iter_mut().zip(rows).enumerate() {
                if let Some(ahead) = rows.get(at + ROWS_AHEAD) {
                    let ahead = ByteView::from(views[*ahead as usize]);
                    if ahead.length > INLINE_VIEW_BYTES {
                        let (buffer, start) = (&buffers[ahead.buffer_index as usize], ahead.offset as usize);
                        prefetch(buffer, start);
                        prefetch(buffer, start + ahead.length as usize);
                    }
                }
                *target = place(data, filled, views[*row as usize], buffers);
            }
        }
    }
}

/// The view of a value in its new place; a long value's bytes are appended to `data`.
#[inline(always)]
fn place(data: &mut [u8], filled: &mut usize, view: u128, buffers: &[Buffer]) -> [u8; 16] {
    let length = view as u32;
    if length <= INLINE_VIEW_BYTES {
        return view.to_le_bytes();
    }
    let long = ByteView::from(view);
    copy(data, *filled, &buffers[long.buffer_index as usize], long.offset as usize, length as usize);
    let moved = ByteView { buffer_index: 0, offset: *filled as u32, ..long };
    *filled += length as usize;
    moved.as_u128().to_le_bytes()
}

/// Asks for the cache line of `bytes[at]`: rows of one partition are too far apart for the processor to see a pattern.
#[inline(always)]
fn prefetch(bytes: &[u8], at: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch never faults, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().wrapping_add(at).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (bytes, at);
}

/// `target[at..at + length] = source[from..from + length]`. May write garbage behind it, up to the end of `target`:
/// values are appended in order, so that the next one overwrites it.
#[inline(always)]
fn copy(target: &mut [u8], at: usize, source: &[u8], from: usize, length: usize) {
    if length <= BLOCK_BYTES
        && let (Some(target), Some(source)) =
            (target[at..].first_chunk_mut(), source[from..].first_chunk::<BLOCK_BYTES>())
    {
        *target = *source;
    } else {
        target[at..at + length].copy_from_slice(&source[from..from + length]);
    }
}
