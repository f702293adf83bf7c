//! Arrow schemas and expressions as they are kept in `catalog.json`.

use std::fmt::Write as _;
use std::sync::Arc;

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::arrow::ipc::reader::StreamReader;
use datafusion::arrow::ipc::writer::StreamWriter;
use datafusion::common::{Constraint, Constraints, DFSchema, Result};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{Expr, SortExpr};
use datafusion::sql::unparser::expr_to_sql;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::Error as _};

/// A schema: readable column lines for people, and the exact Arrow form for us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSchema(pub SchemaRef);

#[derive(Serialize, Deserialize)]
struct SchemaText {
    /// Not read back.
    columns: Vec<String>,
    /// An empty Arrow IPC stream, in hexadecimal.
    arrow: String,
}

impl Serialize for StoredSchema {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let columns = self.0.fields().iter().map(|field| {
            let null = if field.is_nullable() { "" } else { " not null" };
            format!("{} {}{null}", field.name(), field.data_type())
        });
        let mut bytes = Vec::new();
        let mut writer = StreamWriter::try_new(&mut bytes, &self.0).map_err(S::Error::custom)?;
        writer.finish().map_err(S::Error::custom)?;
        drop(writer);
        let arrow = bytes.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        SchemaText { columns: columns.collect(), arrow }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for StoredSchema {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = SchemaText::deserialize(deserializer)?;
        let bytes = (0..text.arrow.len() / 2)
            .map(|at| text.arrow.get(2 * at..2 * at + 2).and_then(|hex| u8::from_str_radix(hex, 16).ok()))
            .collect::<Option<Vec<u8>>>()
            .ok_or_else(|| D::Error::custom("a schema is not hexadecimal"))?;
        let reader = StreamReader::try_new(bytes.as_slice(), None).map_err(D::Error::custom)?;
        Ok(Self(reader.schema()))
    }
}

impl Default for StoredSchema {
    fn default() -> Self {
        Self(Arc::new(Schema::empty()))
    }
}

/// One key of a declared order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredSort {
    sql: String,
    ascending: bool,
    nulls_first: bool,
}

impl StoredSort {
    /// Keeps a sort key as SQL.
    pub fn new(sort: &SortExpr) -> Result<Self> {
        let sql = expr_to_sql(&sort.expr)?.to_string();
        Ok(Self { sql, ascending: sort.asc, nulls_first: sort.nulls_first })
    }

    /// Reads it back over a table's columns.
    pub fn read(&self, state: &SessionState, schema: &DFSchema) -> Result<SortExpr> {
        let expr = state.create_logical_expr(&self.sql, schema)?;
        Ok(SortExpr::new(expr, self.ascending, self.nulls_first))
    }
}

/// A PRIMARY KEY or UNIQUE, by column numbers. Declared by the user, not enforced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoredConstraint {
    /// PRIMARY KEY.
    PrimaryKey(Vec<usize>),
    /// UNIQUE.
    Unique(Vec<usize>),
}

/// For the catalog.
pub fn store_constraints(constraints: &Constraints) -> Vec<StoredConstraint> {
    let store = |constraint: &Constraint| match constraint {
        Constraint::PrimaryKey(columns) => StoredConstraint::PrimaryKey(columns.clone()),
        Constraint::Unique(columns) => StoredConstraint::Unique(columns.clone()),
    };
    constraints.iter().map(store).collect()
}

/// From the catalog.
pub fn read_constraints(stored: &[StoredConstraint]) -> Constraints {
    let read = |constraint: &StoredConstraint| match constraint {
        StoredConstraint::PrimaryKey(columns) => Constraint::PrimaryKey(columns.clone()),
        StoredConstraint::Unique(columns) => Constraint::Unique(columns.clone()),
    };
    Constraints::new_unverified(stored.iter().map(read).collect())
}

/// A default value as SQL.
pub fn store_expr(expr: &Expr) -> Result<String> {
    Ok(expr_to_sql(expr)?.to_string())
}

/// A default value from SQL.
pub fn read_expr(state: &SessionState, sql: &str) -> Result<Expr> {
    state.create_logical_expr(sql, &DFSchema::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::datatypes::{DataType, Field, TimeUnit};

    #[test]
    fn schemas_come_back_exactly() {
        let nested = DataType::Struct(vec![Field::new("x", DataType::Decimal128(15, 2), false)].into());
        let fields = vec![
            Field::new("a b", DataType::Utf8View, true),
            Field::new("t", DataType::Timestamp(TimeUnit::Nanosecond, Some("+02:00".into())), false),
            Field::new("l", DataType::List(Arc::new(Field::new_list_field(nested, true))), true),
            Field::new("d", DataType::Dictionary(Box::new(DataType::UInt16), Box::new(DataType::Utf8)), true),
        ];
        let schema = Schema::new(fields).with_metadata([("k".to_owned(), "v".to_owned())].into());
        let stored = StoredSchema(Arc::new(schema));
        let json = serde_json::to_string(&stored).unwrap();
        assert!(json.contains("\"a b Utf8View\""), "{json}");
        assert_eq!(serde_json::from_str::<StoredSchema>(&json).unwrap(), stored);
    }
}
