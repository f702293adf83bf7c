//! The column tier: one decode for all who miss, claims that end with their holder, bytes that stay within the budget.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, Int64Array, StringViewArray};
use datafusion::arrow::datatypes::Int64Type;
use onward_segment::{SegmentStore, StoreOptions};
use onward_wire::columns::{ColumnId, ObjectVersion, WantedColumn};
use onward_wire::message::SegmentRef;
use onward_wire::{FunctionId, SegmentId};
use parking_lot::Mutex;

use super::layout::Stored;
use super::{CachedColumn, Claim, ColumnClient, ColumnTier, Found, LocalColumns, Lookup};

const ONE: FunctionId = FunctionId(1);
const TWO: FunctionId = FunctionId(2);

struct World {
    tier: Arc<ColumnTier>,
    evicted: Arc<Mutex<Vec<SegmentId>>>,
    _dir: tempfile::TempDir,
}

impl World {
    fn new(bytes: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let evicted = Arc::<Mutex<Vec<SegmentId>>>::default();
        let heard = Arc::clone(&evicted);
        let store = SegmentStore::open(StoreOptions::below(dir.path(), bytes, 0)).unwrap();
        let tier = ColumnTier::new(store, Box::new(move |segments| heard.lock().extend(segments)));
        Self { tier: Arc::new(tier), evicted, _dir: dir }
    }

    fn client(&self, holder: FunctionId) -> Arc<LocalColumns> {
        LocalColumns::new(Arc::clone(&self.tier), holder)
    }

    /// Nobody holds or claims anything, and what is evicted is gone.
    fn is_idle(&self) -> bool {
        let store = self.tier.store().usage();
        self.tier.usage().claims == 0 && store.leases == 0 && store.segments == self.tier.usage().columns
    }
}

fn object(version: &str) -> Arc<ObjectVersion> {
    Arc::new(ObjectVersion { url: "s3://b/t.parquet".to_owned(), version: version.to_owned() })
}

fn column(row_group: u32) -> ColumnId {
    ColumnId { row_group, column: 0, target: "Int64".to_owned() }
}

fn wanted(row_group: u32) -> WantedColumn {
    WantedColumn { column: column(row_group), bytes: 0, is_ordered: false, is_partial: false }
}

fn stored(rows: i64) -> Stored {
    Stored::new(vec![Arc::new(Int64Array::from_iter_values(0..rows)) as ArrayRef])
}

async fn find(client: &Arc<LocalColumns>, object: &Arc<ObjectVersion>, row_group: u32) -> Lookup {
    Arc::clone(client).find(object, &[wanted(row_group)]).await.unwrap().pop().unwrap()
}

fn claimed(lookup: Lookup) -> Claim {
    match lookup {
        Lookup::Claimed(claim) => claim,
        other => panic!("{other:?}"),
    }
}

fn sum(cached: &CachedColumn) -> i64 {
    let array = cached.expand(cached.compact(0)).unwrap();
    array.as_primitive::<Int64Type>().values().iter().sum()
}

#[tokio::test]
async fn concurrent_misses_decode_once() {
    let (world, object) = (World::new(1 << 20), object("1"));
    let (one, two) = (world.client(ONE), world.client(TWO));
    let claim = claimed(find(&one, &object, 0).await);
    assert!(matches!(find(&two, &object, 0).await, Lookup::Busy));
    let wait = tokio::spawn({
        let (two, object) = (Arc::clone(&two), Arc::clone(&object));
        async move { two.wait(&object, &wanted(0)).await.unwrap() }
    });
    let kept = claim.keep(stored(100), "a", 100).await.unwrap();
    let Lookup::Hit(found) = wait.await.unwrap() else { panic!("the other one decodes, too") };
    assert_eq!((sum(&kept), sum(&found)), (4950, 4950));
    assert_eq!(kept.segment(), found.segment(), "one copy in memory");
    assert_eq!(world.tier.usage().published, 1);
    drop((kept, found));
    assert!(world.is_idle());
}

/// Found at TPC-H scale 10: the last rows of a row group had other return flags when they had not all of them.
#[tokio::test]
async fn batches_that_have_not_all_values_of_a_dictionary_keep_theirs() {
    let (world, object) = (World::new(1 << 20), object("1"));
    let client = world.client(ONE);
    let strings = |values: &[Option<&str>]| Arc::new(values.iter().copied().collect::<StringViewArray>()) as ArrayRef;
    let arrays = vec![
        strings(&[Some("N"), Some("R"), None, Some("A"), Some("N"), Some("R"), Some("A"), Some("A")]),
        strings(&[Some("A"), Some("R"), Some("A"), None, Some("A")]),
        strings(&[None, None]),
        strings(&[Some("R"), Some("a value that is seen late")]),
    ];
    let claim = claimed(find(&client, &object, 0).await);
    let cached = claim.keep(Stored::new(arrays.clone()), "a", 17).await.unwrap();
    assert!(cached.values().is_some() && cached.segment().is_some(), "it has a dictionary, in shared memory");
    for (batch, array) in arrays.iter().enumerate() {
        assert_eq!(&cached.expand(cached.compact(batch)).unwrap(), array, "batch {batch}");
    }
}

#[tokio::test]
async fn a_claim_ends_with_its_holder_or_when_it_is_dropped() {
    let (world, object) = (World::new(1 << 20), object("1"));
    let (one, two) = (world.client(ONE), world.client(TWO));
    let dead = claimed(find(&one, &object, 0).await);
    world.tier.release_holder(ONE);
    let claim = claimed(two.clone().wait(&object, &wanted(0)).await.unwrap());
    // What a dead function says late changes nothing.
    drop(dead);
    assert!(matches!(find(&one, &object, 0).await, Lookup::Busy));
    drop(claim);
    drop(claimed(find(&one, &object, 0).await));
    assert!(world.is_idle());
}

#[tokio::test]
async fn a_torn_column_is_refused_and_leaves_nothing() {
    let (world, object) = (World::new(1 << 20), object("1"));
    assert!(matches!(world.tier.find(ONE, &object, &[wanted(0)])[..], [Found::Claimed]));
    let file = world.tier.open(ONE, &object, &column(0), 1000).unwrap();
    let segment = SegmentRef { segment: file.id.0, length_bytes: 1000, rows: 1 };
    drop(file);
    world.tier.publish(ONE, &object, &column(0), segment, "a".to_owned(), 1).unwrap_err();
    assert_eq!(world.tier.usage().columns, 0);
    assert!(world.is_idle());
    drop(claimed(find(&world.client(TWO), &object, 0).await));
}

#[tokio::test]
async fn past_the_budget_columns_are_evicted_and_their_memory_is_free_when_nobody_maps_it() {
    let (world, object) = (World::new(1 << 20), object("1"));
    let one = world.client(ONE);
    let first = claimed(find(&one, &object, 0).await).keep(stored(8_000), "a", 8_000).await.unwrap();
    let id = first.segment().unwrap();
    for row_group in 1..100 {
        for _ in 0..2 {
            // When the tier is full, what is wanted for the first time is read from the heap.
            if let Lookup::Claimed(claim) = find(&one, &object, row_group).await {
                claim.keep(stored(8_000), "a", 8_000).await.unwrap();
            }
        }
    }
    let usage = world.tier.usage();
    assert!(usage.bytes <= usage.capacity_bytes && usage.evicted > 80, "{usage:?}");
    assert!(world.evicted.lock().contains(&id), "functions hear of it");
    assert_eq!(sum(&first), 8_000 * 7_999 / 2, "rows that are being worked on stay");
    assert!(!world.is_idle());
    drop(first);
    assert!(world.is_idle());
    assert!(world.tier.store().usage().memory_bytes <= 1 << 20);
}

#[tokio::test]
async fn in_a_full_tier_a_column_is_refused_before_it_is_decoded_until_it_is_wanted_again_or_ordered() {
    let (world, object) = (World::new(1 << 20), object("1"));
    let one = world.client(ONE);
    let find = async |row_group: u32, is_ordered: bool| {
        let wanted = WantedColumn { bytes: 64_000, is_ordered, ..wanted(row_group) };
        Arc::clone(&one).find(&object, &[wanted]).await.unwrap().pop().unwrap()
    };
    let mut row_group = 0;
    while let Lookup::Claimed(claim) = find(row_group, false).await {
        claim.keep(stored(8_000), "a", 8_000).await.unwrap();
        row_group += 1;
    }
    assert!(row_group > 5, "{row_group} columns fit");
    assert_eq!((world.tier.usage().evicted, world.tier.usage().claims), (0, 0));
    for (number, is_ordered) in [(row_group, false), (row_group + 1, true)] {
        let kept = claimed(find(number, is_ordered).await).keep(stored(8_000), "a", 8_000).await.unwrap();
        assert!(kept.segment().is_some(), "others went for it");
    }
    assert!(matches!(find(row_group + 2, false).await, Lookup::Refused));
    assert!(world.is_idle());
}

#[tokio::test]
async fn a_column_without_room_is_read_from_the_heap() {
    let (world, object) = (World::new(256 << 10), object("1"));
    let one = world.client(ONE);
    let kept = claimed(find(&one, &object, 0).await).keep(stored(100_000), "a", 100_000).await.unwrap();
    assert_eq!(kept.segment(), None);
    assert_eq!(sum(&kept), 100_000 * 99_999 / 2);
    assert!(world.is_idle());
}

#[tokio::test]
async fn versions_and_types_are_columns_of_their_own_and_uses_are_counted() {
    let world = World::new(1 << 20);
    let one = world.client(ONE);
    drop(claimed(find(&one, &object("1"), 0).await).keep(stored(10), "a", 10).await.unwrap());
    let claim = claimed(find(&one, &object("2"), 0).await);
    assert!(matches!(find(&one, &object("1"), 0).await, Lookup::Hit(_)));
    let other = ColumnId { target: "Int32".to_owned(), ..column(0) };
    let other = WantedColumn { column: other, ..wanted(0) };
    drop(one.clone().find(&object("1"), &[other]).await.unwrap());
    let info = world.tier.columns().pop().unwrap();
    assert_eq!((info.name.as_str(), info.rows, info.hits, info.is_pinned), ("a", 10, 1, false));
    world.tier.note_uses([SegmentId(1), SegmentId(77)]);
    assert_eq!(world.tier.columns()[0].hits, 2);
    drop(claim);
    assert_eq!(world.tier.remove(|_, name| name == "a"), 1);
    assert!(world.is_idle());
}
