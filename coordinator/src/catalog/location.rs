//! [`Location`]: where the files of a table are, as a user writes it.

use std::fmt;
use std::path::{Path, PathBuf};

use datafusion::common::Result;
use datafusion::datasource::listing::ListingTableUrl;
use glob::Pattern;
use onward_cache::paths::{self, directory_url, file_url, local_path_of_url, store_path_of_url};
use url::Url;

use super::error::CatalogError;

/// A file, a directory or a pattern, local or in an object store. Prints as an absolute path or a URL, which parses back
/// to the same location from any working directory, unless there is a password in it: that is not printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// Of the file, or of the directory that holds what the pattern matches.
    url: Url,
    /// Relative to `url`.
    pattern: Option<String>,
}

/// Stands where a secret is.
const HIDDEN: &str = "hidden";
const PATTERN_CHARACTERS: [char; 3] = ['*', '?', '['];

impl Location {
    /// `text` is a URL, or a local path relative to `directory`.
    ///
    /// A local path that is a directory now, and any path that ends in `/`, is a directory. `?`, `*` and `[` make a pattern,
    /// except where a local file or directory has just this name, and in http(s) URLs, since such servers cannot be listed.
    /// URLs are percent-encoded (`%5B` is a `[` that makes no pattern), local paths are not.
    pub fn parse(text: &str, directory: &Path) -> Result<Self> {
        match text.split_once("://") {
            Some((scheme, rest)) => Self::of_url(text, scheme, rest, true),
            None => Self::local(text, directory, true),
        }
    }

    /// What a write names: a file or a directory. No character makes a pattern.
    pub fn target(text: &str, directory: &Path) -> Result<Self> {
        match text.split_once("://") {
            Some((scheme, rest)) => Self::of_url(text, scheme, rest, false),
            None => Self::local(text, directory, false),
        }
    }

    /// The location that printed as `text` with [`Self::to_stored`].
    pub fn read(text: &str) -> Result<Self> {
        Self::parse(text, Path::new("/"))
    }

    /// The local directory `path`, whatever its name and whether it is there or not.
    pub fn directory(path: &Path) -> Result<Self> {
        let url = directory_url(path).ok_or_else(|| not_absolute(path))?;
        Ok(Self { url, pattern: None })
    }

    fn of_url(text: &str, scheme: &str, rest: &str, has_patterns: bool) -> Result<Self> {
        let invalid = |reason: &str| CatalogError::Invalid(format!("`{text}` is not a location: {reason}"));
        let scheme = scheme.to_ascii_lowercase();
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if matches!(scheme.as_str(), "http" | "https") {
            let url = Url::parse(text).map_err(|error| invalid(&error.to_string()))?;
            return Ok(Self { url, pattern: None });
        }
        let (base, pattern) = match has_patterns.then(|| split_pattern(path, |_| false)).flatten() {
            Some((base, pattern)) => (base, Some(decode_pattern(pattern).ok_or_else(|| invalid("it is not UTF-8"))?)),
            None => (path, None),
        };
        let url = paths::url(&format!("{scheme}://{authority}{base}")).map_err(|error| invalid(&error.to_string()))?;
        if scheme != "file" {
            return match url.has_host() || scheme == "memory" {
                true => Ok(Self { url, pattern }),
                false => Err(invalid("it names no bucket or host").into()),
            };
        }
        let path = local_path_of_url(&url).ok_or_else(|| invalid("it has a host"))?;
        match pattern {
            Some(_) => Ok(Self { pattern, ..Self::directory(&path)? }),
            None => Self::literal(&path, base.ends_with('/')),
        }
    }

    fn local(text: &str, directory: &Path, has_patterns: bool) -> Result<Self> {
        if text.is_empty() {
            return Err(CatalogError::Invalid("an empty location: name a file, a directory or a URL".to_owned()).into());
        }
        let is_there = |path: &str| directory.join(path).exists();
        match has_patterns.then(|| split_pattern(text, is_there)).flatten() {
            Some((base, pattern)) => {
                let base = Self::directory(&normalize(&directory.join(base)))?;
                Ok(Self { pattern: Some(pattern.to_owned()), ..base })
            }
            None => Self::literal(&normalize(&directory.join(text)), text.ends_with('/')),
        }
    }

    fn literal(path: &Path, is_directory: bool) -> Result<Self> {
        if is_directory || path.is_dir() {
            return Self::directory(path);
        }
        Ok(Self { url: file_url(path).ok_or_else(|| not_absolute(path))?, pattern: None })
    }

    /// For the catalog: text that [`Self::read`] takes for this location, whatever files are there by then. It is as it
    /// prints, or a URL where that could be taken for a pattern, or for another one.
    pub fn to_stored(&self) -> String {
        let is_plain = !self.url.path().contains(['*', '[']) && !self.url.path().contains("%3F");
        if self.url.scheme() != "file" {
            return self.written(&self.url);
        }
        if is_plain && self.pattern.is_none() {
            return self.to_string();
        }
        let base = self.url.as_str().replace('*', "%2A").replace('[', "%5B");
        format!("{base}{}", self.pattern.as_deref().map(encode_pattern).unwrap_or_default())
    }

    /// `url`, which is this one's, with the pattern. In this form a bucket's own `*`, `[` and `?` would make patterns.
    fn written(&self, url: &Url) -> String {
        let base = url.as_str().replace('*', "%2A").replace('[', "%5B");
        format!("{base}{}", self.pattern.as_deref().map(encode_pattern).unwrap_or_default())
    }

    /// Of the file or directory.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The local file or directory.
    pub fn local_path(&self) -> Option<PathBuf> {
        local_path_of_url(&self.url)
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
    pub fn file_name(&self) -> String {
        let path = store_path_of_url(&self.url).unwrap_or_default();
        let text = self.pattern.as_deref().unwrap_or(path.as_ref());
        text.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned()
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
        let pattern = self.pattern.as_deref().unwrap_or_default();
        match self.local_path() {
            Some(path) => {
                let slash = if self.url.path().ends_with('/') { "/" } else { "" };
                write!(f, "{}{slash}{pattern}", path.display().to_string().trim_end_matches('/'))
            }
            None => f.write_str(&self.written(&without_password(&self.url))),
        }
    }
}

/// `url` as people may see it.
pub(super) fn without_password(url: &Url) -> Url {
    let mut shown = url.clone();
    if shown.password().is_some() {
        // An error means that such a URL has no password.
        let _ = shown.set_password(Some(HIDDEN));
    }
    shown
}

/// The directory before the first part with a pattern character, and the rest. `is_literal` says of a beginning of `text`
/// that its last part is meant as it is written.
fn split_pattern(text: &str, is_literal: impl Fn(&str) -> bool) -> Option<(&str, &str)> {
    let mut end = 0;
    for part in text.split_inclusive('/') {
        let start = end;
        end += part.len();
        if part.contains(PATTERN_CHARACTERS) && !is_literal(&text[..end]) {
            return Some(text.split_at(start));
        }
    }
    None
}

/// The pattern in a URL: encoded characters are themselves. `None`: they are not UTF-8.
fn decode_pattern(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let encoded = tail.get(..2).filter(|hex| *first == b'%' && hex.iter().all(u8::is_ascii_hexdigit));
        match encoded.and_then(|hex| std::str::from_utf8(hex).ok()).and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte @ (b'*' | b'?' | b'[' | b']')) => decoded.extend([b'[', byte, b']']),
            Some(byte) => decoded.push(byte),
            None => {
                decoded.push(*first);
                rest = tail;
                continue;
            }
        }
        rest = &tail[2..];
    }
    String::from_utf8(decoded).ok()
}

/// A pattern as part of a URL.
fn encode_pattern(pattern: &str) -> String {
    pattern.replace('%', "%25")
}

fn not_absolute(path: &Path) -> CatalogError {
    CatalogError::Invalid(format!("`{}` is not an absolute path", path.display()))
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
    fn a_password_is_stored_and_not_printed() {
        let location = Location::parse("https://user:hush@host/a.csv", Path::new("/")).unwrap();
        assert_eq!(location.to_string(), "https://user:hidden@host/a.csv");
        assert_eq!(Location::read(&location.to_stored()).unwrap(), location);
    }

    #[test]
    fn a_name_that_is_there_is_no_pattern_and_the_catalog_remembers_which_it_was() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        std::fs::create_dir(path("dir[1]")).unwrap();
        std::fs::write(path("dir[1]/what?.csv"), "a\n1\n").unwrap();
        let cases = [
            ("dir[1]", "dir[1]/", None),
            ("dir[1]/what?.csv", "dir[1]/what?.csv", None),
            ("dir[1]/*.csv", "dir[1]/", Some("*.csv")),
            ("dir[1]/[w]%20*", "dir[1]/", Some("[w]%20*")),
            ("dir?/x.csv", "", Some("dir?/x.csv")),
            ("a b#c%20.csv", "a b#c%20.csv", None),
        ];
        let locations = cases.map(|(text, base, pattern)| {
            let location = Location::parse(text, root.path()).unwrap();
            assert_eq!(location.local_path().unwrap(), path(base), "{text}");
            assert_eq!(location.pattern(), pattern, "{text}");
            (text, location.to_stored(), location)
        });
        // What was a name stays one, what was a pattern as well.
        std::fs::remove_dir_all(path("dir[1]")).unwrap();
        std::fs::create_dir_all(path("dir?")).unwrap();
        std::fs::write(path("dir?/x.csv"), "a\n2\n").unwrap();
        for (text, stored, location) in locations {
            assert_eq!(Location::read(&stored).unwrap(), location, "{text} as {stored}");
        }
    }

    #[test]
    fn the_target_of_a_write_is_a_name_whatever_its_characters() {
        let of = |text| {
            let target = Location::target(text, Path::new("/d")).unwrap();
            assert!(target.pattern().is_none(), "{text}");
            (store_path_of_url(target.url()).unwrap().to_string(), target.is_collection())
        };
        assert_eq!(of("x[1]*?.csv"), ("d/x[1]*?.csv".to_owned(), false));
        assert_eq!(of("100%/a%20b/"), ("d/100%/a%20b".to_owned(), true));
        assert_eq!(of("s3://bucket/x[1]*?#.csv"), ("x[1]*?#.csv".to_owned(), false));
        assert_eq!(of("file:///e/a%20b?.csv"), ("e/a b?.csv".to_owned(), false));
    }

    #[test]
    fn urls_are_decoded_once_patterns_too() {
        let cases = [
            ("s3://b/a b#c.csv", "a b#c.csv", None),
            ("s3://b/a%20b/", "a b", None),
            ("s3://b/a%2520b/", "a%20b", None),
            ("s3://b/100%/x.csv", "100%/x.csv", None),
            ("s3://b/%5Bx%5D/*.csv", "[x]", Some("*.csv")),
            ("s3://b/d/*/a%20b%5B1%5D%2525.csv", "d", Some("*/a b[[]1[]]%25.csv")),
            ("s3://b/d#1/x?%2A", "d#1", Some("x?[*]")),
            ("file:///d%5B1%5D/a%20*", "d[1]", Some("a *")),
            ("FILE:///a%20b#c.csv", "a b#c.csv", None),
        ];
        for (text, base, pattern) in cases {
            let location = Location::parse(text, Path::new("/")).unwrap();
            assert_eq!(store_path_of_url(location.url()).unwrap().to_string(), base, "{text}");
            assert_eq!(location.pattern(), pattern, "{text}");
            assert_eq!(Location::read(&location.to_stored()).unwrap(), location, "{text}");
        }
        assert!(Location::parse("s3://b/*%FF", Path::new("/")).is_err());
        assert!(Location::parse("file://host/x", Path::new("/")).is_err());
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
