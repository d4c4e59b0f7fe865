//! The panel itself: where the run stands, its loss, its nodes and ranks, its checkpoints and incidents.

use crate::format::{count, ettr, grouped, or_dash, short, span};
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
use rebloom_core::time::Duration;

/// Nodes that get a row of their own.
const MOST_NODES: usize = 8;
const CHART_ROWS: u16 = 4;
const LABEL: u16 = 8;

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
    progress(run, bar, buffer);
    figures(model, run).render(numbers, buffer);
    loss(model, chart, buffer);
    table(model, run, nodes, buffer);
    saved(run).render(checkpoint, buffer);
    broken(run).render(incidents, buffer);
    Line::from(model.hint.as_str()).dim().render(hint, buffer);
}

const fn colour(state: RunState) -> Color {
    match state {
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
            Style::new().fg(colour(run.state)).bold(),
        ),
        Span::raw(format!(
            "  generation {}  TP {} x PP {} x DP {}",
            run.generation, layout.tensor, layout.pipeline, layout.data
        )),
    ];
    if model.down.is_some() {
        left.push(Span::raw("  the controller does not answer").red());
    }
    Line::from(left).render(area, buffer);
    let right = format!("ETTR {}", ettr(&run.ledger));
    Line::from(right)
        .alignment(Alignment::Right)
        .render(area, buffer);
}

fn progress(run: &RunView, area: Rect, buffer: &mut Buffer) {
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
        .filled_style(Style::new().fg(colour(run.state)))
        .unfilled_style(Style::new().dim())
        .render(area, buffer);
}

fn figures(model: &Model, run: &RunView) -> Line<'static> {
    let guess = f64::from(run.spec.model.vocab).ln();
    let loss = or_dash(model.loss().map(|loss| format!("{loss:.3}")));
    let mut spans = vec![
        Span::raw("loss "),
        Span::raw(loss).bold(),
        Span::raw(format!(" (a guess has {guess:.2})")).dim(),
    ];
    let mut add = |value: String, unit: &str| {
        spans.push(Span::raw("   "));
        spans.push(Span::raw(value).bold());
        spans.push(Span::raw(format!(" {unit}")));
    };
    add(or_dash(model.tokens().map(grouped)), "tokens/s");
    add(or_dash(run.step_time.map(short)), "a step");
    add(span(model.elapsed()), "here");
    if let Some(left) = model.remaining() {
        add(span(left), "to go");
    }
    Line::from(spans)
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
    let shown = model.nodes.iter().take(MOST_NODES);
    let mut rows = area.rows();
    for (node, row) in shown.zip(&mut rows) {
        node_row(node, run).render(row, buffer);
    }
    if let Some(more) = model.nodes.len().checked_sub(MOST_NODES + 1)
        && let Some(row) = rows.next()
    {
        Line::from(format!("and {}", count(more as u64 + 1, "more node")))
            .dim()
            .render(row, buffer);
    }
}

fn node_row(node: &NodeView, run: &RunView) -> Line<'static> {
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
        let word = if run.ranks.is_empty() {
            "free"
        } else {
            "spare"
        };
        spans.push(Span::raw(word).dim());
    }
    for rank in here {
        spans.push(Span::raw(format!("rank {:<3} ", rank.seating.rank.0)).bold());
        spans.push(rank_state(rank));
    }
    Line::from(spans)
}

fn rank_state(rank: &RankView) -> Span<'static> {
    let (text, style) = match (rank.pid, rank.phase, rank.step) {
        (None, ..) => ("no process".to_owned(), Style::new().red()),
        (Some(_), Some(Phase::Step), Some(step)) => (format!("step {step}"), Style::new().green()),
        (Some(_), Some(phase), _) => (phase.to_string(), Style::new().yellow()),
        (Some(_), None, _) => ("starting".to_owned(), Style::new().yellow()),
    };
    Span::styled(format!("{text:<13} "), style)
}

fn saved(run: &RunView) -> Line<'static> {
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
    Line::from(vec![
        Span::raw(format!("{:<23}", "checkpoint")),
        Span::raw(text),
    ])
}

fn broken(run: &RunView) -> Line<'static> {
    let label = Span::raw(format!("{:<23}", "incidents"));
    let Some(last) = run.incidents.last() else {
        return Line::from(vec![label, Span::raw("none").dim()]);
    };
    let took: Duration = last.spent.spent.values().sum();
    let (word, style) = match (last.closed, last.rung) {
        (None, _) => (", recovering".to_owned(), Style::new().yellow()),
        (Some(_), Some(_)) => (format!(", recovered in {}", short(took)), Style::new()),
        (Some(_), None) => (String::new(), Style::new()),
    };
    let text = format!("{}, the last: {}{word}", run.incidents.len(), last.cause);
    Line::from(vec![label, Span::styled(text, style)])
}
