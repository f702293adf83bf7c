//! `system.coordinators`: who is there, and who leads.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray, RecordBatch, StringArray, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::Result;
use onward_state::Announcement;

use super::snapshot::Snapshot;
use crate::term::Term;

/// The table, of one of several coordinators.
pub(super) struct CoordinatorsTable {
    term: Term,
    schema: SchemaRef,
}

impl CoordinatorsTable {
    pub(super) fn new(term: Term) -> Self {
        let text = |name| Field::new(name, DataType::Utf8, false);
        let schema = Schema::new(vec![
            text("name"),
            text("client_url"),
            text("cluster_url"),
            text("version"),
            Field::new("leads", DataType::Boolean, false),
            Field::new("epoch", DataType::UInt64, true),
        ]);
        Self { term, schema: Arc::new(schema) }
    }
}

impl Snapshot for CoordinatorsTable {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn batch(&self) -> Result<RecordBatch> {
        let mut all = self.term.coordinators.borrow().clone();
        // Who answers is who leads, and may not have heard of that yet.
        let leads = |one: &Announcement| one.name == self.term.own.name;
        if !all.iter().any(leads) {
            all.push(self.term.own.clone());
        }
        all.sort_by(|one, other| one.name.cmp(&other.name));
        let text = |of: fn(&Announcement) -> &String| {
            Arc::new(all.iter().map(|one| Some(of(one))).collect::<StringArray>()) as ArrayRef
        };
        let columns = vec![
            text(|one| &one.name),
            text(|one| &one.client_url),
            text(|one| &one.cluster_url),
            text(|one| &one.version),
            Arc::new(all.iter().map(|one| Some(leads(one))).collect::<BooleanArray>()),
            Arc::new(all.iter().map(|one| leads(one).then_some(self.term.epoch)).collect::<UInt64Array>()),
        ];
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::util::pretty::pretty_format_batches;
    use tokio::sync::watch;

    use super::*;

    #[test]
    fn who_leads_is_there_before_it_hears_of_itself() {
        let called = |name: &str| Announcement { name: name.to_owned(), ..Announcement::default() };
        let (hears, coordinators) = watch::channel(vec![called("b")]);
        let table = CoordinatorsTable::new(Term { own: called("a"), epoch: 7, coordinators, ..Term::default() });
        let rows = || {
            let rows = table.batch().unwrap().project(&[0, 4, 5]).unwrap();
            pretty_format_batches(&[rows]).unwrap().to_string()
        };
        let known = rows();
        assert!(known.contains("| a    | true  | 7     |") && known.contains("| b    | false |       |"), "{known}");
        hears.send_replace(vec![called("b"), called("a")]);
        assert_eq!(rows(), known);
    }
}
