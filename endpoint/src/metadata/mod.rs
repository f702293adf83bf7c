//! What clients ask about the server and its catalog. Each answer is a small batch; GetFlightInfo gives its schema and the
//! command itself as the ticket, DoGet the rows.

mod catalog;
mod info;
mod keys;
mod types;

use arrow_flight::sql::Command;
use arrow_flight::{FlightData, FlightDescriptor, FlightEndpoint, FlightInfo, Ticket};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::prelude::SessionContext;
use futures::stream::BoxStream;
use onward_shuffle::flight::flight_data;
use tonic::Status;

use crate::statement::describe;

/// Answers about the catalog change with it; those about the server are built once.
pub(crate) struct Metadata {
    info: arrow_flight::sql::metadata::SqlInfoData,
    types: arrow_flight::sql::metadata::XdbcTypeInfoData,
}

impl Metadata {
    /// Builds what does not change.
    pub(crate) fn new() -> Result<Self, Status> {
        Ok(Self { info: info::build().map_err(failed)?, types: types::build().map_err(failed)? })
    }

    /// Schema of the answer to `command`; `None` when it is no metadata command.
    pub(crate) fn schema(&self, command: &Command) -> Option<SchemaRef> {
        Some(match command.clone() {
            Command::CommandGetCatalogs(query) => query.into_builder().schema(),
            Command::CommandGetDbSchemas(query) => query.into_builder().schema(),
            Command::CommandGetTables(query) => query.into_builder().schema(),
            Command::CommandGetTableTypes(query) => query.into_builder().schema(),
            Command::CommandGetSqlInfo(query) => query.into_builder(&self.info).schema(),
            Command::CommandGetXdbcTypeInfo(query) => query.into_builder(&self.types).schema(),
            Command::CommandGetPrimaryKeys(_) => keys::primary(),
            Command::CommandGetImportedKeys(_)
            | Command::CommandGetExportedKeys(_)
            | Command::CommandGetCrossReference(_) => keys::foreign(),
            _ => return None,
        })
    }

    /// Answers GetFlightInfo with the `schema` of a metadata command: the command is its own ticket.
    pub(crate) fn flight_info(schema: &SchemaRef, descriptor: FlightDescriptor) -> Result<FlightInfo, Status> {
        let endpoint = FlightEndpoint::new().with_ticket(Ticket::new(descriptor.cmd.clone()));
        Ok(describe(schema, descriptor)?.with_endpoint(endpoint))
    }

    /// Answers DoGet for a session with `context`.
    pub(crate) async fn get(
        &self,
        command: Command,
        context: &SessionContext,
    ) -> Result<BoxStream<'static, Result<FlightData, Status>>, Status> {
        let rows = match command {
            Command::CommandGetCatalogs(query) => catalog::catalogs(query, context)?,
            Command::CommandGetDbSchemas(query) => catalog::schemas(query, context)?,
            Command::CommandGetTables(query) => catalog::tables(query, context).await?,
            Command::CommandGetTableTypes(query) => catalog::table_types(query)?,
            Command::CommandGetSqlInfo(query) => query.into_builder(&self.info).build().map_err(failed)?,
            Command::CommandGetXdbcTypeInfo(query) => query.into_builder(&self.types).build().map_err(failed)?,
            Command::CommandGetPrimaryKeys(_) => RecordBatch::new_empty(keys::primary()),
            Command::CommandGetImportedKeys(_)
            | Command::CommandGetExportedKeys(_)
            | Command::CommandGetCrossReference(_) => RecordBatch::new_empty(keys::foreign()),
            other => return Err(Status::invalid_argument(format!("{} has no rows", other.type_url()))),
        };
        let schema = rows.schema();
        Ok(flight_data(&schema, futures::stream::iter([Ok(rows)])))
    }
}

fn failed(error: impl std::fmt::Display) -> Status {
    Status::internal(format!("the answer could not be built: {error}"))
}
