//! `rebloom run`: submit, show and steer runs.

use crate::args::{ChronicleFormat, Global, OneRun, RunCommand};
use crate::explain;
use crate::failure::Failure;
use crate::format::{self, Output, ago, count, ettr, faults, last_fault, or_dash, short, standing};
use crate::scores;
use crate::{data, logs, watch};
use rebloom_core::chronicle::Chronicle;
use rebloom_core::engine::{Answer, RunState, RunView, SnapshotView};
use rebloom_core::flops::Flops;
use rebloom_core::order::Stop;
use rebloom_core::time::Instant;
use rebloom_format::spec_file::SpecFile;
use rebloom_runtime::clock::Wall;
use std::path::Path;

pub(crate) async fn run(command: RunCommand, global: &Global) -> Result<(), Failure> {
    let target = global.target();
    match command {
        RunCommand::Submit {
            file,
            dry_run,
            watch,
        } => {
            let spec = submit(&file, dry_run, global).await?;
            if watch {
                return watch::run(target, &spec, global.output, false).await;
            }
            Ok(())
        }
        RunCommand::List => list(&target.reach().await?.runs().await?, global.output),
        RunCommand::Get(run) => get(
            &target.reach().await?.meant(run.run.as_ref()).await?,
            global.output,
        ),
        RunCommand::Watch { run, plain } => {
            let run = target
                .reach()
                .await?
                .meant(run.run.as_ref())
                .await?
                .spec
                .name;
            watch::run(target, &run, global.output, plain).await
        }
        RunCommand::Stop { run, now } => {
            let client = target.reach().await?;
            let run = client.meant(run.run.as_ref()).await?.spec.name;
            let how = if now { Stop::Now } else { Stop::Safely };
            answer(&client.stop(&run, how).await?, global.output)
        }
        RunCommand::Resume { run, layout } => {
            let client = target.reach().await?;
            let run = client.meant(run.run.as_ref()).await?.spec.name;
            answer(&client.resume(&run, layout).await?, global.output)
        }
        RunCommand::Logs {
            run,
            rank,
            follow,
            tail,
            previous,
        } => {
            let client = target.reach().await?;
            let run = client.meant(run.run.as_ref()).await?.spec.name;
            logs::print(
                &client,
                &run,
                logs::Which {
                    rank,
                    follow,
                    tail,
                    previous,
                },
            )
            .await
        }
        RunCommand::Explain(OneRun { run }) => {
            let run = target.reach().await?.meant(run.as_ref()).await?;
            if global.output == Output::Json {
                return format::json(&run.incidents);
            }
            let now = Wall::starting_at_least(Instant::ZERO).now();
            format::print_bytes(explain::story(&run, now).as_bytes());
            Ok(())
        }
        RunCommand::Chronicle { run, format, file } => {
            let run = target.reach().await?.meant(run.run.as_ref()).await?;
            let now = Wall::starting_at_least(Instant::ZERO).now();
            let chronicle = Chronicle::of(&run, now);
            let text = match format {
                ChronicleFormat::Md => chronicle.markdown(),
                ChronicleFormat::Html => chronicle.html(),
            };
            match file {
                None => format::print_bytes(text.as_bytes()),
                Some(path) => std::fs::write(&path, text).map_err(|error| {
                    Failure::Failed(format!("cannot write {}: {error}", path.display()))
                })?,
            }
            Ok(())
        }
    }
}

/// Checks a spec here, where it is quick and can name lines, and then asks the controller.
async fn submit(
    path: &Path,
    dry_run: bool,
    global: &Global,
) -> Result<rebloom_core::id::RunId, Failure> {
    let file = SpecFile::read(path)?;
    let spec = file.spec()?;
    let target = global.target();
    let flaws = data::flaws(&spec, target.is_here());
    if !flaws.is_empty() {
        return Err(file.refuse(&flaws).into());
    }
    let name = spec.name.clone();
    let client = target.reach().await?;
    let reply = client
        .submit(spec, dry_run)
        .await
        .map_err(|failure| match failure {
            Failure::Flaws(flaws) => file.refuse(&flaws).into(),
            Failure::Failed(_)
            | Failure::BadInput(_)
            | Failure::NotFound(_)
            | Failure::NoController(_)
            | Failure::Unreachable { .. }
            | Failure::Ended(_)
            | Failure::Parked(_) => failure,
        })?;
    answer(&reply, global.output)?;
    Ok(name)
}

/// Prints what the engine answered.
pub(crate) fn answer(answer: &Answer, output: Output) -> Result<(), Failure> {
    if output == Output::Json {
        return format::json(answer);
    }
    match answer {
        Answer::Done { message, .. } => format::line(message),
        Answer::WouldPlace { seating, message } => {
            if !seating.is_empty() {
                let row = |seat: &rebloom_core::engine::Seating| {
                    vec![
                        seat.rank.to_string(),
                        seat.node.to_string(),
                        seat.slot.to_string(),
                    ]
                };
                format::table(&["RANK", "NODE", "SLOT"], seating.iter().map(row).collect());
            }
            format::line(message);
        }
        Answer::Refused(refusal) => return Err(Failure::Failed(refusal.to_string())),
    }
    Ok(())
}

fn list(runs: &[RunView], output: Output) -> Result<(), Failure> {
    if output == Output::Json {
        let runs = runs.iter().map(format::run_json);
        return format::json(&runs.collect::<Result<Vec<_>, _>>()?);
    }
    let wide = output == Output::Wide;
    let mut header = vec![
        "NAME",
        "STATE",
        "STEP",
        "LOSS",
        "RANKS",
        "INCIDENTS",
        "ETTR",
        "AGE",
    ];
    if wide {
        header.extend(["GENERATION", "CHECKPOINT", "WHY"]);
    }
    let row = |run: &RunView| {
        let mut row = vec![
            run.spec.name.to_string(),
            run.state.to_string(),
            format!("{}/{}", run.step, run.spec.train.steps),
            or_dash(run.loss.map(|loss| format!("{loss:.3}"))),
            run.spec.layout.world().to_string(),
            faults(run).count().to_string(),
            ettr(&run.ledger),
            ago(run.submitted),
        ];
        if wide {
            row.push(run.generation.to_string());
            row.push(or_dash(
                crate::view::newest_sealed(run).map(|id| id.directory()),
            ));
            row.push(or_dash(
                (run.state != RunState::Running).then(|| run.why.to_string()),
            ));
        }
        row
    };
    format::table(&header, runs.iter().map(row).collect());
    Ok(())
}

/// The newest snapshot, and how safe it is.
fn snapshots(snapshot: &SnapshotView) -> String {
    let newest = snapshot.newest.map_or_else(
        || "none yet".to_owned(),
        |id| {
            let copies = count(snapshot.copies.into(), "node");
            format!("step {} in memory, on {copies} or more", id.step)
        },
    );
    if snapshot.note.is_empty() {
        newest
    } else {
        format!("{newest}; {}", snapshot.note)
    }
}

fn get(run: &RunView, output: Output) -> Result<(), Failure> {
    if output == Output::Json {
        return format::json(&format::run_json(run)?);
    }
    let spec = &run.spec;
    let field = |name: &str, value: String| format::line(&format!("{name:<12}{value}"));
    field("run", spec.name.to_string());
    field("state", standing(run));
    if let Some(cause) = last_fault(run) {
        field("last fault", cause.to_string());
    }
    if !run.waits_for.is_empty() {
        field("waits", run.waits_for.clone());
    }
    let layout = spec.layout;
    field(
        "layout",
        format!("{layout}, {}", count(layout.world().into(), "rank")),
    );
    field("generation", run.generation.to_string());
    field("step", format!("{} of {}", run.step, spec.train.steps));
    field("loss", or_dash(run.loss.map(|loss| format!("{loss:.4}"))));
    field("step time", or_dash(run.step_time.map(short)));
    field("TFLOP/s", or_dash(flops(run)));
    field(
        "checkpoint",
        or_dash(crate::view::newest_sealed(run).map(|id| id.directory())),
    );
    if let Some(snapshot) = &run.snapshot {
        field("snapshot", snapshots(snapshot));
    }
    field("incidents", format::incidents(run));
    let hour = or_dash(run.ettr_hour.map(|ratio| format!("{ratio:.3}")));
    field(
        "ETTR",
        format!("{}, {hour} in the last hour", ettr(&run.ledger)),
    );
    let device_time = run.ledger.device_time();
    let device_hours = device_time.as_secs_f64() / 3600.0;
    let energy = run.tariff.of(device_time).map(|cost| {
        format!(
            ", {:.2} kWh, {:.2} kg CO2e",
            cost.kilowatt_hours, cost.kilograms
        )
    });
    field(
        "cost",
        format!(
            "{device_hours:.2} device-hours{}",
            energy.unwrap_or_default()
        ),
    );
    if let Some((_, newest)) = run.evaluations.last() {
        format::line(&format!("\nevaluated after step {}:", newest.step));
        scores::table(&newest.scores);
    }
    if !run.ranks.is_empty() {
        format::line("");
        ranks(run);
    }
    Ok(())
}

/// What each rank computes, by the time of the last step.
fn flops(run: &RunView) -> Option<String> {
    let seconds = run.step_time?.as_secs_f64();
    let flops = Flops::of_step(&run.spec, run.samples).rate(seconds, run.spec.layout.world());
    let part = run.utilization(flops).map_or_else(String::new, |part| {
        let [mfu, hfu] = [part.model, part.hardware].map(|part| part * 100.0);
        format!(" (MFU {mfu:.1} %, HFU {hfu:.1} %)")
    });
    Some(format!(
        "{:.3} a rank for the model, {:.3} by the hardware{part}",
        flops.model, flops.hardware
    ))
}

fn ranks(run: &RunView) {
    let header = ["RANK", "NODE", "SLOT", "PID", "MILESTONE", "PHASE", "STEP"];
    let row = |rank: &rebloom_core::engine::RankView| {
        let seat = &rank.seating;
        vec![
            seat.rank.to_string(),
            seat.node.to_string(),
            seat.slot.to_string(),
            or_dash(rank.pid),
            or_dash(
                rank.milestone
                    .map(|milestone| format!("{milestone:?}").to_lowercase()),
            ),
            or_dash(rank.phase),
            or_dash(rank.step),
        ]
    };
    format::table(&header, run.ranks.iter().map(row).collect());
}
