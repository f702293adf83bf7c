//! Two charts, as SVG by hand.

use std::fmt::Write;

use super::{Comparison, Outcome};

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 70.0;
const TOP: f64 = 50.0;
const BLUE: &str = "#1f77b4";
const ORANGE: &str = "#ff7f0e";
const GREY: &str = "#999999";

/// A line through points whose coordinates are parts of the chart, from 0 to 1.
fn line(svg: &mut String, top: f64, points: impl Iterator<Item = (f64, f64)>, colour: &str) {
    let shown: Vec<_> =
        points.map(|(x, y)| format!("{:.1},{:.1}", LEFT + x * WIDTH, top + (1.0 - y) * HEIGHT)).collect();
    let _ =
        writeln!(svg, r#"<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{}"/>"#, shown.join(" "));
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, colour: &str, shown: &str) {
    let _ = writeln!(svg, r#"<text x="{x:.0}" y="{y:.0}" text-anchor="{anchor}" fill="{colour}">{shown}</text>"#);
}

fn frame(svg: &mut String, top: f64, title: &str) {
    let _ = writeln!(
        svg,
        r##"<rect x="{LEFT}" y="{top}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#cccccc"/>"##
    );
    text(svg, LEFT, top - 28.0, "start", "black", title);
}

/// Functions and arrivals over the day, and cost against the rate of arrivals.
pub fn svg(day: &Outcome, steady: &[Comparison], break_even: Option<(f64, f64)>) -> String {
    let (second, whole) = (TOP + HEIGHT + 110.0, TOP + 2.0 * HEIGHT + 170.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{whole}\" viewBox=\"0 0 {0} {whole}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        WIDTH + 2.0 * LEFT
    );
    over_the_day(&mut svg, day);
    cost(&mut svg, second, steady, break_even);
    svg.push_str("</svg>\n");
    svg
}

fn over_the_day(svg: &mut String, day: &Outcome) {
    frame(svg, TOP, "A bursty day, elastic: functions alive (left), queries that arrived (right), by minute");
    let most = |values: &[usize]| values.iter().copied().max().unwrap_or(1).max(1);
    for (values, colour, x, anchor) in
        [(&day.arrivals, ORANGE, LEFT + WIDTH + 6.0, "start"), (&day.alive, BLUE, LEFT - 6.0, "end")]
    {
        let most = most(values);
        let last = values.len().max(2) - 1;
        let points =
            values.iter().enumerate().map(|(at, value)| (at as f64 / last as f64, *value as f64 / most as f64));
        line(svg, TOP, points, colour);
        text(svg, x, TOP + 10.0, anchor, colour, &most.to_string());
        text(svg, x, TOP + HEIGHT, anchor, colour, "0");
    }
    for hour in (0..=24).step_by(4) {
        let x = LEFT + WIDTH * f64::from(hour) / 24.0;
        text(svg, x, TOP + HEIGHT + 18.0, "middle", "black", &format!("{hour}:00"));
    }
}

fn cost(svg: &mut String, top: f64, swept: &[Comparison], break_even: Option<(f64, f64)>) {
    frame(svg, top, "Steady arrivals: US dollars a day against queries a minute (both axes logarithmic)");
    let known = || swept.iter().filter(|of| of.fixed.is_finite());
    let costs = || known().flat_map(|of| [of.elastic, of.fixed]).map(f64::ln);
    let (low, high) = (costs().fold(f64::MAX, f64::min), costs().fold(f64::MIN, f64::max));
    let (first, last) = match (known().next(), known().next_back()) {
        (Some(first), Some(last)) if last.per_minute > first.per_minute => {
            (first.per_minute.ln(), last.per_minute.ln())
        }
        _ => return,
    };
    let x = |per_minute: f64| (per_minute.ln() - first) / (last - first);
    let y = |cost: f64| (cost.ln() - low) / (high - low).max(f64::MIN_POSITIVE);
    line(svg, top, known().map(|of| (x(of.per_minute), y(of.elastic))), BLUE);
    line(svg, top, known().map(|of| (x(of.per_minute), y(of.fixed))), ORANGE);
    text(svg, LEFT + 10.0, top + 20.0, "start", BLUE, "elastic");
    text(svg, LEFT + 10.0, top + 38.0, "start", ORANGE, "the smallest fixed fleet with the same p99 latency");
    text(svg, LEFT - 6.0, top + 10.0, "end", "black", &format!("{:.0}", high.exp()));
    text(svg, LEFT - 6.0, top + HEIGHT, "end", "black", &format!("{:.2}", low.exp()));
    for of in known() {
        let at = LEFT + WIDTH * x(of.per_minute);
        text(svg, at, top + HEIGHT + 18.0, "middle", "black", &format!("{:.0}", of.per_minute));
    }
    if let Some((per_minute, utilisation)) = break_even {
        line(svg, top, [(x(per_minute), 0.0), (x(per_minute), 1.0)].into_iter(), GREY);
        let shown = format!("break-even: {per_minute:.0} a minute, {:.0} % utilisation", utilisation * 100.0);
        text(svg, LEFT + WIDTH * x(per_minute) - 6.0, top + HEIGHT - 8.0, "end", "black", &shown);
    }
}
