//! [`Narrow`]: whole numbers as their distance from the least one, in one, two or four bytes.
//!
//! A decimal has 16 bytes, and the prices of a table lie a few million cents apart. A scan is bound by how many bytes it
//! fetches from memory, so that a column of a quarter of the size is read faster although its values have to be made wide again,
//! batch by batch, in the processor's cache.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, ArrowNativeTypeOp, ArrowPrimitiveType, AsArray, PrimitiveArray};
use datafusion::arrow::compute::{max, min};
use datafusion::arrow::datatypes::{
    ArrowNativeType, DataType, Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type, Field, Int16Type,
    Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};

use super::layout::Zones;

/// Keys of a field's metadata.
const TYPE: &str = "onward.type";
const BASE: &str = "onward.base";

/// What makes offsets values again.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Narrow {
    data_type: DataType,
    base: i128,
}

/// Calls a generic function with the type of whole numbers that `$data_type` is; `None` for any other.
macro_rules! by_type {
    ($data_type:expr, $function:ident ( $($argument:expr),* )) => {
        match $data_type {
            DataType::Int16 => $function::<Int16Type>($($argument),*),
            DataType::Int32 => $function::<Int32Type>($($argument),*),
            DataType::Int64 => $function::<Int64Type>($($argument),*),
            DataType::UInt16 => $function::<UInt16Type>($($argument),*),
            DataType::UInt32 => $function::<UInt32Type>($($argument),*),
            DataType::UInt64 => $function::<UInt64Type>($($argument),*),
            DataType::Date32 => $function::<Date32Type>($($argument),*),
            DataType::Date64 => $function::<Date64Type>($($argument),*),
            DataType::Timestamp(TimeUnit::Second, _) => $function::<TimestampSecondType>($($argument),*),
            DataType::Timestamp(TimeUnit::Millisecond, _) => $function::<TimestampMillisecondType>($($argument),*),
            DataType::Timestamp(TimeUnit::Microsecond, _) => $function::<TimestampMicrosecondType>($($argument),*),
            DataType::Timestamp(TimeUnit::Nanosecond, _) => $function::<TimestampNanosecondType>($($argument),*),
            DataType::Decimal32(..) => $function::<Decimal32Type>($($argument),*),
            DataType::Decimal64(..) => $function::<Decimal64Type>($($argument),*),
            DataType::Decimal128(..) => $function::<Decimal128Type>($($argument),*),
            _ => None,
        }
    };
}

impl Narrow {
    /// The offsets of `arrays`, whose zones are `zones`; `None` where they would not be smaller.
    pub(super) fn of(arrays: &[ArrayRef], zones: &Zones) -> Option<(Self, Vec<ArrayRef>)> {
        let data_type = arrays.first()?.data_type();
        // It is written as text beside the offsets.
        if DataType::from_str(&data_type.to_string()).ok().as_ref() != Some(data_type) {
            return None;
        }
        by_type!(data_type, narrowed(arrays, zones))
    }

    /// What was written beside offsets; `None` when these are values.
    pub(super) fn of_field(field: &Field) -> Option<Self> {
        let (data_type, base) = (field.metadata().get(TYPE)?, field.metadata().get(BASE)?);
        Some(Self { data_type: DataType::from_str(data_type).ok()?, base: base.parse().ok()? })
    }

    /// What is written beside offsets.
    pub(super) fn metadata(&self) -> HashMap<String, String> {
        HashMap::from([(TYPE.to_owned(), self.data_type.to_string()), (BASE.to_owned(), self.base.to_string())])
    }

    /// The offsets of more values, none beyond those that it was made for, in the type of `offsets`.
    pub(super) fn pack(&self, values: &ArrayRef, offsets: &DataType) -> Option<ArrayRef> {
        by_type!(&self.data_type, pack_as(self.base, values, offsets))
    }

    /// Offsets, or some of them, as values.
    pub(super) fn expand(&self, offsets: &ArrayRef) -> Option<ArrayRef> {
        by_type!(&self.data_type, expand(self, offsets))
    }
}

fn narrowed<T: ArrowPrimitiveType>(arrays: &[ArrayRef], zones: &Zones) -> Option<(Narrow, Vec<ArrayRef>)>
where
    T::Native: Into<i128> + TryFrom<i128>,
{
    let base = min(zones.least.as_primitive::<T>())?;
    let range = max(zones.greatest.as_primitive::<T>())?.sub_checked(base).ok()?.to_usize()?;
    let offsets = match range {
        0..=0xff => DataType::UInt8,
        0x100..=0xffff => DataType::UInt16,
        0x1_0000..=0xffff_ffff => DataType::UInt32,
        _ => return None,
    };
    if offsets.primitive_width()? >= size_of::<T::Native>() {
        return None;
    }
    let base: i128 = base.into();
    let narrow = Narrow { data_type: arrays.first()?.data_type().clone(), base };
    let arrays = arrays.iter().map(|array| pack_as::<T>(base, array, &offsets)).collect::<Option<_>>()?;
    Some((narrow, arrays))
}

fn pack_as<T: ArrowPrimitiveType>(base: i128, values: &ArrayRef, offsets: &DataType) -> Option<ArrayRef>
where
    T::Native: TryFrom<i128>,
{
    let base = T::Native::try_from(base).ok()?;
    let values = values.as_primitive_opt::<T>()?;
    match offsets {
        DataType::UInt8 => Some(pack_into::<T, UInt8Type>(base, values)),
        DataType::UInt16 => Some(pack_into::<T, UInt16Type>(base, values)),
        DataType::UInt32 => Some(pack_into::<T, UInt32Type>(base, values)),
        _ => None,
    }
}

/// The values below NULLs are any, and so are their offsets.
fn pack_into<T: ArrowPrimitiveType, N: ArrowPrimitiveType>(base: T::Native, values: &PrimitiveArray<T>) -> ArrayRef {
    let offset = |value: &T::Native| N::Native::usize_as(value.sub_wrapping(base).as_usize());
    let offsets: Vec<N::Native> = values.values().iter().map(offset).collect();
    Arc::new(PrimitiveArray::<N>::new(offsets.into(), values.nulls().cloned()))
}

fn expand<T: ArrowPrimitiveType>(narrow: &Narrow, offsets: &ArrayRef) -> Option<ArrayRef>
where
    T::Native: TryFrom<i128>,
{
    let base = T::Native::try_from(narrow.base).ok()?;
    let values = match offsets.data_type() {
        DataType::UInt8 => widen::<UInt8Type, T>(base, offsets),
        DataType::UInt16 => widen::<UInt16Type, T>(base, offsets),
        DataType::UInt32 => widen::<UInt32Type, T>(base, offsets),
        _ => return None,
    };
    Some(Arc::new(values.with_data_type(narrow.data_type.clone())))
}

fn widen<N: ArrowPrimitiveType, T: ArrowPrimitiveType>(base: T::Native, offsets: &ArrayRef) -> PrimitiveArray<T> {
    let offsets = offsets.as_primitive::<N>();
    let value = |offset: &N::Native| base.add_wrapping(T::Native::usize_as(offset.as_usize()));
    let values: Vec<T::Native> = offsets.values().iter().map(value).collect();
    PrimitiveArray::new(values.into(), offsets.nulls().cloned())
}

#[cfg(test)]
mod tests {
    use super::super::layout::Stored;
    use super::*;
    use datafusion::arrow::array::{
        Date32Array, Decimal128Array, Float64Array, Int16Array, Int64Array, TimestampMicrosecondArray, UInt64Array,
    };

    fn array(array: impl Array + 'static) -> ArrayRef {
        Arc::new(array)
    }

    /// The type it is kept in, after it was checked that it comes back as it was.
    fn kept(values: &ArrayRef) -> DataType {
        // Two batches: the offsets are from the least value of both.
        let halves = vec![values.slice(0, values.len() / 2), values.slice(values.len() / 2, values.len().div_ceil(2))];
        let stored = Stored::new(halves.clone());
        let kept = stored.arrays[0].data_type().clone();
        let cached = crate::columns::CachedColumn::on_heap(stored);
        for (batch, half) in halves.iter().enumerate() {
            assert_eq!(&cached.expand(cached.compact(batch)).unwrap(), half);
        }
        assert_eq!(cached.zones().map(|zones| zones.least.data_type().clone()), Some(values.data_type().clone()));
        kept
    }

    #[test]
    fn numbers_take_as_few_bytes_as_their_range_needs_and_come_back() {
        let decimal = |values: Vec<Option<i128>>| -> ArrayRef {
            array(Decimal128Array::from(values).with_precision_and_scale(38, 2).unwrap())
        };
        let large = 10_i128.pow(37);
        let stamps = TimestampMicrosecondArray::from(vec![Some(-5), None, Some(1 << 40), Some((1 << 40) + 9)]);
        let cases = [
            (array(Int64Array::from(vec![Some(-100), None, Some(155), None])), DataType::UInt8),
            (array(Int64Array::from(vec![-100, 156])), DataType::UInt16),
            (array(Int64Array::from(vec![i64::MIN, i64::MIN + 70_000])), DataType::UInt32),
            (array(Int64Array::from(vec![0, 1 << 32])), DataType::Int64),
            (array(Int64Array::from(vec![i64::MIN, i64::MAX])), DataType::Int64),
            (array(Int64Array::from(vec![None::<i64>, None])), DataType::Int64),
            (array(Int16Array::from(vec![i16::MIN, i16::MAX])), DataType::Int16),
            (array(UInt64Array::from(vec![u64::MAX, u64::MAX - 3])), DataType::UInt8),
            (array(Date32Array::from(vec![Some(8_000), None, Some(10_500)])), DataType::UInt16),
            (array(stamps.with_timezone("+02:00")), DataType::Timestamp(TimeUnit::Microsecond, Some("+02:00".into()))),
            (
                array(TimestampMicrosecondArray::from(vec![7, 1_000_000]).with_timezone("Europe/Berlin")),
                DataType::UInt32,
            ),
            (decimal(vec![Some(-large), None, Some(3 - large)]), DataType::UInt8),
            (decimal(vec![Some(90_000), Some(10_500_000)]), DataType::UInt32),
            (decimal(vec![Some(-large), Some(large)]), DataType::Decimal128(38, 2)),
            (array(Float64Array::from(vec![1.0, f64::NAN])), DataType::Float64),
        ];
        for (values, expected) in cases {
            assert_eq!(kept(&values), expected, "{values:?}");
        }
    }

    #[test]
    fn what_is_written_beside_offsets_is_read_back() {
        let narrow = Narrow { data_type: DataType::Decimal128(15, 2), base: -7 };
        let field = Field::new("value", DataType::UInt8, true).with_metadata(narrow.metadata());
        assert_eq!(Narrow::of_field(&field), Some(narrow));
        assert_eq!(Narrow::of_field(&Field::new("value", DataType::UInt8, true)), None);
    }
}
