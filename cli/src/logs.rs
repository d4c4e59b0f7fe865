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
    let run = run.to_string();
    let request = wire::ReadLogRequest {
        run,
        rank,
        previous,
        tail_lines,
        follow,
    };
    let mut parts = client.log(request).await?;
    loop {
        match parts.message().await {
            Ok(Some(part)) => print_bytes(&part.data),
            Ok(None) => return Ok(()),
            Err(status) => return Err(client.failure(&status)),
        }
    }
}
