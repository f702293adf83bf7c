//! Prepared statements: kept by a random handle until they are closed or their session ends.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use arrow_flight::IpcMessage;
use arrow_flight::SchemaAsIpc;
use arrow_flight::sql::ActionCreatePreparedStatementResult;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::arrow::ipc::writer::IpcWriteOptions;
use datafusion::common::ParamValues;
use futures::{StreamExt, TryStreamExt};
use onward_coordinator::{Execution, Prepared, QueryError};
use onward_shuffle::flight::client_schema;
use onward_wire::ErrorKind;
use parking_lot::Mutex;
use tonic::Status;

use crate::handle::Handle;
use crate::parameters;
use crate::session::ClientSession;
use crate::status;

/// A prepared statement.
pub(crate) struct Statement {
    handle: Handle,
    prepared: Prepared,
    session: Weak<ClientSession>,
    /// Rows bound last; each is one execution.
    bound: Mutex<Arc<Vec<RecordBatch>>>,
    /// Values were bound where it was before, if any were: they are gone.
    is_unbound: AtomicBool,
}

/// All prepared statements of the endpoint.
pub(crate) struct PreparedStatements {
    limit_per_session: usize,
    open: Mutex<HashMap<Handle, Arc<Statement>>>,
}

impl PreparedStatements {
    /// None yet; a session may hold `limit_per_session`.
    pub(crate) fn new(limit_per_session: usize) -> Self {
        Self { limit_per_session, open: Mutex::default() }
    }

    /// Prepares `sql` in the client's session.
    pub(crate) async fn create(&self, client: &Arc<ClientSession>, sql: &str) -> Result<Arc<Statement>, Status> {
        self.create_as(Handle::random()?, false, client, sql).await
    }

    /// As [`Self::create`], with the handle that a coordinator before this one gave it.
    pub(crate) async fn restore(
        &self,
        handle: Handle,
        client: &Arc<ClientSession>,
        sql: &str,
    ) -> Result<Arc<Statement>, Status> {
        self.create_as(handle, true, client, sql).await
    }

    async fn create_as(
        &self,
        handle: Handle,
        was_elsewhere: bool,
        client: &Arc<ClientSession>,
        sql: &str,
    ) -> Result<Arc<Statement>, Status> {
        let prepared = client.session.prepare(sql).await.map_err(|error| status::from_query_error(&error))?;
        let is_unbound = was_elsewhere && !prepared.parameters.fields().is_empty();
        let statement = Arc::new(Statement {
            handle,
            prepared,
            session: Arc::downgrade(client),
            bound: Mutex::default(),
            is_unbound: AtomicBool::new(is_unbound),
        });
        let mut open = self.open.lock();
        let of_session = open.values().filter(|other| other.session.ptr_eq(&statement.session)).count();
        if of_session >= self.limit_per_session {
            let message = format!(
                "the session has max_prepared_statements = {} prepared statements: close some",
                self.limit_per_session
            );
            return Err(status::new(ErrorKind::ResourceExhausted, message, None));
        }
        // Two calls may have restored it at once.
        Ok(open.entry(handle).or_insert(statement).clone())
    }

    /// The statement of a handle.
    pub(crate) fn get(&self, handle: &[u8]) -> Result<Arc<Statement>, Status> {
        let found = Handle::parse(handle).and_then(|handle| self.open.lock().get(&handle).cloned());
        found.ok_or_else(|| {
            status::new(ErrorKind::NotFound, "no such prepared statement: it or its session was closed", None)
        })
    }

    /// Forgets a statement, which this gives; closing twice is no error.
    pub(crate) fn close(&self, handle: &[u8]) -> Option<Arc<Statement>> {
        self.open.lock().remove(&Handle::parse(handle)?)
    }

    /// Forgets the statements of sessions that ended.
    pub(crate) fn close_orphans(&self) {
        self.open.lock().retain(|_, statement| statement.session.strong_count() > 0);
    }
}

impl Statement {
    /// What clients know it by.
    pub(crate) fn handle(&self) -> Handle {
        self.handle
    }

    /// What CreatePreparedStatement answers. A query's schema is never empty: the JDBC driver takes a statement without
    /// result schema for an update.
    pub(crate) fn describe(&self) -> Result<ActionCreatePreparedStatementResult, Status> {
        let result = if self.prepared.is_query {
            encode(&client_schema(&self.prepared.schema))?
        } else {
            IpcMessage(bytes::Bytes::new())
        };
        let parameters = encode(&client_schema(&self.prepared.parameters))?;
        Ok(ActionCreatePreparedStatementResult {
            prepared_statement_handle: self.handle.to_string().into(),
            dataset_schema: result.0,
            parameter_schema: parameters.0,
        })
    }

    /// Schema of its rows.
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.prepared.schema
    }

    /// The session that prepared it, and runs it.
    pub(crate) fn session(&self) -> Result<Arc<ClientSession>, Status> {
        self.session.upgrade().ok_or_else(|| {
            status::new(ErrorKind::NotFound, "the session of the prepared statement has ended: prepare it again", None)
        })
    }

    /// Binds parameters for the executions to come. Without rows, what was bound before stays: clients bind with one
    /// call and execute with the next.
    pub(crate) fn bind(&self, rows: Vec<RecordBatch>) -> Result<(), Status> {
        if rows.is_empty() {
            return Ok(());
        }
        parameters::values(&self.prepared.parameters, &rows)?;
        *self.bound.lock() = Arc::new(rows);
        self.is_unbound.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// The values bound now, one entry per execution.
    pub(crate) fn values(&self) -> Result<Vec<ParamValues>, Status> {
        if self.is_unbound.load(Ordering::Relaxed) {
            let message = "another coordinator leads since its parameters were bound: bind them again";
            return Err(status::new(ErrorKind::Unavailable, message, None));
        }
        let bound = self.bound.lock().clone();
        parameters::values(&self.prepared.parameters, &bound)
    }

    /// Runs the statement once for each entry of `values`, one after the other, as one execution with all rows that ends
    /// at `deadline`.
    pub(crate) async fn execute(
        &self,
        client: Arc<ClientSession>,
        values: Vec<ParamValues>,
        deadline: Option<Instant>,
    ) -> Result<Execution, QueryError> {
        let mut values = values.into_iter();
        let first = values.next().unwrap_or_else(|| ParamValues::List(Vec::new()));
        let mut execution = client.session.execute_prepared(&self.prepared, first, deadline).await?;
        if values.len() > 0 {
            let prepared = self.prepared.clone();
            let more = futures::stream::iter(values)
                .then(move |values| {
                    let (client, prepared) = (client.clone(), prepared.clone());
                    async move {
                        let more = client.session.execute_prepared(&prepared, values, deadline).await;
                        more.map(|more| more.stream)
                    }
                })
                .try_flatten();
            execution.stream = execution.stream.chain(more).boxed();
        }
        Ok(execution)
    }
}

fn encode(schema: &Schema) -> Result<IpcMessage, Status> {
    SchemaAsIpc::new(schema, &IpcWriteOptions::default())
        .try_into()
        .map_err(|error| Status::internal(format!("the schema cannot be encoded: {error}")))
}
