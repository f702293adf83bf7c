//! Text and binary values: offsets or views, and their bytes.

use datafusion::arrow::array::{ByteView, OffsetSizeTrait};
use datafusion::arrow::buffer::Buffer;
use datafusion::arrow::datatypes::ToByteSlice;

use super::Rows;

/// Longer values of view arrays have their bytes in a data buffer.
const INLINE_VIEW_BYTES: u32 = 12;
/// Short copies are done in blocks of this size: a call of `memcpy` costs more than the copy.
const BLOCK_BYTES: usize = 16;

/// Bytes of `rows`.
pub(super) fn count<O: OffsetSizeTrait>(offsets: &[O], rows: Rows<'_>) -> usize {
    match rows {
        Rows::Range(start, end) => (offsets[end] - offsets[start]).as_usize(),
        Rows::Listed(rows) => {
            rows.iter().map(|row| (offsets[*row as usize + 1] - offsets[*row as usize]).as_usize()).sum()
        }
    }
}

/// Bytes of `rows` outside of their views.
pub(super) fn count_views(views: &[u128], rows: Rows<'_>) -> usize {
    let mut bytes = 0;
    rows.for_each(|row| {
        let length = views[row] as u32;
        bytes += if length > INLINE_VIEW_BYTES { length as usize } else { 0 };
    });
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
    let mut ends = ends.chunks_exact_mut(size_of::<O>());
    let mut end = *filled;
    rows.for_each(|row| {
        let (from, to) = (offsets[row].as_usize(), offsets[row + 1].as_usize());
        copy(data, end, values, from, to - from);
        end += to - from;
        if let Some(place) = ends.next() {
            place.copy_from_slice(O::usize_as(end).to_byte_slice());
        }
    });
    *filled = end;
}

/// Appends the views of `rows` to `views`, and the bytes of long values to `data` from `filled` on: one data buffer.
pub(super) fn fill_views(
    target: &mut [u8],
    data: &mut [u8],
    filled: &mut usize,
    (views, buffers): (&[u128], &[Buffer]),
    rows: Rows<'_>,
) {
    let mut places = target.as_chunks_mut::<16>().0.iter_mut();
    let mut end = *filled;
    rows.for_each(|row| {
        let mut view = views[row];
        let length = view as u32;
        if length > INLINE_VIEW_BYTES {
            let long = ByteView::from(view);
            copy(data, end, &buffers[long.buffer_index as usize], long.offset as usize, length as usize);
            view = ByteView { buffer_index: 0, offset: end as u32, ..long }.as_u128();
            end += length as usize;
        }
        if let Some(place) = places.next() {
            *place = view.to_le_bytes();
        }
    });
    *filled = end;
}

/// `target[at..at + length] = source[from..from + length]`. May write garbage behind it, up to the end of `target`:
/// values are appended in order, so that the next one overwrites it.
#[inline(always)]
fn copy(target: &mut [u8], at: usize, source: &[u8], from: usize, length: usize) {
    let blocks = length.div_ceil(BLOCK_BYTES) * BLOCK_BYTES;
    if length <= 4 * BLOCK_BYTES && at + blocks <= target.len() && from + blocks <= source.len() {
        let (target, source) = (&mut target[at..at + blocks], &source[from..from + blocks]);
        for (target, source) in target.chunks_exact_mut(BLOCK_BYTES).zip(source.chunks_exact(BLOCK_BYTES)) {
            target.copy_from_slice(source);
        }
    } else {
        target[at..at + length].copy_from_slice(&source[from..from + length]);
    }
}
