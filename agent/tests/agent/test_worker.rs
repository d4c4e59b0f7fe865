//! A worker without a model: it connects, forms its group through the rendezvous store, writes its
//! flight page and waits. Started by the agent under test with the real worker's command line.
//!
//! What it does beyond that hangs on the name of its run: `loud` fills its log.

use clap::{Args, Parser};
use rebloom_core::flight::Phase;
use rebloom_core::id::{Generation, Rank, RunId, Step};
use rebloom_core::report::Milestone;
use rebloom_core::word::{FromWorker, Go, Hello, ToWorker};
use rebloom_proto::rank::{FromRank, ToRank};
use rebloom_proto::wire::rank_link_client::RankLinkClient;
use rebloom_proto::wire::store_client::StoreClient;
use rebloom_proto::wire::{StoreAddRequest, StoreGetRequest, StorePlace, StoreSetRequest};
use rebloom_runtime::flight::Recorder;
use rebloom_runtime::standby::Assignment;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

#[derive(Debug, Parser)]
struct Arguments {
    #[arg(long, value_parser = RunId::new)]
    run: RunId,
    #[arg(long)]
    rank: u32,
    #[arg(long)]
    slot: u32,
    #[arg(long)]
    flight: PathBuf,
    #[command(flatten)]
    node: Node,
}

#[derive(Debug, Args)]
struct Node {
    #[arg(long)]
    socket: PathBuf,
    #[arg(long)]
    orphan_after_ms: u64,
    #[arg(long)]
    device: String,
    #[arg(long)]
    interface: String,
    #[arg(long)]
    snapshots: Option<PathBuf>,
}

#[derive(Debug, Parser)]
enum Command {
    Standby(Node),
}

/// The command line, or what the agent says to a process that waits.
fn arguments() -> anyhow::Result<Option<Arguments>> {
    if std::env::args().nth(1).as_deref() != Some("standby") {
        return Ok(Some(Arguments::parse()));
    }
    let Command::Standby(node) = Command::parse();
    Ok(Assignment::take_up()?.map(|told| Arguments {
        run: told.run,
        rank: told.rank,
        slot: told.slot,
        flight: told.flight,
        node,
    }))
}

struct Worker {
    arguments: Arguments,
    page: Recorder,
    generation: Generation,
    milestone: Milestone,
    sequence: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let Some(arguments) = arguments()? else {
        return Ok(());
    };
    println!(
        "rank {} on slot {} of {} via {}",
        arguments.rank, arguments.slot, arguments.node.device, arguments.node.interface
    );
    if arguments.run.as_str() == "loud" {
        (0..1000).for_each(|line| println!("line {line}"));
    }
    let page = Recorder::open(&arguments.flight)?;
    let lives = Duration::from_millis(arguments.node.orphan_after_ms);
    let (generation, milestone) = (Generation(0), Milestone::Going);
    let mut worker = Worker {
        arguments,
        page,
        generation,
        milestone,
        sequence: 0,
    };
    loop {
        let connected = tokio::time::timeout(lives, worker.connect()).await?;
        if let Err(error) = worker.talk(connected).await {
            println!("the agent is away: {error:#}");
        }
    }
}

impl Worker {
    async fn connect(&self) -> Channel {
        loop {
            let path = self.arguments.node.socket.clone();
            let connector = tower::service_fn(move |_| {
                let path = path.clone();
                async move { Ok::<_, std::io::Error>(hyper_io(UnixStream::connect(path).await?)) }
            });
            let endpoint = Endpoint::from_static("http://agent");
            match endpoint.connect_with_connector(connector).await {
                Ok(channel) => return channel,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    async fn talk(&mut self, channel: Channel) -> anyhow::Result<()> {
        let (words, outgoing) = mpsc::channel(16);
        let hello = Hello {
            run: self.arguments.run.clone(),
            rank: Rank(self.arguments.rank),
            pid: std::process::id(),
            generation: self.generation,
            milestone: self.milestone,
        };
        self.say(&words, FromWorker::Hello(hello)).await?;
        let outgoing = ReceiverStream::new(outgoing).map(|word: FromRank| word.into());
        let mut incoming = RankLinkClient::new(channel.clone())
            .attach(outgoing)
            .await?
            .into_inner();
        while let Some(message) = incoming.message().await? {
            match ToRank::try_from(message)? {
                ToRank::Ack(_) | ToRank::Word(ToWorker::Heard(_)) => {}
                ToRank::Word(ToWorker::Go(go)) => self.go(&go, &channel, &words).await?,
                ToRank::Word(ToWorker::Exit) => std::process::exit(0),
            }
        }
        anyhow::bail!("it closed the link")
    }

    async fn say(
        &mut self,
        words: &mpsc::Sender<FromRank>,
        word: FromWorker,
    ) -> anyhow::Result<()> {
        self.sequence += 1;
        Ok(words
            .send(FromRank {
                sequence: self.sequence,
                word,
            })
            .await?)
    }

    async fn go(
        &mut self,
        go: &Go,
        channel: &Channel,
        words: &mpsc::Sender<FromRank>,
    ) -> anyhow::Result<()> {
        println!("goes as rank {} in generation {}", go.rank, go.generation);
        (self.generation, self.milestone) = (go.generation, Milestone::Going);
        self.page.begin(go.generation);
        self.form(go, channel).await?;
        self.page.enter(Phase::Step, None);
        self.page.stand(Step(3), 48);
        self.page.figures(1.5, 0.5, 1000);
        for (milestone, step) in [(Milestone::Formed, Step(0)), (Milestone::Stepped, Step(3))] {
            self.milestone = milestone;
            let word = FromWorker::Reached {
                generation: go.generation,
                milestone,
                step,
            };
            self.say(words, word).await?;
        }
        Ok(())
    }

    /// Everyone writes its name and reads everyone's.
    async fn form(&self, go: &Go, channel: &Channel) -> anyhow::Result<()> {
        let mut store = StoreClient::new(channel.clone());
        let place = Some(StorePlace {
            run: go.spec.name.to_string(),
            generation: go.generation.0,
        });
        let key = |rank: Rank| format!("rank/{rank}");
        let value = go.rank.to_string().into_bytes();
        store
            .set(StoreSetRequest {
                place: place.clone(),
                key: key(go.rank),
                value,
            })
            .await?;
        for rank in go.spec.layout.ranks() {
            let (place, key, timeout_ms) = (place.clone(), key(rank), 30_000);
            let found = store
                .get(StoreGetRequest {
                    place,
                    key,
                    timeout_ms,
                })
                .await?
                .into_inner();
            anyhow::ensure!(
                found.value == rank.to_string().into_bytes(),
                "not what it wrote"
            );
        }
        let key = "formed".to_owned();
        store
            .add(StoreAddRequest {
                place,
                key,
                amount: 1,
            })
            .await?;
        Ok(())
    }
}

fn hyper_io(stream: UnixStream) -> hyper_util::rt::TokioIo<UnixStream> {
    hyper_util::rt::TokioIo::new(stream)
}
