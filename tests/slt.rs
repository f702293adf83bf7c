//! The corpus `slt/*.slt`. Each file runs on single-process DataFusion, on one function, and on four functions with tiny
//! batches; the rows in the file must come out every time. `UPDATE_SLT=1` writes what single-process DataFusion answers
//! into the files instead: read the difference before you commit it.

pub mod database;

use std::path::PathBuf;

use super::oracle::cluster::Cluster;
use super::oracle::single::{Engine, single_process};
use super::oracle::{rows, tables};
use super::support::root;

fn directory() -> PathBuf {
    root().join("tests/slt")
}

fn check(name: &str) {
    let file = directory().join(format!("{name}.slt"));
    let cluster = Cluster::shared();
    let result = cluster.block_on(async {
        let single = single_process();
        for definition in tables::definitions(cluster.data()) {
            single.run(&definition).await?;
        }
        if std::env::var_os("UPDATE_SLT").is_some() {
            return database::update(&file, single, cluster.data()).await;
        }
        let run = database::run(&file, single, cluster.data());
        run.await.map_err(|error| format!("single-process DataFusion: {error}"))?;
        for settings in [one_function(), four_functions()] {
            let session = cluster.session(&settings).await;
            let run = database::run(&file, session, cluster.data());
            run.await.map_err(|error| format!("after {}: {error}", settings.join("; ")))?;
        }
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

fn one_function() -> Vec<String> {
    vec!["SET onward.functions = 1".to_owned()]
}

fn four_functions() -> Vec<String> {
    vec!["SET onward.functions = 4".to_owned(), "SET datafusion.execution.batch_size = 7".to_owned()]
}

macro_rules! corpus {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                check(stringify!($name));
            }
        )*

        const CORPUS: &[&str] = &[$(stringify!($name)),*];
    };
}

corpus! {
    ctes dates decimals errors formats functions grouping joins joins_broadcast joins_existing_order joins_partitioned
    joins_sort_merge joins_unordered nested nulls order_and_limit set_operations sizes subqueries tables text types wide
    windows
}

/// The files of the corpus.
pub fn files() -> Vec<PathBuf> {
    CORPUS.iter().map(|name| directory().join(format!("{name}.slt"))).collect()
}

#[test]
fn every_file_of_the_corpus_runs() {
    let files = directory().read_dir().expect("the corpus").map(|entry| entry.expect("a file").path());
    let files = files.filter(|file| file.extension().is_some_and(|extension| extension == "slt"));
    let mut names: Vec<_> =
        files.map(|file| file.file_stem().expect("a name").to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    assert_eq!(names, CORPUS);
}

/// Without this the corpus could pass without distributing anything.
#[test]
fn forced_functions_are_used() {
    let cluster = Cluster::shared();
    cluster.block_on(async {
        for (settings, functions) in [(one_function(), 1), (four_functions(), 4)] {
            let session = cluster.session(&settings).await;
            let sql = "SELECT a.grp, count(*) FROM nums a JOIN nums b ON a.day = b.day GROUP BY a.grp";
            let execution = session.execute(sql).await.expect("it is planned");
            let query = execution.query;
            futures::TryStreamExt::try_collect::<Vec<_>>(execution.stream).await.expect("it runs");
            let used = format!("SELECT functions_used FROM system.queries WHERE query_id = '{query}'");
            let (_, batches) = session.run(&used).await.expect("it is remembered");
            assert_eq!(rows::cells(&batches), Ok(vec![vec![functions.to_string()]]));
        }
    });
}
