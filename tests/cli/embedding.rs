//! The engine inside of another program, as the library's page shows it.

use std::path::Path;
use std::time::Duration;

use futures::TryStreamExt;
use onward::{Config, Coordinator, CoordinatorOptions, SessionOptions};

fn entries(dir: &Path) -> usize {
    std::fs::read_dir(dir).map_or(0, |entries| entries.count())
}

/// What a cancelled write staged is there until its function does nothing for it any more, and then no longer.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_write_is_taken_back_when_its_function_has_stopped() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    std::fs::create_dir(dir.path().join("spill"))?;
    let config = Config {
        functions: 1,
        vcpus: 1,
        memory_bytes: 1 << 30,
        segment_memory_bytes: 32 << 20,
        spill_dir: dir.path().join("spill").display().to_string(),
        ..crate::support::config()
    };
    let program = Some(env!("CARGO_BIN_EXE_onward").into());
    let options = CoordinatorOptions { config, function_program: program, ..Default::default() };
    let coordinator = Coordinator::start(options).await?;
    let session = coordinator.session(SessionOptions::default())?;
    // One call of this function works for seconds, and does not yield.
    let row = "levenshtein(repeat('a', 50000 + value::int), repeat('b', 50000))";
    let out = dir.path().join("out");
    let copy = format!("copy (select {row} from generate_series(1, 1)) to '{}/' stored as csv", out.display());
    let mut execution = session.execute(&copy).await?;
    // It runs, and has run for long enough to tell.
    execution.progress.wait_for(|progress| progress.functions > 0).await?;
    execution.progress.changed().await?;
    assert_eq!(entries(&out), 1, "the staging directory");
    drop(execution.stream);
    assert_eq!(entries(&out), 1, "the function may still write there");
    coordinator.shutdown(Duration::from_secs(60)).await;
    assert!(!out.exists(), "the write made the directory");
    drop((session, coordinator));
    // The engine ends with a task of its own.
    let cleaned = async {
        while entries(&dir.path().join("spill")) > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), cleaned).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_runs_sql_with_functions_of_the_binary() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let config = Config {
        functions: 2,
        vcpus: 2,
        memory_bytes: 1 << 30,
        segment_memory_bytes: 32 << 20,
        spill_dir: dir.path().display().to_string(),
        ..crate::support::config()
    };
    let program = Some(env!("CARGO_BIN_EXE_onward").into());
    let options = CoordinatorOptions { config, function_program: program, ..Default::default() };
    let coordinator = Coordinator::start(options).await?;
    let session = coordinator.session(SessionOptions::default())?;
    let execution = session.execute("select value % 3 as k, count(*) from generate_series(1, 999) group by 1").await?;
    let batches: Vec<_> = execution.stream.try_collect().await?;
    assert_eq!(batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), 3);
    coordinator.shutdown(std::time::Duration::from_secs(10)).await;
    Ok(())
}
