//! The chronicle as Markdown.

use super::{Chronicle, date, span};
use std::fmt::Write;

/// Cells of the longest bar.
const CELLS: f64 = 30.0;

/// Text that Markdown would take for its own is made plain.
fn plain(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\n' | '\r' => safe.push(' '),
            '\\' | '`' | '*' | '_' | '|' | '<' | '>' | '[' | ']' | '#' => {
                safe.push('\\');
                safe.push(letter);
            }
            _ => safe.push(letter),
        }
    }
    safe
}

impl Chronicle {
    /// The chronicle as Markdown.
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "# Chronicle of {}\n\n{}\n\n",
            plain(&self.run),
            plain(&self.summary)
        );
        text.push_str("| | |\n|---|---|\n");
        for (what, figure) in &self.figures {
            line(&mut text, format_args!("| {what} | {} |", plain(figure)));
        }
        text.push_str("\n## Where the time went\n\n| | time | share | |\n|---|---:|---:|---|\n");
        for (what, time, share) in &self.time {
            let bar = "█".repeat((share * CELLS).round() as usize);
            line(
                &mut text,
                format_args!(
                    "| {what} | {} | {:.2} % | {bar} |",
                    span(*time),
                    share * 100.0
                ),
            );
        }
        text.push_str("\n## Diary\n\nTimes are UTC.\n");
        for entry in &self.diary {
            line(
                &mut text,
                format_args!("\n### {} {}\n", date(entry.at), plain(&entry.title)),
            );
            for sentence in &entry.lines {
                line(&mut text, format_args!("{}", plain(sentence)));
            }
        }
        text
    }
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    writeln!(text, "{arguments}").expect("a string takes everything");
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn what_an_error_says_cannot_become_markup() {
        assert_eq!(plain("a|b\n*c* <d>"), "a\\|b \\*c\\* \\<d\\>");
    }
}
