//! SQL types by their ODBC / JDBC names (GetXdbcTypeInfo).

use arrow_flight::error::Result;
use arrow_flight::sql::metadata::{XdbcTypeInfo, XdbcTypeInfoData, XdbcTypeInfoDataBuilder};
use arrow_flight::sql::{Nullable, Searchable, XdbcDataType, XdbcDatetimeSubcode};

use XdbcDataType::*;

/// Name, type, size (decimal digits, characters or bits, as ODBC counts), quote, is it a number, is it unsigned.
type Row = (&'static str, XdbcDataType, Option<i32>, Option<&'static str>, bool, bool);

const TYPES: [Row; 17] = [
    ("BOOLEAN", XdbcBit, Some(1), None, false, false),
    ("TINYINT", XdbcTinyint, Some(3), None, true, false),
    ("SMALLINT", XdbcSmallint, Some(5), None, true, false),
    ("INTEGER", XdbcInteger, Some(10), None, true, false),
    ("BIGINT", XdbcBigint, Some(19), None, true, false),
    ("TINYINT UNSIGNED", XdbcTinyint, Some(3), None, true, true),
    ("SMALLINT UNSIGNED", XdbcSmallint, Some(5), None, true, true),
    ("INTEGER UNSIGNED", XdbcInteger, Some(10), None, true, true),
    ("BIGINT UNSIGNED", XdbcBigint, Some(20), None, true, true),
    ("REAL", XdbcReal, Some(7), None, true, false),
    ("DOUBLE", XdbcDouble, Some(15), None, true, false),
    ("DECIMAL", XdbcDecimal, Some(76), None, true, false),
    ("VARCHAR", XdbcVarchar, None, Some("'"), false, false),
    ("BYTEA", XdbcVarbinary, None, Some("'"), false, false),
    ("DATE", XdbcDate, Some(10), Some("'"), false, false),
    ("TIME", XdbcTime, Some(18), Some("'"), false, false),
    ("TIMESTAMP", XdbcTimestamp, Some(29), Some("'"), false, false),
];

pub(super) fn build() -> Result<XdbcTypeInfoData> {
    let mut builder = XdbcTypeInfoDataBuilder::new();
    for (name, data_type, column_size, quote, is_number, is_unsigned) in TYPES {
        let is_decimal = data_type == XdbcDecimal;
        builder.append(XdbcTypeInfo {
            type_name: name.to_owned(),
            data_type,
            column_size,
            literal_prefix: quote.map(str::to_owned),
            literal_suffix: quote.map(str::to_owned),
            create_params: is_decimal.then(|| vec!["precision".to_owned(), "scale".to_owned()]),
            nullable: Nullable::NullabilityNullable,
            case_sensitive: data_type == XdbcVarchar,
            searchable: Searchable::Full,
            unsigned_attribute: is_number.then_some(is_unsigned),
            fixed_prec_scale: false,
            auto_increment: is_number.then_some(false),
            local_type_name: Some(name.to_owned()),
            minimum_scale: is_decimal.then_some(0),
            maximum_scale: is_decimal.then_some(76),
            sql_data_type: match data_type {
                XdbcDate | XdbcTime | XdbcTimestamp => XdbcDatetime,
                other => other,
            },
            datetime_subcode: match data_type {
                // FlightSql.proto gives DATE and YEAR the same number; prost keeps one name.
                XdbcDate => Some(XdbcDatetimeSubcode::XdbcSubcodeYear),
                XdbcTime => Some(XdbcDatetimeSubcode::XdbcSubcodeTime),
                XdbcTimestamp => Some(XdbcDatetimeSubcode::XdbcSubcodeTimestamp),
                _ => None,
            },
            num_prec_radix: is_number.then_some(10),
            interval_precision: None,
        });
    }
    builder.build()
}
