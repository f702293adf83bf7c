//! `onward config`.

use std::io::Write;

use super::Failure;
use super::global::GlobalArgs;
use crate::config::describe;

pub(super) fn run(global: &GlobalArgs) -> Result<(), Failure> {
    let text = describe(&global.config()?);
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
