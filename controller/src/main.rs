//! `rebloom-controller`: reads its arguments, starts the controller, ends when it is asked to.

use anyhow::Context;
use clap::Parser;
use rebloom_controller::Controller;
use rebloom_controller::config::{Args, Config};
use rebloom_runtime::journal::Sled;
use rebloom_runtime::shutdown::Shutdown;
use rebloom_runtime::telemetry;
use std::process::ExitCode;
use tracing::{error, info};

fn main() -> ExitCode {
    let args = Args::parse();
    let json = args.log_json;
    let config = match Config::try_from(args) {
        Ok(config) => config,
        Err(error) => return usage(&error),
    };
    if let Err(error) = telemetry::start(json) {
        return usage(&error);
    }
    rebloom_runtime::priority::raise();
    match run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn usage(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(2)
}

fn run(config: &Config) -> anyhow::Result<()> {
    let journal = Sled::open(&config.state.join("journal"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start threads")?;
    runtime.block_on(async {
        let (_trigger, shutdown) = Shutdown::on_signals().context("cannot watch for signals")?;
        let controller = Controller::start(config, journal).await?;
        info!(
            listen = %controller.address()?, metrics = %controller.metrics_address()?,
            state = %config.state.display(), "the controller is up"
        );
        controller.run(shutdown).await?;
        info!("the controller ends; agents train on without it");
        Ok(())
    })
}
