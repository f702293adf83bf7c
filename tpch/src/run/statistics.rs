//! What the server remembers of a query: its row of `system.queries`.

use datafusion::arrow::array::{Array, AsArray, ListArray, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Float64Type, UInt64Type};

use super::client::Client;
use super::report::Statistics;

/// Asks for the row of `query_id`. Statistics never fail a run: what is missing stays zero.
pub(super) async fn fetch(client: &mut Client, query_id: &str) -> Statistics {
    if query_id.is_empty() {
        return Statistics::default();
    }
    let sql = format!("SELECT * FROM system.queries WHERE query_id = '{}'", query_id.replace('\'', "''"));
    let rows = client.query(&sql).await.map(|rows| rows.batches).unwrap_or_default();
    rows.iter().find(|batch| batch.num_rows() > 0).map(read).unwrap_or_default()
}

fn read(batch: &RecordBatch) -> Statistics {
    let number = |name: &str| numbers(batch.column_by_name(name)).first().copied().unwrap_or(0);
    let amount = |name: &str| {
        let column = batch.column_by_name(name).and_then(|column| column.as_primitive_opt::<Float64Type>());
        column.and_then(|column| column.iter().flatten().next()).unwrap_or(0.0)
    };
    let per_stage = batch.column_by_name("functions_per_stage").and_then(|column| column.as_list_opt::<i32>());
    Statistics {
        functions_used: number("functions_used"),
        functions_per_stage: per_stage.map(first_list).unwrap_or_default(),
        stages: number("stages"),
        exchange_bytes: number("exchange_bytes"),
        table_requests: number("table_requests"),
        write_requests: number("write_requests"),
        intermediate_requests: number("intermediate_requests"),
        spilled_bytes: number("spilled_bytes"),
        cache_hit_bytes: number("cache_hit_bytes"),
        cache_miss_bytes: number("cache_miss_bytes"),
        attempts: number("attempts"),
        tasks: number("tasks"),
        cold_starts: number("cold_starts"),
        gb_seconds: amount("gb_seconds"),
        cost_usd: amount("cost_usd"),
    }
}

fn first_list(lists: &ListArray) -> Vec<u64> {
    if lists.is_empty() || lists.is_null(0) {
        return Vec::new();
    }
    numbers(Some(&lists.value(0)))
}

fn numbers(column: Option<&datafusion::arrow::array::ArrayRef>) -> Vec<u64> {
    let column = column.and_then(|column| cast(column, &DataType::UInt64).ok());
    let column = column.as_ref().and_then(|column| column.as_primitive_opt::<UInt64Type>());
    column.map(|column| column.iter().flatten().collect()).unwrap_or_default()
}
