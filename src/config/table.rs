//! The settings as tables: for `onward config` and for README.

use std::fmt::Write;

use bytesize::ByteSize;
use figment::value::{Dict, Value};
use onward_wire::Config;
use onward_wire::config::SETTINGS;

/// The settings of `config`, one per line as TOML with its documentation above: a file that `--config` takes.
pub fn describe(config: &Config) -> String {
    let defaults = values(&Config::default());
    let mut text = String::new();
    for (setting, (value, default)) in SETTINGS.iter().zip(values(config).iter().zip(&defaults)) {
        let mark = if value == default { String::new() } else { format!("  # default {}", default.toml()) };
        let _ = writeln!(text, "#{}\n{} = {}{mark}\n", setting.doc, setting.name, value.toml());
    }
    text
}

/// The table of README.md: name, default and meaning.
pub fn markdown_table() -> String {
    let mut text = String::from("| setting | default | meaning |\n| --- | --- | --- |\n");
    for (setting, default) in SETTINGS.iter().zip(values(&Config::default())) {
        let doc = setting.doc.trim().replace('|', "\\|");
        let _ = writeln!(text, "| `{}` | {} | {doc} |", setting.name, default.readable());
    }
    text
}

/// A setting's value and whether it is a size.
#[derive(PartialEq)]
struct Shown {
    value: Value,
    is_size: bool,
}

impl Shown {
    fn number(&self) -> Option<u64> {
        self.value.to_u128().and_then(|number| u64::try_from(number).ok())
    }

    /// As TOML: sizes with a unit when that is exact.
    fn toml(&self) -> String {
        match (self.number(), self.value.as_str()) {
            (Some(bytes), _) if self.is_size && bytes >= 1 << 10 => match in_whole_units(bytes) {
                Some(text) => format!("\"{text}\""),
                None => bytes.to_string(),
            },
            (Some(number), _) => number.to_string(),
            (None, Some(text)) => format!("{text:?}"),
            (None, None) => match &self.value {
                Value::Dict(_, table) => inline(table),
                value => value.to_bool().unwrap_or_default().to_string(),
            },
        }
    }

    fn readable(&self) -> String {
        match (self.number(), self.value.as_str()) {
            (_, Some("")) => "(empty)".to_owned(),
            (_, Some(text)) => format!("`{text}`"),
            _ if matches!(&self.value, Value::Dict(_, table) if table.is_empty()) => "(none)".to_owned(),
            _ => self.toml().replace('"', ""),
        }
    }
}

/// A table on one line.
fn inline(table: &Dict) -> String {
    let shown = |value: &Value| Shown { value: value.clone(), is_size: false }.toml();
    let entries: Vec<_> = table.iter().map(|(name, value)| format!("{name:?} = {}", shown(value))).collect();
    if entries.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", entries.join(", ")) }
}

fn in_whole_units(bytes: u64) -> Option<String> {
    let text = ByteSize(bytes).display().iec().to_string().replace(".0 ", "");
    let is_exact = text.parse::<ByteSize>().is_ok_and(|parsed| parsed.as_u64() == bytes);
    is_exact.then_some(text)
}

/// The values in the order of [`SETTINGS`].
fn values(config: &Config) -> Vec<Shown> {
    let all = Value::serialize(config).unwrap_or_else(|_| Value::from(false));
    let value = |name: &str| all.find_ref(name).cloned().unwrap_or_else(|| Value::from(false));
    SETTINGS.iter().map(|s| Shown { value: value(s.name), is_size: s.is_size() }).collect()
}

#[cfg(test)]
mod tests {
    use onward_wire::config::QueueConfig;

    use super::*;

    #[test]
    fn what_config_prints_is_a_settings_file() {
        let queues = [("etl".to_owned(), QueueConfig { max_running: 2, ..QueueConfig::default() })].into();
        let config = Config { memory_bytes: 3 << 29, vcpus: 7, queues, ..Config::default() };
        let text = describe(&config);
        assert!(text.contains("memory_bytes = \"1.5 GiB\"") && text.contains("vcpus = 7  # default 0"), "{text}");
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("onward.toml");
        std::fs::write(&path, text).expect("a file");
        let read = crate::config::load(&crate::config::Flags { file: Some(path), ..Default::default() });
        assert_eq!(read.expect("settings"), config);
    }
}
