//! Lost functions: nothing of them is left, and nothing they still see is used again.

use onward_wire::ErrorKind;
use rustix::process::Signal;

use super::*;

/// A kill in mid-attempt is one event; leases, files and directories of the function are gone after it.
#[tokio::test]
async fn a_killed_function_leaves_nothing() {
    let mut fixture = Fixture::new();
    let pid = fixture.start(1, 1).await;
    let wide = Stage::new(1, 0, OutputKind::Preserve, 1);
    // It writes segment after segment for as long as it lives.
    let sql = "select value, concat('some text to fill segments with ', value) from range(0, 1000000000000)";
    fixture.host.define_stage(FunctionId(1), wide.define(&plan(sql, 1).await));
    fixture.host.run_attempt(FunctionId(1), wide.run(0, 0, &[0], vec![], 0));
    while fixture.host.store().usage().segments == 0 {
        tokio::task::yield_now().await;
    }
    signal(pid, Signal::KILL);
    let (function, reason) = fixture.lost().await;
    assert_eq!(function, FunctionId(1));
    assert!(reason.contains("signal: 9"), "{reason}");
    let usage = fixture.host.store().usage();
    assert_eq!((usage.segments, usage.leases), (0, 0), "{usage:?}");
    fixture.start(2, 1).await;
    fixture.end().await;
}

/// A stopped writer still has its file mapped: killed through its host it is reaped first, and only then is the file
/// used again.
#[tokio::test]
async fn a_stopped_writers_file_is_not_used_before_it_is_reaped() {
    let mut fixture = Fixture::new();
    let pid = fixture.start(1, 1).await;
    let stage = Stage::new(1, 0, OutputKind::Preserve, 1);
    let sql = "select value, concat('some text to fill segments with ', value) from range(0, 1000000000000)";
    fixture.host.define_stage(FunctionId(1), stage.define(&plan(sql, 1).await));
    fixture.host.run_attempt(FunctionId(1), stage.run(0, 0, &[0], vec![], 0));
    while fixture.host.store().usage().segments == 0 {
        tokio::task::yield_now().await;
    }
    stop(pid).await;
    fixture.host.cancel_attempt(FunctionId(1), stage.attempt(0, 0));
    assert!(fixture.host.store().usage().leases > 0, "a stopped process keeps its leases");
    fixture.host.kill_function(FunctionId(1), "it did not stop");
    let (_, reason) = fixture.lost().await;
    assert!(reason.contains("it did not stop"), "{reason}");
    assert!(!is_alive(pid));
    let usage = fixture.host.store().usage();
    assert_eq!((usage.segments, usage.leases), (0, 0), "{usage:?}");
    fixture.end().await;
}

/// A function that stands still is lost like one that died; one that has nothing to say because it has nothing to do stays.
#[tokio::test]
async fn a_function_that_works_and_falls_silent_is_killed() {
    let mut fixture = Fixture::with(program(), |config| config.function_silence_timeout_ms = 500);
    let stopped = fixture.start(1, 1).await;
    let idle = fixture.start(2, 1).await;
    stop(idle).await;
    let stage = Stage::new(1, 0, OutputKind::Preserve, 1);
    fixture.host.define_stage(FunctionId(1), stage.define(&plan(ENDLESS, 1).await));
    fixture.host.run_attempt(FunctionId(1), stage.run(0, 0, &[0], vec![], 0));
    stop(stopped).await;
    let (function, reason) = fixture.lost().await;
    assert_eq!(function, FunctionId(1));
    assert!(reason.contains("said nothing for 500 ms"), "{reason}");
    assert!(!is_alive(stopped) && is_alive(idle));
    signal(idle, Signal::CONT);
    fixture.end().await;
}

/// Files of a cancelled attempt are free again as soon as its writer is gone, while the function lives on.
#[tokio::test]
async fn a_cancelled_writers_files_come_back() {
    let mut fixture = Fixture::new();
    fixture.start(1, 1).await;
    let stage = Stage::new(1, 0, OutputKind::Preserve, 1);
    let sql = "select value, concat('some text to fill segments with ', value) from range(0, 1000000000000)";
    fixture.host.define_stage(FunctionId(1), stage.define(&plan(sql, 1).await));
    fixture.host.run_attempt(FunctionId(1), stage.run(0, 0, &[0], vec![], 0));
    while fixture.host.store().usage().segments == 0 {
        tokio::task::yield_now().await;
    }
    fixture.host.cancel_attempt(FunctionId(1), stage.attempt(0, 0));
    assert_eq!(fixture.failed().await.1.kind(), ErrorKind::Cancelled);
    let freed = async {
        while fixture.host.store().usage().segments > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, freed).await.expect("the function releases the files of the attempt");
    fixture.end().await;
}

/// A stopped reader still sees the bytes it mapped: removed by the coordinator and under load, they are not used again
/// before it is gone. The lease is on the batch that a join holds, long after the reader operator ended.
#[tokio::test]
async fn a_stopped_readers_segments_are_not_used_before_it_is_reaped() {
    use datafusion::common::tree_node::{Transformed, TreeNode};
    use onward_planner::StageInputExec;
    use onward_wire::exchange::InputAttempt;

    let mut fixture = Fixture::new();
    fixture.start(1, 1).await;
    let pid = fixture.start(2, 1).await;
    let producer = Stage::new(1, 0, OutputKind::Single, 1);
    fixture.host.define_stage(FunctionId(1), producer.define(&plan("select value from range(0, 100)", 1).await));
    fixture.host.run_attempt(FunctionId(1), producer.run(0, 0, &[0], vec![], 0));
    let done = fixture.prepared().await;
    let segments: Vec<_> = done.output.segments.iter().map(|segment| segment.id()).collect();

    // The short side of the join is collected and held; it is replaced by the producer's output.
    let sql = "select count(*) from (values (1), (2)) t(value) join range(0, 1000000000000) r on t.value > r.value % 7";
    let joined = plan(sql, 1).await;
    let replace = |node: Arc<dyn ExecutionPlan>| match node.name() {
        "DataSourceExec" => {
            let properties = node.properties();
            let (equivalences, partitioning) = (properties.eq_properties.clone(), properties.partitioning.clone());
            let input = StageInputExec::new(0, vec![0], equivalences, partitioning);
            Ok(Transformed::yes(Arc::new(input) as Arc<dyn ExecutionPlan>))
        }
        _ => Ok(Transformed::no(node)),
    };
    let joined = joined.transform_up(replace).unwrap().data;
    let consumer = Stage::new(1, 1, OutputKind::Preserve, 1);
    fixture.host.define_stage(FunctionId(2), consumer.define(&joined));
    let attempts = vec![InputAttempt { attempt: done.attempt, output: done.output, host: 0 }];
    let inputs = vec![StageInputs { stage: 0, attempts, ..StageInputs::default() }];
    fixture.host.run_attempt(FunctionId(2), consumer.run(0, 0, &[0], inputs, 0));
    while fixture.host.store().usage().leases == 0 {
        tokio::task::yield_now().await;
    }
    stop(pid).await;
    fixture.host.remove_segments(&segments);
    for task in 1..20 {
        fixture.host.run_attempt(FunctionId(1), producer.run(task, 0, &[0], vec![], 0));
        let done = fixture.prepared().await;
        let usage = fixture.host.store().usage();
        assert!(usage.leases > 0 && usage.segments == 2, "the stopped reader's segment is kept: {usage:?}");
        fixture.host.remove_segments(&done.output.segments.iter().map(|segment| segment.id()).collect::<Vec<_>>());
    }
    fixture.host.kill_function(FunctionId(2), "its connection was cut");
    assert_eq!(fixture.lost().await.0, FunctionId(2));
    assert!(!is_alive(pid));
    let usage = fixture.host.store().usage();
    assert_eq!((usage.segments, usage.leases), (0, 0), "{usage:?}");
    fixture.end().await;
}

const ROOT_VARIABLE: &str = "ONWARD_TEST_ROOT";

/// Not a test: a host process with one function, for [`a_killed_host_takes_its_functions_with_it`] to kill.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "it is the main function of another test's host process"]
async fn host_process() {
    let Some(root) = std::env::var_os(ROOT_VARIABLE) else { return };
    let path = root.to_str().unwrap().to_owned();
    let mut fixture = Fixture::with(program(), |config| {
        config.segment_dir.clone_from(&path);
        config.spill_dir = path;
    });
    let pid = fixture.start(1, 1).await;
    let stage = Stage::new(1, 0, OutputKind::Preserve, 1);
    fixture.host.define_stage(FunctionId(1), stage.define(&plan(ENDLESS, 1).await));
    fixture.host.run_attempt(FunctionId(1), stage.run(0, 0, &[0], vec![], 0));
    // The fixture's own directory is not used and cannot be removed by a process that is killed.
    std::fs::remove_dir(fixture.root.path()).unwrap();
    let (aside, file) = (PathBuf::from(&root).join("pid.new"), PathBuf::from(&root).join("pid"));
    std::fs::write(&aside, pid.to_string()).unwrap();
    std::fs::rename(aside, file).unwrap();
    std::future::pending().await
}

/// A host that is killed leaves no function behind, and the next host removes its files.
#[tokio::test]
async fn a_killed_host_takes_its_functions_with_it() {
    let root = tempfile::tempdir().unwrap();
    let mut host = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tests::loss::host_process", "--ignored", "--nocapture"])
        .env(ROOT_VARIABLE, root.path())
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let pid_file = root.path().join("pid");
    let function = async {
        loop {
            match std::fs::read_to_string(&pid_file) {
                Ok(pid) => break pid.parse().unwrap(),
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    let function: u32 = tokio::time::timeout(PATIENCE, function).await.expect("a host process with a function");
    assert!(is_alive(function));
    host.kill().await.unwrap();
    let gone = async {
        while is_alive(function) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("the function ends with its host");
    std::fs::remove_file(pid_file).unwrap();
    assert!(std::fs::read_dir(root.path()).unwrap().count() > 0, "a killed host cleans nothing up");

    let path = root.path().to_str().unwrap().to_owned();
    let next = Fixture::with(program(), |config| {
        config.segment_dir.clone_from(&path);
        config.spill_dir = path;
    });
    next.end().await;
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0, "the next host cleans up");
}
