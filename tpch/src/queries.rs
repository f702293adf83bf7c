//! The 22 queries with the validation parameters of the specification (TPC-H 3.0.1, section 2.4).

use std::borrow::Cow;

use crate::error::{Error, Result};

/// How many queries there are.
pub const COUNT: u8 = 22;

macro_rules! texts {
    ($($number:literal)*) => { [$(include_str!(concat!("../queries/q", $number, ".sql"))),*] };
}

const TEXTS: [&str; COUNT as usize] = texts!(
    "01" "02" "03" "04" "05" "06" "07" "08" "09" "10" "11" "12" "13" "14" "15" "16" "17" "18" "19" "20" "21" "22"
);

/// FRACTION of Q11 at scale 1; the specification divides it by the scale.
const FRACTION: &str = "0.0001";

/// The text of query `number` (1 to 22) for data of `scale`.
///
/// # Panics
/// When `number` is not a query; `parse_selection` gives only numbers that are.
pub fn sql(number: u8, scale: f64) -> Cow<'static, str> {
    let text = TEXTS[usize::from(number) - 1];
    if number == 11 && scale != 1.0 {
        let code = text.find("select").unwrap_or(0);
        let fraction = decimal_text(0.0001 / scale);
        return Cow::Owned(format!("{}{}", &text[..code], text[code..].replace(FRACTION, &fraction)));
    }
    Cow::Borrowed(text)
}

/// `0.0000001`, not `1e-7`: engines read the one as a decimal and the other as binary floating point.
fn decimal_text(value: f64) -> String {
    let text = format!("{value:.14}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Reads `all` or a list such as `1,6,10-12`; sorted, without duplicates.
///
/// # Errors
/// Names the part that is not a query.
pub fn parse_selection(text: &str) -> Result<Vec<u8>> {
    if text.trim().eq_ignore_ascii_case("all") {
        return Ok((1..=COUNT).collect());
    }
    let mut numbers = Vec::new();
    for part in text.split(',').map(str::trim) {
        let invalid = || {
            let message = format!(
                "`{part}` in --queries {text:?} is not a query: give `all`, or numbers 1 to {COUNT} as in `1,6,10-12`"
            );
            Error::Invalid(message)
        };
        let number = |text: &str| {
            let digits = text.trim().trim_start_matches(['q', 'Q']);
            digits.parse::<u8>().ok().filter(|number| (1..=COUNT).contains(number))
        };
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first).ok_or_else(invalid)?, number(last).ok_or_else(invalid)?);
        if first > last {
            return Err(invalid());
        }
        numbers.extend(first..=last);
    }
    numbers.sort_unstable();
    numbers.dedup();
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selections_are_sorted_and_name_what_is_wrong() {
        assert_eq!(parse_selection("6, q1,6,20-22").unwrap(), [1, 6, 20, 21, 22]);
        assert_eq!(parse_selection("ALL").unwrap().len(), 22);
        for wrong in ["", "0", "23", "1,,2", "x", "5-3", "1 6", "-1"] {
            let message = parse_selection(wrong).unwrap_err().to_string();
            assert!(message.contains("is not a query"), "{wrong}: {message}");
        }
    }

    #[test]
    fn the_fraction_of_q11_follows_the_scale() {
        assert!(sql(11, 1.0).contains("* 0.0001\n"));
        assert!(sql(11, 0.01).contains("* 0.01\n"));
        assert!(sql(11, 1000.0).contains("* 0.0000001\n"));
    }
}
