//! What the benches compare with.

use crate::checkout::Checkout;
use anyhow::Result;
use std::process::ExitCode;

pub(crate) fn run(_checkout: &Checkout) -> Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}
