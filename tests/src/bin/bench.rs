//! `cargo xtask bench [recovery|overhead|checkpoint|worker [PART]|cluster|fleet]`: the figures of docs/benchmarks.md.

use anyhow::{Result, bail};
use rebloom_tests::bench;

fn main() -> Result<()> {
    let name = std::env::args().nth(1).unwrap_or_default();
    match name.as_str() {
        "recovery" => bench::recovery::run(),
        "overhead" => bench::overhead::run(),
        "checkpoint" => bench::checkpoint::run(),
        "worker" => bench::worker::run(std::env::args().nth(2).as_deref()),
        "cluster" => bench::cluster::run(),
        "fleet" => bench::fleet::run(),
        "" => {
            bench::recovery::run()?;
            bench::overhead::run()?;
            bench::checkpoint::run()?;
            bench::worker::run(None)?;
            bench::cluster::run()?;
            bench::fleet::run()
        }
        other => bail!(
            "no bench `{other}`: use recovery, overhead, checkpoint, worker, cluster or fleet"
        ),
    }
}
