//! `rebloom node`: show nodes and take them out of use.

use crate::args::{Global, NodeCommand};
use crate::failure::Failure;
use crate::format::{self, Output, ago, bytes, or_dash};
use crate::run::answer;
use rebloom_core::engine::{NodeHealth, NodeState, NodeView};
use rebloom_core::health::{Finding, Verdict};
use rebloom_core::time::Instant;

pub(crate) async fn run(command: NodeCommand, global: &Global) -> Result<(), Failure> {
    let client = global.target().reach().await?;
    match command {
        NodeCommand::List => list(&client.nodes().await?, global.output),
        NodeCommand::Get(one) => {
            let nodes = client.nodes().await?;
            let found = nodes.iter().find(|node| node.facts.node == one.node);
            let found =
                found.ok_or_else(|| Failure::NotFound(format!("there is no node {}", one.node)))?;
            get(found, global.output)
        }
        NodeCommand::Cordon(one) => answer(&client.cordon(&one.node).await?, global.output),
        NodeCommand::Uncordon(one) => answer(&client.uncordon(&one.node).await?, global.output),
        NodeCommand::Drain { node, dry_run } => {
            answer(&client.drain(&node.node, dry_run).await?, global.output)
        }
    }
}

/// What people call the state of a node.
pub(crate) const fn state(node: &NodeView) -> &'static str {
    match (node.state, node.cordoned) {
        (NodeState::Ready, false) => "Ready",
        (NodeState::Ready, true) => "Ready,Cordoned",
        (NodeState::Unreachable, false) => "Unreachable",
        (NodeState::Unreachable, true) => "Unreachable,Cordoned",
        (NodeState::Lost, false) => "Lost",
        (NodeState::Lost, true) => "Lost,Cordoned",
    }
}

/// Whether a run may be placed on it.
pub(crate) fn is_usable(node: &NodeView) -> bool {
    node.state == NodeState::Ready && !node.cordoned && node.health.verdict < Verdict::Quarantined
}

/// What people call a verdict.
fn health(health: &NodeHealth) -> String {
    let name = health.verdict.name();
    match (health.is_lemon, &health.held) {
        (true, _) => format!("{name}, a lemon"),
        (false, Some(_)) => format!("{name}, held"),
        (false, None) => name.to_owned(),
    }
}

/// Why, in a sentence; none for a healthy node.
fn why(health: &NodeHealth) -> Option<String> {
    match (&health.held, &health.why) {
        (Some(held), _) => Some(format!(
            "too much of the fleet is withdrawn to withdraw it for {held}"
        )),
        (None, Some(why)) => Some(why.to_string()),
        (None, None) => None,
    }
}

fn get(node: &NodeView, output: Output) -> Result<(), Failure> {
    if output == Output::Json {
        return format::json(&node);
    }
    list(std::slice::from_ref(node), Output::Table)?;
    let its = &node.health;
    if let Some(why) = its.why.as_ref().filter(|_| its.verdict > Verdict::Healthy) {
        let action = why.action.meaning();
        format::line(&format!(
            "\n{}: {}\nto do: {action}",
            its.verdict,
            its.verdict.meaning()
        ));
    }
    if !its.findings.is_empty() {
        let row = |(at, finding): &(Instant, Finding)| {
            vec![
                format!("{} ago", ago(*at)),
                finding.rule.clone(),
                finding.mode.name().to_owned(),
                finding.verdict.name().to_owned(),
                finding.what.clone(),
            ]
        };
        format::line("");
        let rows = its.findings.iter().map(row).collect();
        format::table(&["FOUND", "RULE", "MODE", "VERDICT", "WHAT"], rows);
    }
    Ok(())
}

fn list(nodes: &[NodeView], output: Output) -> Result<(), Failure> {
    if output == Output::Json {
        return format::json(&nodes);
    }
    let wide = output == Output::Wide;
    let mut header = vec!["NAME", "STATE", "HEALTH", "SLOTS", "RANKS", "HEARD", "WHY"];
    if wide {
        header.extend(["HOST", "CORES", "MEMORY", "GPUS", "STORE", "LABELS"]);
    }
    let row = |node: &NodeView| {
        let facts = &node.facts;
        let mut ranks: Vec<String> = Vec::new();
        for (run, rank) in &node.ranks {
            match ranks
                .last_mut()
                .filter(|last| last.starts_with(&format!("{run}:")))
            {
                Some(last) => last.push_str(&format!(",{rank}")),
                None => ranks.push(format!("{run}:{rank}")),
            }
        }
        let mut row = vec![
            facts.node.to_string(),
            state(node).to_owned(),
            health(&node.health),
            format!("{}/{}", node.ranks.len(), facts.slots),
            or_dash((!ranks.is_empty()).then(|| ranks.join(" "))),
            or_dash(node.last_heard.map(|heard| format!("{} ago", ago(heard)))),
            or_dash(why(&node.health)),
        ];
        if wide {
            row.push(facts.host.clone());
            row.push(facts.cores.to_string());
            row.push(bytes(facts.memory));
            row.push(or_dash(
                (!facts.gpus.is_empty()).then(|| facts.gpus.join(",")),
            ));
            row.push(facts.store_address.clone());
            let labels = facts.labels.iter();
            let labels: Vec<_> = labels
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            row.push(or_dash((!labels.is_empty()).then(|| labels.join(","))));
        }
        row
    };
    format::table(&header, nodes.iter().map(row).collect());
    Ok(())
}
