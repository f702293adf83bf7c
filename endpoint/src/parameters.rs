//! Parameter values that a client binds to a prepared statement, as it sends them: a DoPut of Arrow rows, one row per
//! execution.

use std::panic::AssertUnwindSafe;

use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::sql::server::PeekableFlightDataStream;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::Schema;
use datafusion::common::{ParamValues, ScalarValue};
use futures::{FutureExt, TryStreamExt};
use onward_wire::ErrorKind;
use tonic::Status;

use crate::status;

/// Rows of parameters in one binding, so executions of one call.
const MAX_ROWS: usize = 100_000;

/// Reads the rows of a DoPut. What a client sends is hostile input: the decoder of IPC schemas still panics on some, so a
/// panic is that client's error and nobody else's.
pub(crate) async fn read(stream: PeekableFlightDataStream) -> Result<Vec<RecordBatch>, Status> {
    // A call that binds nothing sends its command in a message without Arrow data.
    let messages = stream.try_filter(|message| std::future::ready(!message.data_header.is_empty()));
    let batches = FlightRecordBatchStream::new_from_flight_data(messages.map_err(FlightError::from));
    let collect = batches.try_fold((0, Vec::new()), async |(rows, mut all), batch: RecordBatch| {
        let rows = rows + batch.num_rows();
        if rows > MAX_ROWS {
            let message = format!("more than {MAX_ROWS} rows of parameters: bind them in several calls");
            return Err(status::new(ErrorKind::ResourceExhausted, message, None).into());
        }
        all.push(batch);
        Ok((rows, all))
    });
    match AssertUnwindSafe(collect).catch_unwind().await {
        Ok(Ok((_, batches))) => Ok(batches),
        Ok(Err(FlightError::Tonic(status))) => Err(*status),
        Ok(Err(error)) => Err(Status::invalid_argument(format!("the parameters cannot be read: {error}"))),
        Err(_panic) => Err(Status::invalid_argument("the parameters cannot be read: their schema is malformed")),
    }
}

/// Values for each execution: one per row of `batches`, or one without values when nothing was bound.
///
/// Parameters are matched by name when the client's columns are named like them (with or without `$`), else by position.
pub(crate) fn values(expected: &Schema, batches: &[RecordBatch]) -> Result<Vec<ParamValues>, Status> {
    let names: Vec<&str> = expected.fields().iter().map(|field| field.name().trim_start_matches('$')).collect();
    if batches.iter().all(|batch| batch.num_rows() == 0) {
        return match names.len() {
            0 => Ok(vec![ParamValues::List(Vec::new())]),
            count => Err(Status::invalid_argument(format!("the statement has {count} parameters: bind values first"))),
        };
    }
    let is_positional = names.iter().all(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    let mut all = Vec::new();
    for batch in batches {
        let columns = columns_of(&names, batch)?;
        for row in 0..batch.num_rows() {
            let value = |column: &usize| ScalarValue::try_from_array(batch.column(*column), row);
            let values = columns.iter().map(value).collect::<Result<Vec<_>, _>>();
            let values = values.map_err(|error| Status::invalid_argument(error.to_string()))?;
            all.push(match is_positional {
                true => ParamValues::from(values),
                false => ParamValues::from(names.iter().copied().zip(values).collect::<Vec<_>>()),
            });
        }
    }
    Ok(all)
}

/// The column of each parameter.
fn columns_of(names: &[&str], batch: &RecordBatch) -> Result<Vec<usize>, Status> {
    if names.len() != batch.num_columns() {
        let (given, expected) = (batch.num_columns(), names.len());
        return Err(Status::invalid_argument(format!("{given} values were bound to {expected} parameters")));
    }
    let schema = batch.schema_ref();
    let column = |name: &&str| schema.fields().iter().position(|field| field.name().trim_start_matches('$') == *name);
    match names.iter().map(column).collect() {
        Some(by_name) => Ok(by_name),
        None => Ok((0..names.len()).collect()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{ArrayRef, Int64Array, StringArray};
    use datafusion::arrow::datatypes::{DataType, Field};

    use super::*;

    fn schema(names: &[&str]) -> Schema {
        Schema::new(names.iter().map(|name| Field::new(*name, DataType::Null, true)).collect::<Vec<_>>())
    }

    fn rows(names: [&str; 2]) -> RecordBatch {
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["a", "b"]));
        RecordBatch::try_from_iter([(names[0], numbers), (names[1], texts)]).expect("rows")
    }

    #[test]
    fn each_row_is_one_execution_matched_by_position_or_name() -> Result<(), Status> {
        let positional = values(&schema(&["$1", "$2"]), &[rows(["x", "y"])])?;
        assert_eq!(positional.len(), 2);
        let second = positional[1].get_placeholders_with_values("$2").expect("a value");
        assert_eq!(second.value, ScalarValue::from("b"));
        let swapped = values(&schema(&["$1", "$2"]), &[rows(["2", "1"])])?;
        let first = swapped[0].get_placeholders_with_values("$1").expect("a value");
        assert_eq!(first.value, ScalarValue::from("a"));
        let named = values(&schema(&["$text", "$number"]), &[rows(["number", "text"])])?;
        let text = named[0].get_placeholders_with_values("$text").expect("a value");
        assert_eq!(text.value, ScalarValue::from("a"));
        Ok(())
    }

    #[test]
    fn missing_values_are_the_clients_error() {
        assert!(values(&schema(&[]), &[]).is_ok_and(|values| values.len() == 1));
        assert!(values(&schema(&["$1"]), &[]).is_err());
        assert!(values(&schema(&["$1"]), &[rows(["x", "y"])]).is_err());
    }
}
