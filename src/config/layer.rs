//! One source of settings: its names are checked, its sizes read, its origin kept for messages.

use figment::value::{Dict, Map, Value};
use figment::{Metadata, Profile, Provider};
use onward_wire::Config;
use onward_wire::config::SETTINGS;

use super::ConfigError;

/// What to do with names that are no settings.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Strictness {
    /// All are errors.
    All,
    /// Only those that resemble a setting are: the environment has variables of others.
    MisspeltOnly,
}

/// A checked source.
pub(super) struct Layer {
    metadata: Metadata,
    values: Dict,
}

impl Layer {
    /// Reads and checks a source.
    pub(super) fn check(source: &dyn Provider, strictness: Strictness) -> Result<Self, ConfigError> {
        let metadata = source.metadata();
        let origin = origin(&metadata);
        let mut values = Dict::new();
        let data = source.data().map_err(|mut error| {
            error.metadata = Some(metadata.clone());
            error
        })?;
        for (name, value) in data.into_values().flat_map(Dict::into_iter) {
            if let Some(kind) = kind_of(&name) {
                values.insert(name.clone(), normalize(&name, value, kind, &origin)?);
                continue;
            }
            let nearest = nearest(&name);
            if strictness == Strictness::All || nearest.is_some() {
                let shown =
                    if strictness == Strictness::All { name } else { format!("ONWARD_{}", name.to_uppercase()) };
                return Err(ConfigError::Unknown { name: shown, origin, nearest });
            }
        }
        Ok(Self { metadata, values })
    }

    /// A `--set name=value`.
    pub(super) fn pair(name: &str, text: &str) -> Result<Self, ConfigError> {
        // As in the environment: what reads as a TOML value is one, the rest is text.
        let value = text.parse::<Value>().unwrap_or_else(|never| match never {});
        Self::check(&Pair { name, value }, Strictness::All)
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        self.metadata.clone()
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

struct Pair<'a> {
    name: &'a str,
    value: Value,
}

impl Provider for Pair<'_> {
    fn metadata(&self) -> Metadata {
        Metadata::named("--set").interpolater(|_, keys| keys.join("."))
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        Ok(Profile::Default.collect(Dict::from([(self.name.to_owned(), self.value.clone())])))
    }
}

/// What a setting holds, as far as reading it is concerned.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Size,
    Functions,
    Text,
    Number,
}

fn kind_of(name: &str) -> Option<Kind> {
    let setting = SETTINGS.iter().find(|setting| setting.name == name)?;
    let defaults = Value::serialize(Config::default()).ok()?;
    let is_text = defaults.find(name).is_some_and(|value| value.as_str().is_some());
    Some(match name {
        "functions" => Kind::Functions,
        _ if is_text => Kind::Text,
        _ if setting.is_size() => Kind::Size,
        _ => Kind::Number,
    })
}

fn normalize(name: &str, value: Value, kind: Kind, origin: &str) -> Result<Value, ConfigError> {
    match (kind, value.as_str()) {
        (Kind::Functions, Some("auto")) => Ok(Value::from(0_u64)),
        (Kind::Size, Some(text)) => match text.parse::<bytesize::ByteSize>() {
            Ok(size) => Ok(Value::from(size.as_u64())),
            Err(_) => {
                let (name, value, origin) = (name.to_owned(), text.to_owned(), origin.to_owned());
                Err(ConfigError::NotASize { name, value, origin })
            }
        },
        (Kind::Text, None) => Ok(match &value {
            Value::Num(_, number) => match (number.to_u128(), number.to_i128(), number.to_f64()) {
                (Some(n), ..) => Value::from(n.to_string()),
                (_, Some(n), _) => Value::from(n.to_string()),
                (.., Some(n)) => Value::from(n.to_string()),
                _ => value,
            },
            Value::Bool(_, flag) => Value::from(flag.to_string()),
            _ => value,
        }),
        _ => match value {
            Value::Dict(tag, table) => {
                let sized = table.into_iter().map(|(key, value)| {
                    let kind = if key.ends_with("_bytes") { Kind::Size } else { Kind::Number };
                    Ok((key.clone(), normalize(&format!("{name}.{key}"), value, kind, origin)?))
                });
                Ok(Value::Dict(tag, sized.collect::<Result<_, ConfigError>>()?))
            }
            value => Ok(value),
        },
    }
}

/// The setting whose name is closest, when it is close.
fn nearest(name: &str) -> Option<&'static str> {
    let distance = |setting: &str| datafusion::common::utils::datafusion_strsim::levenshtein(name, setting);
    let (best, edits) = SETTINGS.iter().map(|s| (s.name, distance(s.name))).min_by_key(|(_, edits)| *edits)?;
    (edits <= 1 + name.len() / 5).then_some(best)
}

fn origin(metadata: &Metadata) -> String {
    match &metadata.source {
        Some(source) => source.to_string(),
        None if metadata.name.contains("environment") => "the environment".to_owned(),
        None => metadata.name.to_string(),
    }
}
