//! Waits for a server that is being started.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::net::TcpStream;

const BETWEEN_TRIES: Duration = Duration::from_millis(100);

/// Returns when nobody refuses a connection to `url` any more, or after `wait`: who connects then says what is wrong.
pub async fn until_listening(url: &str, wait: Duration) {
    let place = url.rsplit_once("://").map_or(url, |(_, place)| place).trim_end_matches('/');
    let listening = async {
        while TcpStream::connect(place).await.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused) {
            tokio::time::sleep(BETWEEN_TRIES).await;
        }
    };
    if !wait.is_zero() {
        // Nobody came: that is said by who connects.
        let _ = tokio::time::timeout(wait, listening).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_server_that_listens_later_is_waited_for() {
        // Bound, so that nobody else takes the port; until it listens it refuses.
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
        let url = format!("grpc://{}", socket.local_addr().expect("an address"));
        let short = Duration::from_millis(150);
        let begun = Instant::now();
        until_listening(&url, short).await;
        assert!(begun.elapsed() >= short, "nobody listened");
        until_listening(&url, Duration::ZERO).await;
        let (listener, ()) = tokio::join!(async { socket.listen(8) }, until_listening(&url, PATIENCE));
        drop::<TcpListener>(listener.expect("a listener"));
        assert!(begun.elapsed() < PATIENCE, "it was found");
    }
}
