//! `rebloom`: what people use. It asks the controller, shows what it says, and starts a whole cluster on
//! one machine; it decides nothing about runs or nodes.

mod args;
mod called;
mod chaos;
mod checkpoint;
mod client;
mod cluster_file;
mod data;
mod explain;
mod failure;
mod format;
mod health;
mod logs;
mod model;
mod node;
mod run;
mod scores;
mod tls;
mod up;
mod view;
mod watch;

use args::{Cli, Command};
use called::spelled;
use failure::Failure;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::typed();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => {
            let outcome = runtime.block_on(run(cli));
            // Whatever still waits for a reply is of no interest any more.
            runtime.shutdown_background();
            outcome
        }
        Err(error) => Err(Failure::of(&error)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {}", spelled(&failure.to_string()));
            ExitCode::from(failure.code())
        }
    }
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let Cli { global, command } = cli;
    match command {
        Command::Up(up) => up::run(up).await,
        Command::Run(command) => run::run(command, &global).await,
        Command::Node(command) => node::run(command, &global).await,
        Command::Health(command) => health::run(command, &global).await,
        Command::Checkpoint(command) => checkpoint::run(command, &global).await,
        Command::Chaos(command) => chaos::run(command, &global).await,
        Command::Tls(command) => tls::run(command),
        Command::Data(command) => data::run(command, global.output),
        Command::Model(command) => model::run(command, &global).await,
        Command::Generate(generate) => model::predict::generate(generate, &global).await,
        Command::Eval(eval) => model::predict::evaluate(eval, &global).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::whole(), "rebloom", &mut script);
            format::print_bytes(&script);
            Ok(())
        }
    }
}
