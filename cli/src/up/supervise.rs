//! Keeps controller and agents running, as an init system does on a node: what ends is started again.

use super::home::{Home, SLOTS};
use crate::client::Target;
use crate::cluster_file::{ClusterFile, Process};
use crate::failure::Failure;
use crate::view::Line;
use rebloom_core::id::{NodeId, RunId};
use rebloom_runtime::clock::monotonic;
use rebloom_runtime::shutdown::{Shutdown, Trigger};
use rustix::process::Signal;
use std::fs::{self, File, OpenOptions};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::process::Child;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// First pause before something is started again; it doubles while that fails.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A life shorter than this is a failed start.
const SHORT_LIFE: Duration = Duration::from_secs(2);
/// So many failed starts in a row are a failure of the whole.
const MOST_SHORT_LIVES: u32 = 6;
/// How long a process may take to end when asked.
const LEAVE_WITHIN: Duration = Duration::from_secs(8);
/// A log longer than this is put aside before its process is started again.
const LONG_LOG: u64 = 16 << 20;

/// What the supervisor has to tell.
pub(super) enum News {
    /// Something ended and is started again.
    Note(Line),
    /// Something cannot be kept running.
    Failed(Failure),
}

/// Controller and agents of this cluster.
pub(super) struct Supervisor {
    shared: Arc<Shared>,
    agents: Vec<JoinHandle<()>>,
    controller: Option<JoinHandle<()>>,
    end_agents: Trigger,
    end_controller: Trigger,
}

/// What the keepers write down together.
struct Shared {
    state: PathBuf,
    cluster: Mutex<ClusterFile>,
}

impl Shared {
    /// Writes down which process plays a part now.
    fn record(&self, part: &Part, process: Option<Process>) -> Result<(), Failure> {
        let mut cluster = self.cluster.lock().unwrap_or_else(PoisonError::into_inner);
        match part {
            Part::Controller => cluster.controller_process = process,
            Part::Agent(node) => {
                let agents = &mut cluster.agents;
                let agent = agents.iter_mut().find(|agent| agent.node == node.as_str());
                if let Some(agent) = agent {
                    agent.process = process;
                }
            }
        }
        cluster.write(&self.state)
    }
}

/// Who is kept running.
#[derive(Debug, Clone)]
enum Part {
    Controller,
    Agent(NodeId),
}

impl Part {
    fn name(&self) -> String {
        match self {
            Self::Controller => "the controller".to_owned(),
            Self::Agent(node) => format!("the agent of {node}"),
        }
    }
}

/// How one of them is started.
struct Recipe {
    part: Part,
    program: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
}

impl Supervisor {
    /// Starts everything.
    pub(super) fn start(
        home: &Home,
        run: &RunId,
        news: mpsc::Sender<News>,
    ) -> Result<Self, Failure> {
        let cluster = home.cluster(run.as_str())?;
        cluster.write(home.state())?;
        let recipes = recipes(home, &cluster)?;
        files_for(home)?;
        let state = home.state().to_owned();
        let shared = Arc::new(Shared {
            state,
            cluster: Mutex::new(cluster),
        });
        let (end_agents, agents_end) = Shutdown::manual();
        let (end_controller, controller_end) = Shutdown::manual();
        let (mut agents, mut controller) = (Vec::new(), None);
        for recipe in recipes {
            let (shared, news) = (Arc::clone(&shared), news.clone());
            match recipe.part {
                Part::Controller => {
                    controller = Some(tokio::spawn(keep(
                        recipe,
                        shared,
                        news,
                        controller_end.clone(),
                    )));
                }
                Part::Agent(_) => {
                    agents.push(tokio::spawn(keep(recipe, shared, news, agents_end.clone())));
                }
            }
        }
        Ok(Self {
            shared,
            agents,
            controller,
            end_agents,
            end_controller,
        })
    }

    /// How to reach the controller.
    pub(super) fn target(&self) -> Target {
        let cluster = self
            .shared
            .cluster
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Target {
            controller: Some(cluster.controller.clone()),
            tls: Some(cluster.tls.clone()),
        }
    }

    /// Ends agents, then the controller; at once where `force` is set.
    pub(super) async fn end(self, force: bool) {
        if force {
            let cluster = self
                .shared
                .cluster
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            let agents = cluster.agents.iter().filter_map(|agent| agent.process);
            for process in agents.chain(cluster.controller_process) {
                process.signal(Signal::KILL);
            }
        }
        self.end_agents.fire();
        for agent in self.agents {
            // (A keeper that panicked has nothing left to end.)
            drop(agent.await);
        }
        self.end_controller.fire();
        if let Some(controller) = self.controller {
            drop(controller.await);
        }
    }
}

/// What the processes need to find in place.
fn files_for(home: &Home) -> Result<(), Failure> {
    let directories = [
        home.logs(),
        home.path("controller"),
        home.path("checkpoints"),
    ];
    let agents = Home::nodes().into_iter().map(|node| home.agent(&node));
    for directory in directories.into_iter().chain(agents) {
        rebloom_runtime::files::create_directory(&directory)?;
    }
    Ok(())
}

fn recipes(home: &Home, cluster: &ClusterFile) -> Result<Vec<Recipe>, Failure> {
    let tls = text(&cluster.tls);
    let mut recipes = vec![Recipe {
        part: Part::Controller,
        program: binary("rebloom-controller")?,
        arguments: arguments(&[
            ("--state", &text(&home.path("controller"))),
            ("--listen", &cluster.controller),
            ("--metrics", &cluster.metrics),
            ("--tls", &tls),
        ]),
        log: home.logs().join("controller.log"),
    }];
    let worker = text(&binary("rebloom-worker")?);
    for (node, agent) in Home::nodes().into_iter().zip(&cluster.agents) {
        recipes.push(Recipe {
            program: binary("rebloom-agent")?,
            arguments: arguments(&[
                ("--node", node.as_str()),
                ("--state", &text(&home.agent(&node))),
                ("--controller", &cluster.controller),
                ("--tls", &tls),
                ("--slots", &SLOTS.to_string()),
                ("--listen", &agent.address),
                ("--worker", &worker),
            ]),
            log: home.logs().join(format!("{node}.log")),
            part: Part::Agent(node),
        });
    }
    Ok(recipes)
}

fn arguments(pairs: &[(&str, &str)]) -> Vec<String> {
    pairs
        .iter()
        .flat_map(|(flag, value)| [(*flag).to_owned(), (*value).to_owned()])
        .collect()
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// One of our binaries; they all lie beside this one.
pub(crate) fn binary(name: &str) -> Result<PathBuf, Failure> {
    let this = std::env::current_exe().map_err(|error| Failure::of(&error))?;
    let path = this.with_file_name(name);
    if path.is_file() {
        return Ok(path);
    }
    Err(Failure::Failed(format!(
        "{} is missing; `cargo xtask up` builds everything that is needed",
        path.display()
    )))
}

/// Starts a process again and again until the end is wished for.
async fn keep(recipe: Recipe, shared: Arc<Shared>, news: mpsc::Sender<News>, mut end: Shutdown) {
    let name = recipe.part.name();
    let (mut pause, mut short_lives) = (FIRST_PAUSE, 0);
    loop {
        let began = monotonic();
        let ended = match once(&recipe, &shared, &mut end).await {
            Ok(Some(status)) => spelled(status),
            Ok(None) => return,
            Err(failure) => failure.to_string(),
        };
        if monotonic().since(began) < SHORT_LIFE {
            short_lives += 1;
            pause = (pause * 2).min(LONGEST_PAUSE);
        } else {
            (pause, short_lives) = (FIRST_PAUSE, 0);
        }
        let told = if short_lives >= MOST_SHORT_LIVES {
            let log = recipe.log.display();
            News::Failed(Failure::Failed(format!(
                "{name} does not stay up ({ended}); its log is {log}"
            )))
        } else {
            News::Note(Line::bad(format!(
                "{name} ended ({ended}); starting it again"
            )))
        };
        if news.send(told).await.is_err() || short_lives >= MOST_SHORT_LIVES {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = end.asked() => return,
        }
    }
}

/// One life of a process: how it ended, or nothing where that was wished for.
async fn once(
    recipe: &Recipe,
    shared: &Shared,
    end: &mut Shutdown,
) -> Result<Option<ExitStatus>, Failure> {
    let mut child = spawn(recipe)?;
    let process = child.id().and_then(Process::of);
    shared.record(&recipe.part, process)?;
    let status = tokio::select! {
        status = child.wait() => Some(status.map_err(|error| Failure::of(&error))?),
        () = end.asked() => None,
    };
    if status.is_none() {
        leave(&mut child, process).await;
    }
    shared.record(&recipe.part, None)?;
    Ok(status)
}

/// In a process group of its own, so that Ctrl-C is ours to pass on.
fn spawn(recipe: &Recipe) -> Result<Child, Failure> {
    let log = open_log(&recipe.log)?;
    let errors = log
        .try_clone()
        .map_err(|error| Failure::file("open", &recipe.log, &error))?;
    let mut command = Command::new(&recipe.program);
    command
        .args(&recipe.arguments)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .process_group(0);
    tokio::process::Command::from(command)
        .spawn()
        .map_err(|error| Failure::file("start", &recipe.program, &error))
}

fn open_log(path: &Path) -> Result<File, Failure> {
    if fs::metadata(path).is_ok_and(|facts| facts.len() > LONG_LOG) {
        let aside = path.with_extension("log.1");
        fs::rename(path, &aside).map_err(|error| Failure::file("put aside", path, &error))?;
    }
    let log = OpenOptions::new().create(true).append(true).open(path);
    log.map_err(|error| Failure::file("open", path, &error))
}

/// Asks, waits, kills.
async fn leave(child: &mut Child, process: Option<Process>) {
    if let Some(process) = process {
        process.signal(Signal::TERM);
    }
    if tokio::time::timeout(LEAVE_WITHIN, child.wait())
        .await
        .is_err()
    {
        // (One that is gone already is what is wanted.)
        drop(child.kill().await);
    }
}

fn spelled(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(9)) => "SIGKILL".to_owned(),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown".to_owned(),
    }
}
