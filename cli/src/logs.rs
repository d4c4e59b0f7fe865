//! `rebloom run logs`: what a rank wrote.

use crate::client::Client;
use crate::failure::Failure;
use crate::format::print_bytes;
use rebloom_core::id::RunId;
use rebloom_proto::wire;

/// Whose output, and how much of it.
pub(crate) struct Which {
    pub(crate) rank: u32,
    pub(crate) follow: bool,
    pub(crate) tail: Option<u32>,
    pub(crate) previous: bool,
}

/// Prints the output as it comes.
pub(crate) async fn print(client: &Client, run: &RunId, which: Which) -> Result<(), Failure> {
    let Which {
        rank,
        follow,
        tail,
        previous,
    } = which;
    let tail_lines = tail.unwrap_or(0);
    let request = wire::ReadLogRequest {
        run: run.to_string(),
        rank,
        previous,
        tail_lines,
        follow,
    };
    let mut parts = client.log(request).await?;
    let mut nothing = true;
    loop {
        match parts.message().await {
            Ok(Some(part)) => {
                nothing &= part.data.is_empty();
                print_bytes(&part.data);
            }
            Ok(None) if nothing && previous => {
                return Err(Failure::NotFound(format!(
                    "rank {rank} of run {run} has no output of a process before the present one"
                )));
            }
            Ok(None) => return Ok(()),
            Err(status) => return Err(client.failure(&status)),
        }
    }
}
