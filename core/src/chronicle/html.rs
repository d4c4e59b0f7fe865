//! The chronicle as one self-contained page of HTML: no scripts, nothing fetched, the chart as SVG.

use super::{Chronicle, date, span};
use std::fmt::Write;

const STYLE: &str = "\
body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}\
table{border-collapse:collapse}td,th{padding:.2rem .8rem .2rem 0;text-align:left}td.n{text-align:right}\
h3{margin:1.2rem 0 .2rem;font-size:1rem}h3 time{color:#777;font-weight:normal;margin-right:.6rem}\
p{margin:.1rem 0}.incident{border-left:3px solid #c8553d;padding-left:.8rem}\
.bar{display:inline-block;height:.7rem;background:#2f6fb2}svg{width:100%;height:auto;margin:1rem 0}\
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}}";

const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 240.0;
const MARGIN: f64 = 50.0;

/// Text that HTML would take for its own is made plain.
fn plain(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn add(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    writeln!(text, "{arguments}").expect("a string takes everything");
}

impl Chronicle {
    /// The chronicle as a page of HTML.
    pub fn html(&self) -> String {
        let run = plain(&self.run);
        let mut page = format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width\">\
             <title>Chronicle of {run}</title>\n<style>{STYLE}</style></head><body>\n\
             <h1>Chronicle of {run}</h1>\n<p>{}</p>\n<table>\n",
            plain(&self.summary)
        );
        for (what, figure) in &self.figures {
            add(
                &mut page,
                format_args!("<tr><th>{what}</th><td>{}</td></tr>", plain(figure)),
            );
        }
        page.push_str("</table>\n");
        self.chart(&mut page);
        page.push_str("<h2>Where the time went</h2>\n<table>\n");
        for (what, time, share) in &self.time {
            let (time, percent) = (span(*time), share * 100.0);
            add(
                &mut page,
                format_args!(
                    "<tr><th>{what}</th><td class=\"n\">{time}</td><td class=\"n\">{percent:.2} %</td>\
                 <td><span class=\"bar\" style=\"width:{:.2}rem\"></span></td></tr>",
                    share * 20.0
                ),
            );
        }
        page.push_str("</table>\n<h2>Diary</h2>\n<p>Times are UTC.</p>\n");
        for entry in &self.diary {
            let class = if entry.is_incident {
                " class=\"incident\""
            } else {
                ""
            };
            add(
                &mut page,
                format_args!(
                    "<section{class}><h3><time>{}</time>{}</h3>",
                    date(entry.at),
                    plain(&entry.title)
                ),
            );
            for sentence in &entry.lines {
                add(&mut page, format_args!("<p>{}</p>", plain(sentence)));
            }
            page.push_str("</section>\n");
        }
        page + "</body></html>\n"
    }

    /// The loss over time, with the incidents as bands behind it.
    fn chart(&self, page: &mut String) {
        let length = self.length.max(f64::MIN_POSITIVE);
        let x =
            |seconds: f64| MARGIN + seconds.clamp(0.0, length) / length * (WIDTH - 2.0 * MARGIN);
        let losses = || self.curve.iter().map(|(_, loss)| f64::from(*loss));
        let (least, most) = (
            losses().fold(f64::INFINITY, f64::min),
            losses().fold(0.0, f64::max),
        );
        let y = |loss: f64| {
            HEIGHT - MARGIN - (loss - least) / (most - least).max(1e-9) * (HEIGHT - 2.0 * MARGIN)
        };
        add(
            page,
            format_args!(
                "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" font-family=\"sans-serif\" font-size=\"12\" \
             fill=\"#808080\"><title>Loss over time; incidents are red</title>"
            ),
        );
        for (from, to) in &self.gaps {
            add(
                page,
                format_args!(
                    "<rect x=\"{:.1}\" y=\"20\" width=\"{:.1}\" height=\"{:.1}\" fill=\"#c8553d80\"/>",
                    x(*from),
                    (x(*to) - x(*from)).max(1.0),
                    HEIGHT - MARGIN - 20.0
                ),
            );
        }
        if self.curve.len() > 1 {
            let points: Vec<_> = self
                .curve
                .iter()
                .map(|(at, loss)| format!("{:.1},{:.1}", x(*at), y(f64::from(*loss))))
                .collect();
            add(
                page,
                format_args!(
                    "<polyline points=\"{}\" fill=\"none\" stroke=\"#2f6fb2\" stroke-width=\"2\"/>\n\
                 <text x=\"4\" y=\"{:.1}\">{most:.2}</text>\n<text x=\"4\" y=\"{:.1}\">{least:.2}</text>",
                    points.join(" "),
                    y(most) + 4.0,
                    y(least) + 4.0
                ),
            );
        } else {
            add(
                page,
                format_args!(
                    "<text x=\"{MARGIN}\" y=\"14\">no loss was recorded at a checkpoint yet</text>"
                ),
            );
        }
        let end = span(std::time::Duration::from_secs_f64(self.length));
        add(
            page,
            format_args!(
                "<path d=\"M{MARGIN} {0:.1}H{1:.1}\" stroke=\"#808080\"/>\n<text x=\"{MARGIN}\" y=\"{2:.1}\">submitted</text>\n\
             <text x=\"{1:.1}\" y=\"{2:.1}\" text-anchor=\"end\">{end}</text>\n</svg>",
                HEIGHT - MARGIN,
                WIDTH - MARGIN,
                HEIGHT - MARGIN + 18.0
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn what_an_error_says_cannot_become_markup() {
        assert_eq!(plain("<script>\"&"), "&lt;script&gt;&quot;&amp;");
    }
}
