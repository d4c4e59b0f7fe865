//! What an admin can set, and what of it makes no sense.

use clap::Parser;
use rebloom_core::engine::Limits;
use rebloom_core::footprint::{REGIONS, Tariff, intensity};
use rebloom_core::time::Duration;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// Schedules training runs over the cluster's nodes and recovers them from faults.
#[derive(Debug, Parser)]
#[command(name = "rebloom-controller", version, allow_negative_numbers = true)]
pub struct Args {
    /// Directory of its journal
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// Where agents and admins reach it
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7240")]
    listen: SocketAddr,
    /// Where its metrics are served; they are not protected
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7241")]
    metrics: SocketAddr,
    /// Directory with ca.pem, controller.pem and controller.key
    #[arg(long, value_name = "DIR")]
    tls: PathBuf,
    /// How often agents give a sign of life
    #[arg(long, value_name = "MS", default_value_t = 500)]
    beat_ms: u64,
    /// An agent silent for this long is lost
    #[arg(long, value_name = "MS", default_value_t = 5_000)]
    silent_after_ms: u64,
    /// An agent whose link broke is lost unless it joins again within this time
    #[arg(long, value_name = "MS", default_value_t = 3_000)]
    rejoin_within_ms: u64,
    /// Agents that hear nothing for this long fence their ranks
    #[arg(long, value_name = "MS", default_value_t = 300_000)]
    orphan_after_ms: u64,
    /// Largest share of the nodes that verdicts on their health may withdraw, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.5)]
    withdraw_share: f64,
    /// Records of the journal between two snapshots
    #[arg(long, value_name = "RECORDS", default_value_t = 4096)]
    snapshot_every: u32,
    /// Whose electricity it is, for the account of CO2: a country such as fr, or grams per kilowatt-hour
    #[arg(long, value_name = "REGION", default_value = "world")]
    region: String,
    /// Watts of one device, where its name does not say it
    #[arg(long, value_name = "WATTS")]
    device_watts: Option<f64>,
    /// Power usage effectiveness of the site: all its power by that of its machines
    #[arg(long, value_name = "RATIO", default_value_t = 1.0)]
    pue: f64,
    /// Log lines as JSON objects
    #[arg(long)]
    pub log_json: bool,
}

/// How the controller is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// Directory of its journal.
    pub state: PathBuf,
    /// Where agents and admins reach it.
    pub listen: SocketAddr,
    /// Where its metrics are served.
    pub metrics: SocketAddr,
    /// Directory with its keys and certificates.
    pub tls: PathBuf,
    /// Records of the journal between two snapshots.
    pub snapshot_every: u32,
    /// What the engine goes by.
    pub limits: Limits,
}

/// An argument that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("--{argument} {value}: {problem}")]
pub struct BadArgument {
    argument: &'static str,
    value: String,
    problem: String,
}

const SNAPSHOT_EVERY: RangeInclusive<u32> = 16..=1_000_000;
const DAY_MS: u64 = 24 * 3600 * 1000;

impl TryFrom<Args> for Config {
    type Error = BadArgument;

    fn try_from(args: Args) -> Result<Self, BadArgument> {
        let within = |argument, value: u64, least: u64, why: &str| {
            if (least..=DAY_MS).contains(&value) {
                return Ok(Duration::from_millis(value));
            }
            let problem = format!("use {least} to {DAY_MS} milliseconds{why}");
            Err(BadArgument {
                argument,
                value: value.to_string(),
                problem,
            })
        };
        let beat = args.beat_ms;
        let silent = args.silent_after_ms;
        let lost = silent.max(args.rejoin_within_ms);
        let limits = Limits {
            beat_every: within("beat-ms", beat, 10, "")?,
            silent_after: within(
                "silent-after-ms",
                silent,
                beat.saturating_mul(2),
                ", which is at least twice --beat-ms",
            )?,
            rejoin_within: within("rejoin-within-ms", args.rejoin_within_ms, 10, "")?,
            orphan_after: within(
                "orphan-after-ms",
                args.orphan_after_ms,
                lost.saturating_mul(2),
                ", which is at least twice --silent-after-ms and --rejoin-within-ms",
            )?,
            tariff: tariff(&args)?,
            withdraw_share: args.withdraw_share,
            ..Limits::default()
        };
        if !(0.0..=1.0).contains(&args.withdraw_share) {
            return Err(BadArgument {
                argument: "withdraw-share",
                value: args.withdraw_share.to_string(),
                problem: "use 0 to 1".to_owned(),
            });
        }
        if !SNAPSHOT_EVERY.contains(&args.snapshot_every) {
            let (least, most) = (SNAPSHOT_EVERY.start(), SNAPSHOT_EVERY.end());
            let (value, problem) = (
                args.snapshot_every.to_string(),
                format!("use {least} to {most}"),
            );
            return Err(BadArgument {
                argument: "snapshot-every",
                value,
                problem,
            });
        }
        if args.listen == args.metrics && args.listen.port() != 0 {
            let problem = "is --listen as well; use another port".to_owned();
            let value = args.metrics.to_string();
            return Err(BadArgument {
                argument: "metrics",
                value,
                problem,
            });
        }
        let Args {
            state,
            listen,
            metrics,
            tls,
            snapshot_every,
            ..
        } = args;
        Ok(Self {
            state,
            listen,
            metrics,
            tls,
            snapshot_every,
            limits,
        })
    }
}

/// What energy costs where the cluster is.
fn tariff(args: &Args) -> Result<Tariff, BadArgument> {
    let bad = |argument, value: String, problem: &str| BadArgument {
        argument,
        value,
        problem: problem.to_owned(),
    };
    let given = || {
        args.region
            .parse()
            .ok()
            .filter(|grams| (0.0..=2000.0).contains(grams))
    };
    let known: Vec<_> = REGIONS.iter().map(|(name, _)| *name).collect();
    let problem = format!("use grams per kilowatt-hour or one of {}", known.join(", "));
    let grams_per_kwh = intensity(&args.region)
        .or_else(given)
        .ok_or_else(|| bad("region", args.region.clone(), &problem))?;
    if !(1.0..=5.0).contains(&args.pue) {
        return Err(bad("pue", args.pue.to_string(), "use 1 to 5"));
    }
    if let Some(watts) = args
        .device_watts
        .filter(|watts| !(0.0..=10_000.0).contains(watts))
    {
        return Err(bad("device-watts", watts.to_string(), "use 0 to 10000"));
    }
    Ok(Tariff {
        watts: args.device_watts,
        effectiveness: args.pue,
        grams_per_kwh,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(extra: &[&str]) -> Result<Config, String> {
        let fixed = ["rebloom-controller", "--state", "s", "--tls", "t"];
        let args = fixed.iter().chain(extra);
        let args = Args::try_parse_from(args).map_err(|error| error.to_string())?;
        Config::try_from(args).map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_the_engines_and_loopback() {
        let config = config(&[]).unwrap();
        assert_eq!(config.limits, Limits::default());
        assert!(config.listen.ip().is_loopback() && config.metrics.ip().is_loopback());
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (extra, names) in [
            (["--beat-ms", "0"], "--beat-ms 0: use 10 to"),
            (
                ["--beat-ms", "-1"],
                "invalid value '-1' for '--beat-ms <MS>'",
            ),
            (
                ["--silent-after-ms", "900"],
                "--silent-after-ms 900: use 1000 to",
            ),
            (
                ["--rejoin-within-ms", "99999999999"],
                "--rejoin-within-ms 99999999999",
            ),
            (
                ["--orphan-after-ms", "9000"],
                "--orphan-after-ms 9000: use 10000 to",
            ),
            (
                ["--metrics", "127.0.0.1:7240"],
                "--metrics 127.0.0.1:7240: is --listen",
            ),
            (
                ["--withdraw-share", "1.5"],
                "--withdraw-share 1.5: use 0 to 1",
            ),
            (["--listen", "nowhere"], "--listen"),
        ] {
            let error = config(&extra).unwrap_err();
            assert!(error.contains(names), "{error}");
        }
    }
}
