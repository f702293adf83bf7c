//! Where the shell remembers what was typed.

use std::path::PathBuf;

/// Entries kept.
pub(super) const MAX_ENTRIES: usize = 10_000;

/// `$XDG_STATE_HOME/onward/history`, by default below `~/.local/state`; `None` when it cannot be made.
pub(super) fn path() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = set("XDG_STATE_HOME").or_else(|| set("HOME").map(|home| home.join(".local/state")))?;
    let dir = state.join("onward");
    std::fs::create_dir_all(&dir).ok()?;
    Some(dir.join("history"))
}
