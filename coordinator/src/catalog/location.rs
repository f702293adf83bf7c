//! [`Location`]: where the files of a table are, as a user writes it.

use std::fmt;
use std::path::{Path, PathBuf};

use datafusion::common::Result;
use datafusion::datasource::listing::ListingTableUrl;
use glob::Pattern;
use url::Url;

use super::error::CatalogError;

/// A file, a directory or a pattern, local or in an object store. Prints as an absolute path or a URL, which parses back
/// to the same location from any working directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// Of the file, or of the directory that holds what the pattern matches.
    url: Url,
    /// Relative to `url`.
    pattern: Option<String>,
}

const PATTERN_CHARACTERS: [char; 3] = ['*', '?', '['];

impl Location {
    /// `text` is a URL, or a local path relative to `directory`.
    ///
    /// A local path that is a directory now, and any path that ends in `/`, is a directory. In http(s) URLs `?`, `*` and
    /// `[` are themselves, since such servers cannot be listed.
    pub fn parse(text: &str, directory: &Path) -> Result<Self> {
        let invalid = |reason: String| CatalogError::Invalid(format!("`{text}` is not a location: {reason}"));
        if let Some((scheme, rest)) = text.split_once("://") {
            if scheme.eq_ignore_ascii_case("file") {
                let url = Url::parse(text).map_err(|error| invalid(error.to_string()))?;
                let path = url.to_file_path().map_err(|()| invalid("it has a host".to_owned()))?;
                let is_directory = if text.ends_with('/') { "/" } else { "" };
                return Self::local(&format!("{}{is_directory}", path.display()), directory);
            }
            let is_http = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
            let (base, pattern) = match split_pattern(rest) {
                Some((base, pattern)) if !is_http => (base, Some(pattern.to_owned())),
                _ => (rest, None),
            };
            let url = Url::parse(&format!("{scheme}://{base}")).map_err(|error| invalid(error.to_string()))?;
            if !url.has_host() && scheme != "memory" {
                return Err(invalid("it names no bucket or host".to_owned()).into());
            }
            return Ok(Self { url, pattern });
        }
        Self::local(text, directory)
    }

    fn local(text: &str, directory: &Path) -> Result<Self> {
        if text.is_empty() {
            return Err(CatalogError::Invalid("an empty location: name a file, a directory or a URL".to_owned()).into());
        }
        let (base, pattern) = match split_pattern(text) {
            // A file may have such a name; if it is there, it is meant.
            Some(_) if directory.join(text).exists() => (text, None),
            Some((base, pattern)) => (base, Some(pattern.to_owned())),
            None => (text, None),
        };
        let path = normalize(&directory.join(base));
        let is_directory = pattern.is_some() || text.ends_with('/') || path.is_dir();
        let url = if is_directory { Url::from_directory_path(&path) } else { Url::from_file_path(&path) };
        let url = url.map_err(|()| CatalogError::Invalid(format!("`{text}` is not an absolute path")))?;
        Ok(Self { url, pattern })
    }

    /// Of the file or directory.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The local file or directory.
    pub fn local_path(&self) -> Option<PathBuf> {
        (self.url.scheme() == "file").then(|| self.url.to_file_path().ok()).flatten()
    }

    /// More than one file: a directory or a pattern.
    pub fn is_collection(&self) -> bool {
        self.pattern.is_some() || self.url.path().ends_with('/')
    }

    /// The pattern, relative to the directory.
    pub fn pattern(&self) -> Option<&str> {
        self.pattern.as_deref()
    }

    /// The pattern reaches below the directory itself (`*/*.parquet`, `**/x.csv`).
    pub fn is_nested(&self) -> bool {
        self.pattern.as_ref().is_some_and(|pattern| pattern.contains('/'))
    }

    /// The last part of the name, pattern included: what tells the format.
    pub fn file_name(&self) -> &str {
        let text = self.pattern.as_deref().unwrap_or(self.url.path());
        text.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
    }

    /// For DataFusion's listing.
    pub fn listing_url(&self) -> Result<ListingTableUrl> {
        let pattern = self.pattern.as_deref().map(Pattern::new).transpose();
        let pattern = pattern.map_err(|error| CatalogError::Invalid(format!("`{self}` is not a pattern: {error}")))?;
        ListingTableUrl::try_new(self.url.clone(), pattern)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let base = match self.local_path() {
            Some(path) => {
                let slash = if self.url.path().ends_with('/') { "/" } else { "" };
                format!("{}{slash}", path.display().to_string().trim_end_matches('/'))
            }
            None => self.url.to_string(),
        };
        write!(f, "{base}{}", self.pattern.as_deref().unwrap_or_default())
    }
}

/// The directory before the first part with a pattern character, and the rest.
fn split_pattern(text: &str) -> Option<(&str, &str)> {
    let first = text.find(PATTERN_CHARACTERS)?;
    let cut = text[..first].rfind('/').map_or(0, |slash| slash + 1);
    Some((&text[..cut], &text[cut..]))
}

/// Without `.` and `..`, by text: links are followed by the file system, not here.
fn normalize(path: &Path) -> PathBuf {
    use std::path::Component;
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                normal.pop();
            }
            other => normal.push(other),
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_print_absolute_and_parse_back() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("dir")).unwrap();
        std::fs::write(root.path().join("odd[1].csv"), "a\n1\n").unwrap();
        let cases = [
            ("a b.csv", "/a b.csv", false),
            ("./x/../dir", "/dir/", true),
            ("dir/*.parquet", "/dir/*.parquet", true),
            ("new/", "/new/", true),
            ("odd[1].csv", "/odd[1].csv", false),
        ];
        for (text, expected, is_collection) in cases {
            let location = Location::parse(text, root.path()).unwrap();
            let printed = location.to_string();
            assert_eq!(printed, format!("{}{expected}", root.path().display()), "{text}");
            assert_eq!(location.is_collection(), is_collection, "{text}");
            assert_eq!(Location::parse(&printed, Path::new("/elsewhere")).unwrap(), location, "{text}");
        }
    }

    #[test]
    fn urls_keep_their_scheme_and_http_has_no_patterns() {
        let parse = |text| Location::parse(text, Path::new("/")).unwrap();
        let pattern = parse("s3://bucket/a/*/x.parquet");
        assert_eq!((pattern.url().as_str(), pattern.pattern()), ("s3://bucket/a/", Some("*/x.parquet")));
        assert!(pattern.is_nested());
        let file = parse("https://host/x.csv?v=1");
        assert!(!file.is_collection() && file.pattern().is_none());
        assert!(Location::parse("s3:///x", Path::new("/")).is_err());
    }
}
