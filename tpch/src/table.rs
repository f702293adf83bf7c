//! The eight tables: names, sizes, and the batches of any slice of them.

use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator, PartSuppGenerator,
    RegionGenerator, SupplierGenerator,
};
use tpchgen_arrow::{
    CustomerArrow, LineItemArrow, NationArrow, OrderArrow, PartArrow, PartSuppArrow, RecordBatchIterator, RegionArrow,
    SupplierArrow,
};

/// A table of TPC-H.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Table {
    /// 25 rows at every scale.
    Nation,
    /// 5 rows at every scale.
    Region,
    /// 10,000 rows per scale.
    Supplier,
    /// 200,000 rows per scale.
    Part,
    /// 800,000 rows per scale.
    PartSupp,
    /// 150,000 rows per scale.
    Customer,
    /// 1,500,000 rows per scale.
    Orders,
    /// About 6,000,000 rows per scale.
    LineItem,
}

/// Bytes of one row group, estimated as tpchgen-cli does, so that files have its row groups and figures compare.
const ROW_GROUP_BYTES: u64 = 7 << 20;

impl Table {
    /// All tables, small ones first.
    pub const ALL: [Self; 8] = [
        Self::Nation,
        Self::Region,
        Self::Supplier,
        Self::Part,
        Self::PartSupp,
        Self::Customer,
        Self::Orders,
        Self::LineItem,
    ];

    /// Its name in SQL and in the file system.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nation => "nation",
            Self::Region => "region",
            Self::Supplier => "supplier",
            Self::Part => "part",
            Self::PartSupp => "partsupp",
            Self::Customer => "customer",
            Self::Orders => "orders",
            Self::LineItem => "lineitem",
        }
    }

    /// It has the same rows at every scale and is never split.
    pub fn is_fixed(self) -> bool {
        matches!(self, Self::Nation | Self::Region)
    }

    /// Keys dbgen deals out to parts: the unit in which a table can be sliced.
    fn keys(self, scale: f64) -> u64 {
        let keys = match self {
            Self::Nation | Self::Region => 1,
            Self::Supplier => SupplierGenerator::calculate_row_count(scale, 1, 1),
            Self::Part => PartGenerator::calculate_row_count(scale, 1, 1),
            Self::PartSupp => PartSuppGenerator::calculate_row_count(scale, 1, 1),
            Self::Customer => CustomerGenerator::calculate_row_count(scale, 1, 1),
            Self::Orders | Self::LineItem => OrderGenerator::calculate_row_count(scale, 1, 1),
        };
        keys.max(0) as u64
    }

    /// Rows at `scale`; of lineitem, which dbgen draws at random, about four per order.
    pub fn estimated_rows(self, scale: f64) -> u64 {
        match self {
            Self::Nation => 25,
            Self::Region => 5,
            Self::PartSupp | Self::LineItem => self.keys(scale) * 4,
            _ => self.keys(scale),
        }
    }

    /// Uncompressed Parquet bytes per key, as tpchgen-cli estimates them to choose row groups.
    fn bytes_per_key(self) -> u64 {
        match self {
            Self::Nation => 117,
            Self::Region => 151,
            Self::Part => 70,
            Self::Supplier => 164,
            Self::PartSupp => 140,
            Self::Customer => 168,
            Self::Orders => 75,
            Self::LineItem => 4 * 64,
        }
    }

    /// Estimated bytes of its files at `scale`.
    pub fn estimated_bytes(self, scale: f64) -> u64 {
        self.keys(scale) * self.bytes_per_key()
    }

    /// Row groups in each of `files` files; at least one, at most what the Parquet format allows.
    pub fn row_groups(self, scale: f64, files: u32) -> u32 {
        let per_file = self.keys(scale) / u64::from(files.max(1)) * self.bytes_per_key();
        (per_file / ROW_GROUP_BYTES + 1).min(32_767) as u32
    }

    /// Slice `index` (from 0) of `count` equal slices of the table, in key order, as Arrow batches.
    pub fn slice(self, scale: f64, index: u32, count: u32) -> Box<dyn RecordBatchIterator> {
        let (part, parts) = (index as i32 + 1, count as i32);
        match self {
            Self::Nation => Box::new(NationArrow::new(NationGenerator::new(scale, part, parts))),
            Self::Region => Box::new(RegionArrow::new(RegionGenerator::new(scale, part, parts))),
            Self::Supplier => Box::new(SupplierArrow::new(SupplierGenerator::new(scale, part, parts))),
            Self::Part => Box::new(PartArrow::new(PartGenerator::new(scale, part, parts))),
            Self::PartSupp => Box::new(PartSuppArrow::new(PartSuppGenerator::new(scale, part, parts))),
            Self::Customer => Box::new(CustomerArrow::new(CustomerGenerator::new(scale, part, parts))),
            Self::Orders => Box::new(OrderArrow::new(OrderGenerator::new(scale, part, parts))),
            Self::LineItem => Box::new(LineItemArrow::new(LineItemGenerator::new(scale, part, parts))),
        }
    }
}
