//! The panel itself: where the run stands, its loss, its nodes and ranks, its checkpoints and incidents.

use crate::format::{count, ettr, faults, grouped, or_dash, recovered, short, span};
use crate::node;
use crate::view::{Model, newest_sealed};
use ratatui::buffer::Buffer;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::symbols::line;
use ratatui::text::{Line, Span};
use ratatui::widgets::{LineGauge, Sparkline, Widget};
use rebloom_core::engine::{NodeState, NodeView, RankView, RunState, RunView};
use rebloom_core::flight::Phase;

/// Nodes that get a row of their own.
const MOST_NODES: usize = 8;
const CHART_ROWS: u16 = 4;
const LABEL: u16 = 8;
/// Columns of a rank where there is room.
const WIDE_RANK: usize = 23;
/// From this width on everything has its place.
const ROOMY: u16 = 100;

/// Rows of a panel for this many nodes.
pub(super) fn height(nodes: usize) -> u16 {
    let rows = nodes.clamp(1, MOST_NODES) + usize::from(nodes > MOST_NODES);
    9 + CHART_ROWS + u16::try_from(rows).unwrap_or(u16::MAX)
}

/// Draws what is known.
pub(super) fn panel(model: &Model, area: Rect, buffer: &mut Buffer) {
    let Some(run) = model.run() else {
        let words = model.down.as_deref().unwrap_or("waiting for the run");
        Line::from(words).dim().render(area, buffer);
        return;
    };
    let [
        _,
        title,
        bar,
        numbers,
        _,
        chart,
        _,
        nodes,
        checkpoint,
        incidents,
        hint,
    ] = area.layout(&Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(CHART_ROWS),
        Constraint::Length(1),
        Constraint::Fill(1),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
    ]));
    head(model, run, title, buffer);
    progress(model, run, bar, buffer);
    figures(model, run, numbers.width).render(numbers, buffer);
    loss(model, chart, buffer);
    table(model, run, nodes, buffer);
    saved(run, checkpoint.width).render(checkpoint, buffer);
    broken(run, incidents.width).render(incidents, buffer);
    Line::from(cut(&model.hint, hint.width))
        .dim()
        .render(hint, buffer);
}

/// Text that fits, with a mark where it was cut.
fn cut(text: &str, width: u16) -> String {
    let width = usize::from(width);
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut text: String = text.chars().take(width.saturating_sub(1)).collect();
    text.push('…');
    text
}

fn colour(model: &Model, run: &RunView) -> Color {
    if model.stall().is_some() {
        return Color::Yellow;
    }
    match run.state {
        RunState::Running | RunState::Completed => Color::Green,
        RunState::Pending | RunState::Starting | RunState::Stopping | RunState::Stopped => {
            Color::Cyan
        }
        RunState::Recovering => Color::Yellow,
        RunState::Failed | RunState::Parked => Color::Red,
    }
}

fn head(model: &Model, run: &RunView, area: Rect, buffer: &mut Buffer) {
    let layout = run.spec.layout;
    let mut left = vec![
        Span::raw(run.spec.name.to_string()).bold(),
        Span::raw("  "),
        Span::styled(
            format!("● {}", run.state),
            Style::new().fg(colour(model, run)).bold(),
        ),
    ];
    let right = format!("ETTR {}", ettr(&run.ledger));
    let shape = Span::raw(format!(
        "  generation {}  TP {} x PP {} x DP {}",
        run.generation, layout.tensor, layout.pipeline, layout.data
    ));
    let down = Span::raw("  the controller does not answer").red();
    // What matters less gives way to what matters more.
    let parts = [model.down.is_some().then_some(down), Some(shape)];
    let used: usize = left.iter().map(Span::width).sum();
    let mut room = usize::from(area.width).saturating_sub(used + right.len() + 1);
    for part in parts.into_iter().flatten() {
        if part.width() <= room {
            room -= part.width();
            left.push(part);
        }
    }
    Line::from(left).render(area, buffer);
    Line::from(right)
        .alignment(Alignment::Right)
        .render(area, buffer);
}

fn progress(model: &Model, run: &RunView, area: Rect, buffer: &mut Buffer) {
    let steps = run.spec.train.steps.max(1);
    #[expect(clippy::cast_precision_loss, reason = "a share of a bar")]
    let ratio = (run.step.0 as f64 / steps as f64).clamp(0.0, 1.0);
    let label = format!(
        "{:>3.0} %  step {} of {}",
        ratio * 100.0,
        run.step,
        run.spec.train.steps
    );
    LineGauge::default()
        .ratio(ratio)
        .label(label)
        .filled_symbol(line::THICK_HORIZONTAL)
        .unfilled_symbol(line::HORIZONTAL)
        .filled_style(Style::new().fg(colour(model, run)))
        .unfilled_style(Style::new().dim())
        .render(area, buffer);
}

/// The numbers in one line; where there is no room for all, those that matter least are left out.
fn figures(model: &Model, run: &RunView, width: u16) -> Line<'static> {
    let guess = f64::from(run.spec.model.vocab).ln();
    let loss = or_dash(model.loss().map(|loss| format!("{loss:.3}")));
    let number = |value: String, unit: &str| {
        vec![
            Span::raw("   "),
            Span::raw(value).bold(),
            Span::raw(format!(" {unit}")),
        ]
    };
    // Each with how much it matters.
    let mut parts = vec![
        (9, vec![Span::raw("loss "), Span::raw(loss).bold()]),
        (
            1,
            vec![Span::raw(format!(" (a guess has {guess:.2})")).dim()],
        ),
    ];
    if let Some(stall) = model.stall() {
        let stall = Span::raw(format!("   {stall}")).yellow().bold();
        parts.push((8, vec![stall]));
    } else {
        let tokens = model.tokens().map(grouped);
        parts.extend(tokens.map(|tokens| (4, number(tokens, "tokens/s"))));
        let step = run.step_time.map(short);
        parts.extend(step.map(|step| (3, number(step, "a step"))));
    }
    parts.push((2, number(span(model.elapsed()), "here")));
    if let Some(left) = model.remaining() {
        parts.push((5, number(span(left), "to go")));
    }
    let wide = |parts: &[(i32, Vec<Span>)]| {
        let spans = parts.iter().flat_map(|(_, spans)| spans);
        spans.map(Span::width).sum::<usize>() > usize::from(width)
    };
    while parts.len() > 1 && wide(&parts) {
        let least = parts.iter().map(|(matters, _)| *matters).min();
        parts.retain(|(matters, _)| Some(*matters) != least);
    }
    parts
        .into_iter()
        .flat_map(|(_, spans)| spans)
        .collect::<Vec<_>>()
        .into()
}

/// The loss over the steps that were seen.
fn loss(model: &Model, area: Rect, buffer: &mut Buffer) {
    let [labels, bars] = area.layout(&Layout::horizontal([
        Constraint::Length(LABEL),
        Constraint::Fill(1),
    ]));
    let seen = model
        .losses
        .iter()
        .map(|(_, loss)| *loss)
        .filter(|loss| loss.is_finite());
    let (least, most) = seen.fold((f32::INFINITY, f32::NEG_INFINITY), |(least, most), loss| {
        (least.min(loss), most.max(loss))
    });
    if least > most {
        return;
    }
    // Room below, so that the newest bars can be seen, and some height for a loss that stays.
    let floor = (least - ((most - least) * 0.15).max(0.1)).max(0.0);
    let label = |value: f32| Line::from(format!("{value:>6.2} ")).dim();
    label(most).render(labels, buffer);
    let bottom = Rect {
        y: labels.bottom().saturating_sub(1),
        height: 1,
        ..labels
    };
    label(floor).render(bottom, buffer);
    Sparkline::default()
        .data(columns(model, usize::from(bars.width), floor, most))
        .max(1000)
        .style(Style::new().fg(Color::Cyan))
        .render(bars, buffer);
}

/// One height of 0 to 1000 a column; the columns are the steps that were seen.
fn columns(model: &Model, width: usize, floor: f32, most: f32) -> Vec<u64> {
    let first = model.losses.first().map_or(0, |(step, _)| *step);
    let steps = model.losses.last().map_or(0, |(step, _)| *step - first) + 1;
    let mut sums = vec![(0.0_f32, 0_u16); width];
    for (step, loss) in &model.losses {
        let at = usize::try_from((step - first) * width as u64 / steps).unwrap_or(0);
        if let Some((sum, seen)) = sums.get_mut(at).filter(|_| loss.is_finite()) {
            *sum += loss;
            *seen += 1;
        }
    }
    let mut height = 0;
    let range = (most - floor).max(f32::EPSILON);
    let columns = sums.into_iter().map(|(sum, seen)| {
        // A step that nobody looked at looks as the one before it.
        if seen > 0 {
            let share = ((sum / f32::from(seen) - floor) / range).clamp(0.0, 1.0);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "0 to 1000"
            )]
            {
                height = (share * 1000.0) as u64;
            }
        }
        height
    });
    columns.collect()
}

fn table(model: &Model, run: &RunView, area: Rect, buffer: &mut Buffer) {
    let room = usize::from(area.height);
    let nodes = model.nodes.len();
    let mut shown = nodes.min(MOST_NODES);
    if room < shown + usize::from(nodes > shown) {
        shown = room.saturating_sub(1);
    }
    let mut rows = area.rows();
    for (node, row) in model.nodes.iter().take(shown).zip(&mut rows) {
        node_row(node, run, row.width).render(row, buffer);
    }
    if nodes > shown
        && let Some(row) = rows.next()
    {
        let more = count((nodes - shown) as u64, "more node");
        Line::from(cut(&format!("and {more}"), row.width))
            .dim()
            .render(row, buffer);
    }
}

fn node_row(node: &NodeView, run: &RunView, width: u16) -> Line<'static> {
    let name = &node.facts.node;
    let state = match (node.state, node.cordoned) {
        (NodeState::Ready, false) => Style::new().green(),
        (NodeState::Ready, true) | (NodeState::Unreachable, _) => Style::new().yellow(),
        (NodeState::Lost, _) => Style::new().red(),
    };
    let mut spans = vec![
        Span::raw(format!("{:<10} ", name.to_string())),
        Span::styled(format!("{:<15} ", node::state(node)), state),
    ];
    let here: Vec<&RankView> = run
        .ranks
        .iter()
        .filter(|rank| rank.seating.node == *name)
        .collect();
    if here.is_empty() {
        let word = match (node::is_usable(node), node.ranks.first()) {
            (_, Some((other, _))) => format!("in use by {other}"),
            (false, None) => "not in use".to_owned(),
            (true, None) if run.ranks.is_empty() => "free".to_owned(),
            (true, None) => "spare".to_owned(),
        };
        spans.push(Span::raw(word).dim());
    }
    let used: usize = spans.iter().map(Span::width).sum();
    let wide = used + here.len() * WIDE_RANK <= usize::from(width);
    for (at, rank) in here.into_iter().enumerate() {
        let (text, style) = rank_state(rank);
        let number = rank.seating.rank.0;
        let (label, text) = if wide {
            (format!("rank {number:<3} "), format!("{text:<13} "))
        } else {
            let gap = if at == 0 { "" } else { "  " };
            (format!("{gap}rank {number} "), text)
        };
        spans.push(Span::raw(label).bold());
        spans.push(Span::styled(text, style));
    }
    Line::from(spans)
}

fn rank_state(rank: &RankView) -> (String, Style) {
    match (rank.pid, rank.phase, rank.step) {
        (None, ..) => ("no process".to_owned(), Style::new().red()),
        (Some(_), Some(Phase::Step), Some(step)) => (format!("step {step}"), Style::new().green()),
        (Some(_), Some(phase), _) => (phase.to_string(), Style::new().yellow()),
        (Some(_), None, _) => ("starting".to_owned(), Style::new().yellow()),
    }
}

fn label(name: &str, width: u16) -> Span<'static> {
    let columns = if width < ROOMY { 12 } else { 23 };
    Span::raw(format!("{name:<columns$}"))
}

fn saved(run: &RunView, width: u16) -> Line<'static> {
    let text = match newest_sealed(run) {
        Some(id) => {
            let behind = run.step.0.saturating_sub(id.step.0);
            format!("step {} sealed, {} ago", id.step, count(behind, "step"))
        }
        None => format!(
            "none yet; the first comes at step {}",
            run.spec.checkpoint.every_steps
        ),
    };
    Line::from(vec![label("checkpoint", width), Span::raw(text)])
}

fn broken(run: &RunView, width: u16) -> Line<'static> {
    let label = label("incidents", width);
    let room = width.saturating_sub(u16::try_from(label.width()).unwrap_or(u16::MAX));
    let number = faults(run).count();
    let notes = match run.incidents.len() - number {
        0 => String::new(),
        notes => format!("; {}", count(notes as u64, "note")),
    };
    let Some(last) = faults(run).next_back() else {
        return Line::from(vec![label, Span::raw(format!("none{notes}")).dim()]);
    };
    let (outcome, style) = match last.closed {
        None => ("recovering".to_owned(), Style::new().yellow()),
        Some(_) => (recovered(last), Style::new()),
    };
    let cause = &last.cause;
    let mut text = format!("{number}{notes}, the last: {cause}, {outcome}");
    if text.chars().count() > usize::from(room) {
        // What gives way is the cause: it scrolled by above.
        text = cut(&format!("{number}{notes}, {outcome}: {cause}"), room);
    }
    Line::from(vec![label, Span::styled(text, style)])
}
