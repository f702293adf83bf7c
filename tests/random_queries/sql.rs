//! Random queries. Everything in a FROM clause has the columns of [`super::table::COLUMNS`], whatever it is made of, so
//! expressions fit everywhere. Table `n` is written `$n` until its name is known.

use proptest::prelude::*;
use proptest::sample::select;

/// Aliases in a FROM clause.
const ALIASES: [&str; 3] = ["x", "y", "z"];

/// A query and whether its rows have one order.
#[derive(Clone, Debug)]
pub struct Query {
    text: String,
    is_ordered: bool,
}

impl Query {
    /// The text with the names of the tables.
    pub fn sql(&self, names: &[String]) -> String {
        let numbered = names.iter().enumerate();
        numbered.fold(self.text.clone(), |text, (table, name)| text.replace(&format!("${table}"), name))
    }

    /// Every column is in ORDER BY: rows that compare equal are equal.
    pub fn is_ordered(&self) -> bool {
        self.is_ordered
    }
}

/// Settings that change how a query runs, never what it gives.
#[derive(Clone, Debug)]
pub struct Settings {
    batch_size: u32,
    prefer_hash_join: bool,
    broadcast_rows: u32,
    repartition_joins: bool,
    join_reordering: bool,
    collect_statistics: bool,
}

/// Any settings.
pub fn settings() -> impl Strategy<Value = Settings> {
    (
        select(vec![1, 3, 8192]),
        any::<bool>(),
        select(vec![0, 10, 1_000_000]),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(
            |(batch_size, prefer_hash_join, broadcast_rows, repartition_joins, join_reordering, collect_statistics)| {
                Settings {
                    batch_size,
                    prefer_hash_join,
                    broadcast_rows,
                    repartition_joins,
                    join_reordering,
                    collect_statistics,
                }
            },
        )
}

impl Settings {
    /// The statements that set them.
    pub fn statements(&self) -> Vec<String> {
        vec![
            format!("SET datafusion.execution.batch_size = {}", self.batch_size),
            format!("SET datafusion.execution.collect_statistics = {}", self.collect_statistics),
            format!("SET datafusion.optimizer.prefer_hash_join = {}", self.prefer_hash_join),
            format!("SET datafusion.optimizer.repartition_joins = {}", self.repartition_joins),
            format!("SET datafusion.optimizer.join_reordering = {}", self.join_reordering),
            format!("SET datafusion.optimizer.hash_join_single_partition_threshold = {}", self.broadcast_rows),
            format!("SET datafusion.optimizer.hash_join_single_partition_threshold_rows = {}", self.broadcast_rows),
        ]
    }
}

type Text = BoxedStrategy<String>;

/// A column of one of the first `relations` aliases.
fn column(relations: usize, names: &'static [&'static str]) -> Text {
    (0..relations, select(names)).prop_map(|(alias, name)| format!("{}.{name}", ALIASES[alias])).boxed()
}

fn number(relations: usize) -> Text {
    let column = || column(relations, &["id", "k", "k", "d", "f"]);
    prop_oneof![
        4 => column(),
        1 => (-3..8i32).prop_map(|literal| literal.to_string()),
        1 => (column(), select(vec!["+", "-", "*"]), column()).prop_map(|(l, op, r)| format!("({l} {op} {r})")),
        1 => column().prop_map(|column| format!("coalesce({column}, -1)")),
        1 => column().prop_map(|column| format!("CASE WHEN {column} > 2 THEN {column} END")),
    ]
    .boxed()
}

fn text(relations: usize) -> Text {
    let column = || column(relations, &["s"]);
    prop_oneof![
        3 => column(),
        1 => column().prop_map(|column| format!("coalesce({column}, 'none')")),
        1 => (column(), column()).prop_map(|(l, r)| format!("({l} || {r})")),
        1 => column().prop_map(|column| format!("upper(substr({column}, 1, 2))")),
    ]
    .boxed()
}

fn value(relations: usize) -> Text {
    prop_oneof![4 => number(relations), 2 => text(relations), 1 => column(relations, &["t", "b"])].boxed()
}

/// A condition over the aliases, without subqueries.
fn condition(relations: usize) -> Text {
    let comparison = select(vec!["=", "<>", "<", "<=", ">", ">=", "IS DISTINCT FROM", "IS NOT DISTINCT FROM"]);
    let leaf = prop_oneof![
        3 => (number(relations), comparison, number(relations)).prop_map(|(l, op, r)| format!("{l} {op} {r}")),
        1 => (value(relations), any::<bool>()).prop_map(|(value, is)| format!("{value} IS {}NULL", if is { "" } else { "NOT " })),
        1 => text(relations).prop_map(|text| format!("{text} LIKE 'a%'")),
        1 => (number(relations), any::<bool>()).prop_map(|(n, not)| format!("{n} {}IN (1, 2, 5)", if not { "NOT " } else { "" })),
        1 => column(relations, &["t"]).prop_map(|t| format!("{t} BETWEEN '2024-02-01' AND '2024-04-02'")),
        1 => column(relations, &["b"]),
    ];
    let nested = leaf.prop_recursive(2, 4, 2, |inner| {
        prop_oneof![
            (inner.clone(), select(vec!["AND", "OR"]), inner.clone()).prop_map(|(l, op, r)| format!("({l} {op} {r})")),
            inner.prop_map(|inner| format!("NOT ({inner})")),
        ]
    });
    nested.boxed()
}

/// Something to read from, with all columns.
fn relation(tables: usize) -> Text {
    let table = move || (0..tables).prop_map(|table| format!("${table}"));
    prop_oneof![
        6 => table(),
        1 => table().prop_map(|t| format!("(SELECT max(id) AS id, k, min(s) AS s, sum(d) AS d, max(t) AS t, bool_or(b) AS b, sum(f) AS f FROM {t} GROUP BY k)")),
        1 => table().prop_map(|t| format!("(SELECT count(*) AS id, count(DISTINCT k) AS k, s, avg(d) AS d, t, bool_and(b) AS b, avg(f) AS f FROM {t} GROUP BY s, t)")),
        1 => (table(), table()).prop_map(|(l, r)| format!("(SELECT * FROM {l} UNION ALL SELECT * FROM {r})")),
        1 => (table(), table(), select(vec!["UNION", "INTERSECT", "EXCEPT"])).prop_map(|(l, r, op)| {
            format!("(SELECT 0 AS id, k, s, NULL AS d, t, b, NULL AS f FROM {l} {op} SELECT 0, k, s, NULL, t, b, NULL FROM {r})")
        }),
        1 => (table(), 0..12u32).prop_map(|(t, n)| format!("(SELECT * FROM {t} ORDER BY f DESC, id LIMIT {n} OFFSET 2)")),
        1 => table().prop_map(|t| format!("(SELECT row_number() OVER (PARTITION BY k ORDER BY id) AS id, k, s, sum(d) OVER (PARTITION BY s ORDER BY id) AS d, t, b, lag(f) OVER (ORDER BY id) AS f FROM {t})")),
        1 => table().prop_map(|t| format!("(SELECT DISTINCT k AS id, k, s, NULL AS d, t, b, NULL AS f FROM {t})")),
    ]
    .boxed()
}

/// A FROM clause and how many aliases it has.
fn from(tables: usize) -> BoxedStrategy<(usize, String)> {
    let join = select(vec!["JOIN", "JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN", "LEFT SEMI JOIN", "LEFT ANTI JOIN"]);
    let key = select(vec!["k", "k", "s", "t", "id"]);
    let joined = (join, key.clone(), prop::option::of(key), prop::option::weighted(0.3, condition(2)));
    let joined = (relation(tables), relation(tables), joined).prop_map(|(l, r, (join, key, second, filter))| {
        let mut on = format!("x.{key} = y.{key}");
        if let Some(second) = second.filter(|second| *second != key) {
            on = format!("{on} AND x.{second} = y.{second}");
        }
        if let Some(filter) = filter {
            on = format!("{on} AND {filter}");
        }
        let aliases = if join.contains("SEMI") || join.contains("ANTI") { 1 } else { 2 };
        (aliases, format!("{l} x {join} {r} y ON {on}"))
    });
    prop_oneof![
        3 => relation(tables).prop_map(|relation| (1, format!("{relation} x"))),
        5 => joined.clone(),
        1 => (joined, relation(tables), any::<bool>()).prop_map(|((aliases, from), third, outer)| match aliases {
            1 => (1, from),
            _ => (3, format!("{from} {} {third} z ON y.k = z.k", if outer { "LEFT JOIN" } else { "JOIN" })),
        }),
        1 => (relation(tables), relation(tables), condition(2))
            .prop_map(|(l, r, on)| (2, format!("{l} x JOIN {r} y ON x.id < 9 AND y.id < 7 AND {on}"))),
    ]
    .boxed()
}

/// A condition with a subquery, to stand in a conjunction.
fn subquery(tables: usize) -> Text {
    (relation(tables), select(vec!["k", "s"]), condition(1), any::<bool>(), 0..4u32)
        .prop_map(|(relation, key, inner, not, kind)| {
            let not = if not { "NOT " } else { "" };
            let inner = inner.replace("x.", "q.");
            match kind {
                0 => format!("{not}EXISTS (SELECT 1 FROM {relation} q WHERE q.{key} = x.{key} AND {inner})"),
                1 => format!("x.{key} {not}IN (SELECT q.{key} FROM {relation} q WHERE {inner})"),
                2 => format!("x.id >= (SELECT avg(q.id) FROM {relation} q WHERE {inner})"),
                _ => format!("x.d < (SELECT max(q.d) FROM {relation} q WHERE q.{key} = x.{key})"),
            }
        })
        .boxed()
}

fn filter(tables: usize, relations: usize) -> Text {
    let parts = (prop::option::of(condition(relations)), prop::option::weighted(0.25, subquery(tables)));
    parts
        .prop_map(|(condition, subquery)| match (condition, subquery) {
            (None, None) => String::new(),
            (Some(one), None) | (None, Some(one)) => format!(" WHERE {one}"),
            (Some(condition), Some(subquery)) => format!(" WHERE {condition} AND {subquery}"),
        })
        .boxed()
}

fn aggregate(relations: usize) -> Text {
    prop_oneof![
        Just("count(*)".to_owned()),
        (select(vec!["count", "min", "max"]), value(relations)).prop_map(|(f, value)| format!("{f}({value})")),
        (select(vec!["sum", "avg"]), column(relations, &["k", "d", "f", "id"])).prop_map(|(f, n)| format!("{f}({n})")),
        value(relations).prop_map(|value| format!("count(DISTINCT {value})")),
        (number(relations), condition(relations)).prop_map(|(n, c)| format!("count({n}) FILTER (WHERE {c})")),
        column(relations, &["b"]).prop_map(|b| format!("bool_or({b})")),
    ]
    .boxed()
}

/// The select list with names `c0`, `c1`, ..., and what follows WHERE.
fn select_list(relations: usize) -> BoxedStrategy<(Vec<String>, String, bool)> {
    let values = prop::collection::vec(value(relations), 1..5);
    let keys = prop::collection::vec(value(relations), 0..3);
    let aggregates = prop::collection::vec(aggregate(relations), 1..4);
    let sets = select(vec!["", "", "", "ROLLUP ", "CUBE "]);
    let having = prop::option::weighted(0.2, aggregate(relations));
    prop_oneof![
        3 => (values, any::<bool>()).prop_map(|(values, is_distinct)| (values, String::new(), is_distinct)),
        3 => (keys, aggregates, sets, having).prop_map(|(mut keys, aggregates, sets, having)| {
            keys.sort();
            keys.dedup();
            // A literal in GROUP BY would be a position.
            keys.retain(|key| key.contains('.'));
            let positions: Vec<_> = (1..=keys.len()).map(|position| position.to_string()).collect();
            let mut tail = match (positions.is_empty(), sets) {
                (true, _) => String::new(),
                (false, "") => format!(" GROUP BY {}", positions.join(", ")),
                (false, sets) => format!(" GROUP BY {sets}({})", keys.join(", ")),
            };
            if let Some(having) = having {
                tail.push_str(&format!(" HAVING {having} IS NOT NULL"));
            }
            keys.extend(aggregates);
            (keys, tail, false)
        }),
    ]
    .boxed()
}

/// Any query over `tables` tables.
pub fn query(tables: usize) -> BoxedStrategy<Query> {
    let order = prop::option::of((prop::collection::vec(0..4u32, 10), prop::option::of((0..20u32, 0..5u32))));
    let query = from(tables)
        .prop_flat_map(move |(relations, from)| (Just(from), filter(tables, relations), select_list(relations)));
    (query, order)
        .prop_map(|((from, filter, (values, tail, is_distinct)), order)| {
            let distinct = if is_distinct { "DISTINCT " } else { "" };
            let named: Vec<_> = values.iter().enumerate().map(|(i, value)| format!("{value} AS c{i}")).collect();
            let mut text = format!("SELECT {distinct}{} FROM {from}{filter}{tail}", named.join(", "));
            if let Some((directions, limit)) = &order {
                let directions = directions.iter().map(|direction| match direction {
                    0 => "",
                    1 => " DESC",
                    2 => " NULLS FIRST",
                    _ => " DESC NULLS LAST",
                });
                let keys: Vec<_> = directions.zip(0..values.len()).map(|(dir, i)| format!("c{i}{dir}")).collect();
                text = format!("{text} ORDER BY {}", keys.join(", "));
                if let Some((limit, offset)) = limit {
                    text = format!("{text} LIMIT {limit} OFFSET {offset}");
                }
            }
            Query { text, is_ordered: order.is_some() }
        })
        .boxed()
}
