//! Batches as Flight messages that every client accepts.
//!
//! A gRPC client refuses messages above its limit, 4 MiB by default, so batches are cut by what their rows really take:
//! arrow-flight's own splitting divides by average rows and counts the whole buffer of a slice.

use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::{FlightData, encode};
use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};
use tonic::Status;

use super::client_types::{client_rows, client_schema};

/// Bytes of rows in one message. Half of the usual client limit: sizes are estimates.
const MAX_MESSAGE_BYTES: usize = encode::GRPC_TARGET_MAX_FLIGHT_SIZE_BYTES;

/// Flight messages of `rows`, beginning with the schema as clients are told it.
pub fn flight_data(
    schema: &SchemaRef,
    rows: impl Stream<Item = Result<RecordBatch, Status>> + Send + 'static,
) -> BoxStream<'static, Result<FlightData, Status>> {
    let schema = client_schema(schema);
    let fitted = schema.clone();
    let pieces = rows.map_err(FlightError::from).flat_map(move |rows| {
        let pieces = match rows.and_then(|rows| Ok(client_rows(&rows, &fitted)?)) {
            Ok(rows) => split(rows).into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        };
        futures::stream::iter(pieces)
    });
    let encoder = FlightDataEncoderBuilder::new().with_schema(schema).with_max_flight_data_size(usize::MAX);
    encoder.build(pieces).map_err(Status::from).boxed()
}

/// Cuts rows until no piece is larger than a message may be, or it is a single row.
fn split(rows: RecordBatch) -> Vec<RecordBatch> {
    let (mut pieces, mut rest) = (Vec::with_capacity(1), vec![rows]);
    while let Some(rows) = rest.pop() {
        let count = rows.num_rows();
        let bytes: usize = rows.columns().iter().map(|column| bytes_of(column)).sum();
        if count <= 1 || bytes <= MAX_MESSAGE_BYTES {
            if count > 0 {
                pieces.push(rows);
            }
            continue;
        }
        let half = count / 2;
        rest.push(rows.slice(half, count - half));
        rest.push(rows.slice(0, half));
    }
    pieces
}

/// Bytes that the rows of `array` take in a message: of a slice, the slice's only.
fn bytes_of(array: &dyn Array) -> usize {
    let validity = array.nulls().map_or(0, |nulls| nulls.len().div_ceil(8));
    let rows = array.len();
    let values = match array.data_type() {
        DataType::Boolean => rows.div_ceil(8),
        DataType::Utf8 => variable(array.as_string::<i32>().value_offsets()) + 4 * rows,
        DataType::LargeUtf8 => variable(array.as_string::<i64>().value_offsets()) + 8 * rows,
        DataType::Binary => variable(array.as_binary::<i32>().value_offsets()) + 4 * rows,
        DataType::LargeBinary => variable(array.as_binary::<i64>().value_offsets()) + 8 * rows,
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            4 * rows + range(list.values(), list.value_offsets())
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            8 * rows + range(list.values(), list.value_offsets())
        }
        DataType::Map(_, _) => {
            let map = array.as_map();
            let entries = map.value_offsets();
            4 * rows + map.entries().columns().iter().map(|column| range(column, entries)).sum::<usize>()
        }
        DataType::FixedSizeList(_, size) => {
            let list = array.as_fixed_size_list();
            let (first, count) = (list.value_offset(0), usize::try_from(*size).unwrap_or(0) * rows);
            let first = usize::try_from(first).unwrap_or(0).min(list.values().len());
            bytes_of(&list.values().slice(first, count.min(list.values().len() - first)))
        }
        DataType::Struct(_) => array.as_struct().columns().iter().map(|column| bytes_of(column)).sum(),
        fixed => match fixed.primitive_width() {
            Some(width) => width * rows,
            // Unions, run-end encoded and view types: what their slice counts as.
            None => array.to_data().get_slice_memory_size().unwrap_or_else(|_| array.get_buffer_memory_size()),
        },
    };
    values + validity
}

/// Bytes between the first and the last offset.
fn variable<O: Copy + TryInto<usize>>(offsets: &[O]) -> usize {
    let (first, last) = ends(offsets);
    last - first
}

/// Bytes of the values that a slice of lists covers.
fn range<O: Copy + TryInto<usize>>(values: &ArrayRef, offsets: &[O]) -> usize {
    let (first, last) = ends(offsets);
    bytes_of(&values.slice(first, last - first))
}

fn ends<O: Copy + TryInto<usize>>(offsets: &[O]) -> (usize, usize) {
    let at = |offset: Option<&O>| offset.and_then(|offset| (*offset).try_into().ok()).unwrap_or(0);
    let first = at(offsets.first());
    (first, at(offsets.last()).max(first))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{Int64Array, ListArray, StringArray};
    use datafusion::arrow::buffer::OffsetBuffer;
    use datafusion::arrow::datatypes::Field;
    use prost::Message;

    use super::*;

    /// Rows of very different sizes, in slices of shared buffers, still make messages below the default client limit.
    #[tokio::test]
    async fn no_message_is_larger_than_clients_accept() -> Result<(), Status> {
        let text: Vec<String> = (0..4_000).map(|row| "x".repeat(if row % 1_000 < 10 { 300_000 } else { 10 })).collect();
        let numbers = Int64Array::from_iter_values(0..4_000_000);
        let item = Arc::new(Field::new_list_field(DataType::Int64, false));
        let lists = ListArray::new(item, OffsetBuffer::from_lengths([1_000; 4_000]), Arc::new(numbers), None);
        let rows = RecordBatch::try_from_iter([
            ("text", Arc::new(StringArray::from(text)) as ArrayRef),
            ("lists", Arc::new(lists) as ArrayRef),
        ])
        .map_err(|error| Status::internal(error.to_string()))?;
        let (schema, slice) = (rows.schema(), rows.slice(5, 3_990));
        let messages: Vec<_> = flight_data(&schema, futures::stream::iter([Ok(slice)])).try_collect().await?;
        let largest = messages.iter().map(Message::encoded_len).max();
        assert!(largest < Some(4 << 20), "{largest:?}");
        let bytes: usize = messages.iter().map(Message::encoded_len).sum();
        assert!(messages.len() < 2 + 3 * bytes / MAX_MESSAGE_BYTES, "{} messages of {bytes} bytes", messages.len());
        Ok(())
    }

    #[test]
    fn a_small_slice_of_a_big_batch_is_one_piece() -> Result<(), datafusion::arrow::error::ArrowError> {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..4_000_000));
        let rows = RecordBatch::try_from_iter([("numbers", numbers)])?;
        assert_eq!(split(rows.slice(100, 5)).len(), 1);
        assert_eq!(split(rows.slice(0, 0)).len(), 0);
        Ok(())
    }
}
