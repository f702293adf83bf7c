//! [`redact`]: SQL text that may be shown.

/// Words in the name of an option whose value is a credential.
const SECRET_WORDS: [&str; 7] = ["secret", "key", "token", "password", "credential", "sas", "account_json"];

/// `sql` with the values of credential-like options replaced by `***`: for histories and logs.
///
/// It looks for `'name' 'value'` and `name 'value'` where the name is an option of an object store, by text, so that a
/// statement with a syntax error is covered too.
pub fn redact(sql: &str) -> String {
    let mut shown = String::with_capacity(sql.len());
    let mut rest = sql;
    // The last word or string before the current string: the option's name.
    let mut name = String::new();
    while let Some(quote) = rest.find('\'') {
        let (before, from) = rest.split_at(quote);
        let word = before.trim_end().rsplit(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.')).next();
        if let Some(word) = word.filter(|word| !word.is_empty()) {
            name = word.to_lowercase();
        }
        let end = string_end(from);
        let value = &from[..end];
        shown.push_str(before);
        let is_secret = SECRET_WORDS.iter().any(|word| name.contains(word)) && name.contains(['.', '_']);
        shown.push_str(if is_secret { "'***'" } else { value });
        name = if is_secret { String::new() } else { value.trim_matches('\'').to_lowercase() };
        rest = &from[end..];
    }
    shown.push_str(rest);
    shown
}

/// Bytes of the string that `text` begins with, quotes included; `''` inside is a quote.
fn string_end(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 1;
    while at < bytes.len() {
        if bytes[at] == b'\'' {
            if bytes.get(at + 1) != Some(&b'\'') {
                return at + 1;
            }
            at += 1;
        }
        at += 1;
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_hidden_and_the_rest_is_kept() {
        let sql = "create external table t stored as csv location 's3://b/x' options ('aws.secret_access_key' 'hu''sh', \
                   aws.session_token 'hush', 'format.delimiter' ';')";
        let shown = redact(sql);
        assert!(!shown.contains("hu''sh") && !shown.contains("hush"), "{shown}");
        assert!(shown.contains("'aws.secret_access_key' '***'") && shown.contains("'format.delimiter' ';'"), "{shown}");
        let plain = "select 'it''s', 'o_key' = k from t where c_custkey = 'x' -- ' open";
        assert!(redact(plain).contains("'it''s'"));
        assert_eq!(redact("select 1"), "select 1");
    }
}
