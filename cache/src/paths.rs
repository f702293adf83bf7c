//! Names of files and objects: the one place that converts between their three forms.
//!
//! | form | the file `/d/50% [é].csv` | who uses it |
//! | --- | --- | --- |
//! | local path | `/d/50% [é].csv` | the file system |
//! | store path ([`object_store::path::Path`]) | `d/50% [é].csv` | stores, scans, manifests, messages |
//! | URL | `file:///d/50%25%20[%C3%A9].csv` | locations, targets of writes, the catalog |
//!
//! A store path *is* the name, character by character, and so is its text (`Display`): [`store_path`] reads that back.
//! `Path::from(text)` is another thing: it percent-encodes what it holds for unsafe, so the text of a path that goes through it
//! a second time names another object. Nothing but a writer that makes up a name uses it (DataFusion's for Hive partitions:
//! the value `a/b` of `k` is the directory `k=a%2Fb`, in all three forms).
//!
//! tests/tidy.rs keeps conversions out of other files.

use std::path::{Path as FsPath, PathBuf};
use std::sync::LazyLock;

use object_store::Result;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use url::Url;

/// The store path with this text.
///
/// # Errors
/// When it has an empty, `.` or `..` part, or a control character: no store path has such a text.
pub fn store_path(text: &str) -> Result<Path> {
    Ok(Path::parse(text)?)
}

/// The store path of what a URL names: its path, decoded.
///
/// # Errors
/// As [`store_path`], and when it is not UTF-8.
pub fn store_path_of_url(url: &Url) -> Result<Path> {
    Ok(Path::from_url_path(url.path())?)
}

/// The file that a store path of `file:///` names.
pub fn local_path(location: &Path) -> PathBuf {
    static LOCAL: LazyLock<LocalFileSystem> = LazyLock::new(LocalFileSystem::new);
    LOCAL.path_to_filesystem(location).unwrap_or_else(|_| PathBuf::from(format!("/{location}")))
}

/// The file or directory that a URL names; `None` when it is not of this machine.
pub fn local_path_of_url(url: &Url) -> Option<PathBuf> {
    (url.scheme() == "file").then(|| url.to_file_path().ok()).flatten()
}

/// The URL of a file; `None` when the path is not absolute.
pub fn file_url(path: &FsPath) -> Option<Url> {
    Url::from_file_path(path).ok()
}

/// The URL of a directory, which ends in `/`; `None` when the path is not absolute.
pub fn directory_url(path: &FsPath) -> Option<Url> {
    Url::from_directory_path(path).ok()
}

/// A URL whose text a person wrote: `%20` is a space there, and so is a space. `#` and `?`, which have a meaning in pages of the
/// web and none in stores, are themselves.
///
/// # Errors
/// When it is no URL.
pub fn url(text: &str) -> std::result::Result<Url, url::ParseError> {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '#' => escaped.push_str("%23"),
            '?' => escaped.push_str("%3F"),
            // Url::parse drops spaces at the end, and takes `\` for `/`.
            ' ' => escaped.push_str("%20"),
            '\\' => escaped.push_str("%5C"),
            other => escaped.push(other),
        }
    }
    Url::parse(&escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AWKWARD: [&str; 12] =
        ["a b", "a%20b", "50%", "a#1", "a?b", "a~b", "[x]", "{y}", "a*b+c", "it's", "häß-漢", "k=a%2Fb=c"];

    #[test]
    fn awkward_names_come_back_from_every_form() {
        for name in AWKWARD {
            let local = PathBuf::from(format!("/dir/{name}/file.csv"));
            let url = file_url(&local).unwrap();
            assert_eq!(local_path_of_url(&url).as_deref(), Some(local.as_path()), "{url}");
            let path = store_path_of_url(&url).unwrap();
            assert_eq!(path.to_string(), format!("dir/{name}/file.csv"));
            assert_eq!(store_path(path.as_ref()).unwrap(), path);
            assert_eq!(local_path(&path), local);
            let directory = directory_url(local.parent().unwrap()).unwrap();
            assert_eq!(store_path_of_url(&directory).unwrap().to_string(), format!("dir/{name}"));
        }
    }

    #[test]
    fn names_that_differ_in_encoding_alone_are_two() {
        let of = |text: &str| store_path_of_url(&url(text).unwrap()).unwrap().to_string();
        assert_eq!(
            (of("s3://b/a b"), of("s3://b/a%20b"), of("s3://b/a%2520b")),
            ("a b".into(), "a b".into(), "a%20b".into())
        );
        assert_ne!(store_path("a b").unwrap(), store_path("a%20b").unwrap());
    }

    #[test]
    fn what_people_write_in_urls_is_not_cut_off() {
        let of = |text: &str| store_path_of_url(&url(text).unwrap()).unwrap().to_string();
        assert_eq!(of("s3://b/x#1/50%/y?.csv "), "x#1/50%/y?.csv ");
        assert_eq!(of("file:///d/a\\b#c"), "d/a\\b#c");
        assert!(store_path("a/../b").is_err() && store_path("a//b").is_err());
    }
}
