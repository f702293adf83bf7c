//! Files that each hold one JSON array: DataFusion reads them (`format.newline_delimited = false`) and, in 55.2, infers
//! their columns only when no object spans lines.

use std::fmt;
use std::io::{BufReader, Read};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Buf;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::json::reader::infer_json_schema_from_iterator;
use datafusion::catalog::Session;
use datafusion::common::{Result, Statistics};
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::file_format::json::JsonFormat;
use datafusion::datasource::physical_plan::{FileScanConfig, FileSource};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::DataFusionError;
use datafusion::object_store::{GetResultPayload, ObjectMeta, ObjectStore, ObjectStoreExt};
use datafusion::physical_plan::ExecutionPlan;
use onward_planner::json_array::JsonArraySource;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde_json::Value;

/// Objects looked at to infer columns, unless `schema_infer_max_rec` says otherwise; DataFusion's default.
const OBJECTS_LOOKED_AT: usize = 1_000;

/// DataFusion's format with its options.
#[derive(Debug)]
pub struct JsonArrayFormat(pub JsonFormat);

#[async_trait]
impl FileFormat for JsonArrayFormat {
    fn get_ext(&self) -> String {
        self.0.get_ext()
    }

    fn get_ext_with_compression(&self, compression: &FileCompressionType) -> Result<String> {
        self.0.get_ext_with_compression(compression)
    }

    fn compression_type(&self) -> Option<FileCompressionType> {
        self.0.compression_type()
    }

    async fn infer_schema(
        &self,
        _: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        objects: &[ObjectMeta],
    ) -> Result<SchemaRef> {
        let options = self.0.options();
        let compression = FileCompressionType::from(options.compression);
        let mut left = options.schema_infer_max_rec.unwrap_or(OBJECTS_LOOKED_AT);
        let mut schemas = Vec::new();
        for object in objects {
            if left == 0 {
                break;
            }
            let found = store.get(&object.location).await?;
            let values = match found.payload {
                GetResultPayload::File(file, _) => first_values(compression.convert_read(file)?, left),
                GetResultPayload::Stream(_) => {
                    first_values(compression.convert_read(found.bytes().await?.reader())?, left)
                }
            };
            let values = values.map_err(|error| ArrowError::JsonError(error.to_string()))?;
            left -= values.len();
            schemas.push(infer_json_schema_from_iterator(values.iter().map(Ok))?);
        }
        Ok(Arc::new(Schema::try_merge(schemas)?))
    }

    async fn infer_stats(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        columns: SchemaRef,
        object: &ObjectMeta,
    ) -> Result<Statistics> {
        self.0.infer_stats(state, store, columns, object).await
    }

    async fn create_physical_plan(
        &self,
        state: &dyn Session,
        config: FileScanConfig,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        self.0.create_physical_plan(state, config).await
    }

    fn file_source(&self, columns: TableSchema) -> Arc<dyn FileSource> {
        Arc::new(JsonArraySource::new(columns))
    }
}

/// The first values of an array, at most `limit`. What follows them is not looked at.
fn first_values(reader: impl Read, limit: usize) -> Result<Vec<Value>, serde_json::Error> {
    let mut values = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_reader(BufReader::new(reader));
    match deserializer.deserialize_seq(FirstValues { values: &mut values, limit }) {
        // Having stopped early is no error.
        Err(error) if values.len() < limit => Err(error),
        _ => Ok(values),
    }
}

struct FirstValues<'a> {
    values: &'a mut Vec<Value>,
    limit: usize,
}

impl<'de> Visitor<'de> for FirstValues<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("one JSON array, as format.newline_delimited = false says")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while self.values.len() < self.limit
            && let Some(value) = elements.next_element()?
        {
            self.values.push(value);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_values_are_read_however_they_are_laid_out() {
        let text = "[\n {\"a\": 1,\n  \"b\": [1, 2]}, {\"a\": null}\n, {\"a\": 3}]\n";
        assert_eq!(first_values(text.as_bytes(), 10).expect("values").len(), 3);
        assert_eq!(first_values("[{}, {}, nonsense".as_bytes(), 2).expect("values").len(), 2);
        assert_eq!(first_values("[]".as_bytes(), 2).expect("values").len(), 0);
        assert!(first_values("[{}, {".as_bytes(), 2).is_err(), "torn");
        let error = first_values("{\"a\": 1}\n".as_bytes(), 2).expect_err("lines").to_string();
        assert!(error.contains("one JSON array"), "{error}");
    }
}
