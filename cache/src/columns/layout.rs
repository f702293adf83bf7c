//! How a decoded column lies in a segment.
//!
//! ```text
//!   partition 0   the rows, in batches of BATCH_ROWS: of the column's type, keys and values of one small dictionary, or
//!                 offsets from the least value (the field's metadata says so)
//!   partition 1   one row per batch: the least value      \  absent where the type has no order worth keeping,
//!   partition 2   one row per batch: the greatest value   /  and for dictionaries
//! ```

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, DictionaryArray, PrimitiveArray, RecordBatch, UInt8Array,
};
use datafusion::arrow::compute::{max, min};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt8Type};
use datafusion::arrow::downcast_primitive_array;
use datafusion::common::HashMap;
use onward_segment::{EncodedBatch, MappedSegment, SegmentError, SegmentWriter, segment_bytes};

use super::narrow::Narrow;

/// Rows of a batch, all but the last: DataFusion's default, and the grain of zone maps.
pub const BATCH_ROWS: usize = 8192;

/// Partition of the rows.
pub(super) const ROWS: u32 = 0;
const LEAST: u32 = 1;
const GREATEST: u32 = 2;
const PARTITIONS: usize = 3;

/// Key of a field's metadata: strings that were given a dictionary here, one for all batches.
const KEYED: &str = "onward.keyed";

/// Most values of a dictionary: keys are one byte.
const MOST_VALUES: usize = 256;
/// Most bytes of a dictionary's values: every batch in a segment repeats them.
const MOST_VALUE_BYTES: usize = 16 << 10;

/// Least and greatest value of each batch, one row per batch; NULL where a batch has none.
#[derive(Clone, Debug)]
pub struct Zones {
    /// Least values.
    pub least: ArrayRef,
    /// Greatest values.
    pub greatest: ArrayRef,
}

/// A decoded column as it is kept.
#[derive(Debug)]
pub struct Stored {
    /// Batches of [`BATCH_ROWS`], the last may be shorter.
    pub arrays: Vec<ArrayRef>,
    /// Their zones, of the column's type.
    pub zones: Option<Zones>,
    /// The batches are offsets.
    pub(super) narrow: Option<Narrow>,
    /// The batches are keys of one dictionary, which the column's type is without.
    pub(super) is_keyed: bool,
}

impl Stored {
    /// A column as it was decoded.
    pub fn plain(arrays: Vec<ArrayRef>) -> Self {
        Self { arrays, zones: None, narrow: None, is_keyed: false }
    }

    /// Gives strings of few values a dictionary, other columns zones, and makes numbers narrow.
    pub fn new(arrays: Vec<ArrayRef>) -> Self {
        if let Some(arrays) = dictionary(&arrays) {
            return Self { is_keyed: true, ..Self::plain(arrays) };
        }
        let Some(zones) = zones(&arrays) else { return Self::plain(arrays) };
        let (narrow, arrays) = match Narrow::of(&arrays, &zones) {
            Some((narrow, arrays)) => (Some(narrow), arrays),
            None => (None, arrays),
        };
        Self { zones: Some(zones), narrow, ..Self::plain(arrays) }
    }

    /// Encodes it for a segment; the bytes stay where they are.
    pub fn encode(&self) -> Result<Encoded, SegmentError> {
        let Some(first) = self.arrays.first() else {
            return Ok(Encoded { schema: Arc::new(Schema::empty()), entries: vec![] });
        };
        let mut field = Field::new("value", first.data_type().clone(), true);
        if let Some(narrow) = &self.narrow {
            field = field.with_metadata(narrow.metadata());
        }
        if self.is_keyed {
            field = field.with_metadata([(KEYED.to_owned(), String::new())].into());
        }
        let schema = Arc::new(Schema::new(vec![field]));
        let mut entries = Vec::with_capacity(self.arrays.len() + 2);
        let zones = self.zones.iter().flat_map(|zones| [(LEAST, &zones.least), (GREATEST, &zones.greatest)]);
        let rows = self.arrays.iter().map(|array| (ROWS, Arc::clone(array)));
        // A segment has one schema: zones of offsets are offsets.
        let zones = zones.map(|(partition, zone)| {
            let packed = self.narrow.as_ref().and_then(|narrow| narrow.pack(zone, first.data_type()));
            (partition, packed.unwrap_or_else(|| Arc::clone(zone)))
        });
        for (partition, array) in rows.chain(zones) {
            let batch = RecordBatch::try_new(Arc::clone(&schema), vec![array])?;
            let encoded = match self.is_keyed {
                true => EncodedBatch::with_whole_dictionaries(&batch)?,
                false => EncodedBatch::new(&batch)?,
            };
            entries.push((partition, encoded));
        }
        Ok(Encoded { schema, entries })
    }
}

/// A column ready to be written.
pub struct Encoded {
    schema: SchemaRef,
    entries: Vec<(u32, EncodedBatch)>,
}

impl Encoded {
    /// Bytes of its segment.
    pub fn segment_bytes(&self) -> Result<u64, SegmentError> {
        let bytes = self.entries.iter().map(|(_, batch)| batch.encoded_bytes()).sum();
        segment_bytes(&self.schema, bytes, self.entries.len(), PARTITIONS)
    }

    /// Schema of its segment.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Writes it.
    pub fn write(&self, writer: &mut SegmentWriter) -> Result<(), SegmentError> {
        self.entries.iter().try_for_each(|(partition, batch)| writer.append_encoded(*partition, batch))
    }
}

/// The column of a segment, in place.
pub(super) fn read(segment: &Arc<MappedSegment>) -> Result<Stored, SegmentError> {
    let arrays = segment
        .batches(ROWS)
        .map(|batch| batch.map(|batch| Arc::clone(batch.column(0))))
        .collect::<Result<Vec<_>, _>>()?;
    let schema = segment.schema()?;
    let field = schema.fields().first();
    let narrow = field.and_then(|field| Narrow::of_field(field));
    let is_keyed = field.is_some_and(|field| field.metadata().contains_key(KEYED));
    let zone = |partition| -> Result<Option<ArrayRef>, SegmentError> {
        let Some(batch) = segment.batches(partition).next().transpose()? else { return Ok(None) };
        let zone = batch.column(0);
        Ok(match &narrow {
            Some(narrow) => narrow.expand(zone),
            None => Some(Arc::clone(zone)),
        })
    };
    let zones = match (zone(LEAST)?, zone(GREATEST)?) {
        (Some(least), Some(greatest)) => Some(Zones { least, greatest }),
        _ => None,
    };
    Ok(Stored { arrays, zones, narrow, is_keyed })
}

/// `arrays` with keys of one byte and one dictionary, if they are strings of few values.
fn dictionary(arrays: &[ArrayRef]) -> Option<Vec<ArrayRef>> {
    let mut values: Vec<String> = Vec::new();
    let mut keys_of: HashMap<String, u8> = HashMap::new();
    let mut bytes = 0;
    let mut keys = Vec::with_capacity(arrays.len());
    for array in arrays {
        let mut key = |value: &str| -> Option<u8> {
            if let Some(key) = keys_of.get(value) {
                return Some(*key);
            }
            bytes += value.len();
            if values.len() == MOST_VALUES || bytes > MOST_VALUE_BYTES {
                return None;
            }
            let key = values.len() as u8;
            values.push(value.to_owned());
            keys_of.insert(value.to_owned(), key);
            Some(key)
        };
        let mut of_batch: Vec<Option<u8>> = Vec::with_capacity(array.len());
        let mut push = |value: Option<&str>| -> Option<()> {
            of_batch.push(match value {
                Some(value) => Some(key(value)?),
                None => None,
            });
            Some(())
        };
        match array.data_type() {
            DataType::Utf8View => array.as_string_view().iter().try_for_each(&mut push)?,
            DataType::Utf8 => array.as_string::<i32>().iter().try_for_each(&mut push)?,
            DataType::LargeUtf8 => array.as_string::<i64>().iter().try_for_each(&mut push)?,
            _ => return None,
        }
        keys.push(UInt8Array::from(of_batch));
    }
    let rows: usize = arrays.iter().map(|array| array.len()).sum();
    // A dictionary that is repeated in every batch must be smaller than what it replaces.
    if values.len() * 4 > rows {
        return None;
    }
    let data_type = arrays.first()?.data_type();
    let strings = datafusion::arrow::array::StringArray::from_iter_values(&values);
    let values = datafusion::arrow::compute::cast(&strings, data_type).ok()?;
    let keyed = |keys: UInt8Array| {
        let array = DictionaryArray::<UInt8Type>::try_new(keys, Arc::clone(&values)).ok()?;
        Some(Arc::new(array) as ArrayRef)
    };
    keys.into_iter().map(keyed).collect()
}

fn zones(arrays: &[ArrayRef]) -> Option<Zones> {
    let first = arrays.first()?;
    downcast_primitive_array! {
        first => typed_zones(first, arrays),
        _ => None
    }
}

fn typed_zones<T: ArrowPrimitiveType>(first: &PrimitiveArray<T>, arrays: &[ArrayRef]) -> Option<Zones> {
    let data_type = first.data_type();
    // Intervals have no total order that comparisons follow.
    if matches!(data_type, DataType::Interval(_)) {
        return None;
    }
    let typed = || arrays.iter().map(|array| array.as_primitive::<T>());
    let least: PrimitiveArray<T> = typed().map(min).collect();
    let greatest: PrimitiveArray<T> = typed().map(max).collect();
    let with_type = |array: PrimitiveArray<T>| Arc::new(array.with_data_type(data_type.clone())) as ArrayRef;
    Some(Zones { least: with_type(least), greatest: with_type(greatest) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::array::{Decimal128Array, Int64Array, StringViewArray};

    #[test]
    fn strings_of_few_values_become_keys_of_one_byte() {
        let strings = |offset: usize| -> ArrayRef {
            Arc::new(StringViewArray::from_iter((0..100).map(|i| match (i + offset) % 7 {
                0 => None,
                n => Some(["AIR", "a value that is not inline", "", "SHIP", "ü", "x"][n - 1]),
            })))
        };
        let arrays = vec![strings(0), strings(3)];
        let stored = Stored::new(arrays.clone());
        for (array, stored) in arrays.iter().zip(&stored.arrays) {
            assert!(matches!(stored.data_type(), DataType::Dictionary(key, _) if **key == DataType::UInt8));
            let back = datafusion::arrow::compute::cast(stored, array.data_type()).unwrap();
            assert_eq!(&back, array);
        }
    }

    #[test]
    fn strings_of_many_values_stay_as_they_are() {
        let many: ArrayRef = Arc::new(StringViewArray::from_iter_values((0..1000).map(|i| format!("value {i}"))));
        assert_eq!(Stored::new(vec![Arc::clone(&many)]).arrays[0].data_type(), &DataType::Utf8View);
        let long: ArrayRef =
            Arc::new(StringViewArray::from_iter_values((0..1000).map(|i| format!("{}{}", "x".repeat(2000), i % 10))));
        assert_eq!(Stored::new(vec![long]).arrays[0].data_type(), &DataType::Utf8View, "its values are large");
    }

    #[test]
    fn zones_are_the_least_and_greatest_value_of_each_batch() {
        let arrays: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![Some(3), None, Some(-1)])),
            Arc::new(Int64Array::from(vec![None::<i64>, None])),
        ];
        let zones = Stored::new(arrays).zones.unwrap();
        assert_eq!(zones.least.as_ref(), &Int64Array::from(vec![Some(-1), None]) as &dyn Array);
        assert_eq!(zones.greatest.as_ref(), &Int64Array::from(vec![Some(3), None]) as &dyn Array);
        let decimals = Decimal128Array::from(vec![100, 250]).with_precision_and_scale(15, 2).unwrap();
        let zones = Stored::new(vec![Arc::new(decimals)]).zones.unwrap();
        assert_eq!(zones.least.data_type(), &DataType::Decimal128(15, 2));
    }
}
