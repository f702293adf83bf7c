//! The engine inside of another program, as the library's page shows it.

use futures::TryStreamExt;
use onward::{Config, Coordinator, CoordinatorOptions, SessionOptions};

#[tokio::test(flavor = "multi_thread")]
async fn a_program_runs_sql_with_functions_of_the_binary() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let config = Config {
        functions: 2,
        vcpus: 2,
        memory_bytes: 1 << 30,
        segment_memory_bytes: 32 << 20,
        spill_dir: dir.path().display().to_string(),
        ..Config::default()
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
