//! Rows as every Flight client can use them.
//!
//! DataFusion answers with string views and, for Hive partitions, dictionaries. Clients can decode both, but many
//! cannot work with them: pyarrow 26 has no `equal`, `sort`, `take`, join or CSV writer for `string_view`, and JDBC
//! tools know neither. So the schema a client is told, and the rows it gets, have plain strings instead: one cast, which
//! also drops the parts of shared view buffers that no row of the batch uses.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;

/// `schema` as it is told to clients; the same one when nothing in it changes.
pub fn client_schema(schema: &SchemaRef) -> SchemaRef {
    let fields: Fields = schema.fields().iter().map(client_field).collect();
    if &fields == schema.fields() {
        return schema.clone();
    }
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// `rows` with the types of `schema`, which [`client_schema`] gave.
pub fn client_rows(rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let fit = |(column, field): (&ArrayRef, &FieldRef)| match column.data_type() == field.data_type() {
        true => Ok(column.clone()),
        false => cast(column, field.data_type()),
    };
    let columns = rows.columns().iter().zip(schema.fields()).map(fit).collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options)
}

fn client_field(field: &FieldRef) -> FieldRef {
    let data_type = client_type(field.data_type());
    if &data_type == field.data_type() {
        return field.clone();
    }
    let fitted = Field::new(field.name(), data_type, field.is_nullable());
    Arc::new(fitted.with_metadata(field.metadata().clone()))
}

fn client_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Dictionary(_, values) => client_type(values),
        DataType::List(item) => DataType::List(client_field(item)),
        DataType::LargeList(item) => DataType::LargeList(client_field(item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(client_field(item), *size),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(client_field).collect()),
        DataType::Map(entries, is_sorted) => DataType::Map(client_field(entries), *is_sorted),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{
        Array, AsArray, DictionaryArray, ListArray, StringArray, StringViewArray, StructArray,
    };
    use datafusion::arrow::buffer::OffsetBuffer;
    use datafusion::arrow::datatypes::Int32Type;

    use super::*;

    /// Clients must see plain strings wherever they are, with the same values and nulls.
    #[test]
    fn views_and_dictionaries_become_plain_strings_at_any_depth() -> Result<(), ArrowError> {
        let views: ArrayRef = Arc::new(StringViewArray::from(vec![Some("a"), None, Some("longer than twelve bytes")]));
        let item = Arc::new(Field::new_list_field(DataType::Utf8View, true));
        let lists: ArrayRef =
            Arc::new(ListArray::new(item, OffsetBuffer::from_lengths([2, 0, 1]), views.clone(), None));
        let dictionary: DictionaryArray<Int32Type> = vec![Some("x"), None, Some("x")].into_iter().collect();
        let inner = Arc::new(Field::new("inner", DataType::Utf8View, true));
        let structs: ArrayRef = Arc::new(StructArray::from(vec![(inner, views.clone())]));
        let rows = RecordBatch::try_from_iter_with_nullable([
            ("views", views, true),
            ("lists", lists, true),
            ("dictionary", Arc::new(dictionary) as ArrayRef, true),
            ("structs", structs, true),
        ])?;
        let schema = client_schema(&rows.schema());
        let fitted = client_rows(&rows, &schema)?;
        let plain = StringArray::from(vec![Some("a"), None, Some("longer than twelve bytes")]);
        assert_eq!(fitted.column(0).as_string::<i32>(), &plain);
        assert_eq!(fitted.column(1).as_list::<i32>().values().as_string::<i32>(), &plain);
        assert_eq!(fitted.column(2).as_string::<i32>(), &StringArray::from(vec![Some("x"), None, Some("x")]));
        assert_eq!(fitted.column(3).as_struct().column(0).data_type(), &DataType::Utf8);
        assert!(Arc::ptr_eq(&client_schema(&schema), &schema), "a plain schema stays as it is");
        Ok(())
    }
}
