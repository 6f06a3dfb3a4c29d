//! Comparisons as a picture. In: comparisons. Out: an SVG: a row for each, with a dot at the median of the ratios and a line from
//! the least to the most. It has a white ground, so that it can be read on any page.

use std::fmt::Write as _;

use crate::results::{Comparison, Spread};

const WIDTH: f64 = 900.0;
/// Where the scale begins and ends.
const LEFT: f64 = 470.0;
const RIGHT: f64 = 820.0;
const TOP: f64 = 70.0;
const ROW: f64 = 28.0;

pub(crate) fn svg(comparisons: &[Comparison], caption: &str) -> String {
    let spreads: Vec<Spread> = comparisons.iter().map(Comparison::ratio).collect();
    let (from, to) = ends(&spreads);
    let x = |ratio: f64| LEFT + (ratio - from) / (to - from) * (RIGHT - LEFT);
    let bottom = TOP + ROW * spreads.len() as f64;
    let height = bottom + 50.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <title>Throughput with the collector, without it = 1</title>\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"16\" y=\"26\" font-size=\"16\" font-weight=\"bold\">Throughput with the collector, without it = 1</text>\n\
         <text x=\"16\" y=\"46\" fill=\"#555\">{}</text>\n",
        escaped(caption)
    );
    let mut add = |line: String| {
        svg.push_str(&line);
        svg.push('\n');
    };
    for step in 0..=((to - from) / 0.1).round() as u32 {
        let ratio = from + 0.1 * f64::from(step);
        let (x, is_one) = (x(ratio), (ratio - 1.0).abs() < 0.01);
        let colour = if is_one { "#555" } else { "#ddd" };
        add(format!(
            "<line x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\" stroke=\"{colour}\"/>"
        ));
        // Labels need room.
        if step % if to - from > 0.6 { 2 } else { 1 } == 0 {
            add(format!(
                "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"#555\">{ratio:.1}</text>",
                bottom + 20.0
            ));
        }
    }
    for (place, (row, Spread { median, least, most })) in
        comparisons.iter().zip(spreads).enumerate()
    {
        let y = TOP + ROW * (place as f64 + 0.5);
        let text_y = y + 4.5;
        let name = escaped(&format!("{} ({})", row.load, row.parts));
        add(format!(
            "<text x=\"{}\" y=\"{text_y}\" text-anchor=\"end\">{name}</text>",
            LEFT - 14.0
        ));
        add(format!(
            "<line x1=\"{:.1}\" y1=\"{y}\" x2=\"{:.1}\" y2=\"{y}\" stroke=\"#7aa6d6\" stroke-width=\"6\" \
             stroke-linecap=\"round\"/>",
            x(least),
            x(most)
        ));
        add(format!("<circle cx=\"{:.1}\" cy=\"{y}\" r=\"5\" fill=\"#1f4e8c\"/>", x(median)));
        add(format!(
            "<text x=\"{}\" y=\"{text_y}\" font-weight=\"bold\">{median:.3}</text>",
            RIGHT + 22.0
        ));
    }
    let _infallible = writeln!(
        svg,
        "<text x=\"16\" y=\"{}\" fill=\"#555\">Dot: median of the rounds. Line: the least and the most of them.</text>\n</svg>",
        bottom + 40.0
    );
    svg
}

/// Tenths around everything, 1 included.
fn ends(spreads: &[Spread]) -> (f64, f64) {
    let least = spreads.iter().map(|spread| spread.least).fold(0.9, f64::min);
    let most = spreads.iter().map(|spread| spread.most).fold(1.1, f64::max);
    ((least * 10.0 - 0.01).floor() / 10.0, (most * 10.0 + 0.01).ceil() / 10.0)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
