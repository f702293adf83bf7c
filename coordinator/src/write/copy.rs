//! COPY ... TO.

use datafusion::common::Result;
use datafusion::logical_expr::dml::CopyTo;
use datafusion::object_store::ObjectStore;
use datafusion::sql::parser::Statement as Ast;
use datafusion::sql::sqlparser::ast::Value;
use futures::TryStreamExt;
use onward_cache::paths::{local_path_of_url, store_path_of_url};
use onward_executor::write::WriteNode;
use onward_wire::message::StoreSpec;

use super::pending::{Then, Write};
use super::place::Place;
use crate::catalog::{CatalogError, Format, FormatOptions, Location};
use crate::session::SqlSession;

/// Options of COPY that are not the format's.
const KEEP_PARTITION_COLUMNS: [&str; 2] = ["execution.keep_partition_by_columns", "format.keep_partition_by_columns"];
const SINGLE_FILE: [&str; 2] = ["format.single_file_output", "single_file_output"];

/// Says the format, compression and delimiter that the target's name tells (`x.tsv.gz`), where the statement does not.
pub fn adapt_copy(statement: &mut Ast) -> Result<()> {
    let copy = match statement {
        Ast::CopyTo(copy) => copy,
        Ast::Explain(explain) => return adapt_copy(&mut explain.statement),
        _ => return Ok(()),
    };
    let implied = Format::of_file(&copy.target);
    let format = match &copy.stored_as {
        Some(name) => Some(Format::by_name(name)?),
        None => implied.as_ref().map(|(format, _)| *format),
    };
    let Some(format) = format else {
        let error = format!(
            "the format of `{}` cannot be told from its name: add STORED AS PARQUET, CSV, JSON or ARROW",
            copy.target
        );
        return Err(CatalogError::Invalid(error).into());
    };
    copy.stored_as = Some(format.extension().to_uppercase());
    if let Some((_, options)) = implied.filter(|(implied, _)| *implied == format) {
        for (key, value) in options.iter() {
            let bare = key.trim_start_matches("format.");
            if !copy.options.iter().any(|(name, _)| name.eq_ignore_ascii_case(key) || name.eq_ignore_ascii_case(bare)) {
                copy.options.push((key.to_owned(), Value::SingleQuotedString(value.to_owned())));
            }
        }
    }
    Ok(())
}

impl SqlSession {
    /// COPY as a write.
    pub(crate) async fn copy(&self, copy: CopyTo) -> Result<Write> {
        let format = Format::by_name(&copy.file_type.get_ext())?;
        let mut options = copy.options;
        let keeps = take_flag(&mut options, &KEEP_PARTITION_COLUMNS)?;
        let single = take_flag(&mut options, &SINGLE_FILE)?;
        let (options, store_options) = FormatOptions::split(&options);
        let state = self.context().state();
        format.build(&state, &options)?;

        let location = Location::target(&copy.output_url, self.directory())?;
        let is_file_name = !location.is_collection() && location.file_name().contains('.');
        let is_single_file = copy.partition_by.is_empty() && single.unwrap_or(is_file_name);
        if is_single_file && location.is_collection() {
            return Err(CatalogError::Invalid(format!("`{location}` is a directory: name a file in it")).into());
        }
        let place = Place::new(&location, is_single_file)?;
        self.check_place(&place)?;
        if !store_options.is_empty() {
            let spec = StoreSpec { url: place.url.to_string(), options: store_options };
            self.shared().stores().register(&spec)?;
        }
        if !is_single_file {
            self.check_empty(&place).await?;
        }
        let mut target = place.target(format, &options)?;
        target.partition_by = copy.partition_by;
        target.keeps_partition_columns = keeps.unwrap_or(state.config_options().execution.keep_partition_by_columns);
        target.writes_empty_file = true;
        let plan = WriteNode::plan(copy.input.as_ref().clone(), target)?;
        Ok(Write::new(plan, place, self.shared(), Then::Nothing))
    }

    /// Rows written twice into one directory would be read as one table: COPY does not add to files.
    async fn check_empty(&self, place: &Place) -> Result<()> {
        let store = self.context().runtime_env().object_store_registry.get_store(&place.url)?;
        let prefix = store_path_of_url(&place.url)?;
        let first = store.list(Some(&prefix)).try_next().await?;
        match first {
            Some(file) => {
                let place = place.directory.as_ref().map_or(place.url.to_string(), |path| path.display().to_string());
                let error = format!(
                    "`{place}` is not empty (it holds `{}`): COPY to another directory, remove the files, or use INSERT INTO \
                     an external table over it",
                    file.location
                );
                Err(CatalogError::Invalid(error).into())
            }
            None => Ok(()),
        }
    }

    /// This session may write there.
    pub(super) fn check_place(&self, place: &Place) -> Result<()> {
        if let Some(path) = local_path_of_url(&place.url) {
            self.check_path(&path)?;
            self.check_not_ours(&path)?;
        }
        Ok(())
    }
}

fn take_flag(options: &mut std::collections::HashMap<String, String>, names: &[&str]) -> Result<Option<bool>> {
    let Some((name, value)) = names.iter().find_map(|name| Some((name, options.remove(*name)?))) else {
        return Ok(None);
    };
    match value.trim().to_ascii_lowercase().as_str() {
        "true" => Ok(Some(true)),
        "false" => Ok(Some(false)),
        other => Err(CatalogError::Invalid(format!("option `{name}` is true or false, not `{other}`")).into()),
    }
}
