//! A directory with the eight tables: finding it, making it, and the SQL that registers it.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::generate::{GenerateOptions, Manifest, generate};
use crate::table::Table;

/// The tables of one scale, as files below one directory.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// Its directory, absolute.
    pub dir: PathBuf,
    /// Scale factor.
    pub scale: f64,
}

impl Dataset {
    /// Where data lives unless told otherwise: `$XDG_CACHE_HOME/onward/tpch/sf<scale>`, or below `~/.cache`; outside any
    /// checkout, so that it survives a clean build and is shared by all of them.
    pub fn default_dir(scale: f64) -> PathBuf {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let cache = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
        cache.unwrap_or_else(std::env::temp_dir).join(format!("onward/tpch/sf{scale}"))
    }

    /// The data in `options.out`, made when it is missing or was left unfinished. Data of the right tables that somebody
    /// else put there is taken as it is, for the scale that `options` names.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the directory holds another scale or only some tables; those of [`generate`].
    pub fn open_or_generate(options: &GenerateOptions) -> Result<Self> {
        let manifest = Manifest::read(&options.out)?;
        match manifest {
            Some(found) if found.complete && found.scale != options.scale => {
                let message = format!(
                    "{} holds TPC-H data of scale {}, not {}; give --scale {} or another --data",
                    options.out.display(),
                    found.scale,
                    options.scale,
                    found.scale
                );
                return Err(Error::Invalid(message));
            }
            Some(found) if found.is_intact(&options.out) => {}
            None if Table::ALL.iter().all(|table| locate(&options.out, *table).is_some()) => {}
            _ => drop(generate(options)?),
        }
        let dir = options.out.canonicalize().map_err(Error::io("resolve", &options.out))?;
        Ok(Self { dir, scale: options.scale })
    }

    /// The file of a table, or the directory (with a slash at its end) that holds its files.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there is neither.
    pub fn location(&self, table: Table) -> Result<String> {
        locate(&self.dir, table).ok_or_else(|| {
            let name = table.name();
            Error::Invalid(format!("{} has neither {name}.parquet nor {name}/", self.dir.display()))
        })
    }

    /// Statements that register the tables under their names, replacing what has those names.
    ///
    /// # Errors
    /// As [`Dataset::location`].
    pub fn registration(&self) -> Result<Vec<String>> {
        let mut statements = Vec::new();
        for table in Table::ALL {
            let (name, location) = (table.name(), self.location(table)?.replace('\'', "''"));
            statements.push(format!("CREATE OR REPLACE EXTERNAL TABLE {name} STORED AS PARQUET LOCATION '{location}'"));
        }
        Ok(statements)
    }
}

fn locate(dir: &Path, table: Table) -> Option<String> {
    let file = dir.join(format!("{}.parquet", table.name()));
    if file.is_file() {
        return Some(file.display().to_string());
    }
    let parts = dir.join(table.name());
    parts.is_dir().then(|| format!("{}/", parts.display()))
}
