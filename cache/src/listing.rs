//! [`WholeListings`]: the connections of a store, on which a listing arrives whole or is asked for again.
//!
//! `object_store` (0.13) takes up the body of an object where it broke off, and gives up on any other body that breaks: a
//! listing's, for one, without which no query starts. Here a listing is answered only when all of it is there, so that
//! one which breaks is a request that failed, and is tried again like any.

use async_trait::async_trait;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};
use object_store::{ClientOptions, Result};

/// Makes the clients of stores.
#[derive(Debug)]
pub(crate) struct WholeListings;

impl HttpConnector for WholeListings {
    fn connect(&self, options: &ClientOptions) -> Result<HttpClient> {
        Ok(HttpClient::new(ListingClient { client: ReqwestConnector::default().connect(options)? }))
    }
}

#[derive(Debug)]
struct ListingClient {
    client: HttpClient,
}

#[async_trait]
impl HttpService for ListingClient {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let is_listing = is_listing(&request);
        let response = self.client.execute(request).await?;
        if !is_listing {
            return Ok(response);
        }
        let (head, body) = response.into_parts();
        // A listing changes nothing: whatever broke it, it may be asked for again.
        let broken = |error| HttpError::new(HttpErrorKind::Interrupted, error);
        Ok(HttpResponse::from_parts(head, body.bytes().await.map_err(broken)?.into()))
    }
}

/// S3 and Google Cloud Storage, Azure, WebDAV: at most a page of 1,000 or 5,000 names.
fn is_listing(request: &HttpRequest) -> bool {
    let query = request.uri().query().unwrap_or_default();
    let has = |pair: &str| query.split('&').any(|found| found == pair);
    match request.method().as_str() {
        "GET" => has("list-type=2") || has("comp=list"),
        method => method == "PROPFIND",
    }
}
