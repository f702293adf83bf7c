//! Golden stage plans of the 22 TPC-H queries: SF1 and injected SF1000 statistics, 1, 4 and 64 functions, in
//! `planner/goldens`. `INSTA_UPDATE=always cargo test -p onward-planner golden` writes them again.
//!
//! The tables have statistics and file lists but no files: planning reads none.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, Result, ScalarValue, Statistics};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionContext;

use crate::session::{OnwardOptions, session_config, session_state_builder};
use crate::simulate::request;
use crate::{PlanRequest, Planned, explain, plan_query};

/// Rows and compressed bytes at SF 1, whether both grow with the scale, and the columns with their ranges at SF 1.
struct Table {
    name: &'static str,
    rows: u64,
    bytes: u64,
    grows: bool,
    columns: &'static [(&'static str, Kind)],
}

#[derive(Clone, Copy)]
enum Kind {
    /// 1 to this, times the scale.
    Key(i64),
    /// 0 to this, at any scale.
    Small(i64),
    Integer(i32, i32),
    Decimal(i128, i128),
    /// Days since 1970.
    Date(i32, i32),
    Text,
}
use Kind::{Date, Decimal, Integer, Key, Small, Text};

const TABLES: &[Table] = &[
    Table {
        name: "region",
        rows: 5,
        bytes: 1_600,
        grows: false,
        columns: &[("r_regionkey", Small(4)), ("r_name", Text), ("r_comment", Text)],
    },
    Table {
        name: "nation",
        rows: 25,
        bytes: 2_800,
        grows: false,
        columns: &[("n_nationkey", Small(24)), ("n_name", Text), ("n_regionkey", Small(4)), ("n_comment", Text)],
    },
    Table {
        name: "supplier",
        rows: 10_000,
        bytes: 800_000,
        grows: true,
        columns: &[
            ("s_suppkey", Key(10_000)),
            ("s_name", Text),
            ("s_address", Text),
            ("s_nationkey", Small(24)),
            ("s_phone", Text),
            ("s_acctbal", Decimal(-99_999, 999_999)),
            ("s_comment", Text),
        ],
    },
    Table {
        name: "part",
        rows: 200_000,
        bytes: 6_500_000,
        grows: true,
        columns: &[
            ("p_partkey", Key(200_000)),
            ("p_name", Text),
            ("p_mfgr", Text),
            ("p_brand", Text),
            ("p_type", Text),
            ("p_size", Integer(1, 50)),
            ("p_container", Text),
            ("p_retailprice", Decimal(90_000, 210_000)),
            ("p_comment", Text),
        ],
    },
    Table {
        name: "partsupp",
        rows: 800_000,
        bytes: 42_000_000,
        grows: true,
        columns: &[
            ("ps_partkey", Key(200_000)),
            ("ps_suppkey", Key(10_000)),
            ("ps_availqty", Integer(1, 9_999)),
            ("ps_supplycost", Decimal(100, 100_000)),
            ("ps_comment", Text),
        ],
    },
    Table {
        name: "customer",
        rows: 150_000,
        bytes: 12_500_000,
        grows: true,
        columns: &[
            ("c_custkey", Key(150_000)),
            ("c_name", Text),
            ("c_address", Text),
            ("c_nationkey", Small(24)),
            ("c_phone", Text),
            ("c_acctbal", Decimal(-99_999, 999_999)),
            ("c_mktsegment", Text),
            ("c_comment", Text),
        ],
    },
    Table {
        name: "orders",
        rows: 1_500_000,
        bytes: 54_000_000,
        grows: true,
        columns: &[
            ("o_orderkey", Key(6_000_000)),
            ("o_custkey", Key(150_000)),
            ("o_orderstatus", Text),
            ("o_totalprice", Decimal(85_000, 55_500_000)),
            ("o_orderdate", Date(8_035, 10_440)),
            ("o_orderpriority", Text),
            ("o_clerk", Text),
            ("o_shippriority", Integer(0, 0)),
            ("o_comment", Text),
        ],
    },
    Table {
        name: "lineitem",
        rows: 6_001_215,
        bytes: 230_000_000,
        grows: true,
        columns: &[
            ("l_orderkey", Key(6_000_000)),
            ("l_partkey", Key(200_000)),
            ("l_suppkey", Key(10_000)),
            ("l_linenumber", Integer(1, 7)),
            ("l_quantity", Decimal(100, 5_000)),
            ("l_extendedprice", Decimal(90_000, 10_500_000)),
            ("l_discount", Decimal(0, 10)),
            ("l_tax", Decimal(0, 8)),
            ("l_returnflag", Text),
            ("l_linestatus", Text),
            ("l_shipdate", Date(8_036, 10_561)),
            ("l_commitdate", Date(8_065, 10_530)),
            ("l_receiptdate", Date(8_037, 10_591)),
            ("l_shipinstruct", Text),
            ("l_shipmode", Text),
            ("l_comment", Text),
        ],
    },
];

/// A table with statistics, of which there are no files.
#[derive(Debug)]
struct StatedTable {
    schema: SchemaRef,
    statistics: Statistics,
    files: Vec<PartitionedFile>,
}

impl StatedTable {
    fn new(table: &Table, scale: u64) -> Self {
        let scale = if table.grows { scale } else { 1 };
        let fields: Vec<Field> =
            table.columns.iter().map(|(name, kind)| Field::new(*name, data_type(*kind), false)).collect();
        let schema = Arc::new(Schema::new(fields));
        let (rows, bytes) = (table.rows * scale, table.bytes * scale);
        let mut statistics = Statistics::new_unknown(&schema)
            .with_num_rows(Precision::Exact(rows as usize))
            .with_total_byte_size(Precision::Inexact(3 * bytes as usize));
        statistics.column_statistics = table.columns.iter().map(|(_, kind)| column_statistics(*kind, scale)).collect();
        let count = bytes.div_ceil(1 << 30);
        let files =
            (0..count).map(|file| PartitionedFile::new(format!("{}/{file}.parquet", table.name), bytes / count));
        Self { schema, statistics, files: files.collect() }
    }
}

fn data_type(kind: Kind) -> DataType {
    match kind {
        Key(_) | Small(_) => DataType::Int64,
        Integer(..) => DataType::Int32,
        Decimal(..) => DataType::Decimal128(15, 2),
        Date(..) => DataType::Date32,
        Text => DataType::Utf8View,
    }
}

fn column_statistics(kind: Kind, scale: u64) -> ColumnStatistics {
    let range = |low, high| {
        ColumnStatistics::new_unknown()
            .with_null_count(Precision::Exact(0))
            .with_min_value(Precision::Exact(low))
            .with_max_value(Precision::Exact(high))
    };
    match kind {
        Key(high) => range(ScalarValue::Int64(Some(1)), ScalarValue::Int64(Some(high * scale as i64))),
        Small(high) => range(ScalarValue::Int64(Some(0)), ScalarValue::Int64(Some(high))),
        Integer(low, high) => range(ScalarValue::Int32(Some(low)), ScalarValue::Int32(Some(high))),
        Decimal(low, high) => {
            range(ScalarValue::Decimal128(Some(low), 15, 2), ScalarValue::Decimal128(Some(high), 15, 2))
        }
        Date(low, high) => range(ScalarValue::Date32(Some(low)), ScalarValue::Date32(Some(high))),
        Text => ColumnStatistics::new_unknown().with_null_count(Precision::Exact(0)),
    }
}

#[async_trait]
impl TableProvider for StatedTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let groups = FileGroup::new(self.files.clone()).split_files(session.config().target_partitions());
        let source = Arc::new(ParquetSource::new(Arc::clone(&self.schema)));
        let config = FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), source)
            .with_file_groups(groups)
            .with_statistics(self.statistics.clone())
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }

    fn statistics(&self) -> Option<Statistics> {
        Some(self.statistics.clone())
    }
}

fn tpch(scale: u64) -> SessionContext {
    let config = session_config(4, OnwardOptions::default());
    let ctx = SessionContext::new_with_state(session_state_builder(config, Arc::new(RuntimeEnv::default())).build());
    for table in TABLES {
        ctx.register_table(table.name, Arc::new(StatedTable::new(table, scale))).expect("a new table");
    }
    ctx
}

fn queries() -> Vec<(String, String)> {
    // Cargo runs tests in the directory of their crate.
    let dir = Path::new("../tpch/queries");
    (1..=22)
        .map(|number| format!("q{number:02}"))
        .map(|name| {
            let file = dir.join(format!("{name}.sql"));
            let sql = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            (name, sql)
        })
        .collect()
}

async fn plan(ctx: &SessionContext, sql: &str, request: &PlanRequest) -> Planned {
    let state = ctx.state();
    let logical = state.create_logical_plan(sql).await.expect(sql);
    plan_query(&state, &logical, request).await.expect(sql)
}

#[tokio::test]
async fn golden_stage_plans() {
    let scales = [("SF1", tpch(1)), ("SF1000", tpch(1000))];
    let mut settings = insta::Settings::new();
    settings.set_snapshot_path(fs::canonicalize("goldens").expect("the directory of the goldens"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let mut failures = Vec::new();
    for (name, sql) in queries() {
        let mut text = String::new();
        for (scale, ctx) in &scales {
            for functions in [1, 4, 64] {
                let planned = plan(ctx, &sql, &PlanRequest { vcpus: 4, ..request(functions) }).await;
                text += &format!("==== {scale}, {functions} functions\n{}\n", explain::text(&planned));
            }
        }
        let compared = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            settings.bind(|| insta::assert_snapshot!(name.clone(), text));
        }));
        if compared.is_err() {
            failures.push(name);
        }
    }
    assert!(failures.is_empty(), "these plans changed: {failures:?}; see planner/goldens");
}

/// Same SQL, catalog, statistics and settings: same stages.
#[tokio::test]
async fn planning_is_pure() {
    let (first, second) = (tpch(1000), tpch(1000));
    for (name, sql) in queries() {
        let planned = explain::text(&plan(&first, &sql, &request(4)).await);
        assert_eq!(planned, explain::text(&plan(&second, &sql, &request(4)).await), "{name}");
    }
}

/// No plan for TPC-H broadcasts what is big, at any scale: the disaster that statistics are there to prevent.
#[tokio::test]
async fn no_big_table_is_broadcast() {
    let ctx = tpch(1000);
    for (name, sql) in queries() {
        let Planned::Stages(graph) = plan(&ctx, &sql, &request(64)).await else {
            panic!("{name} runs in the coordinator");
        };
        for stage in graph.stages.iter().filter(|stage| stage.output == onward_wire::message::OutputKind::Single) {
            let bytes = stage.estimate.bytes.unwrap_or(0);
            assert!(
                bytes <= 1 << 30,
                "{name} broadcasts {bytes} bytes:\n{}",
                explain::text(&Planned::Stages(graph.clone()))
            );
        }
    }
}

#[tokio::test]
async fn auto_sizing_follows_statistics() {
    let request = PlanRequest {
        functions: None,
        vcpus: 4,
        bytes_per_function: 8 << 30,
        hosts: 1,
        bytes_per_host: 1 << 29,
        tiny_query_bytes: 4 << 20,
        max_functions: 64,
        skewed_bytes: 0,
        task_bytes: 0,
        finer: 1,
    };
    let sql = "select l_returnflag, sum(l_quantity) from lineitem group by l_returnflag";
    let Planned::Stages(one) = plan(&tpch(1), sql, &request).await else { panic!("not tiny") };
    assert_eq!((one.sizing.functions, one.sizing.threads, one.stages.len()), (1, 4, 1));
    let Planned::Stages(many) = plan(&tpch(1000), sql, &request).await else { panic!("not tiny") };
    assert!((2..29).contains(&many.sizing.functions), "two of sixteen columns: {:?}", many.sizing);
    let tiny = plan(&tpch(1), "select count(*), n_regionkey from nation group by n_regionkey", &request).await;
    assert!(matches!(tiny, Planned::Coordinator { .. }));
    assert!(explain::text(&tiny).starts_with("coordinator: its input of"));
}

/// Where tasks took too long there are more, however few row groups the files have: rows are dealt out. What reads tables of the
/// system runs where they are.
#[tokio::test]
async fn finer_plans_deal_rows_out() {
    let sql = "select l_returnflag, sum(l_quantity) from lineitem group by l_returnflag";
    let finer = |finer| PlanRequest { finer, ..request(2) };
    let Planned::Stages(usual) = plan(&tpch(1), sql, &finer(1)).await else { panic!("stages") };
    assert_eq!(usual.stages[0].tasks.len(), 2);
    let Planned::Stages(more) = plan(&tpch(1), sql, &finer(4)).await else { panic!("stages") };
    assert!(more.sizing.is_forced && more.stages.iter().any(|stage| stage.tasks.len() == 8), "{more:?}");
    let known = plan(&tpch(1), "select table_name from information_schema.tables", &finer(1)).await;
    assert!(explain::text(&known).starts_with("coordinator: it reads what the coordinator knows"), "{known:?}");
}
