//! The committed answers, made by DuckDB (`tpch/answers/make_answers.py`) on the files our generator writes.

use crate::error::{Error, Result};
use crate::queries;

/// Text of a NULL in answers and in [`crate::compare::rows_of`].
pub const NULL: &str = "\\N";

/// Rows of text cells, in the order the query gives them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// One inner vector per row, one cell per column, NULL as [`NULL`].
    pub rows: Vec<Vec<String>>,
    /// The query's LIMIT cut a group of equal ORDER BY keys: which of its rows come last is open.
    pub is_cut_in_a_tie: bool,
}

macro_rules! texts {
    ($scale:literal: $($number:literal)*) => {
        [$(include_str!(concat!("../answers/sf", $scale, "/q", $number, ".csv"))),*]
    };
    ($scale:literal) => {
        texts!($scale:
            "01" "02" "03" "04" "05" "06" "07" "08" "09" "10" "11" "12" "13" "14" "15" "16" "17" "18" "19" "20" "21" "22")
    };
}

/// Scales with committed answers.
pub const SCALES: [f64; 3] = [0.01, 0.1, 1.0];

const TEXTS: [[&str; queries::COUNT as usize]; SCALES.len()] = [texts!("0.01"), texts!("0.1"), texts!("1")];

/// The committed answer of query `number` at `scale`; `None` where there is none for this scale.
///
/// # Errors
/// [`Error::Damaged`] when the committed file is not CSV.
pub fn committed(number: u8, scale: f64) -> Result<Option<Answer>> {
    let Some(at) = SCALES.iter().position(|known| *known == scale) else { return Ok(None) };
    let text = TEXTS[at][usize::from(number) - 1];
    let damaged = |why: String| Error::Damaged { what: format!("answer of Q{number} at scale {scale}"), why };
    let mut rows = parse_csv(text).map_err(damaged)?;
    if rows.is_empty() {
        return Err(damaged("it has no header".to_owned()));
    }
    rows.remove(0);
    Ok(Some(Answer { rows, is_cut_in_a_tie: false }))
}

/// CSV as RFC 4180 writes it: cells in quotes may hold commas, line breaks and doubled quotes.
fn parse_csv(text: &str) -> Result<Vec<Vec<String>>, String> {
    let mut rows = Vec::new();
    let mut row = Vec::new();
    let mut cell = String::new();
    let mut chars = text.chars().peekable();
    let mut is_quoted = false;
    while let Some(char) = chars.next() {
        match char {
            '"' if is_quoted && chars.peek() == Some(&'"') => {
                chars.next();
                cell.push('"');
            }
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => row.push(std::mem::take(&mut cell)),
            '\n' if !is_quoted => {
                row.push(std::mem::take(&mut cell));
                rows.push(std::mem::take(&mut row));
            }
            char => cell.push(char),
        }
    }
    if is_quoted || !row.is_empty() || !cell.is_empty() {
        return Err("it ends inside a row".to_owned());
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::{Comparison, compare};

    #[test]
    fn quotes_commas_and_line_breaks_survive() {
        let rows = parse_csv("a,b\n\"x, \"\"y\"\"\",\"1\n2\"\n\\N,\n").unwrap();
        assert_eq!(rows, [["a", "b"], ["x, \"y\"", "1\n2"], ["\\N", ""]]);
        assert!(parse_csv("a,b\nc").is_err(), "a torn file is told");
    }

    #[test]
    fn every_answer_is_readable() {
        for scale in SCALES {
            for number in 1..=queries::COUNT {
                let answer = committed(number, scale).unwrap().unwrap();
                assert_eq!(compare(number, &answer.rows, &answer), Comparison::Exact, "Q{number} at {scale}");
            }
        }
        assert_eq!(committed(1, 3.0).unwrap(), None);
    }

    #[test]
    fn answers_at_scale_1_are_those_of_the_specification() {
        for number in 1..=queries::COUNT {
            let text = tpchgen::q_and_a::answers_sf1::answer(i32::from(number)).unwrap();
            let trimmed = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
            let official: Vec<_> = text.trim().lines().skip(1).map(trimmed).collect();
            let mut ours = committed(number, 1.0).unwrap().unwrap();
            ours.rows.iter_mut().flatten().for_each(|cell| *cell = cell.trim().to_owned());
            if number == 11 {
                // The last two digits of the keys are missing in tpchgen's copy.
                ours.rows.iter_mut().for_each(|row| row[0] = row[0][..row[0].len() - 2].to_owned());
            }
            let found = compare(number, &official, &ours);
            assert!(found.is_right(), "Q{number}: {found:?}");
        }
    }
}
