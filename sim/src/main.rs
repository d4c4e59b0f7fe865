//! `rebloom-sim`: plays the world of a seed and prints what happens in it.

use rebloom_sim::{Options, Planted, World};
use std::fmt::Display;
use std::io::Write;
use std::ops::Range;
use std::process::ExitCode;

const HELP: &str = "\
Plays made-up worlds, each from its seed, with the real machines in them.

Usage: rebloom-sim [--seed N | --seeds A..B] [--plain] [--verbose] [--plant BUG]
       rebloom-sim replay bloom|llama3|fleet|FILE ...   a recorded history; see replay --help

  --seed N      one world: its options, one line a transition, the verdict [default: 1]
  --seeds A..B  many worlds, A up to but without B: a line for each that is not sound
  --plain       milder worlds: fewer parameters come from the seed, and faults strike at random
  --verbose     with --seeds, a line for each world
  --plant BUG   put a bug in: fence-ignored, shard-unverified, samples-repeated,
                lease-forgotten
  --help        this

Exit code: 0 sound, 1 something was violated, 2 bad arguments.";

#[derive(Debug)]
struct Arguments {
    seeds: Range<u64>,
    many: bool,
    verbose: bool,
    plain: bool,
    planted: Option<Planted>,
}

fn parse(mut given: impl Iterator<Item = String>) -> Result<Option<Arguments>, String> {
    let mut arguments = Arguments {
        seeds: 1..2,
        many: false,
        verbose: false,
        plain: false,
        planted: None,
    };
    while let Some(name) = given.next() {
        let mut value = || {
            given
                .next()
                .ok_or(format!("{name} needs a value; see --help"))
        };
        match name.as_str() {
            "--help" | "-h" => return Ok(None),
            "--plain" => arguments.plain = true,
            "--verbose" | "-v" => arguments.verbose = true,
            "--seed" => {
                let seed = number(&value()?)?;
                arguments.seeds = seed..seed.saturating_add(1);
            }
            "--seeds" => {
                let range = value()?;
                let (from, to) = range
                    .split_once("..")
                    .ok_or(format!("--seeds: `{range}` is not a range; write 0..200"))?;
                arguments.seeds = number(from)?..number(to)?;
                arguments.many = true;
            }
            "--plant" => {
                arguments.planted = Some(match value()?.as_str() {
                    "fence-ignored" => Planted::FenceIgnored,
                    "shard-unverified" => Planted::ShardUnverified,
                    "samples-repeated" => Planted::SamplesRepeated,
                    "lease-forgotten" => Planted::LeaseForgotten,
                    other => return Err(format!("--plant: there is no bug `{other}`; see --help")),
                });
            }
            other => return Err(format!("`{other}` is no option; see --help")),
        }
    }
    Ok(Some(arguments))
}

/// Prints a line; whoever closed the other end has seen enough.
fn say(line: impl Display) {
    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(0);
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| format!("`{text}` is not a number; write 0 or more"))
}

/// `rebloom-sim replay ...`: a history instead of made-up worlds.
fn replay(given: impl Iterator<Item = String>) -> ExitCode {
    match rebloom_sim::replay::arguments::run(given, |text| say(text)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("rebloom-sim: {error}");
            ExitCode::from(2)
        }
    }
}

fn main() -> ExitCode {
    let mut given = std::env::args().skip(1).peekable();
    if given.next_if(|name| name == "replay").is_some() {
        return replay(given);
    }
    let arguments = match parse(given) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            say(HELP);
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("rebloom-sim: {error}");
            return ExitCode::from(2);
        }
    };
    let mut unsound = 0_u64;
    for seed in arguments.seeds.clone() {
        let mut options = if arguments.plain {
            Options::draw(seed)
        } else {
            Options::hard(seed)
        };
        if let Some(bug) = arguments.planted {
            options = options.plant(bug);
        }
        if !arguments.many {
            say(format_args!("{options}\n"));
        }
        match World::new(options, !arguments.many).run() {
            Ok(verdict) if !arguments.many => say(format_args!("\n{verdict}")),
            Ok(verdict) if arguments.verbose => {
                let first = verdict.to_string();
                say(format_args!(
                    "seed {seed}: {}",
                    first.lines().next().unwrap_or_default()
                ));
            }
            Ok(_) => {}
            Err(failure) => {
                unsound += 1;
                if arguments.verbose {
                    say(failure);
                } else {
                    say(format_args!(
                        "seed {seed}: after event {}: {}",
                        failure.event, failure.violation
                    ));
                }
            }
        }
    }
    if arguments.many {
        let all = arguments.seeds.end.saturating_sub(arguments.seeds.start);
        say(format_args!("{} of {all} worlds are sound", all - unsound));
    }
    if unsound == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
