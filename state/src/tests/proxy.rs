//! A network between a client and etcd.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// What becomes of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    Up,
    /// There are none.
    Cut,
    /// Requests come through, answers do not.
    Deaf,
}

/// What is done with the first request that contains a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trap {
    /// From then on the link is deaf.
    LoseAnswer,
    /// It is kept, and its client is hung up on.
    Withhold,
}

/// Forwards connections; gone when it is dropped.
pub(super) struct Proxy {
    port: u16,
    state: Arc<State>,
    _running: DropGuard,
}

struct State {
    to: String,
    link: watch::Sender<Link>,
    /// Those connections that are there; others when the link is cut.
    connections: Mutex<CancellationToken>,
    trap: Mutex<Option<(Trap, &'static [u8])>>,
    withheld: watch::Sender<Option<Withheld>>,
}

/// A request, and the way to etcd that it did not go.
pub(super) type Withheld = (Arc<tokio::sync::Mutex<OwnedWriteHalf>>, Vec<u8>);

impl Proxy {
    pub(super) async fn start(endpoint: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let to = endpoint.trim_start_matches("http://").to_owned();
        let (link, withheld) = (watch::Sender::new(Link::Up), watch::Sender::new(None));
        let (connections, trap) = Default::default();
        let state = Arc::new(State { to, link, connections, trap, withheld });
        let stopped = CancellationToken::new();
        let accepting = Arc::clone(&state);
        tokio::spawn(stopped.clone().run_until_cancelled_owned(async move {
            loop {
                let (client, _) = listener.accept().await.expect("a connection");
                let Ok(server) = TcpStream::connect(&accepting.to).await else { continue };
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                let (up, down) = (Arc::clone(&accepting), Arc::clone(&accepting));
                let hung_up = accepting.connections.lock().child_token();
                if *accepting.link.borrow() == Link::Cut {
                    continue;
                }
                tokio::spawn(up.carry_requests(from_client, to_server, hung_up.clone()));
                tokio::spawn(down.carry_answers(from_server, to_client, hung_up));
            }
        }));
        Self { port, state, _running: stopped.drop_guard() }
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(super) fn set(&self, link: Link) {
        self.state.link.send_replace(link);
        if link == Link::Cut {
            std::mem::take(&mut *self.state.connections.lock()).cancel();
        }
    }

    /// Cuts all connections; new ones go well.
    pub(super) fn hang_up(&self) {
        self.set(Link::Cut);
        self.set(Link::Up);
    }

    /// Loses the answer to the next request that contains `text`, and all others from then on.
    pub(super) fn lose_answer(&self, text: &'static str) {
        *self.state.trap.lock() = Some((Trap::LoseAnswer, text.as_bytes()));
    }

    /// Withholds the next request that contains `text`, and hangs up on who sent it.
    pub(super) fn withhold(&self, text: &'static str) {
        *self.state.trap.lock() = Some((Trap::Withhold, text.as_bytes()));
    }

    /// Lets through what was withheld.
    pub(super) async fn release(&self) {
        let (to, bytes) = self.has_withheld().await;
        to.lock().await.write_all(&bytes).await.expect("etcd is there");
    }

    /// Resolves when a request is withheld.
    pub(super) async fn has_withheld(&self) -> Withheld {
        super::until(&mut self.state.withheld.subscribe(), Option::is_some).await.expect("it is there")
    }

    /// Resolves when the link is deaf.
    pub(super) async fn lost_an_answer(&self) {
        super::until(&mut self.state.link.subscribe(), |link| *link == Link::Deaf).await;
    }
}

impl State {
    async fn carry_requests(self: Arc<Self>, mut from: OwnedReadHalf, to: OwnedWriteHalf, hung_up: CancellationToken) {
        let _guard = hung_up.clone().drop_guard();
        let mut buffer = vec![0; 64 << 10];
        let to = Arc::new(tokio::sync::Mutex::new(to));
        loop {
            let read = tokio::select! {
                read = from.read(&mut buffer) => read,
                () = hung_up.cancelled() => return,
            };
            let Ok(length @ 1..) = read else { return };
            let bytes = &buffer[..length];
            let trap = self.trap.lock().take_if(|(_, text)| bytes.windows(text.len()).any(|part| part == *text));
            match trap {
                Some((Trap::Withhold, _)) => {
                    self.withheld.send_replace(Some((to, bytes.to_vec())));
                    return;
                }
                Some((Trap::LoseAnswer, _)) => _ = self.link.send_replace(Link::Deaf),
                None => (),
            }
            if to.lock().await.write_all(bytes).await.is_err() {
                return;
            }
        }
    }

    async fn carry_answers(
        self: Arc<Self>,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        hung_up: CancellationToken,
    ) {
        let _guard = hung_up.clone().drop_guard();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = tokio::select! {
                read = from.read(&mut buffer) => read,
                () = hung_up.cancelled() => return,
            };
            let Ok(length @ 1..) = read else { return };
            let is_heard = *self.link.borrow() == Link::Up && !hung_up.is_cancelled();
            if is_heard && to.write_all(&buffer[..length]).await.is_err() {
                return;
            }
        }
    }
}
