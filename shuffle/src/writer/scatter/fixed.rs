//! Values of fixed width.

use super::Rows;

/// Copies the `width` bytes of each row to `target`, which has exactly their size.
pub(super) fn fill(target: &mut [u8], source: &[u8], width: usize, rows: Rows<'_>) {
    match (rows, width) {
        (Rows::Range(start, end), _) => target.copy_from_slice(&source[start * width..end * width]),
        (Rows::Listed(rows), 1) => gather::<1>(target, source, rows),
        (Rows::Listed(rows), 2) => gather::<2>(target, source, rows),
        (Rows::Listed(rows), 4) => gather::<4>(target, source, rows),
        (Rows::Listed(rows), 8) => gather::<8>(target, source, rows),
        (Rows::Listed(rows), 16) => gather::<16>(target, source, rows),
        (Rows::Listed(rows), 32) => gather::<32>(target, source, rows),
        (Rows::Listed(_), 0) => {}
        (Rows::Listed(rows), width) => {
            for (target, row) in target.chunks_exact_mut(width).zip(rows) {
                target.copy_from_slice(&source[*row as usize * width..][..width]);
            }
        }
    }
}

fn gather<const WIDTH: usize>(target: &mut [u8], source: &[u8], rows: &[u32]) {
    let (target, source) = (target.as_chunks_mut::<WIDTH>().0, source.as_chunks::<WIDTH>().0);
    for (target, row) in target.iter_mut().zip(rows) {
        *target = source[*row as usize];
    }
}
