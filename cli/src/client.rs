//! The way to the controller: which one, with which certificate, and the calls in core's types.

use crate::cluster_file::ClusterFile;
use crate::failure::Failure;
use rebloom_core::checkpoint::CheckpointId;
use rebloom_core::engine::{Answer, HealthRuleView, NodeView, RuleHit, RunState, RunView};
use rebloom_core::health::Mode;
use rebloom_core::health::edited::OwnRule;
use rebloom_core::id::{NodeId, RunId};
use rebloom_core::layout::Layout;
use rebloom_core::order::Stop;
use rebloom_core::spec::RunSpec;
use rebloom_core::time::Instant;
use rebloom_proto::admin::CheckpointVerified;
use rebloom_proto::wire::admin_client::AdminClient;
use rebloom_proto::{MAX_MESSAGE, Malformed, wire};
use rebloom_runtime::clock::monotonic;
use rebloom_runtime::telemetry::chain;
use rebloom_runtime::tls::{ClientTls, Role};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tonic::Streaming;
use tonic::transport::Channel;

/// How long an answer may take; a verification reads whole checkpoints and has no limit.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// A question that changes nothing is asked again for so long where the controller does not answer: it
/// may be on its way up again.
const PATIENCE: Duration = Duration::from_secs(5);
/// After so long a wait the user is told.
const SILENCE: Duration = Duration::from_secs(1);
/// Between two attempts.
const RETRY: Duration = Duration::from_millis(150);

/// Which controller, as far as the user said.
#[derive(Debug, Clone, Default)]
pub(crate) struct Target {
    /// `host:port`.
    pub(crate) controller: Option<String>,
    /// Directory with `ca.pem` and an admin's certificate.
    pub(crate) tls: Option<PathBuf>,
}

/// A connection to a controller.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    address: String,
    inner: AdminClient<Channel>,
}

/// Everything there is to show, at one moment of the controller's clock.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cluster {
    /// The controller's clock.
    pub(crate) now: Instant,
    /// Every run.
    pub(crate) runs: Vec<RunView>,
    /// Every node.
    pub(crate) nodes: Vec<NodeView>,
}

impl Target {
    /// The cluster that `up` started, where the user did not say everything.
    fn known(&self) -> Result<Option<(PathBuf, ClusterFile)>, Failure> {
        match (&self.controller, &self.tls) {
            (Some(_), Some(_)) => Ok(None),
            (_, _) => ClusterFile::find(),
        }
    }

    /// Address and certificates; what the user did not say is taken from the cluster that `up` started.
    fn resolve(&self, known: Option<ClusterFile>) -> Result<(String, PathBuf), Failure> {
        let missing = |what: &str, flag: &str, variable: &str| {
            Failure::NoController(format!(
                "which {what}? No cluster was started below this directory or above it; \
                 give {flag} or set {variable}, or start one with `rebloom up`"
            ))
        };
        let address = self
            .controller
            .clone()
            .or_else(|| Some(known.as_ref()?.controller.clone()));
        let address =
            address.ok_or_else(|| missing("controller", "--controller", "REBLOOM_CONTROLLER"))?;
        let tls = self.tls.clone().or_else(|| Some(known?.tls));
        let tls = tls.ok_or_else(|| missing("certificates", "--tls", "REBLOOM_TLS"))?;
        Ok((address, tls))
    }

    /// Connects, or says at once why not.
    pub(crate) async fn connect(&self) -> Result<Client, Failure> {
        let known = self.known()?;
        if let Some((state, cluster)) = &known
            && self.controller.is_none()
            && !cluster.lives(state)
        {
            return Err(Failure::NoController(format!(
                "this cluster is stopped; `rebloom up` starts it (it is kept in {})",
                state.display()
            )));
        }
        let (address, tls) = self.resolve(known.map(|(_, cluster)| cluster))?;
        Client::connect(&address, &tls).await
    }

    /// Connects; waits for a controller that may be on its way up again.
    pub(crate) async fn reach(&self) -> Result<Client, Failure> {
        patiently(async || self.connect().await).await
    }

    /// Whether the controller is reached over loopback, and so its nodes see the files that this
    /// machine sees.
    pub(crate) fn is_here(&self) -> bool {
        let known = self.known().ok().flatten().map(|(_, cluster)| cluster);
        let Ok((address, _)) = self.resolve(known) else {
            return false;
        };
        let loopback = address
            .parse::<SocketAddr>()
            .is_ok_and(|address| address.ip().is_loopback());
        loopback || address.starts_with("localhost:")
    }
}

/// Asks until there is an answer, for as long as only the way to the controller is at fault.
async fn patiently<T>(ask: impl AsyncFn() -> Result<T, Failure>) -> Result<T, Failure> {
    let (began, mut told) = (monotonic(), false);
    loop {
        let failure = match ask().await {
            Err(failure @ Failure::Unreachable { .. }) => failure,
            answer => return answer,
        };
        let waited = monotonic().since(began);
        if waited > PATIENCE {
            return Err(failure);
        }
        if waited > SILENCE && !told {
            told = true;
            eprintln!(
                "the controller does not answer; trying for {} s",
                PATIENCE.as_secs()
            );
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// The admin whose certificate lies in a directory; the first by name where there are several.
fn admin_in(directory: &Path) -> Result<Role, Failure> {
    let made = "give the directory that `rebloom tls init` made, with ca.pem, admin-NAME.pem and \
                admin-NAME.key";
    let entries = std::fs::read_dir(directory).map_err(|error| {
        let place = directory.display();
        Failure::BadInput(format!(
            "cannot read the certificates in {place}: {error}; {made}"
        ))
    })?;
    let names = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        Some(
            name.strip_prefix("admin-")?
                .strip_suffix(".pem")?
                .to_owned(),
        )
    });
    names.min().map(Role::Admin).ok_or_else(|| {
        let place = directory.display();
        Failure::BadInput(format!("{place} holds no admin's certificate; {made}"))
    })
}

impl Client {
    /// Connects to `address` with the admin's certificate in `tls`.
    pub(crate) async fn connect(address: &str, tls: &Path) -> Result<Self, Failure> {
        let role = admin_in(tls)?;
        let certificates = ClientTls::load(tls, &role);
        // (They are the user's, who named the directory or made it.)
        let certificates =
            certificates.map_err(|error| Failure::BadInput(Failure::of(&error).to_string()))?;
        let endpoint = certificates.endpoint(address, &Role::Controller)?;
        let channel = endpoint
            .connect()
            .await
            .map_err(|error| Failure::Unreachable {
                address: address.to_owned(),
                error: chain(&error),
            })?;
        let inner = AdminClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        Ok(Self {
            address: address.to_owned(),
            inner,
        })
    }

    async fn call<W, T>(
        &self,
        call: impl Future<Output = Result<tonic::Response<W>, tonic::Status>>,
    ) -> Result<T, Failure>
    where
        T: TryFrom<W>,
        Failure: From<T::Error>,
    {
        let reply = tokio::time::timeout(ANSWER_WITHIN, call).await;
        let reply = reply.map_err(|_| Failure::Unreachable {
            address: self.address.clone(),
            error: format!("no answer within {} s", ANSWER_WITHIN.as_secs()),
        })?;
        let reply = reply.map_err(|status| self.failure(&status))?;
        Ok(T::try_from(reply.into_inner())?)
    }

    /// What a call ended with.
    pub(crate) fn failure(&self, status: &tonic::Status) -> Failure {
        Failure::of_call(status, &self.address)
    }

    /// Submits a run, or says where it would go.
    pub(crate) async fn submit(&self, spec: RunSpec, dry_run: bool) -> Result<Answer, Failure> {
        let request = wire::SubmitRunRequest {
            spec: Some(spec.into()),
            dry_run,
        };
        self.call(self.inner.clone().submit_run(request)).await
    }

    /// One run.
    pub(crate) async fn run(&self, run: &RunId) -> Result<RunView, Failure> {
        patiently(async || {
            let request = wire::GetRunRequest {
                run: run.to_string(),
            };
            self.call(self.inner.clone().get_run(request)).await
        })
        .await
    }

    /// Every run.
    pub(crate) async fn runs(&self) -> Result<Vec<RunView>, Failure> {
        let reply: wire::ListRunsReply = patiently(async || {
            let request = wire::ListRunsRequest {};
            self.call(self.inner.clone().list_runs(request)).await
        })
        .await?;
        Ok(all(reply.runs)?)
    }

    /// The run that is meant: the one named, else the only one there is.
    pub(crate) async fn meant(&self, named: Option<&RunId>) -> Result<RunView, Failure> {
        if let Some(run) = named {
            return self.run(run).await;
        }
        let mut runs = self.runs().await?;
        match (runs.len(), runs.pop()) {
            (1, Some(run)) => Ok(run),
            (_, None) => Err(Failure::NotFound("there is no run".to_owned())),
            (_, Some(last)) => {
                let names: Vec<_> = runs
                    .iter()
                    .chain([&last])
                    .map(|run| run.spec.name.as_str())
                    .collect();
                Err(Failure::BadInput(format!(
                    "which run? There are {}",
                    names.join(", ")
                )))
            }
        }
    }

    /// Stops a run.
    pub(crate) async fn stop(&self, run: &RunId, how: Stop) -> Result<Answer, Failure> {
        let how = wire::Stop::from(how).into();
        let request = wire::StopRunRequest {
            run: run.to_string(),
            how,
        };
        self.call(self.inner.clone().stop_run(request)).await
    }

    /// Lets a run go on.
    pub(crate) async fn resume(
        &self,
        run: &RunId,
        layout: Option<Layout>,
    ) -> Result<Answer, Failure> {
        let request = wire::ResumeRunRequest {
            run: run.to_string(),
            layout: layout.map(Into::into),
        };
        self.call(self.inner.clone().resume_run(request)).await
    }

    /// Every node.
    pub(crate) async fn nodes(&self) -> Result<Vec<NodeView>, Failure> {
        let reply: wire::ListNodesReply = patiently(async || {
            let request = wire::ListNodesRequest {};
            self.call(self.inner.clone().list_nodes(request)).await
        })
        .await?;
        Ok(all(reply.nodes)?)
    }

    /// Places nothing new on a node.
    pub(crate) async fn cordon(&self, node: &NodeId) -> Result<Answer, Failure> {
        let request = wire::CordonRequest {
            node: node.to_string(),
        };
        self.call(self.inner.clone().cordon(request)).await
    }

    /// Uses a node again.
    pub(crate) async fn uncordon(&self, node: &NodeId) -> Result<Answer, Failure> {
        let request = wire::UncordonRequest {
            node: node.to_string(),
        };
        self.call(self.inner.clone().uncordon(request)).await
    }

    /// Moves the ranks of a node elsewhere.
    pub(crate) async fn drain(&self, node: &NodeId, dry_run: bool) -> Result<Answer, Failure> {
        let request = wire::DrainRequest {
            node: node.to_string(),
            dry_run,
        };
        self.call(self.inner.clone().drain(request)).await
    }

    /// Every rule of health.
    pub(crate) async fn health_rules(&self) -> Result<Vec<HealthRuleView>, Failure> {
        patiently(async || {
            let request = wire::ListHealthRulesRequest {};
            self.call(self.inner.clone().list_health_rules(request))
                .await
        })
        .await
    }

    /// Adds or changes a rule of health, or only whether it acts.
    pub(crate) async fn set_health_rule(
        &self,
        name: String,
        mode: Mode,
        own: Option<OwnRule>,
    ) -> Result<Answer, Failure> {
        let request = wire::SetHealthRuleRequest {
            name,
            mode: wire::RuleMode::from(mode).into(),
            own: own.map(Into::into),
        };
        self.call(self.inner.clone().set_health_rule(request)).await
    }

    /// Removes a rule of health, or sets it back to its default.
    pub(crate) async fn unset_health_rule(&self, name: String) -> Result<Answer, Failure> {
        let request = wire::UnsetHealthRuleRequest { name };
        self.call(self.inner.clone().unset_health_rule(request))
            .await
    }

    /// On which of the last signals a rule would have fired.
    pub(crate) async fn test_health_rule(&self, when: String) -> Result<Vec<RuleHit>, Failure> {
        let request = wire::TestHealthRuleRequest { when };
        self.call(self.inner.clone().test_health_rule(request))
            .await
    }

    /// Has a checkpoint read and hashed.
    pub(crate) async fn verify(
        &self,
        run: &RunId,
        checkpoint: CheckpointId,
    ) -> Result<CheckpointVerified, Failure> {
        let request = wire::VerifyCheckpointRequest {
            run: run.to_string(),
            checkpoint: Some(checkpoint.into()),
        };
        let reply = self.inner.clone().verify_checkpoint(request).await;
        let reply = reply.map_err(|status| self.failure(&status))?;
        Ok(reply.into_inner().try_into()?)
    }

    /// The output of a rank.
    pub(crate) async fn log(
        &self,
        request: wire::ReadLogRequest,
    ) -> Result<Streaming<wire::LogChunk>, Failure> {
        patiently(async || {
            let reply = self.inner.clone().read_log(request.clone()).await;
            Ok(reply.map_err(|status| self.failure(&status))?.into_inner())
        })
        .await
    }

    /// Everything, at once and then on change.
    pub(crate) async fn watch(&self) -> Result<Streaming<wire::ClusterView>, Failure> {
        let reply = self
            .inner
            .clone()
            .watch_cluster(wire::WatchClusterRequest {})
            .await;
        Ok(reply.map_err(|status| self.failure(&status))?.into_inner())
    }
}

impl TryFrom<wire::ClusterView> for Cluster {
    type Error = Malformed;
    fn try_from(view: wire::ClusterView) -> Result<Self, Malformed> {
        let now = Instant::from_nanos(view.now);
        Ok(Self {
            now,
            runs: all(view.runs)?,
            nodes: all(view.nodes)?,
        })
    }
}

fn all<W, T: TryFrom<W>>(values: Vec<W>) -> Result<Vec<T>, T::Error> {
    values.into_iter().map(T::try_from).collect()
}

/// Whether a run in this state goes on by itself.
pub(crate) const fn goes_on(state: RunState) -> bool {
    match state {
        RunState::Pending
        | RunState::Starting
        | RunState::Running
        | RunState::Recovering
        | RunState::Stopping => true,
        RunState::Stopped | RunState::Completed | RunState::Failed | RunState::Parked => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn unreachable() -> Failure {
        Failure::Unreachable {
            address: "here".to_owned(),
            error: "refused".to_owned(),
        }
    }

    /// Only the way to the controller is worth another attempt, and a bounded number of them.
    #[tokio::test]
    async fn a_controller_that_comes_back_is_waited_for() {
        let asked = Cell::new(0);
        let answer = patiently(async || {
            asked.set(asked.get() + 1);
            if asked.get() < 3 {
                Err(unreachable())
            } else {
                Ok(asked.get())
            }
        });
        assert_eq!(answer.await.unwrap(), 3);
        asked.set(0);
        let refused = patiently(async || {
            asked.set(asked.get() + 1);
            Err::<(), _>(Failure::NotFound("no run".to_owned()))
        });
        assert_eq!(refused.await.unwrap_err().code(), 3);
        assert_eq!(asked.get(), 1);
    }
}
