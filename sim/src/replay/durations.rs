//! How long things take: read from one documented file, drawn from the seed.
//!
//! Nothing in the replay takes time that is not an entry of that file or of the scenario.

use super::draw::Draw;
use serde::Deserialize;
use std::time::Duration;

/// The file that comes with the simulator.
pub const BUILT_IN: &str = include_str!("../../histories/durations.toml");

/// One duration and where it is from.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// What takes so long.
    pub name: String,
    /// Largest gang it is for; any where absent.
    pub up_to_gpus: Option<u32>,
    /// Median, in seconds.
    pub median: f64,
    /// 99th percentile, in seconds.
    pub p99: f64,
    /// Where the figures are from.
    pub source: String,
}

/// The durations for a gang of one size.
#[derive(Debug, Clone)]
pub struct Durations {
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    duration: Vec<Entry>,
}

/// Every name that the replay asks for.
const NAMES: [&str; 14] = [
    "notice-exit",
    "notice-silence",
    "spawn",
    "form",
    "restore",
    "save-stall",
    "save-write",
    "repair-node",
    "repair-gpu",
    "then-notice-exit",
    "then-restart",
    "then-hang",
    "then-human",
    "deadline-factor",
];

/// The longest that a duration may be: a year.
const MOST: f64 = 31_536_000.0;

/// 99th percentile of the standard normal distribution.
const Z99: f64 = 2.326_347_874;

impl Durations {
    /// Reads the file for a gang of this many GPUs: of each name the first entry that is large enough.
    pub fn parse(text: &str, gpus: u32) -> Result<Self, String> {
        let file: File = toml::from_str(text)
            .map_err(|error| format!("durations: {}", error.to_string().trim_end()))?;
        let mut entries = Vec::new();
        for name in NAMES {
            let fits = |entry: &&Entry| {
                entry.name == name && entry.up_to_gpus.is_none_or(|most| gpus <= most)
            };
            let entry = file.duration.iter().find(fits).ok_or_else(|| {
                format!(
                    "duration `{name}`: there is none for {gpus} GPUs; add one, or raise up_to_gpus"
                )
            })?;
            let (median, p99) = (entry.median, entry.p99);
            if !(median > 0.0 && p99 >= median && p99 <= MOST) {
                return Err(format!(
                    "duration `{name}`: median {median} and p99 {p99} do not do; use 0 < median <= p99 <= {MOST}"
                ));
            }
            if entry.source.is_empty() {
                return Err(format!(
                    "duration `{name}`: source is empty; say where it is from"
                ));
            }
            entries.push(entry.clone());
        }
        if let Some(entry) = file
            .duration
            .iter()
            .find(|entry| !NAMES.contains(&entry.name.as_str()))
        {
            return Err(format!(
                "duration `{}` is not one that the replay knows; it knows {}",
                entry.name,
                NAMES.join(", ")
            ));
        }
        Ok(Self { entries })
    }

    fn entry(&self, name: &str) -> &Entry {
        self.entries
            .iter()
            .find(|entry| entry.name == name)
            .expect("`parse` saw to every name")
    }

    /// The median, in seconds.
    pub fn median(&self, name: &str) -> f64 {
        self.entry(name).median
    }

    /// One draw, in seconds.
    pub fn seconds(&self, name: &str, draw: &mut Draw) -> f64 {
        let entry = self.entry(name);
        let sigma = (entry.p99 / entry.median).ln() / Z99;
        entry.median * (sigma * draw.normal()).exp()
    }

    /// One draw.
    pub fn draw(&self, name: &str, draw: &mut Draw) -> Duration {
        Duration::from_secs_f64(self.seconds(name, draw))
    }

    /// The same durations with one of them longer, for the sensitivity.
    #[must_use]
    pub fn scaled(mut self, name: &str, factor: f64) -> Self {
        for entry in self.entries.iter_mut().filter(|entry| entry.name == name) {
            entry.median *= factor;
            entry.p99 *= factor;
        }
        self
    }
}
