//! What users say of the pods of hosts.

use std::str::FromStr;

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

/// Why a text is no template of pods.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PodTemplateError {
    /// It is neither YAML nor JSON, or a field has a value of another type.
    #[error("it is no pod: {0}")]
    Syntax(String),
    /// A field that pods do not have; API servers would drop it without a word.
    #[error("pods have no field `{0}`")]
    Unknown(String),
}

/// A part of a pod, in YAML or JSON: `metadata` and `spec`, with what hosts are to have besides what the provider gives them. The container
/// of the host is called `host`.
///
/// Lists are merged as `kubectl apply` does: containers, environment and volumes by name, mounts by path. What it says wins against what
/// pods have by default (security contexts, `/dev/shm`), and loses against what makes a pod a host: name, labels, image, arguments, CPU,
/// memory, restart policy and grace period.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodTemplate(Pod);

impl FromStr for PodTemplate {
    type Err = PodTemplateError;

    fn from_str(text: &str) -> Result<Self, PodTemplateError> {
        // YAML 1.2: `y`, `no` and `on` are words.
        let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
        let given = serde_saphyr::from_str_with_options(text, options);
        let given: Value = given.map_err(|error| PodTemplateError::Syntax(error.to_string()))?;
        // Nothing but comments is an empty template.
        let given = if given.is_null() { Value::Object(serde_json::Map::new()) } else { given };
        parse(&given).map(Self)
    }
}

impl PodTemplate {
    pub(super) fn pod(&self) -> Pod {
        self.0.clone()
    }
}

/// A pod, if it has the fields of one and no others.
pub(super) fn parse(given: &Value) -> Result<Pod, PodTemplateError> {
    let syntax = |error: serde_json::Error| PodTemplateError::Syntax(error.to_string());
    let pod: Pod = serde_json::from_value(given.clone()).map_err(syntax)?;
    match dropped(given, &serde_json::to_value(&pod).map_err(syntax)?) {
        Some(path) => Err(PodTemplateError::Unknown(path.trim_start_matches('.').to_owned())),
        None => Ok(pod),
    }
}

/// The path of the first field that is given and not kept.
fn dropped(given: &Value, kept: &Value) -> Option<String> {
    match (given, kept) {
        (Value::Object(given), Value::Object(kept)) => {
            let mut given = given.iter().filter(|(_, value)| !value.is_null());
            given.find_map(|(name, value)| match kept.get(name) {
                Some(kept) => dropped(value, kept).map(|path| format!(".{name}{path}")),
                None => Some(format!(".{name}")),
            })
        }
        (Value::Array(given), Value::Array(kept)) => {
            let mut pairs = given.iter().zip(kept).enumerate();
            pairs.find_map(|(at, (given, kept))| dropped(given, kept).map(|path| format!("[{at}]{path}")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pods_do_not_have_is_refused_with_its_path() {
        let parsed = |text: &str| text.parse::<PodTemplate>().map_err(|error| error.to_string());
        assert_eq!(parsed("# nothing\n"), Ok(PodTemplate::default()));
        let unknown = "spec:\n  containers:\n  - name: host\n    evn: []\n";
        assert_eq!(parsed(unknown), Err("pods have no field `spec.containers[0].evn`".to_owned()));
        assert!(parsed("spec: 7").is_err_and(|error| error.starts_with("it is no pod: ")));
        assert_eq!(parsed("spec: ["), Err("it is no pod: unclosed bracket '[' at line 1, column 7".to_owned()));
        let json = r#"{"spec": {"nodeSelector": {"disk": "ssd"}}}"#;
        assert_eq!(parsed(json), parsed("spec:\n  nodeSelector:\n    disk: ssd\n"));
    }
}
