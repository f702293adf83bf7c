//! Builds object stores from URLs, options and the environment.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::ClientConfigKey;
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::multipart::MultipartStore;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use onward_wire::message::StoreSpec;
use url::{Position, Url};

use crate::error::StoreError;
use crate::listing::WholeListings;
use crate::remote::RemoteStore;

/// Tries of one request after the first, unless the option `max_retries` says another number.
pub const MAX_RETRIES: usize = 5;
/// No try of a request starts this long after its first, unless the option `retry_timeout` says another time.
pub const RETRY_TIMEOUT: Duration = Duration::from_secs(60);
/// One try of one request, body included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Setting up a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A store, and the same store's multipart protocol where it has one.
#[derive(Clone)]
pub struct StoreHandle {
    /// Reads, lists, writes.
    pub store: Arc<dyn ObjectStore>,
    /// Uploads that one process makes and another completes. `None`: local files and http.
    pub multipart: Option<Arc<dyn MultipartStore>>,
    /// Files of this machine.
    pub is_local: bool,
}

impl fmt::Debug for StoreHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The store's own Debug may show credentials; its Display names bucket or root only.
        write!(f, "StoreHandle({})", self.store)
    }
}

impl StoreHandle {
    /// A store that one type implements with its multipart protocol.
    pub fn remote<S: ObjectStore + MultipartStore>(store: S) -> Self {
        let store = Arc::new(store);
        Self { store: store.clone(), multipart: Some(store), is_local: false }
    }

    /// The files of this machine.
    pub fn local() -> Self {
        Self { store: Arc::new(LocalFileSystem::new()), multipart: None, is_local: true }
    }
}

/// What distinguishes stores: scheme, user info (the container of Azure URLs), host and port.
pub fn store_key(url: &Url) -> String {
    url[..Position::BeforePath].to_owned()
}

/// The URL without user info, for messages.
pub(crate) fn shown(url: &Url) -> String {
    format!("{}://{}{}", url.scheme(), &url[Position::BeforeHost..Position::AfterPort], url.path())
}

/// Builds the store that `spec` describes: options win over the environment (`AWS_*`, `GOOGLE_*`, `AZURE_*`).
///
/// Option names are `object_store`'s, with or without a family prefix: `aws.region`, `aws_region` and `region` are one.
/// Every store also has `max_retries` (a number) and `retry_timeout` (`30s`). Errors name the option, never its value.
pub fn build_store(spec: &StoreSpec) -> Result<StoreHandle, StoreError> {
    let url = Url::parse(&spec.url)
        .map_err(|_| StoreError::UnknownScheme { url: spec.url.clone(), scheme: spec.url.clone() })?;
    let base = shown(&url);
    let failed = |source| StoreError::Build { url: base.clone(), source };
    let root = format!("{}://{}/", url.scheme(), &url[Position::BeforeHost..Position::AfterPort]);
    match url.scheme() {
        "file" => Ok(StoreHandle::local()),
        "memory" => Ok(StoreHandle::remote(InMemory::new())),
        "s3" | "s3a" => {
            let options = Options::<AmazonS3ConfigKey>::read(spec, &base, &["aws.", "s3."])?;
            let mut builder = AmazonS3Builder::from_env().with_url(url.as_str()).with_http_connector(WholeListings);
            for (key, value) in options.keys {
                builder = allow_http(builder, value, |b, key| b.with_config(AmazonS3ConfigKey::Client(key), "true"));
                builder = builder.with_config(key, value);
            }
            if let Some(endpoint) = builder.get_config_value(&AmazonS3ConfigKey::Endpoint) {
                builder =
                    allow_http(builder, &endpoint, |b, key| b.with_config(AmazonS3ConfigKey::Client(key), "true"));
            }
            let store = builder.with_retry(options.retry.clone()).build().map_err(failed)?;
            Ok(StoreHandle::remote(RemoteStore::new(store, &root, &options.retry)))
        }
        "gs" | "gcs" => {
            let options = Options::<GoogleConfigKey>::read(spec, &base, &["gcp.", "google.", "gs."])?;
            let builder = GoogleCloudStorageBuilder::from_env().with_url(url.as_str());
            let mut builder = builder.with_http_connector(WholeListings);
            for (key, value) in options.keys {
                builder = builder.with_config(key, value);
            }
            let store = builder.with_retry(options.retry.clone()).build().map_err(failed)?;
            Ok(StoreHandle::remote(RemoteStore::new(store, &root, &options.retry)))
        }
        "az" | "adl" | "azure" | "abfs" | "abfss" => {
            let options = Options::<AzureConfigKey>::read(spec, &base, &["azure.", "az."])?;
            let builder = MicrosoftAzureBuilder::from_env().with_url(url.as_str());
            let mut builder = builder.with_http_connector(WholeListings);
            for (key, value) in options.keys {
                builder = builder.with_config(key, value);
            }
            let store = builder.with_retry(options.retry.clone()).build().map_err(failed)?;
            Ok(StoreHandle::remote(RemoteStore::new(store, &root, &options.retry)))
        }
        "http" | "https" => {
            let options = Options::<ClientConfigKey>::read(spec, &base, &["http."])?;
            let client = ClientOptions::new()
                .with_timeout(REQUEST_TIMEOUT)
                .with_connect_timeout(CONNECT_TIMEOUT)
                .with_allow_http(url.scheme() == "http");
            let builder = HttpBuilder::new().with_url(&url[..Position::BeforePath]).with_client_options(client);
            let mut builder = builder.with_http_connector(WholeListings).with_retry(options.retry.clone());
            for (key, value) in options.keys {
                builder = builder.with_config(key, value);
            }
            let store = builder.build().map_err(failed)?;
            let store = Arc::new(RemoteStore::new(store, &root, &options.retry));
            Ok(StoreHandle { store, multipart: None, is_local: false })
        }
        scheme => Err(StoreError::UnknownScheme { scheme: scheme.to_owned(), url: base }),
    }
}

/// Plain http has to be allowed apart; an endpoint that says `http://` means it.
fn allow_http<B>(builder: B, value: &str, allow: impl Fn(B, ClientConfigKey) -> B) -> B {
    match value.starts_with("http://") {
        true => allow(builder, ClientConfigKey::AllowHttp),
        false => builder,
    }
}

/// The options of a store.
struct Options<'a, K> {
    /// Those of `object_store`, in the order in which they were given.
    keys: Vec<(K, &'a str)>,
    /// Those it has no keys for.
    retry: RetryConfig,
}

impl<'a, K: FromStr> Options<'a, K> {
    fn read(spec: &'a StoreSpec, url: &str, prefixes: &[&str]) -> Result<Self, StoreError> {
        let retry =
            RetryConfig { backoff: BackoffConfig::default(), max_retries: MAX_RETRIES, retry_timeout: RETRY_TIMEOUT };
        let mut options = Self { keys: Vec::new(), retry };
        for option in &spec.options {
            let name = option.key.to_ascii_lowercase();
            let bare = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(&name);
            let invalid = |hint: &'static str| StoreError::InvalidOption {
                url: url.to_owned(),
                option: option.key.clone(),
                hint,
            };
            match bare {
                "max_retries" => {
                    options.retry.max_retries = option.value.parse().map_err(|_| invalid("a number"))?;
                }
                "retry_timeout" => {
                    let time = humantime::parse_duration(&option.value);
                    options.retry.retry_timeout = time.map_err(|_| invalid("a time with its unit, such as 30s"))?;
                }
                _ => {
                    let key = K::from_str(bare).map_err(|_| StoreError::UnknownOption {
                        url: url.to_owned(),
                        option: option.key.clone(),
                        hint: String::new(),
                    })?;
                    options.keys.push((key, option.value.as_str()));
                }
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onward_wire::message::KeyValue;

    fn spec(url: &str, options: &[(&str, &str)]) -> StoreSpec {
        let options = options.iter().map(|(key, value)| KeyValue { key: (*key).into(), value: (*value).into() });
        StoreSpec { url: url.to_owned(), options: options.collect() }
    }

    #[test]
    fn every_scheme_of_the_readme_builds_without_a_network() {
        let key = [("aws.access_key_id", "id"), ("aws.secret_access_key", "hush"), ("region", "eu-west-1")];
        assert!(build_store(&spec("s3://bucket/", &key)).unwrap().multipart.is_some());
        let azure = [("azure.account_name", "acc"), ("azure.access_key", "aHVzaA==")];
        assert!(build_store(&spec("az://container/", &azure)).unwrap().multipart.is_some());
        assert!(build_store(&spec("gs://bucket/", &[("gcp.skip_signature", "true")])).unwrap().multipart.is_some());
        assert!(build_store(&spec("http://127.0.0.1:1/", &[])).unwrap().multipart.is_none());
        assert!(build_store(&spec("file:///", &[])).unwrap().is_local);
    }

    #[test]
    fn secrets_are_in_no_output() {
        let secret = [("aws.access_key_id", "id"), ("aws.secret_access_key", "hush")];
        let handle = build_store(&spec("s3://bucket/", &secret)).unwrap();
        assert!(!format!("{handle:?}").contains("hush"));
        let error = build_store(&spec("s3://bucket/", &[("aws.secret_acces_key", "hush")])).unwrap_err();
        assert!(error.to_string().contains("aws.secret_acces_key") && !error.to_string().contains("hush"), "{error}");
    }

    #[test]
    fn retries_are_bounded_as_the_options_say() {
        let spec = spec("s3://bucket/", &[("aws.max_retries", "2"), ("aws.retry_timeout", "700ms")]);
        let retry = Options::<AmazonS3ConfigKey>::read(&spec, "s3://bucket/", &["aws."]).unwrap().retry;
        assert_eq!((retry.max_retries, retry.retry_timeout), (2, Duration::from_millis(700)));
        for (option, value) in [("aws.max_retries", "many"), ("aws.retry_timeout", "7")] {
            let error = build_store(&self::spec("s3://bucket/", &[(option, value)])).unwrap_err().to_string();
            assert!(error.contains(option) && !error.contains(value), "{error}");
        }
    }

    #[test]
    fn an_unknown_scheme_says_what_is_known() {
        let error = build_store(&spec("ftp://host/file", &[])).unwrap_err().to_string();
        assert!(error.contains("ftp://") && error.contains("s3://"), "{error}");
    }

    #[test]
    fn two_azure_containers_of_one_account_are_two_stores() {
        let key = |url: &str| store_key(&Url::parse(url).unwrap());
        assert_ne!(key("abfss://a@acc.dfs.core.windows.net/x"), key("abfss://b@acc.dfs.core.windows.net/x"));
        assert_eq!(key("s3://bucket/a"), key("s3://bucket/b/c"));
    }
}
