//! Session options: the Flight messages, which arrow-flight 59 does not have, and what they do here.
//!
//! An option is a setting, as `SET` knows it (`onward.functions`, `datafusion.execution.batch_size`, ...), or one of the two
//! names that ADBC and JDBC use: `catalog` and `schema`.

use std::collections::HashMap;

use onward_coordinator::Session;
use onward_wire::ErrorKind;
use std::sync::Arc;
use tonic::Status;

use crate::status;

/// Flight.proto: SetSessionOptionsRequest.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SetSessionOptionsRequest {
    #[prost(map = "string, message", tag = "1")]
    pub(crate) session_options: HashMap<String, SessionOptionValue>,
}

/// Flight.proto: SessionOptionValue.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SessionOptionValue {
    #[prost(oneof = "OptionValue", tags = "1, 2, 3, 4, 5")]
    pub(crate) option_value: Option<OptionValue>,
}

/// Flight.proto: SessionOptionValue.option_value.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum OptionValue {
    #[prost(string, tag = "1")]
    String(String),
    #[prost(bool, tag = "2")]
    Bool(bool),
    #[prost(sfixed64, tag = "3")]
    Int64(i64),
    #[prost(double, tag = "4")]
    Double(f64),
    #[prost(message, tag = "5")]
    StringList(StringListValue),
}

/// Flight.proto: SessionOptionValue.StringListValue.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StringListValue {
    #[prost(string, repeated, tag = "1")]
    pub(crate) values: Vec<String>,
}

/// Flight.proto: SetSessionOptionsResult. Options without an error were set.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SetSessionOptionsResult {
    #[prost(map = "string, message", tag = "1")]
    pub(crate) errors: HashMap<String, OptionError>,
}

/// Flight.proto: SetSessionOptionsResult.Error.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct OptionError {
    #[prost(enumeration = "OptionErrorValue", tag = "1")]
    pub(crate) value: i32,
}

/// Flight.proto: SetSessionOptionsResult.ErrorValue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum OptionErrorValue {
    Unspecified = 0,
    InvalidName = 1,
    InvalidValue = 2,
    Error = 3,
}

/// Flight.proto: GetSessionOptionsResult.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct GetSessionOptionsResult {
    #[prost(map = "string, message", tag = "1")]
    pub(crate) session_options: HashMap<String, SessionOptionValue>,
}

/// Flight.proto: CloseSessionResult.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct CloseSessionResult {
    #[prost(enumeration = "CloseSessionStatus", tag = "1")]
    pub(crate) status: i32,
}

/// Flight.proto: CloseSessionResult.Status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum CloseSessionStatus {
    Unspecified = 0,
    Closed = 1,
    Closing = 2,
    NotCloseable = 3,
}

/// Settings behind the option names that are not settings themselves.
const ALIASES: [(&str, &str); 2] =
    [("catalog", "datafusion.catalog.default_catalog"), ("schema", "datafusion.catalog.default_schema")];

/// Sets options one by one; those that fail are told with what was wrong with them.
pub(crate) async fn set(session: &Arc<Session>, request: SetSessionOptionsRequest) -> SetSessionOptionsResult {
    let mut errors = HashMap::new();
    for (name, value) in request.session_options {
        if let Err(value) = set_one(session, &name, value).await {
            errors.insert(name, OptionError { value: value as i32 });
        }
    }
    SetSessionOptionsResult { errors }
}

async fn set_one(session: &Arc<Session>, name: &str, value: SessionOptionValue) -> Result<(), OptionErrorValue> {
    let setting = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, setting)| setting);
    let is_known = setting.starts_with("datafusion.") || setting.starts_with("onward.");
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.';
    if !is_known || !setting.bytes().all(is_plain) {
        return Err(OptionErrorValue::InvalidName);
    }
    let sql = match value.option_value {
        Some(OptionValue::String(text)) => format!("SET {setting} = '{}'", text.replace('\'', "''")),
        Some(OptionValue::Bool(value)) => format!("SET {setting} = '{value}'"),
        Some(OptionValue::Int64(value)) => format!("SET {setting} = '{value}'"),
        Some(OptionValue::Double(value)) => format!("SET {setting} = '{value}'"),
        Some(OptionValue::StringList(_)) => return Err(OptionErrorValue::InvalidValue),
        // No value asks for the default.
        None => format!("RESET {setting}"),
    };
    let run =
        async { futures::TryStreamExt::try_for_each(session.execute(&sql).await?.stream, async |_| Ok(())).await };
    match run.await {
        Ok(()) => Ok(()),
        Err(error) if !options(session).contains_key(setting) => {
            tracing::debug!(%error, setting, "no such setting");
            Err(OptionErrorValue::InvalidName)
        }
        Err(error) => {
            tracing::debug!(%error, setting, "the setting was refused");
            Err(match error.error.kind() {
                ErrorKind::InvalidQuery | ErrorKind::NotFound => OptionErrorValue::InvalidValue,
                _ => OptionErrorValue::Error,
            })
        }
    }
}

/// All options with the values they have now.
pub(crate) fn get(session: &Session) -> GetSessionOptionsResult {
    let mut options = options(session);
    for (alias, setting) in ALIASES {
        if let Some(value) = options.get(setting).cloned() {
            options.insert(alias.to_owned(), value);
        }
    }
    let as_value = |text| SessionOptionValue { option_value: Some(OptionValue::String(text)) };
    GetSessionOptionsResult {
        session_options: options.into_iter().map(|(name, value)| (name, as_value(value))).collect(),
    }
}

fn options(session: &Session) -> HashMap<String, String> {
    let state = session.context().state();
    let entries = state.config_options().entries().into_iter();
    entries.filter_map(|entry| Some((entry.key, entry.value?))).collect()
}

/// The error of a body that is not the message of its action.
pub(crate) fn malformed(action: &str, error: &prost::DecodeError) -> Status {
    status::new(ErrorKind::InvalidQuery, format!("the body of {action} is malformed: {error}"), None)
}
