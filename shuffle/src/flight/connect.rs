//! Connections to other hosts: one each, made when it is needed.

use std::collections::HashMap;
use std::time::Duration;

use arrow_flight::flight_service_client::FlightServiceClient;
use onward_wire::{ErrorKind, WireError};
use parking_lot::Mutex;
use tonic::transport::{Channel, Endpoint};
use url::Url;

use super::tls::ClusterTls;

/// What may be on its way to us, per request and per connection: the window of HTTP/2 flow control.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A peer that does not answer a ping in time is gone.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes connections, and keeps one per address.
#[derive(Debug)]
pub struct Connector {
    tls: Option<ClusterTls>,
    max_message_bytes: usize,
    channels: Mutex<HashMap<String, Channel>>,
}

/// The host and port of `grpc://host:port` or `grpc+tls://host:port`, and whether it says TLS.
///
/// # Errors
/// When it is something else.
pub fn parse_address(address: &str) -> Result<(String, bool), WireError> {
    let malformed = || {
        let message = format!("`{address}` is no address of a host: write grpc://HOST:PORT or grpc+tls://HOST:PORT");
        WireError::new(ErrorKind::InvalidQuery, message)
    };
    let url = Url::parse(address).map_err(|_| malformed())?;
    let is_tls = match url.scheme() {
        "grpc" | "grpc+tcp" => false,
        "grpc+tls" => true,
        _ => return Err(malformed()),
    };
    let (Some(host), Some(port)) = (url.host_str(), url.port()) else { return Err(malformed()) };
    match url.path() {
        "" | "/" => Ok((format!("{host}:{port}"), is_tls)),
        _ => Err(malformed()),
    }
}

impl Connector {
    /// `tls`: as whom to come, and whom to trust; addresses that say TLS are refused without it.
    pub fn new(tls: Option<ClusterTls>, max_message_bytes: u64) -> Self {
        let max_message_bytes = usize::try_from(max_message_bytes).unwrap_or(usize::MAX);
        Self { tls, max_message_bytes, channels: Mutex::default() }
    }

    /// A client of `address`. It connects with its first request, and again when the connection was lost.
    ///
    /// # Errors
    /// When the address cannot be one.
    pub fn client(&self, address: &str) -> Result<FlightServiceClient<Channel>, WireError> {
        let mut channels = self.channels.lock();
        let channel = match channels.get(address) {
            Some(channel) => channel.clone(),
            None => {
                let channel = self.endpoint(address)?.connect_lazy();
                channels.insert(address.to_owned(), channel.clone());
                channel
            }
        };
        Ok(FlightServiceClient::new(channel)
            .max_decoding_message_size(self.max_message_bytes)
            .max_encoding_message_size(usize::MAX))
    }

    /// Lets go of connections to all but `addresses`.
    pub fn keep_only(&self, addresses: &[&str]) {
        self.channels.lock().retain(|address, _| addresses.contains(&address.as_str()));
    }

    fn endpoint(&self, address: &str) -> Result<Endpoint, WireError> {
        let (place, is_tls) = parse_address(address)?;
        let malformed =
            |error: tonic::transport::Error| WireError::new(ErrorKind::InvalidQuery, format!("{address}: {error}"));
        let scheme = if is_tls { "https" } else { "http" };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{place}")).map_err(malformed)?;
        let endpoint = match (&self.tls, is_tls) {
            (_, false) => endpoint,
            (Some(tls), true) => endpoint.tls_config(tls.client()).map_err(malformed)?,
            (None, true) => {
                let message =
                    format!("{address} wants TLS: set cluster_dir to the directory that `onward tls init` made");
                return Err(WireError::new(ErrorKind::Denied, message));
            }
        };
        Ok(endpoint
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_TIMEOUT)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_flight() {
        assert_eq!(parse_address("grpc://10.0.0.7:50052").unwrap(), ("10.0.0.7:50052".to_owned(), false));
        assert_eq!(parse_address("grpc+tls://[::1]:1/").unwrap(), ("[::1]:1".to_owned(), true));
        for wrong in ["10.0.0.7:50052", "http://h:1", "grpc://h", "grpc://h:1/path", ""] {
            assert!(parse_address(wrong).unwrap_err().message.contains("grpc://HOST:PORT"), "{wrong}");
        }
    }
}
