//! `rebloom-sim`: plays the world of a seed and prints what happens in it.

use rebloom_sim::{Options, Planted, World};
use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::ops::Range;
use std::process::ExitCode;

const HELP: &str = "\
Plays made-up worlds, each from its seed, with the real machines in them.

Usage: rebloom-sim [--seed N | --seeds N|A..B] [--plain | --wide] [--snapshots] [--spikes] [--verbose] [--plant BUG]
       rebloom-sim replay bloom|llama3|fleet|FILE ...   a recorded history; see replay --help

  --seed N      one world: its options, one line a transition, the verdict [default: 1]
  --seeds A..B  many worlds, A up to but without B, N for 0..N: a line for each that is not sound
  --plain       milder worlds: fewer parameters come from the seed, and faults strike at random
  --snapshots   every run keeps snapshots in memory, and nodes may be in racks
  --spikes      every run comes upon samples that have its loss run away, and is to go back and skip them
  --wide        hard worlds with priorities, two kinds of devices, racks, intervals that the engine chooses
  --verbose     with --seeds, a line for each world
  --plant BUG   put a bug in, to see it found: fence-ignored, shard-unverified, samples-repeated,
                lease-forgotten, skip-too-much; --plain --seeds 200 finds each of them
  --version     which version this is
  --help        this

The same seed and options give the same world, to the last line. docs/replay.md says more.

Exit code: 0 sound, 1 something was violated, 2 bad input.";

#[derive(Debug)]
struct Arguments {
    seeds: Range<u64>,
    many: bool,
    verbose: bool,
    plain: bool,
    snapshots: bool,
    spikes: bool,
    wide: bool,
    planted: Option<Planted>,
    /// What else was said, to play one of the worlds again.
    again: String,
}

fn parse(mut given: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments {
        seeds: 1..2,
        many: false,
        verbose: false,
        plain: false,
        snapshots: false,
        spikes: false,
        wide: false,
        planted: None,
        again: String::new(),
    };
    let mut is_one = false;
    while let Some(name) = given.next() {
        let mut value = || {
            given
                .next()
                .ok_or(format!("{name} needs a value; see --help"))
        };
        match name.as_str() {
            "--plain" => {
                arguments.plain = true;
                arguments.again.push_str(" --plain");
            }
            "--snapshots" => {
                arguments.snapshots = true;
                arguments.again.push_str(" --snapshots");
            }
            "--spikes" => {
                arguments.spikes = true;
                arguments.again.push_str(" --spikes");
            }
            "--wide" => {
                arguments.wide = true;
                arguments.again.push_str(" --wide");
            }
            "--verbose" | "-v" => arguments.verbose = true,
            "--seed" => {
                let seed = number(&name, &value()?)?;
                arguments.seeds = seed..seed.saturating_add(1);
                is_one = true;
            }
            "--seeds" => {
                arguments.seeds = range(&value()?)?;
                arguments.many = true;
            }
            "--plant" => {
                let bug = value()?;
                arguments.again.push_str(&format!(" --plant {bug}"));
                arguments.planted = Some(match bug.as_str() {
                    "fence-ignored" => Planted::FenceIgnored,
                    "shard-unverified" => Planted::ShardUnverified,
                    "samples-repeated" => Planted::SamplesRepeated,
                    "lease-forgotten" => Planted::LeaseForgotten,
                    "skip-too-much" => Planted::SkipTooMuch,
                    other => return Err(format!("--plant: there is no bug `{other}`; see --help")),
                });
            }
            other => return Err(format!("`{other}` is no option; see --help")),
        }
    }
    if is_one && arguments.many {
        return Err("--seed and --seeds do not go together; give one".to_owned());
    }
    Ok(arguments)
}

/// Seeds as `A..B`, or as their number.
fn range(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text.split_once("..").unwrap_or(("0", text));
    let seeds = number("--seeds", from)?..number("--seeds", to)?;
    if seeds.is_empty() {
        return Err(format!("--seeds: `{text}` holds no seed; write 0..200"));
    }
    Ok(seeds)
}

/// Prints a line; whoever closed the other end has seen enough.
fn say(line: impl Display) {
    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(0);
    }
}

fn number(option: &str, text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| format!("{option}: `{text}` is not a number; write 0 or more"))
}

/// How far it is, on standard error, where the next line of the terminal takes its place.
fn progress(played: u64, all: u64) {
    let line = format!("\r{played} of {all} worlds played\r");
    let mut out = std::io::stderr();
    // Nobody has to see it.
    out.write_all(line.as_bytes())
        .and_then(|()| out.flush())
        .ok();
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
    let given: Vec<String> = given.collect();
    let asks = |names: [&str; 3]| given.iter().any(|name| names.contains(&name.as_str()));
    if asks(["--help", "-h", "help"]) {
        say(HELP);
        return ExitCode::SUCCESS;
    }
    if asks(["--version", "-V", "version"]) {
        say(concat!("rebloom-sim ", env!("CARGO_PKG_VERSION")));
        return ExitCode::SUCCESS;
    }
    let arguments = match parse(given.into_iter()) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("rebloom-sim: {error}");
            return ExitCode::from(2);
        }
    };
    let (mut unsound, mut first) = (0_u64, None);
    let (all, mut played) = (arguments.seeds.end - arguments.seeds.start, 0_u64);
    let is_seen = arguments.many && std::io::stderr().is_terminal();
    for seed in arguments.seeds.clone() {
        let mut options = if arguments.plain {
            Options::draw(seed)
        } else if arguments.wide {
            Options::wide(seed)
        } else {
            Options::hard(seed)
        };
        if arguments.snapshots {
            options = options.snapping();
        }
        if arguments.spikes {
            options = options.spiking();
        }
        if let Some(bug) = arguments.planted {
            options = options.plant(bug);
        }
        if !arguments.many {
            say(format_args!("{options}\n"));
        }
        if is_seen {
            progress(played, all);
        }
        played += 1;
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
                first = first.or(Some(seed));
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
        say(format_args!("{} of {all} worlds are sound", all - unsound));
        if let Some(seed) = first {
            let again = &arguments.again;
            say(format_args!(
                "the first that is not, with all that happens in it: rebloom-sim --seed {seed}{again}"
            ));
        }
    }
    if unsound == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Arguments, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn seeds_are_a_range_or_a_number_and_never_none() {
        assert_eq!(parsed("--seeds 3..7").unwrap().seeds, 3..7);
        assert_eq!(parsed("--seeds 20").unwrap().seeds, 0..20);
        assert_eq!(parsed("--seed 5").unwrap().seeds, 5..6);
        for line in ["--seeds 0", "--seeds 5..5", "--seeds 5..3"] {
            assert!(parsed(line).unwrap_err().contains("no seed"), "{line}");
        }
        assert!(
            parsed("--seed 1 --seeds 1..4")
                .unwrap_err()
                .contains("give one")
        );
        assert!(parsed("--seeds a..3").unwrap_err().contains("`a`"));
    }

    #[test]
    fn what_was_found_can_be_played_again() {
        let given = parsed("--plain --seeds 200 --plant fence-ignored").unwrap();
        assert_eq!(given.again, " --plain --plant fence-ignored");
    }
}
