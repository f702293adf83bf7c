//! Settings: whose they are and how long they last.

use super::server::{SqlClient, TestServer, query, rows};

async fn batch_size(client: &mut SqlClient) -> String {
    rows(client, "SHOW datafusion.execution.batch_size").await.concat().rsplit('|').next().expect("a value").to_owned()
}

/// Without cookies a connection is a session: SET lasts on it, and nobody else sees it.
#[tokio::test(flavor = "multi_thread")]
async fn settings_last_on_their_connection_and_nowhere_else() {
    let server = TestServer::start().await;
    let (mut one, mut two) = (server.client().await, server.client().await);
    let before = batch_size(&mut two).await;
    query(&mut one, "SET datafusion.execution.batch_size = 123").await.expect("a setting");
    assert_eq!(batch_size(&mut one).await, "123");
    assert_eq!(batch_size(&mut two).await, before);
    assert_eq!(batch_size(&mut server.client().await).await, before);
    server.stop().await;
}

/// A session named by header or cookie is found from any connection, also after its first one is gone.
#[tokio::test(flavor = "multi_thread")]
async fn named_and_cookie_sessions_outlive_connections() {
    let server = TestServer::start().await;
    let name = |client: &mut SqlClient| client.set_header(onward_endpoint::SESSION_HEADER, "7a0d6a0e-my-session");
    let mut one = server.client().await;
    name(&mut one);
    query(&mut one, "SET datafusion.execution.batch_size = 321").await.expect("a setting");
    drop(one);
    let mut two = server.client().await;
    name(&mut two);
    assert_eq!(batch_size(&mut two).await, "321");

    // The cookie comes with the first answer on a connection.
    let mut first = server.client().await;
    let info = arrow_flight::FlightDescriptor::new_cmd({
        use arrow_flight::sql::ProstMessageExt;
        use prost::Message;
        let query = "SET datafusion.execution.batch_size = 231".to_owned();
        arrow_flight::sql::CommandStatementQuery { query, transaction_id: None }.as_any().encode_to_vec()
    });
    let answer = first.inner_mut().get_flight_info(info).await.expect("a setting");
    let cookie = answer.metadata().get("set-cookie").expect("a cookie").to_str().expect("text").to_owned();
    let cookie = cookie.split(';').next().expect("a cookie").to_owned();
    let mut second = server.client().await;
    second.set_header("cookie", format!("theme=dark; {cookie}"));
    assert_eq!(batch_size(&mut second).await, "231");
    drop((first, second));
    let mut third = server.client().await;
    third.set_header("cookie", cookie);
    assert_eq!(batch_size(&mut third).await, "231");
    server.stop().await;
}

/// Sessions without a cookie are given back with their connection: more clients than max_sessions come and go.
#[tokio::test(flavor = "multi_thread")]
async fn closed_connections_free_their_sessions() {
    let server = TestServer::start_with(|options| options.config.max_sessions = 2).await;
    for _ in 0..3 {
        let (mut one, mut two) = (server.client().await, server.client().await);
        for client in [&mut one, &mut two] {
            retry_until_served(client).await;
        }
        // The third client at once is one too many.
        let mut three = server.client().await;
        let refused = super::server::code(three.execute("SELECT 1".to_owned(), None).await);
        assert_eq!(refused.0, tonic::Code::ResourceExhausted, "{}", refused.1);
    }
    server.stop().await;
}

/// The server sees a connection close a moment after its client dropped it.
async fn retry_until_served(client: &mut SqlClient) {
    let served = async {
        while let Err(error) = query(client, "SELECT 1").await {
            let (kind, message) = super::server::code(Err::<(), _>(error));
            assert_eq!(kind, tonic::Code::ResourceExhausted, "{message}");
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(super::server::PATIENCE, served).await.expect("sessions are given back");
}
