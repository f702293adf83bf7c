//! Connections as tonic sees them: TCP without delay, numbered, and told apart when they close.
//!
//! A client that sends no session cookie has one session per connection (what users of `pyarrow.flight` and ADBC expect
//! of `SET`), so the server must know which connection a call came by and when that connection is gone.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Sleep;
use tonic::transport::server::{Connected, TlsConnectInfo};

use crate::handle::Handle;

/// Number of a connection; never reused while the server runs.
pub(crate) type ConnectionId = u64;

/// Called when a connection has closed, with what was known of it.
pub(crate) type OnClose = Arc<dyn Fn(ConnectionId, Option<Handle>) + Send + Sync>;

/// What a call knows about its connection.
#[derive(Clone)]
pub(crate) struct ConnectionInfo(ConnectionId, Option<Handle>, Option<IpAddr>);

/// The connection of a call, plain or TLS.
pub(crate) fn connection_of(extensions: &tonic::Extensions) -> Option<ConnectionId> {
    info_of(extensions).map(|info| info.0)
}

/// What nobody else can name it by; `None`: the operating system gave no random bytes.
pub(crate) fn secret_of(extensions: &tonic::Extensions) -> Option<Handle> {
    info_of(extensions).and_then(|info| info.1)
}

/// Who is at its other end.
pub(crate) fn peer_of(extensions: &tonic::Extensions) -> Option<IpAddr> {
    info_of(extensions).and_then(|info| info.2)
}

fn info_of(extensions: &tonic::Extensions) -> Option<&ConnectionInfo> {
    let plain = extensions.get::<ConnectionInfo>();
    plain.or_else(|| extensions.get::<TlsConnectInfo<ConnectionInfo>>().map(|tls| tls.get_ref()))
}

/// Accepts connections and numbers them. It never ends and never fails: a server that is out of descriptors serves on
/// and accepts again when there are some.
pub(crate) struct Incoming {
    listener: TcpListener,
    next: ConnectionId,
    on_close: OnClose,
    pause: Option<Pin<Box<Sleep>>>,
}

/// After a failed accept, so that a lack of descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

impl Incoming {
    /// Accepts on `listener`; `on_close` hears of each connection that ends.
    pub(crate) fn new(listener: TcpListener, on_close: OnClose) -> Self {
        Self { listener, next: 0, on_close, pause: None }
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                std::task::ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match std::task::ready!(self.listener.poll_accept(cx)) {
                Ok((stream, _)) => {
                    // Small messages both ways: Nagle's algorithm with delayed acknowledgements costs 40 ms.
                    // It fails only when the peer is gone already, which reading will tell.
                    let _ = stream.set_nodelay(true);
                    self.next += 1;
                    let (id, secret) = (self.next, Handle::random().ok());
                    let connection = Connection { stream, id, secret, on_close: self.on_close.clone() };
                    return Poll::Ready(Some(Ok(connection)));
                }
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection");
                    self.pause = Some(Box::pin(tokio::time::sleep(ACCEPT_PAUSE)));
                }
            }
        }
    }
}

/// One accepted connection.
pub(crate) struct Connection {
    stream: TcpStream,
    id: ConnectionId,
    secret: Option<Handle>,
    on_close: OnClose,
}

impl Drop for Connection {
    fn drop(&mut self) {
        (self.on_close)(self.id, self.secret);
    }
}

impl Connected for Connection {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        ConnectionInfo(self.id, self.secret, self.stream.peer_addr().ok().map(|address| address.ip()))
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
