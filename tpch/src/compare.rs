//! Compares rows with an answer as TPC-H 3.0.1, 2.1.3.5 says:
//!
//! - single values, counts and `sum(l_quantity)` match exactly;
//! - other sums are within 100 (dollars) of the answer;
//! - ratios and averages `r` of an answer `v`, both rounded to two digits: `0.99 v <= r <= 1.01 v`;
//! - rows come in the order of ORDER BY; rows equal in all its keys may come in any order among themselves.
//!
//! At small scales $100 is a lot, so [`Comparison`] also says whether the rows are *exact*: sums equal to the cent and
//! averages and ratios to one part in a million. Every engine we compare with sums decimals exactly.

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::error::DataFusionError;

use crate::answers::{Answer, NULL};
use crate::error::Result;

/// How a column is compared.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// Text, keys, dates, counts, sums of quantities.
    Value,
    /// A sum of money.
    Sum,
    /// An average or a ratio.
    Ratio,
}

/// How the columns of one query are compared and which of them order the rows.
struct Shape {
    columns: &'static [Kind],
    /// Columns of ORDER BY.
    order: &'static [usize],
}

/// The shape of query `number`; columns and keys as in `tpch/queries/`.
fn shape(number: u8) -> Shape {
    use Kind::{Ratio as R, Sum as S, Value as V};
    let (columns, order): (&'static [Kind], &'static [usize]) = match number {
        1 => (&[V, V, V, S, S, S, R, R, R, V], &[0, 1]),
        2 => (&[V, V, V, V, V, V, V, V], &[0, 2, 1, 3]),
        3 => (&[V, S, V, V], &[1, 2]),
        4 => (&[V, V], &[0]),
        5 => (&[V, S], &[1]),
        6 => (&[S], &[]),
        7 => (&[V, V, V, S], &[0, 1, 2]),
        8 => (&[V, R], &[0]),
        9 => (&[V, V, S], &[0, 1]),
        10 => (&[V, V, S, V, V, V, V, V], &[2]),
        11 => (&[V, S], &[1]),
        12 => (&[V, V, V], &[0]),
        13 => (&[V, V], &[1, 0]),
        14 => (&[R], &[]),
        15 => (&[V, V, V, V, S], &[0]),
        16 => (&[V, V, V, V], &[3, 0, 1, 2]),
        17 => (&[R], &[]),
        18 => (&[V, V, V, V, V, V], &[4, 3]),
        19 => (&[S], &[]),
        20 => (&[V, V], &[0]),
        21 => (&[V, V], &[1, 0]),
        _ => (&[V, V, S], &[0]),
    };
    Shape { columns, order }
}

/// What a comparison found.
#[derive(Clone, Debug, PartialEq)]
pub enum Comparison {
    /// Right to the cent.
    Exact,
    /// Right as the specification counts; says where it is not exact.
    Within(String),
    /// Wrong; says where.
    Wrong(String),
}

impl Comparison {
    /// The specification accepts the rows.
    pub fn is_right(&self) -> bool {
        !matches!(self, Self::Wrong(_))
    }
}

/// The rows of `batches` as text cells: dates as 1995-03-15, decimals with all digits of their scale.
///
/// # Errors
/// When Arrow cannot print a type; the types of TPC-H can all be printed.
pub fn rows_of(batches: &[RecordBatch]) -> Result<Vec<Vec<String>>> {
    let options = FormatOptions::default().with_null(NULL);
    let mut rows = Vec::new();
    for batch in batches {
        let columns = batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options));
        let columns = columns.collect::<Result<Vec<_>, _>>().map_err(DataFusionError::from)?;
        rows.extend(
            (0..batch.num_rows()).map(|row| columns.iter().map(|column| column.value(row).to_string()).collect()),
        );
    }
    Ok(rows)
}

/// Columns of query `number` that order its rows, strongest first.
pub fn order_columns(number: u8) -> &'static [usize] {
    shape(number).order
}

/// Compares `rows` of query `number` with `answer`.
pub fn compare(number: u8, rows: &[Vec<String>], answer: &Answer) -> Comparison {
    let shape = shape(number);
    if rows.len() != answer.rows.len() {
        return Comparison::Wrong(format!("{} rows, not {}", rows.len(), answer.rows.len()));
    }
    let width = shape.columns.len();
    if let Some(row) = rows.iter().chain(&answer.rows).find(|row| row.len() != width) {
        return Comparison::Wrong(format!("{} columns, not {width}", row.len()));
    }
    let mut within = None;
    let mut start = 0;
    while start < rows.len() {
        let end = tie_end(&answer.rows, start, shape.order);
        let is_open = answer.is_cut_in_a_tie && end == rows.len();
        let found = match is_open {
            true => compare_keys(&shape, start, &rows[start..end], &answer.rows[start..end]),
            false => compare_tie(&shape, start, &rows[start..end], &answer.rows[start..end]),
        };
        match found {
            Comparison::Exact => {}
            Comparison::Within(what) => within = within.or(Some(what)),
            wrong @ Comparison::Wrong(_) => return wrong,
        }
        start = end;
    }
    within.map_or(Comparison::Exact, Comparison::Within)
}

/// The end of the rows that have the same ORDER BY keys as row `start`. A query without ORDER BY is one tie.
fn tie_end(rows: &[Vec<String>], start: usize, order: &[usize]) -> usize {
    let is_tied = |row: &Vec<String>| order.iter().all(|key| row[*key] == rows[start][*key]);
    start + rows[start..].iter().take_while(|row| is_tied(row)).count()
}

/// Compares rows that may come in any order: finds for each answer a row that was not taken yet.
fn compare_tie(shape: &Shape, first: usize, rows: &[Vec<String>], answers: &[Vec<String>]) -> Comparison {
    let mut left: Vec<&Vec<String>> = rows.iter().collect();
    let mut within = None;
    for (offset, answer) in answers.iter().enumerate() {
        let mut best: Option<(usize, Comparison)> = None;
        for (at, row) in left.iter().enumerate() {
            let found = compare_row(shape, first + offset, row, answer);
            if found == Comparison::Exact {
                best = Some((at, found));
                break;
            }
            if best.as_ref().is_none_or(|(_, best)| !best.is_right() && found.is_right()) {
                best = Some((at, found));
            }
        }
        match best {
            Some((at, Comparison::Exact)) => drop(left.remove(at)),
            Some((at, Comparison::Within(what))) => {
                left.remove(at);
                within = within.or(Some(what));
            }
            Some((_, wrong)) => return wrong,
            None => return Comparison::Wrong(format!("row {} is missing", first + offset + 1)),
        }
    }
    within.map_or(Comparison::Exact, Comparison::Within)
}

/// Compares only the ORDER BY keys, row by row.
fn compare_keys(shape: &Shape, first: usize, rows: &[Vec<String>], answers: &[Vec<String>]) -> Comparison {
    let mut within = None;
    for (offset, (row, answer)) in rows.iter().zip(answers).enumerate() {
        for key in shape.order {
            match compare_cell(shape.columns[*key], &row[*key], &answer[*key]) {
                Comparison::Exact => {}
                Comparison::Within(what) => within = within.or(Some(what)),
                Comparison::Wrong(why) => return located(Comparison::Wrong(why), first + offset, *key),
            }
        }
    }
    within.map_or(Comparison::Exact, Comparison::Within)
}

fn compare_row(shape: &Shape, number: usize, row: &[String], answer: &[String]) -> Comparison {
    let mut within = None;
    for (column, kind) in shape.columns.iter().enumerate() {
        match located(compare_cell(*kind, &row[column], &answer[column]), number, column) {
            Comparison::Exact => {}
            Comparison::Within(what) => within = within.or(Some(what)),
            wrong @ Comparison::Wrong(_) => return wrong,
        }
    }
    within.map_or(Comparison::Exact, Comparison::Within)
}

fn located(found: Comparison, row: usize, column: usize) -> Comparison {
    let place = |what: String| format!("row {}, column {}: {what}", row + 1, column + 1);
    match found {
        Comparison::Exact => Comparison::Exact,
        Comparison::Within(what) => Comparison::Within(place(what)),
        Comparison::Wrong(what) => Comparison::Wrong(place(what)),
    }
}

fn compare_cell(kind: Kind, cell: &str, answer: &str) -> Comparison {
    if cell == answer {
        return Comparison::Exact;
    }
    let differs = || format!("{cell}, not {answer}");
    let (Ok(found), Ok(right)) = (cell.parse::<f64>(), answer.parse::<f64>()) else {
        return Comparison::Wrong(differs());
    };
    let (is_exact, is_within) = match kind {
        Kind::Value => {
            let is_same = plain_number(cell) == plain_number(answer);
            (is_same, is_same)
        }
        // Half a cent on either side: one engine may round the digits past the cent, another cut them.
        Kind::Sum => ((found - right).abs() <= 0.011, (found - right).abs() <= 100.0),
        Kind::Ratio => {
            // The validation data of the specification is itself rounded to two digits.
            let cents = |value: f64| (value * 100.0).round() / 100.0;
            let is_exact = (found - right).abs() <= 1e-6_f64.max(right.abs() * 1e-6);
            let is_within = (cents(found) - cents(right)).abs() <= cents(right).abs() * 0.01 + 1e-9;
            (is_exact, is_exact || is_within)
        }
    };
    match (is_exact, is_within) {
        (true, _) => Comparison::Exact,
        (false, true) => Comparison::Within(differs()),
        (false, false) => Comparison::Wrong(differs()),
    }
}

/// `17.00` and `17` are one number: engines print the scale of a decimal or not.
fn plain_number(text: &str) -> &str {
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(rows: &[&[&str]]) -> Answer {
        Answer { rows: cells(rows), is_cut_in_a_tie: false }
    }

    fn cells(rows: &[&[&str]]) -> Vec<Vec<String>> {
        rows.iter().map(|row| row.iter().map(|cell| (*cell).to_owned()).collect()).collect()
    }

    #[test]
    fn money_may_differ_by_100_and_counts_not_at_all() {
        let right = answer(&[&["13", "10", "500.00"]]);
        assert_eq!(compare(22, &cells(&[&["13", "10", "500.001"]]), &right), Comparison::Exact);
        assert!(matches!(compare(22, &cells(&[&["13", "10", "599.99"]]), &right), Comparison::Within(_)));
        assert!(!compare(22, &cells(&[&["13", "10", "600.01"]]), &right).is_right());
        let wrong = compare(22, &cells(&[&["13", "11", "500.00"]]), &right);
        assert_eq!(wrong, Comparison::Wrong("row 1, column 2: 11, not 10".to_owned()));
        assert!(!compare(22, &cells(&[&["13", "10", NULL]]), &right).is_right());
    }

    #[test]
    fn ratios_may_differ_by_one_percent() {
        let right = answer(&[&["16.38"]]);
        assert!(compare(14, &cells(&[&["16.5"]]), &right).is_right());
        assert!(!compare(14, &cells(&[&["16.6"]]), &right).is_right());
        let small = answer(&[&["1995", "0.0344358904"], &["1996", "0.0414855213"]]);
        assert!(compare(8, &cells(&[&["1995", "0.0344359"], &["1996", "0.0414855"]]), &small).is_right());
        assert!(!compare(8, &cells(&[&["1995", "0.0354"], &["1996", "0.0414855"]]), &small).is_right());
    }

    #[test]
    fn order_counts_but_not_among_ties() {
        let right = answer(&[&["1", "9.00"], &["2", "5.00"], &["3", "5.00"], &["4", "1.00"]]);
        let swapped = cells(&[&["1", "9.00"], &["3", "5.00"], &["2", "5.00"], &["4", "1.00"]]);
        assert_eq!(compare(11, &swapped, &right), Comparison::Exact);
        let unordered = cells(&[&["2", "5.00"], &["1", "9.00"], &["3", "5.00"], &["4", "1.00"]]);
        assert!(!compare(11, &unordered, &right).is_right());
        let doubled = cells(&[&["1", "9.00"], &["2", "5.00"], &["2", "5.00"], &["4", "1.00"]]);
        assert!(!compare(11, &doubled, &right).is_right(), "a row counted twice is not a permutation");
    }

    #[test]
    fn a_tie_that_the_limit_cut_is_open() {
        let mut right = answer(&[&["1", "9.00"], &["2", "5.00"]]);
        right.is_cut_in_a_tie = true;
        assert!(compare(11, &cells(&[&["1", "9.00"], &["7", "5.00"]]), &right).is_right());
        assert!(!compare(11, &cells(&[&["7", "9.00"], &["2", "5.00"]]), &right).is_right());
        assert!(!compare(11, &cells(&[&["1", "9.00"], &["7", "500.00"]]), &right).is_right());
    }

    #[test]
    fn missing_rows_and_columns_are_told() {
        let right = answer(&[&["a", "b"]]);
        assert_eq!(compare(20, &[], &right), Comparison::Wrong("0 rows, not 1".to_owned()));
        assert_eq!(compare(20, &cells(&[&["a"]]), &right), Comparison::Wrong("1 columns, not 2".to_owned()));
    }
}
