//! Command lines with places for what differs from host to host.

use crate::HostSpec;

/// What may stand in braces.
const PLACES: [&str; 5] = ["name", "vcpus", "memory_mib", "command", "cluster"];

/// Why a command line cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// It has no words.
    #[error("it is empty: it begins with a program")]
    Empty,
    /// Quotes that do not end, or a backslash at the end.
    #[error("`{0}` has a quote that does not end")]
    Unfinished(String),
    /// Something unknown in braces.
    #[error("`{{{0}}}` is no place: there are {{name}}, {{vcpus}}, {{memory_mib}}, {{command}} and {{cluster}}")]
    Unknown(String),
}

/// A command line: words as a shell splits them, without anything else that shells do.
///
/// `{command}` alone is the words of the host's command, whether it stands in quotes or not; within a longer word it is that command
/// quoted for a shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<String>);

/// What is put in the places.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Values<'a> {
    pub(crate) cluster: &'a str,
    pub(crate) name: &'a str,
    pub(crate) host: Option<(&'a HostSpec, &'a [String])>,
}

impl Template {
    /// # Errors
    /// See [`TemplateError`].
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let words = words(text)?;
        if words.is_empty() {
            return Err(TemplateError::Empty);
        }
        for word in &words {
            let mut rest = word.as_str();
            while let Some((_, after)) = rest.split_once('{') {
                let Some((place, after)) = after.split_once('}') else { break };
                // Other things in braces are for whoever the command is for.
                let is_word = !place.is_empty() && place.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
                if is_word && !PLACES.contains(&place) {
                    return Err(TemplateError::Unknown(place.to_owned()));
                }
                rest = after;
            }
        }
        Ok(Self(words))
    }

    /// The words of the command.
    pub(crate) fn fill(&self, values: Values<'_>) -> Vec<String> {
        let mut filled = Vec::new();
        for word in &self.0 {
            match values.host {
                Some((_, command)) if word == "{command}" => filled.extend(command.iter().cloned()),
                _ => filled.push(fill_word(word, values)),
            }
        }
        filled
    }
}

fn fill_word(word: &str, values: Values<'_>) -> String {
    let mut filled = word.replace("{cluster}", values.cluster);
    if let Some((host, command)) = values.host {
        let command: Vec<_> = command.iter().map(|word| quoted(word)).collect();
        filled = filled
            .replace("{vcpus}", &host.vcpus.to_string())
            .replace("{memory_mib}", &(host.memory_bytes >> 20).to_string())
            .replace("{command}", &command.join(" "));
    }
    filled.replace("{name}", values.name)
}

/// `word` as a shell reads it back.
fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=,@%+".contains(&byte);
    match !word.is_empty() && word.bytes().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// The words of a text, as those of a [`Template`]; there may be none.
///
/// # Errors
/// [`TemplateError::Unfinished`].
pub fn words(text: &str) -> Result<Vec<String>, TemplateError> {
    split(text).ok_or_else(|| TemplateError::Unfinished(text.to_owned()))
}

/// Words at white space, with single quotes, double quotes and backslashes as in a shell. `None`: a quote does not end.
fn split(text: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (letter, quote) {
            ('\\', None | Some('"')) => word.get_or_insert_default().push(letters.next()?),
            ('\'' | '"', None) => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (letter, Some(end)) if letter == end => quote = None,
            (letter, None) if letter.is_whitespace() => words.extend(word.take()),
            (letter, _) => word.get_or_insert_default().push(letter),
        }
    }
    if quote.is_some() {
        return None;
    }
    words.extend(word);
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ClusterName, HostName};

    fn filled(template: &str) -> Vec<String> {
        let cluster: ClusterName = "blue".parse().expect("a name");
        let name = HostName::of(&cluster, "onward-blue-00000001").expect("a name");
        let host = HostSpec { name, vcpus: 4, memory_bytes: 3 << 30, arguments: vec![] };
        let command = ["/opt/my onward".to_owned(), "host".to_owned()];
        let values = Values { cluster: "blue", name: host.name.as_str(), host: Some((&host, &command)) };
        Template::parse(template).expect("a template").fill(values)
    }

    #[test]
    fn places_are_filled_and_commands_quoted_where_a_shell_reads_them() {
        assert_eq!(
            filled("sbatch --job-name={name} -c {vcpus} --mem={memory_mib}M --wrap 'exec {command}'"),
            [
                "sbatch",
                "--job-name=onward-blue-00000001",
                "-c",
                "4",
                "--mem=3072M",
                "--wrap",
                "exec '/opt/my onward' host"
            ]
        );
        for alone in ["setsid {command}", "setsid '{command}'"] {
            assert_eq!(filled(alone), ["setsid", "/opt/my onward", "host"]);
        }
        assert_eq!(filled(r#"a "b c" d\ e '' {cluster}"#), ["a", "b c", "d e", "", "blue"]);
    }

    #[test]
    fn arguments_may_be_none_where_a_command_line_may_not() {
        assert_eq!(words(" "), Ok(vec![]));
        assert_eq!(words("--set 'a=b c'"), Ok(vec!["--set".to_owned(), "a=b c".to_owned()]));
        assert_eq!(words("a 'b"), Err(TemplateError::Unfinished("a 'b".to_owned())));
    }

    #[test]
    fn what_is_no_template_says_why() {
        assert_eq!(Template::parse("  "), Err(TemplateError::Empty));
        assert_eq!(Template::parse("a 'b"), Err(TemplateError::Unfinished("a 'b".to_owned())));
        assert_eq!(Template::parse("srun {nmae}"), Err(TemplateError::Unknown("nmae".to_owned())));
        for of_others in ["docker ps --format '{{.Names}} {{.State}}'", "awk { }", "awk {"] {
            assert!(Template::parse(of_others).is_ok(), "{of_others}");
        }
    }
}
