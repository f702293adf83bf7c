//! Settings from their four sources: defaults, then a TOML file, then `ONWARD_<NAME>` variables, then flags; the last
//! one wins. What settings there are is declared in [`onward_wire::config`], and only there.
//!
//! ```
//! use onward::config::{Flags, load};
//!
//! let flags = Flags { set: vec!["memory_bytes=8GiB".into(), "functions=2".into()], ..Flags::default() };
//! let config = load(&flags)?;
//! assert_eq!((config.memory_bytes, config.functions), (8 << 30, 2));
//! # Ok::<(), onward::config::ConfigError>(())
//! ```

mod layer;
mod table;

use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use onward_wire::Config;

use self::layer::Layer;
pub use self::table::{describe, markdown_table};

/// Prefix of the environment variables.
pub const ENV_PREFIX: &str = "ONWARD_";

/// What the command line says about settings.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// TOML file with settings.
    pub file: Option<PathBuf>,
    /// `name=value` pairs; the last of a name wins.
    pub set: Vec<String>,
}

/// Why settings cannot be used. Every variant names the source that is wrong.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the settings file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A name that is no setting.
    #[error("unknown setting `{name}` in {origin}{}", suggestion(nearest))]
    Unknown {
        /// What was written.
        name: String,
        /// The file, variable or flag.
        origin: String,
        /// The setting whose name is closest.
        nearest: Option<&'static str>,
    },
    /// A flag that is not `name=value`.
    #[error("--set {0}: give name=value, for example --set drain_timeout_ms=5000; `onward config` lists the names")]
    NotAPair(String),
    /// A value that is no size.
    #[error("`{name} = {value}` in {origin} is not a size: give bytes, or a number with KB, KiB, MB, MiB, GB, GiB")]
    NotASize {
        /// The setting.
        name: String,
        /// What was written.
        value: String,
        /// The file, variable or flag.
        origin: String,
    },
    /// TOML that cannot be parsed, or a value of another type.
    #[error("{0}")]
    Invalid(Box<figment::Error>),
}

fn suggestion(nearest: &Option<&'static str>) -> String {
    match nearest {
        Some(name) => format!(": did you mean `{name}`? `onward config` lists all settings"),
        None => ": `onward config` lists all settings".to_owned(),
    }
}

impl From<figment::Error> for ConfigError {
    fn from(error: figment::Error) -> Self {
        Self::Invalid(Box::new(error))
    }
}

/// Merges defaults, the file, the environment and the flags.
///
/// # Errors
/// [`ConfigError`], always with the source's name. A variable `ONWARD_...` that resembles no setting belongs to
/// somebody else and is left alone; one that is a misspelt setting is an error.
pub fn load(flags: &Flags) -> Result<Config, ConfigError> {
    let mut figment = Figment::from(Serialized::defaults(Config::default()));
    if let Some(path) = &flags.file {
        figment = figment.merge(file_layer(path)?);
    }
    figment = figment.merge(Layer::check(&Env::prefixed(ENV_PREFIX), layer::Strictness::MisspeltOnly)?);
    for pair in &flags.set {
        let (name, value) = pair.split_once('=').ok_or_else(|| ConfigError::NotAPair(pair.clone()))?;
        figment = figment.merge(Layer::pair(name.trim(), value.trim())?);
    }
    Ok(figment.extract()?)
}

fn file_layer(path: &Path) -> Result<Layer, ConfigError> {
    // Read first: figment takes a missing file for an empty one.
    std::fs::metadata(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    Layer::check(&Toml::file_exact(path), layer::Strictness::All)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_within_tables_have_units_too() {
        let config = with_file("[classes.big]\nmemory_bytes = \"2GiB\"\nvcpus = 2\n", &[]).expect("settings");
        assert_eq!((config.classes["big"].memory_bytes, config.classes["big"].vcpus), (2 << 30, 2));
        let wrong = with_file("[classes.big]\nmemory_bytes = \"much\"\n", &[]).expect_err("no size").to_string();
        assert!(wrong.contains("classes.big.memory_bytes = much"), "{wrong}");
    }

    fn with_file(text: &str, set: &[&str]) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("onward.toml");
        std::fs::write(&path, text).expect("a file");
        load(&Flags { file: Some(path), set: set.iter().map(|&pair| pair.to_owned()).collect() })
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let config = with_file("vcpus = 3\nfunctions = 2\n", &["vcpus=5"]).expect("settings");
        assert_eq!((config.vcpus, config.functions), (5, 2));
        assert_eq!(config.max_attempts, Config::default().max_attempts);
    }

    #[test]
    fn sizes_have_units_and_functions_may_be_auto() {
        let config = with_file("memory_bytes = '8GiB'\nflush_bytes = 123\n", &["segment_disk_bytes=512MB"]);
        let config = config.expect("settings");
        assert_eq!((config.memory_bytes, config.flush_bytes, config.segment_disk_bytes), (8 << 30, 123, 512_000_000));
        assert_eq!(with_file("functions = 4", &["functions=auto"]).expect("settings").functions, 0);
        let directory = with_file("", &["spill_dir=1234"]).expect("a directory may look like a number");
        assert_eq!(directory.spill_dir, "1234");
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_source_and_the_nearest_name() {
        let message = with_file("memory_byte = 1", &[]).expect_err("unknown").to_string();
        assert!(message.contains("`memory_byte`") && message.contains("onward.toml"), "{message}");
        assert!(message.contains("did you mean `memory_bytes`"), "{message}");
        let message = with_file("", &["colour=red"]).expect_err("unknown").to_string();
        assert!(message.contains("`colour`") && message.contains("--set") && !message.contains("mean"), "{message}");
    }

    #[test]
    fn a_bad_value_names_the_setting_and_the_source() {
        for (text, set, expected) in [
            ("vcpus = 'many'", "vcpus=1", None),
            ("vcpus = -1", "functions=1", Some(["vcpus", "onward.toml"])),
            ("", "memory_bytes=a lot", Some(["memory_bytes = a lot", "--set"])),
            ("", "max_attempts=several", Some(["max_attempts", "--set"])),
            ("[vcpus]\na = 1", "functions=1", Some(["vcpus", "onward.toml"])),
            ("vcpus = = 1", "functions=1", Some(["onward.toml", "TOML"])),
            ("", "vcpus", Some(["--set vcpus", "name=value"])),
        ] {
            let result = with_file(text, &[set]);
            match expected {
                None => assert!(result.is_ok(), "a stronger source replaces a bad value"),
                Some(parts) => {
                    let message = result.expect_err(text).to_string();
                    assert!(parts.iter().all(|part| message.contains(part)), "{message}");
                }
            }
        }
    }

    #[test]
    fn a_missing_file_is_an_error() {
        let flags = Flags { file: Some("/nowhere/onward.toml".into()), ..Flags::default() };
        assert!(matches!(load(&flags), Err(ConfigError::Read { .. })));
    }
}
