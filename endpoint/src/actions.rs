//! Actions beyond Flight SQL's own: cancel and renew a result, session options.

use std::sync::Arc;

use arrow_flight::sql::{Any, TicketStatementQuery};
use arrow_flight::{
    Action, ActionType, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightEndpoint, FlightInfo,
    RenewFlightEndpointRequest,
};
use bytes::Bytes;
use onward_wire::ErrorKind;
use prost::Message;
use tonic::{Request, Status};

use crate::direct;
use crate::options::{self, CloseSessionResult, CloseSessionStatus, SetSessionOptionsRequest};
use crate::service::{Service, client_of};
use crate::session::ClientSession;
use crate::status;

const CANCEL_FLIGHT_INFO: &str = "CancelFlightInfo";
const RENEW_FLIGHT_ENDPOINT: &str = "RenewFlightEndpoint";
const SET_SESSION_OPTIONS: &str = "SetSessionOptions";
const GET_SESSION_OPTIONS: &str = "GetSessionOptions";
pub(crate) const CLOSE_SESSION: &str = "CloseSession";
/// What a query took and cost.
pub const QUERY_COST: &str = "QueryCost";

/// What ListActions tells beside Flight SQL's own actions.
pub(crate) fn action_types() -> Vec<ActionType> {
    let action = |name: &str, description: &str| ActionType { r#type: name.into(), description: description.into() };
    vec![
        action(CANCEL_FLIGHT_INFO, "Cancels the query of a FlightInfo.\nRequest: CancelFlightInfoRequest"),
        action(RENEW_FLIGHT_ENDPOINT, "Keeps a result for longer.\nRequest: RenewFlightEndpointRequest"),
        action(SET_SESSION_OPTIONS, "Changes settings of the session.\nRequest: SetSessionOptionsRequest"),
        action(GET_SESSION_OPTIONS, "Tells the settings of the session.\nRequest: GetSessionOptionsRequest"),
        action(CLOSE_SESSION, "Ends the session.\nRequest: CloseSessionRequest"),
        action(QUERY_COST, "Tells what a query took and cost.\nRequest: its id, as text\nResult: JSON"),
    ]
}

impl Service {
    /// Runs one of the actions above; its result is one message.
    pub(crate) async fn act(&self, request: Request<Action>) -> Result<Bytes, Status> {
        let client = client_of(&request)?;
        let Action { r#type: name, body } = request.into_inner();
        match name.as_str() {
            CANCEL_FLIGHT_INFO => {
                let request: CancelFlightInfoRequest = decode(&name, body)?;
                let status = self.cancel(&request.info.unwrap_or_default());
                Ok(CancelFlightInfoResult::new(status).encode_to_vec().into())
            }
            RENEW_FLIGHT_ENDPOINT => {
                let request: RenewFlightEndpointRequest = decode(&name, body)?;
                Ok(self.renew(request.endpoint.unwrap_or_default())?.encode_to_vec().into())
            }
            SET_SESSION_OPTIONS => {
                let request: SetSessionOptionsRequest = decode(&name, body)?;
                let set = options::set(&client.session, request).await;
                self.sessions.keep(&client).await?;
                Ok(set.encode_to_vec().into())
            }
            GET_SESSION_OPTIONS => Ok(options::get(&client.session).encode_to_vec().into()),
            QUERY_COST => {
                let query = std::str::from_utf8(&body).ok().and_then(|text| text.trim().parse().ok());
                let query =
                    query.ok_or_else(|| Status::invalid_argument("QueryCost takes the id of a query: q-7f3a"))?;
                let unknown = || status::new(ErrorKind::NotFound, "no such query, or not any more", Some(query));
                let cost = self.results.cost(query).ok_or_else(unknown)?;
                serde_json::to_vec(&cost).map(Bytes::from).map_err(|error| Status::internal(error.to_string()))
            }
            CLOSE_SESSION => {
                self.close_session(&client);
                let status = CloseSessionStatus::Closed as i32;
                Ok(CloseSessionResult { status }.encode_to_vec().into())
            }
            other => Err(Status::unimplemented(format!("there is no action {other}"))),
        }
    }

    /// Cancels the queries of all endpoints of `info`. A write was committed before its client got an `info`: it cannot be
    /// cancelled any more.
    pub(crate) fn cancel(&self, info: &FlightInfo) -> CancelStatus {
        let tickets = info.endpoint.iter().filter_map(handle_of);
        // Every endpoint must be cancelled, so no short cut.
        let cancelled = tickets.filter(|handle| self.results.cancel(handle)).count();
        if cancelled > 0 { CancelStatus::Cancelled } else { CancelStatus::NotCancellable }
    }

    fn renew(&self, mut endpoint: FlightEndpoint) -> Result<FlightEndpoint, Status> {
        let handle = handle_of(&endpoint);
        let running = handle.as_ref().and_then(|handle| self.results.get(handle));
        let renewed = handle.and_then(|handle| self.results.renew(&handle));
        let (Some(running), Some(expires)) = (running, renewed) else {
            return Err(status::new(ErrorKind::NotFound, "the result is gone: it cannot be renewed", None));
        };
        direct::renew(&mut endpoint, &running, expires);
        Ok(endpoint)
    }

    fn close_session(&self, client: &Arc<ClientSession>) {
        self.sessions.close(client);
        self.results.client_gone(client);
    }
}

/// The handle in an endpoint's ticket, when it is the ticket of a statement.
pub(crate) fn handle_of(endpoint: &FlightEndpoint) -> Option<Bytes> {
    let ticket = &endpoint.ticket.as_ref()?.ticket;
    if let Some(result) = direct::result_of(ticket) {
        return Some(result);
    }
    let ticket: TicketStatementQuery = Any::decode(ticket.clone()).ok()?.unpack().ok()??;
    Some(ticket.statement_handle)
}

fn decode<M: Message + Default>(action: &str, body: Bytes) -> Result<M, Status> {
    M::decode(body).map_err(|error| options::malformed(action, &error))
}
