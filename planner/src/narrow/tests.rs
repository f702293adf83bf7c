//! Narrow arithmetic gives the values, types, NULLs and errors of DataFusion's own.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Decimal128Array, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{Literal, binary, col};
use datafusion::physical_plan::{PhysicalExpr, collect, displayable};
use datafusion::prelude::SessionContext;

use super::{NarrowDecimalExpr, narrow_decimals};

fn decimals(values: &[Option<i128>], precision: u8, scale: i8) -> ArrayRef {
    Arc::new(values.iter().copied().collect::<Decimal128Array>().with_precision_and_scale(precision, scale).unwrap())
}

fn batch(columns: &[ArrayRef]) -> RecordBatch {
    let named = columns.iter().zip(["a", "b", "c"]).map(|(array, name)| (name, Arc::clone(array), true));
    RecordBatch::try_from_iter_with_nullable(named).unwrap()
}

/// Compares narrow with wide; true when 64 bits did.
fn agrees(expr: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> bool {
    let narrow = NarrowDecimalExpr::of(expr, &batch.schema()).expect("it is decimal arithmetic");
    let wide = expr.evaluate(batch).and_then(|value| value.into_array(batch.num_rows()));
    let found = narrow.evaluate(batch).and_then(|value| value.into_array(batch.num_rows()));
    match (wide, found) {
        (Ok(wide), Ok(found)) => assert_eq!(&found, &wide, "{expr}"),
        (Err(wide), Err(found)) => assert_eq!(found.to_string(), wide.to_string()),
        (wide, found) => panic!("{expr}: {wide:?}, {found:?}"),
    }
    narrow.narrow(batch).is_some()
}

fn op(
    left: Arc<dyn PhysicalExpr>,
    operator: Operator,
    right: Arc<dyn PhysicalExpr>,
    schema: &Schema,
) -> Arc<dyn PhysicalExpr> {
    binary(left, operator, right, schema).unwrap()
}

fn literal(value: i128, precision: u8, scale: i8) -> Arc<dyn PhysicalExpr> {
    Arc::new(Literal::new(ScalarValue::Decimal128(Some(value), precision, scale)))
}

#[test]
fn products_and_sums_are_those_of_128_bits_on_both_sides_of_the_boundary() {
    // Magnitudes around every power of two, so that some products fit into 62, 63 and 64 bits and some do not.
    let mut narrow = [0, 0];
    for bits in 0..120 {
        for other in [1, 20, 31, 32, 33, 60, 61, 62, 63, 64, 90] {
            let around = |bits: u32| [-1, 0, 1].map(|delta| (1_i128 << bits) + delta);
            let sides = |bits: u32| around(bits).into_iter().flat_map(|value| [Some(value), Some(-value), None]);
            let left: Vec<_> = sides(bits).cycle().take(18).collect();
            let right: Vec<_> = sides(other).cycle().skip(bits as usize % 4).take(18).collect();
            let batch = batch(&[decimals(&left, 30, 2), decimals(&right, 30, 5), decimals(&right, 30, 2)]);
            let schema = batch.schema();
            let [a, b, c] = ["a", "b", "c"].map(|name| col(name, &schema).unwrap());
            let one = literal(1, 1, 0);
            for expr in [
                op(Arc::clone(&a), Operator::Multiply, Arc::clone(&b), &schema),
                op(Arc::clone(&a), Operator::Plus, Arc::clone(&b), &schema),
                op(Arc::clone(&a), Operator::Minus, Arc::clone(&c), &schema),
                op(Arc::clone(&a), Operator::Multiply, op(one, Operator::Minus, Arc::clone(&b), &schema), &schema),
                op(Arc::clone(&b), Operator::Multiply, literal(-7, 3, 1), &schema),
            ] {
                narrow[usize::from(agrees(&expr, &batch))] += 1;
            }
        }
    }
    assert!(narrow[0] > 500 && narrow[1] > 500, "{narrow:?} of them wide, narrow");
}

#[test]
fn what_lies_below_a_null_is_no_value() {
    let batch = batch(&[decimals(&[Some(5), None, Some(-3)], 15, 2), decimals(&[None, Some(7), Some(4)], 15, 2)]);
    let schema = batch.schema();
    let [a, b] = ["a", "b"].map(|name| col(name, &schema).unwrap());
    assert!(agrees(&op(a, Operator::Multiply, b, &schema), &batch));
}

#[test]
fn other_types_and_operators_are_left_alone() {
    let schema = Schema::new(vec![
        Field::new("a", DataType::Decimal128(15, 2), true),
        Field::new("b", DataType::Decimal64(15, 2), true),
        Field::new("n", DataType::Int64, true),
    ]);
    let [a, b, n] = ["a", "b", "n"].map(|name| col(name, &schema).unwrap());
    for expr in [
        op(Arc::clone(&a), Operator::Divide, Arc::clone(&a), &schema),
        op(Arc::clone(&a), Operator::Modulo, Arc::clone(&a), &schema),
        op(Arc::clone(&b), Operator::Multiply, Arc::clone(&b), &schema),
        op(Arc::clone(&n), Operator::Multiply, n, &schema),
        op(Arc::clone(&a), Operator::Lt, Arc::clone(&a), &schema),
        a,
    ] {
        assert!(NarrowDecimalExpr::of(&expr, &schema).is_none(), "{expr}");
    }
}

#[tokio::test]
async fn sums_of_narrow_products_go_beyond_64_bits_and_overflow_where_they_did() {
    let context = SessionContext::new();
    // Each product fits into 62 bits; their sum takes more than 64.
    context
        .sql("create table t as select value % 3 as k, (1000000000 + value)::decimal(15, 0) as a, 1000000000::decimal(15, 0) as b
              from generate_series(1, 1000) as s(value)")
        .await
        .unwrap()
        .collect()
        .await
        .unwrap();
    let sql = "select k, sum(a * b), avg(a * b), sum(a + b - 1.5), min(case when k > 0 then a * (1 - b) else 0 end) \
               from t group by k order by k";
    let plan = context.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
    let narrow = narrow_decimals(Arc::clone(&plan)).unwrap();
    assert_eq!(
        displayable(narrow.as_ref()).indent(true).to_string(),
        displayable(plan.as_ref()).indent(true).to_string()
    );
    assert!(format!("{narrow:?}").contains("NarrowDecimalExpr"), "{narrow:?}");
    let wide = collect(plan, context.task_ctx()).await.unwrap();
    assert_eq!(collect(narrow, context.task_ctx()).await.unwrap(), wide);

    let sql = "select sum(a * a * a * a * a * a) from t";
    let plan = context.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
    let narrow = narrow_decimals(Arc::clone(&plan)).unwrap();
    let error = collect(plan, context.task_ctx()).await.unwrap_err().to_string();
    assert!(error.contains("verflow"), "{error}");
    assert_eq!(collect(narrow, context.task_ctx()).await.unwrap_err().to_string(), error);
}
