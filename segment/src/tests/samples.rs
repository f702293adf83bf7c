//! One array of every Arrow type, with nulls.

use std::sync::Arc;

use arrow::array::*;
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::*;

type F16 = <Float16Type as ArrowPrimitiveType>::Native;

pub const ROWS: usize = 21;

/// Arrays of `ROWS` rows: all leaf types, then lists, structs, maps, unions, dictionaries and runs of some of them.
pub fn arrays() -> Vec<ArrayRef> {
    let mut arrays = leaves();
    let items: Vec<ArrayRef> = leaves().iter().map(|leaf| repeated(leaf, 60)).collect();
    for item in &items {
        arrays.push(list(item));
        arrays.push(list_view(item));
        arrays.push(fixed_list(item));
    }
    arrays.push(large_list(&items[2]));
    arrays.push(large_list_view(&items[2]));
    arrays.push(list(&list_of_rows(&list(&items[3]))));
    arrays.push(structs(leaves()));
    arrays.push(map());
    let strings: Vec<ArrayRef> = leaves().into_iter().filter(|leaf| !leaf.data_type().is_null()).collect();
    arrays.extend(strings.iter().map(dictionary));
    arrays.push(structs(vec![dictionary(&strings[4]), map(), list(&repeated(&dictionary(&strings[5]), 60))]));
    arrays.push(dictionary(&structs(vec![dictionary(&strings[6]), strings[7].clone()])));
    arrays.push(union(leaves(), UnionMode::Sparse));
    arrays.push(union(leaves(), UnionMode::Dense));
    arrays.push(union(vec![dictionary(&strings[4]), map()], UnionMode::Dense));
    arrays.extend(strings.iter().map(runs));
    arrays.push(runs(&dictionary(&strings[4])));
    arrays
}

fn repeated(array: &ArrayRef, rows: usize) -> ArrayRef {
    let indices: UInt32Array = (0..rows as u32).map(|row| row * 7 % array.len() as u32).collect::<Vec<_>>().into();
    arrow::compute::take(array, &indices, None).unwrap()
}

fn list_of_rows(array: &ArrayRef) -> ArrayRef {
    repeated(array, 60)
}

fn nulls() -> Option<NullBuffer> {
    Some((0..ROWS).map(|row| row % 4 != 1).collect::<Vec<bool>>().into())
}

fn primitive<T: ArrowPrimitiveType>(value: impl Fn(usize) -> T::Native) -> PrimitiveArray<T> {
    PrimitiveArray::new((0..ROWS).map(value).collect::<Vec<_>>().into(), nulls())
}

fn texts() -> Vec<Option<String>> {
    (0..ROWS)
        .map(|row| match row % 5 {
            0 => None,
            1 => Some(String::new()),
            2 => Some(format!("short {row}")),
            3 => Some("exactly12chr".to_owned()),
            _ => Some(format!("a text that is longer than a view holds: {row} ünïcödé")),
        })
        .collect()
}

fn leaves() -> Vec<ArrayRef> {
    let texts = texts();
    let bytes: Vec<Option<&[u8]>> = texts.iter().map(|text| text.as_ref().map(String::as_bytes)).collect();
    let fixed = (0..ROWS).map(|row| (row % 3 != 0).then_some([row as u8; 5]));
    let mut arrays: Vec<ArrayRef> = vec![
        Arc::new(NullArray::new(ROWS)),
        Arc::new((0..ROWS).map(|row| (row % 3 != 0).then_some(row % 2 == 0)).collect::<BooleanArray>()),
        Arc::new(primitive::<Int8Type>(|row| row as i8 - 9)),
        Arc::new(primitive::<Int32Type>(|row| row as i32 - 9)),
        Arc::new(texts.iter().map(|text| text.as_deref()).collect::<StringArray>()),
        Arc::new(texts.iter().map(|text| text.as_deref()).collect::<StringViewArray>()),
        Arc::new(texts.iter().map(|text| text.as_deref()).collect::<LargeStringArray>()),
        Arc::new(BinaryArray::from(bytes.clone())),
        Arc::new(LargeBinaryArray::from(bytes.clone())),
        Arc::new(bytes.iter().copied().collect::<BinaryViewArray>()),
        Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(fixed, 5).unwrap()),
        Arc::new(primitive::<Int16Type>(|row| row as i16)),
        Arc::new(primitive::<Int64Type>(|row| i64::MIN + row as i64)),
        Arc::new(primitive::<UInt8Type>(|row| row as u8)),
        Arc::new(primitive::<UInt16Type>(|row| row as u16)),
        Arc::new(primitive::<UInt32Type>(|row| u32::MAX - row as u32)),
        Arc::new(primitive::<UInt64Type>(|row| u64::MAX - row as u64)),
        Arc::new(primitive::<Float16Type>(|row| F16::from_f32(row as f32))),
        Arc::new(primitive::<Float32Type>(|row| row as f32 / 3.0)),
        Arc::new(primitive::<Float64Type>(|row| row as f64 / 3.0)),
        Arc::new(primitive::<Decimal32Type>(|row| row as i32 - 3).with_precision_and_scale(9, 2).unwrap()),
        Arc::new(primitive::<Decimal64Type>(|row| row as i64 - 3).with_precision_and_scale(18, 2).unwrap()),
        Arc::new(primitive::<Decimal128Type>(|row| row as i128 - 3).with_precision_and_scale(38, 9).unwrap()),
        Arc::new(
            primitive::<Decimal256Type>(|row| i256::from_i128(row as i128 - 3))
                .with_precision_and_scale(76, -2)
                .unwrap(),
        ),
        Arc::new(primitive::<Date32Type>(|row| row as i32)),
        Arc::new(primitive::<Date64Type>(|row| row as i64 * 86_400_000)),
        Arc::new(primitive::<Time32SecondType>(|row| row as i32)),
        Arc::new(primitive::<Time32MillisecondType>(|row| row as i32)),
        Arc::new(primitive::<Time64MicrosecondType>(|row| row as i64)),
        Arc::new(primitive::<Time64NanosecondType>(|row| row as i64)),
        Arc::new(primitive::<TimestampSecondType>(|row| row as i64)),
        Arc::new(primitive::<TimestampMillisecondType>(|row| row as i64).with_timezone("+02:00")),
        Arc::new(primitive::<TimestampMicrosecondType>(|row| row as i64).with_timezone("Europe/Berlin")),
        Arc::new(primitive::<TimestampNanosecondType>(|row| row as i64)),
        Arc::new(primitive::<DurationSecondType>(|row| row as i64)),
        Arc::new(primitive::<DurationMillisecondType>(|row| row as i64)),
        Arc::new(primitive::<DurationMicrosecondType>(|row| row as i64)),
        Arc::new(primitive::<DurationNanosecondType>(|row| row as i64)),
        Arc::new(primitive::<IntervalYearMonthType>(|row| row as i32)),
        Arc::new(primitive::<IntervalDayTimeType>(|row| IntervalDayTime::new(row as i32, -1))),
        Arc::new(primitive::<IntervalMonthDayNanoType>(|row| IntervalMonthDayNano::new(row as i32, -1, 7))),
    ];
    // One without nulls: its validity buffer is empty.
    arrays.push(Arc::new(Int64Array::from((0..ROWS as i64).collect::<Vec<_>>())));
    arrays
}

fn item(array: &ArrayRef) -> FieldRef {
    Arc::new(Field::new("item", array.data_type().clone(), true))
}

fn lengths() -> impl Iterator<Item = usize> {
    (0..ROWS).map(|row| row % 4)
}

fn list(values: &ArrayRef) -> ArrayRef {
    Arc::new(ListArray::new(item(values), OffsetBuffer::from_lengths(lengths()), values.clone(), nulls()))
}

fn large_list(values: &ArrayRef) -> ArrayRef {
    Arc::new(LargeListArray::new(item(values), OffsetBuffer::from_lengths(lengths()), values.clone(), nulls()))
}

/// Offsets go backwards, overlap and leave gaps.
fn list_view(values: &ArrayRef) -> ArrayRef {
    let offsets: Vec<i32> = (0..ROWS).map(|row| 50 - row as i32 * 2).collect();
    let sizes: Vec<i32> = lengths().map(|length| length as i32).collect();
    Arc::new(ListViewArray::new(item(values), offsets.into(), sizes.into(), values.clone(), nulls()))
}

fn large_list_view(values: &ArrayRef) -> ArrayRef {
    let offsets: Vec<i64> = (0..ROWS).map(|row| 50 - row as i64 * 2).collect();
    let sizes: Vec<i64> = lengths().map(|length| length as i64).collect();
    Arc::new(LargeListViewArray::new(item(values), offsets.into(), sizes.into(), values.clone(), nulls()))
}

fn fixed_list(values: &ArrayRef) -> ArrayRef {
    Arc::new(FixedSizeListArray::new(item(values), 2, values.slice(5, ROWS * 2), nulls()))
}

fn structs(columns: Vec<ArrayRef>) -> ArrayRef {
    let fields: Fields = (columns.iter().enumerate())
        .map(|(at, column)| Field::new(format!("f{at}"), column.data_type().clone(), true))
        .collect();
    Arc::new(StructArray::new(fields, columns, nulls()))
}

fn map() -> ArrayRef {
    let rows: usize = lengths().sum();
    let keys: ArrayRef = Arc::new((0..rows).map(|row| Some(format!("key {row}"))).collect::<StringArray>());
    let values: ArrayRef = Arc::new((0..rows as i64).map(|row| (row % 3 != 0).then_some(row)).collect::<Int64Array>());
    let fields: Fields =
        vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Int64, true)].into();
    let entries = StructArray::new(fields.clone(), vec![keys, values], None);
    let field = Arc::new(Field::new("entries", DataType::Struct(fields), false));
    Arc::new(MapArray::new(field, OffsetBuffer::from_lengths(lengths()), entries, nulls(), false))
}

fn dictionary(values: &ArrayRef) -> ArrayRef {
    // Not all values are used, and some keys are null.
    let keys: Int16Array = (0..ROWS).map(|row| (row % 5 != 2).then_some((row % 7) as i16 * 2)).collect();
    Arc::new(DictionaryArray::new(keys, values.clone()))
}

fn union(columns: Vec<ArrayRef>, mode: UnionMode) -> ArrayRef {
    // Type ids with gaps.
    let ids: Vec<i8> = (0..columns.len() as i8).map(|id| id * 2).collect();
    let types =
        columns.iter().enumerate().map(|(at, column)| Field::new(format!("u{at}"), column.data_type().clone(), true));
    let fields = UnionFields::try_new(ids.clone(), types).unwrap();
    let type_ids: Vec<i8> = (0..ROWS).map(|row| ids[row % ids.len()]).collect();
    let offsets = (mode == UnionMode::Dense).then(|| (0..ROWS as i32).rev().collect::<ScalarBuffer<i32>>());
    Arc::new(UnionArray::try_new(fields, type_ids.into(), offsets, columns).unwrap())
}

fn runs(values: &ArrayRef) -> ArrayRef {
    let ends: Int32Array = [3, 4, 9, 20, ROWS as i32].to_vec().into();
    Arc::new(RunArray::try_new(&ends, &values.slice(2, 5)).unwrap())
}
