//! [`NarrowDecimalExpr`]: one tree of decimal arithmetic.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::{Array, AsArray, Decimal128Array, RecordBatch};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::datatypes::{DataType, Decimal128Type, FieldRef, Schema};
use datafusion::common::{Result, ScalarValue, internal_err};
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::sort_properties::ExprProperties;
use datafusion::logical_expr::{ColumnarValue, Operator};
use datafusion::physical_expr::expressions::{BinaryExpr, Column, Literal};
use datafusion::physical_plan::PhysicalExpr;

/// Bits that magnitudes may have: with the sign one is left of 64.
const MOST_BITS: u32 = 62;
/// Greatest power of ten below 2^62.
const MOST_DIGITS: u8 = 18;

/// `*`, `+` and `-` over columns and literals of Decimal128. It gives what the expression that it stands for gives.
#[derive(Debug)]
pub struct NarrowDecimalExpr {
    wide: Arc<dyn PhysicalExpr>,
    tree: Tree,
    precision: u8,
    scale: i8,
}

#[derive(Debug)]
enum Tree {
    Column(Column),
    Literal(Values),
    Operation(Box<Operation>),
}

#[derive(Debug)]
struct Operation {
    operator: Operator,
    left: Tree,
    right: Tree,
    /// What the operands of a sum are multiplied with, to have its scale.
    left_factor: Values,
    right_factor: Values,
}

/// Values of magnitudes below 2^`bits`.
#[derive(Clone, Debug)]
struct Values {
    bits: u32,
    of: Rows,
}

#[derive(Clone, Debug)]
enum Rows {
    /// The same in all.
    All(i64),
    Each(Vec<i64>),
}

impl NarrowDecimalExpr {
    /// `expr` if it is such a tree; its leaves are columns of `schema`.
    pub fn of(expr: &Arc<dyn PhysicalExpr>, schema: &Schema) -> Option<Self> {
        let DataType::Decimal128(precision, scale) = expr.data_type(schema).ok()? else { return None };
        let tree = Tree::of(expr, schema)?;
        matches!(tree, Tree::Operation(_)).then(|| Self { wide: Arc::clone(expr), tree, precision, scale })
    }

    /// What is known of its one child is known of it.
    fn of_wide<'a, T>(&self, children: &'a [T]) -> Result<&'a T> {
        match children {
            [wide] => Ok(wide),
            _ => internal_err!("`{}` stands for one expression, not {}", self.wide, children.len()),
        }
    }

    /// The rows of a batch; `None` where 64 bits might not do.
    pub(super) fn narrow(&self, batch: &RecordBatch) -> Option<Decimal128Array> {
        let mut nulls = None;
        let values = match self.tree.run(batch, &mut nulls)?.of {
            Rows::Each(values) => values.into_iter().map(i128::from).collect::<Vec<_>>(),
            Rows::All(_) => return None,
        };
        let array = Decimal128Array::try_new(values.into(), nulls).ok()?;
        array.with_precision_and_scale(self.precision, self.scale).ok()
    }
}

impl Tree {
    fn of(expr: &Arc<dyn PhysicalExpr>, schema: &Schema) -> Option<Self> {
        let scale = |expr: &Arc<dyn PhysicalExpr>| match expr.data_type(schema) {
            Ok(DataType::Decimal128(_, scale)) => Some(scale),
            _ => None,
        };
        let result_scale = scale(expr)?;
        if let Some(column) = expr.downcast_ref::<Column>() {
            return Some(Self::Column(column.clone()));
        }
        if let Some(literal) = expr.downcast_ref::<Literal>() {
            let ScalarValue::Decimal128(Some(value), ..) = literal.value() else { return None };
            return Values::constant(*value).map(Self::Literal);
        }
        let operation = expr.downcast_ref::<BinaryExpr>()?;
        let (left, right) = (operation.left(), operation.right());
        let (left_scale, right_scale) = (scale(left)?, scale(right)?);
        let (left_factor, right_factor) = match operation.op() {
            Operator::Multiply if result_scale == left_scale.checked_add(right_scale)? => (0, 0),
            Operator::Plus | Operator::Minus if result_scale == left_scale.max(right_scale) => {
                (result_scale.checked_sub(left_scale)?, result_scale.checked_sub(right_scale)?)
            }
            _ => return None,
        };
        let factor = |digits: i8| {
            let digits = u8::try_from(digits).ok().filter(|digits| *digits <= MOST_DIGITS)?;
            Values::constant(10_i128.pow(digits.into()))
        };
        Some(Self::Operation(Box::new(Operation {
            operator: *operation.op(),
            left: Self::of(left, schema)?,
            right: Self::of(right, schema)?,
            left_factor: factor(left_factor)?,
            right_factor: factor(right_factor)?,
        })))
    }

    /// Its values, or `None` where 64 bits might not do. Rows that are NULL in a column are NULL in `nulls`.
    fn run(&self, batch: &RecordBatch, nulls: &mut Option<NullBuffer>) -> Option<Values> {
        match self {
            Self::Column(column) => {
                let array = batch.columns().get(column.index())?.as_primitive_opt::<Decimal128Type>()?;
                *nulls = NullBuffer::union(nulls.as_ref(), array.nulls());
                Values::of(array.values())
            }
            Self::Literal(values) => Some(values.clone()),
            Self::Operation(operation) => {
                let left = operation.left.run(batch, nulls)?;
                let right = operation.right.run(batch, nulls)?;
                if operation.operator == Operator::Multiply {
                    return left.times(right);
                }
                let left = left.times(operation.left_factor.clone())?;
                let right = right.times(operation.right_factor.clone())?;
                match operation.operator {
                    Operator::Plus => left.with(right, |left, right| left + right),
                    _ => left.with(right, |left, right| left - right),
                }
            }
        }
    }
}

impl Values {
    fn constant(value: i128) -> Option<Self> {
        let bits = i128::BITS - value.unsigned_abs().leading_zeros();
        let value = i64::try_from(value).ok().filter(|_| bits <= MOST_BITS)?;
        Some(Self { bits, of: Rows::All(value) })
    }

    fn of(wide: &[i128]) -> Option<Self> {
        let mut magnitudes = 0_u128;
        let mut values = Vec::with_capacity(wide.len());
        values.extend(wide.iter().map(|value| {
            // `!value` for negative ones, which has as many bits as the magnitude or, for powers of two, one less.
            magnitudes |= (value ^ (value >> (i128::BITS - 1))) as u128;
            *value as i64
        }));
        let bits = u128::BITS - magnitudes.leading_zeros() + 1;
        (bits <= MOST_BITS).then_some(Self { bits, of: Rows::Each(values) })
    }

    fn times(self, other: Self) -> Option<Self> {
        match (&self.of, &other.of) {
            (_, Rows::All(1)) => return Some(self),
            (Rows::All(1), _) => return Some(other),
            _ => {}
        }
        let bits = self.bits + other.bits;
        (bits <= MOST_BITS).then(|| Self { bits, of: self.of.zip(other.of, |left, right| left * right) })
    }

    /// A sum or difference.
    fn with(self, other: Self, operation: impl Fn(i64, i64) -> i64) -> Option<Self> {
        let bits = self.bits.max(other.bits) + 1;
        (bits <= MOST_BITS).then(|| Self { bits, of: self.of.zip(other.of, operation) })
    }
}

impl Rows {
    /// Bounds say that `operation` cannot overflow.
    fn zip(self, other: Self, operation: impl Fn(i64, i64) -> i64) -> Self {
        match (self, other) {
            (Self::All(left), Self::All(right)) => Self::All(operation(left, right)),
            (Self::Each(mut left), Self::All(right)) => {
                left.iter_mut().for_each(|value| *value = operation(*value, right));
                Self::Each(left)
            }
            (Self::All(left), Self::Each(mut right)) => {
                right.iter_mut().for_each(|value| *value = operation(left, *value));
                Self::Each(right)
            }
            (Self::Each(mut left), Self::Each(right)) => {
                left.iter_mut().zip(right).for_each(|(value, right)| *value = operation(*value, right));
                Self::Each(left)
            }
        }
    }
}

impl PhysicalExpr for NarrowDecimalExpr {
    fn data_type(&self, schema: &Schema) -> Result<DataType> {
        self.wide.data_type(schema)
    }

    fn nullable(&self, schema: &Schema) -> Result<bool> {
        self.wide.nullable(schema)
    }

    fn return_field(&self, schema: &Schema) -> Result<FieldRef> {
        self.wide.return_field(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        match self.narrow(batch) {
            Some(array) => Ok(ColumnarValue::Array(Arc::new(array))),
            None => self.wide.evaluate(batch),
        }
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.wide]
    }

    /// Another expression, which stays wide: what columns it has is not known here.
    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        match children.into_iter().next() {
            Some(wide) if wide.as_ref() == self.wide.as_ref() => Ok(self),
            Some(wide) => Ok(wide),
            None => internal_err!("narrow arithmetic stands for one expression"),
        }
    }

    fn evaluate_bounds(&self, children: &[&Interval]) -> Result<Interval> {
        self.of_wide(children).map(|wide| (*wide).clone())
    }

    fn get_properties(&self, children: &[ExprProperties]) -> Result<ExprProperties> {
        self.of_wide(children).cloned()
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.wide.fmt_sql(f)
    }
}

impl fmt::Display for NarrowDecimalExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.wide.fmt(f)
    }
}

impl PartialEq for NarrowDecimalExpr {
    fn eq(&self, other: &Self) -> bool {
        self.wide.as_ref() == other.wide.as_ref()
    }
}

impl Eq for NarrowDecimalExpr {}

impl Hash for NarrowDecimalExpr {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.wide.hash(state);
    }
}
