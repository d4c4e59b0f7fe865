//! The view on a terminal: a panel that stays at the bottom, while what happens scrolls away above it.

mod panel;
mod terminal;

use super::plain::stamp;
use super::{Line, Model, Tone};
use crate::called::spelled;
use panel::{height, panel};
use ratatui::backend::CrosstermBackend;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Style};
use ratatui::text::{Line as Text, Span};
use ratatui::widgets::Widget;
use ratatui::{Terminal, TerminalOptions, Viewport};
use std::io::{Stdout, stdout};
use terminal::Quiet;

/// A panel on a terminal; dropped, it leaves its last state there and gives the terminal back.
pub(crate) struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    _quiet: Quiet,
    colours: bool,
}

impl Screen {
    /// Takes the terminal; none where there is none, or where it cannot do this.
    pub(crate) fn open(nodes: usize) -> Option<Self> {
        if std::env::var_os("TERM").is_none_or(|name| name == "dumb") {
            return None;
        }
        let quiet = Quiet::take()?;
        let height = height(nodes);
        let (columns, rows) = ratatui::crossterm::terminal::size().ok()?;
        if rows < height + 4 || columns < 60 {
            return None;
        }
        let options = TerminalOptions {
            viewport: Viewport::Inline(height),
        };
        let mut terminal = Terminal::with_options(CrosstermBackend::new(stdout()), options).ok()?;
        terminal.hide_cursor().ok()?;
        let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Some(Self {
            terminal,
            _quiet: quiet,
            colours,
        })
    }

    /// Lets a line scroll by above the panel.
    pub(crate) fn note(&mut self, model: &Model, what: &Line) {
        let width = self.terminal.size().map_or(80, |size| size.width);
        let stamp = stamp(model.elapsed());
        let lines = folded(
            &spelled(&what.text),
            usize::from(width).saturating_sub(stamp.len() + 1),
        );
        let rows = u16::try_from(lines.len()).unwrap_or(u16::MAX);
        let style = if self.colours {
            tone(what.tone)
        } else {
            Style::new()
        };
        let draw = |buffer: &mut Buffer| {
            for (at, line) in (0..).zip(lines) {
                let stamp = if at == 0 {
                    stamp.clone()
                } else {
                    " ".repeat(stamp.len())
                };
                let stamp = Span::styled(stamp, Style::new().dim());
                let text = Text::from(vec![stamp, Span::raw(" "), Span::styled(line, style)]);
                let row = Rect {
                    y: buffer.area.y + at,
                    height: 1,
                    ..buffer.area
                };
                text.render(row, buffer);
            }
        };
        // (A terminal that is gone is noticed by the signal that comes with it.)
        drop(self.terminal.insert_before(rows, draw));
    }

    /// Draws the panel anew.
    pub(crate) fn show(&mut self, model: &Model) {
        let colours = self.colours;
        drop(self.terminal.draw(|frame| {
            let area = frame.area();
            panel(model, area, frame.buffer_mut());
            if !colours {
                frame
                    .buffer_mut()
                    .set_style(area, Style::new().fg(Color::Reset));
            }
        }));
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let area = self.terminal.get_frame().area();
        drop(
            self.terminal
                .set_cursor_position((0, area.bottom().saturating_sub(1))),
        );
        drop(self.terminal.show_cursor());
        println!();
    }
}

fn tone(tone: Tone) -> Style {
    match tone {
        Tone::Plain => Style::new(),
        Tone::Good => Style::new().green(),
        Tone::Bad => Style::new().red(),
    }
}

/// Text in lines of at most `width` characters, broken between words where there are any.
fn folded(text: &str, width: usize) -> Vec<String> {
    let width = width.max(10);
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let mut word: Vec<char> = word.chars().collect();
        loop {
            let line = lines.last_mut().expect("there is always a line");
            let used = line.chars().count();
            let gap = usize::from(used > 0);
            if used + gap + word.len() <= width {
                line.extend((gap > 0).then_some(' '));
                line.extend(word);
                break;
            }
            if used == 0 {
                let rest = word.split_off(width);
                line.extend(word);
                word = rest;
            }
            lines.push(String::new());
        }
    }
    lines
}

/// The panel as text, for tests.
#[cfg(test)]
pub(super) fn drawn(model: &Model, width: u16) -> String {
    drawn_in(model, width, height(model.nodes.len()))
}

/// The same in a terminal with fewer rows than the panel likes.
#[cfg(test)]
pub(super) fn drawn_in(model: &Model, width: u16, rows: u16) -> String {
    let area = Rect::new(0, 0, width, rows);
    let mut buffer = Buffer::empty(area);
    panel(model, area, &mut buffer);
    let row = |y| {
        (0..width)
            .map(|x| buffer[(x, y)].symbol())
            .collect::<String>()
    };
    (0..area.height).map(row).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::folded;

    #[test]
    fn lines_fold_between_words() {
        assert_eq!(folded("one two three four", 10), ["one two", "three four"]);
        assert_eq!(folded("0123456789abcdef x", 10), ["0123456789", "abcdef x"]);
        assert_eq!(folded("", 10), [""]);
    }
}
