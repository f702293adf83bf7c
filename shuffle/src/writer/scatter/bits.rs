//! Validity and booleans: one bit per row.

use datafusion::arrow::buffer::BooleanBuffer;

use super::Rows;

/// Unset bits among `rows`.
pub(super) fn count_unset(bits: &BooleanBuffer, rows: Rows<'_>) -> usize {
    let mut unset = 0;
    rows.for_each(|row| unset += usize::from(!bits.value(row)));
    unset
}

/// Sets bits `at..` of `target`, which are 0, to those of `rows`.
pub(super) fn fill(target: &mut [u8], at: usize, bits: &BooleanBuffer, rows: Rows<'_>) {
    let mut place = at;
    rows.for_each(|row| {
        target[place / 8] |= u8::from(bits.value(row)) << (place % 8);
        place += 1;
    });
}

/// Sets `count` bits from `at` on.
pub(super) fn set(target: &mut [u8], at: usize, count: usize) {
    let end = at + count;
    let mut place = at;
    while place < end && !place.is_multiple_of(8) {
        target[place / 8] |= 1 << (place % 8);
        place += 1;
    }
    let whole = (end - place) / 8;
    target[place / 8..place / 8 + whole].fill(0xff);
    for place in place + whole * 8..end {
        target[place / 8] |= 1 << (place % 8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_bits_are_set_exactly() {
        for (at, count) in [(0, 0), (0, 8), (3, 2), (3, 5), (3, 6), (7, 1), (5, 20), (8, 16), (1, 30)] {
            let mut bytes = [0_u8; 5];
            set(&mut bytes, at, count);
            let bits = BooleanBuffer::new(bytes.to_vec().into(), 0, 40);
            let expected: BooleanBuffer = (0..40).map(|bit| (at..at + count).contains(&bit)).collect();
            assert_eq!(bits, expected, "{count} from {at}");
        }
    }
}
