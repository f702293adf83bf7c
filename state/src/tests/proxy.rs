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
    /// They are closed, and so are new ones.
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
    trap: Mutex<Option<(Trap, &'static [u8])>>,
    withheld: watch::Sender<Option<(Arc<tokio::sync::Mutex<OwnedWriteHalf>>, Vec<u8>)>>,
}

impl Proxy {
    pub(super) async fn start(endpoint: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let to = endpoint.trim_start_matches("http://").to_owned();
        let (link, withheld) = (watch::Sender::new(Link::Up), watch::Sender::new(None));
        let state = Arc::new(State { to, link, trap: Mutex::default(), withheld });
        let stopped = CancellationToken::new();
        let accepting = Arc::clone(&state);
        tokio::spawn(stopped.clone().run_until_cancelled_owned(async move {
            loop {
                let (client, _) = listener.accept().await.expect("a connection");
                let Ok(server) = TcpStream::connect(&accepting.to).await else { continue };
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                let (up, down) = (Arc::clone(&accepting), Arc::clone(&accepting));
                let hung_up = CancellationToken::new();
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
        let mut withheld = self.state.withheld.subscribe();
        let kept = super::until(&mut withheld, Option::is_some).await;
        let (to, bytes) = kept.expect("it is there");
        to.lock().await.write_all(&bytes).await.expect("etcd is there");
    }

    /// Resolves when the link is deaf.
    pub(super) async fn lost_an_answer(&self) {
        super::until(&mut self.state.link.subscribe(), |link| *link == Link::Deaf).await;
    }
}

impl State {
    async fn carry_requests(self: Arc<Self>, mut from: OwnedReadHalf, to: OwnedWriteHalf, hung_up: CancellationToken) {
        let _guard = hung_up.clone().drop_guard();
        let (mut link, mut buffer) = (self.link.subscribe(), vec![0; 64 << 10]);
        let to = Arc::new(tokio::sync::Mutex::new(to));
        loop {
            let read = tokio::select! {
                read = from.read(&mut buffer) => read,
                _ = link.wait_for(|link| *link == Link::Cut) => return,
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
        let (mut link, mut buffer) = (self.link.subscribe(), vec![0; 64 << 10]);
        loop {
            let read = tokio::select! {
                read = from.read(&mut buffer) => read,
                _ = link.wait_for(|link| *link == Link::Cut) => return,
                () = hung_up.cancelled() => return,
            };
            let Ok(length @ 1..) = read else { return };
            if *self.link.borrow() == Link::Up && to.write_all(&buffer[..length]).await.is_err() {
                return;
            }
        }
    }
}
