//! Plain SVG: bars and lines, no scripts, no fonts of their own, readable on light and dark pages.

use std::fmt::Write;

const WIDTH: f64 = 720.0;
const LEFT: f64 = 210.0;
const RIGHT: f64 = 90.0;
const ROW: f64 = 26.0;
const COLORS: [&str; 8] = [
    "#2f6fb2", "#c8553d", "#588157", "#d4a017", "#7b5ea7", "#3a9188", "#a44a6f", "#777777",
];

/// One bar: what it is, its value with its spread, and what is written behind it.
#[derive(Debug, Clone)]
pub struct Bar {
    /// What it is.
    pub label: String,
    /// How long it is.
    pub value: f64,
    /// Least and most over all seeds.
    pub spread: Option<(f64, f64)>,
    /// What is written behind it.
    pub text: String,
}

/// One line of a line chart.
#[derive(Debug, Clone)]
pub struct Line {
    /// What it is.
    pub label: String,
    /// Its points.
    pub points: Vec<(f64, f64)>,
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

fn begin(title: &str, height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#808080\">\n\
         <title>{0}</title>\n<text x=\"10\" y=\"20\" font-size=\"14\" font-weight=\"bold\">{0}</text>\n",
        escape(title)
    )
}

fn write(svg: &mut String, arguments: std::fmt::Arguments<'_>) {
    svg.write_fmt(arguments).expect("a string takes everything");
}

/// Horizontal bars between two values of the axis.
pub fn bars(title: &str, (from, to): (f64, f64), bars: &[Bar]) -> String {
    let mut svg = begin(title, 40.0 + ROW * bars.len() as f64);
    let scale = (WIDTH - LEFT - RIGHT) / (to - from).max(f64::MIN_POSITIVE);
    let x = |value: f64| LEFT + (value.clamp(from, to) - from) * scale;
    for (row, bar) in bars.iter().enumerate() {
        let y = 34.0 + ROW * row as f64;
        let (middle, color) = (y + 13.0, COLORS[row % COLORS.len()]);
        write(
            &mut svg,
            format_args!(
                "<text x=\"{:.1}\" y=\"{middle:.1}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"18\" fill=\"{color}\"/>\n\
             <text x=\"{:.1}\" y=\"{middle:.1}\">{}</text>\n",
                LEFT - 8.0,
                escape(&bar.label),
                x(bar.value) - LEFT,
                WIDTH - RIGHT + 8.0,
                escape(&bar.text),
            ),
        );
        if let Some((least, most)) = bar.spread {
            write(
                &mut svg,
                format_args!(
                    "<path d=\"M{:.1} {:.1}H{:.1}\" stroke=\"#202020\" stroke-width=\"3\"/>\n",
                    x(least),
                    y + 9.0,
                    x(most)
                ),
            );
        }
    }
    svg + "</svg>\n"
}

/// Lines over a logarithmic axis of factors; the other axis is a ratio in percent.
pub fn lines(title: &str, axis: &str, lines: &[Line]) -> String {
    let height = 320.0;
    let mut svg = begin(title, height);
    let points = || lines.iter().flat_map(|line| line.points.iter().copied());
    let most = points().map(|(factor, _)| factor).fold(1.0, f64::max);
    let least = points().map(|(_, ratio)| ratio).fold(1.0, f64::min);
    let bottom = (least * 100.0 - 0.5).floor();
    let x = |factor: f64| 60.0 + factor.ln() / most.ln().max(f64::MIN_POSITIVE) * (WIDTH - 260.0);
    let y = |ratio: f64| 40.0 + (100.0 - ratio * 100.0) / (100.0 - bottom) * (height - 90.0);
    for tick in 0..=4 {
        let percent = bottom + (100.0 - bottom) * f64::from(tick) / 4.0;
        let at = y(percent / 100.0);
        write(
            &mut svg,
            format_args!(
                "<path d=\"M60 {at:.1}H{:.1}\" stroke=\"#80808040\"/>\n\
             <text x=\"54\" y=\"{:.1}\" text-anchor=\"end\">{percent:.1} %</text>\n",
                WIDTH - 200.0,
                at + 4.0
            ),
        );
    }
    if let Some(line) = lines.first() {
        for (factor, _) in &line.points {
            write(
                &mut svg,
                format_args!(
                    "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">x {factor}</text>\n",
                    x(*factor),
                    height - 30.0
                ),
            );
        }
    }
    write(
        &mut svg,
        format_args!(
            "<text x=\"60\" y=\"{:.1}\">{}</text>\n",
            height - 10.0,
            escape(axis)
        ),
    );
    for (number, line) in lines.iter().enumerate() {
        let color = COLORS[number % COLORS.len()];
        let path: Vec<String> = line
            .points
            .iter()
            .map(|(factor, ratio)| format!("{:.1},{:.1}", x(*factor), y(*ratio)))
            .collect();
        write(
            &mut svg,
            format_args!(
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" fill=\"{color}\">{}</text>\n",
                path.join(" "),
                WIDTH - 190.0,
                50.0 + 18.0 * number as f64,
                escape(&line.label)
            ),
        );
    }
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_value_and_its_label_is_escaped() {
        let bar = Bar {
            label: "a < b".to_owned(),
            value: 0.5,
            spread: Some((0.25, 0.75)),
            text: "50 %".to_owned(),
        };
        let svg = bars("t", (0.0, 1.0), &[bar]);
        assert!(svg.contains("width=\"210.0\""), "{svg}");
        assert!(svg.contains("a &lt; b"));
        assert!(svg.contains("M315.0 43.0H525.0"), "{svg}");
    }
}
