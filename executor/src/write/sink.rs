//! DataFusion's writers of files, built from a [`WriteTarget`].

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::{Result, internal_err};
use datafusion::datasource::file_format::FileFormatFactory;
use datafusion::datasource::file_format::arrow::ArrowFormatFactory;
use datafusion::datasource::file_format::csv::CsvFormatFactory;
use datafusion::datasource::file_format::json::JsonFormatFactory;
use datafusion::datasource::file_format::parquet::ParquetFormatFactory;
use datafusion::datasource::physical_plan::{FileOutputMode, FileSinkConfig};
use datafusion::datasource::sink::DataSinkExec;
use datafusion::execution::{SessionStateBuilder, TaskContext};
use datafusion::logical_expr::dml::InsertOp;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;

use super::target::WriteTarget;

/// A node whose sink writes rows of `schema` to `target`. The node itself is not run.
pub(super) async fn build_sink(
    target: &WriteTarget,
    schema: SchemaRef,
    context: &TaskContext,
) -> Result<Arc<dyn ExecutionPlan>> {
    let factory: Arc<dyn FileFormatFactory> = match target.format.as_str() {
        "parquet" => Arc::new(ParquetFormatFactory::new()),
        "csv" => Arc::new(CsvFormatFactory::new()),
        "json" => Arc::new(JsonFormatFactory::new()),
        "arrow" => Arc::new(ArrowFormatFactory::new()),
        other => return internal_err!("there is no writer for `{other}`"),
    };
    let state = SessionStateBuilder::new()
        .with_config(context.session_config().clone())
        .with_runtime_env(context.runtime_env())
        .build();
    let options: HashMap<_, _> =
        target.options.iter().map(|option| (option.key.clone(), option.value.clone())).collect();
    let format = factory.create(&state, &options)?;
    let url = target.table_url()?;
    let partitions = target.partition_by.iter().map(|name| {
        let data_type = schema.field_with_name(name)?.data_type().clone();
        Ok((name.clone(), data_type))
    });
    let config = FileSinkConfig {
        original_url: target.url.clone(),
        object_store_url: url.object_store(),
        file_group: Default::default(),
        table_paths: vec![url],
        output_schema: Arc::clone(&schema),
        table_partition_cols: partitions.collect::<Result<_>>()?,
        insert_op: InsertOp::Append,
        keep_partition_by_columns: target.keeps_partition_columns,
        file_extension: target.extension.clone(),
        file_output_mode: if target.is_single_file { FileOutputMode::SingleFile } else { FileOutputMode::Directory },
    };
    let input = Arc::new(EmptyExec::new(schema));
    let plan = format.create_writer_physical_plan(input, &state, config, None).await?;
    match plan.is::<DataSinkExec>() {
        true => Ok(plan),
        false => internal_err!("the writer of {} files is a {}", target.format, plan.name()),
    }
}
