//! A confined session stays in its directories.

use onward_planner::error::classify;
use onward_wire::ErrorKind;

use super::{Fixture, lines, run};

#[tokio::test]
async fn a_confined_session_reads_and_writes_below_its_directories_only() {
    let f = Fixture::new();
    f.write("in/a.csv", "a\n1\n");
    f.write("out/secret.csv", "a\n2\n");
    std::os::unix::fs::symlink(f.path("out/secret.csv"), f.path("in/link.csv")).unwrap();
    std::os::unix::fs::symlink(f.path("out"), f.path("in/dir")).unwrap();
    f.run(&format!("create external table secret stored as csv location '{}'", f.path("out/secret.csv").display()))
        .await
        .unwrap();
    let confined = f.confined(&[f.path("in")]);
    assert_eq!(lines(&run(&confined, "select * from 'in/a.csv'", None).await.unwrap()), ["1"]);
    assert_eq!(lines(&run(&confined, "select * from 'in/*.csv'", None).await.unwrap()), ["1"], "links are not listed");
    run(&confined, "copy (select 1 as a) to 'in/new.csv'", None).await.unwrap();
    run(&confined, "create table m as select 1 as a", None).await.unwrap();
    assert_eq!(lines(&run(&confined, "select * from m", None).await.unwrap()), ["1"], "managed tables are allowed");
    let denied = [
        "select * from 'out/secret.csv'",
        "select * from 'in/link.csv'",
        "select * from 'in/dir/secret.csv'",
        "select * from 'in/../out/secret.csv'",
        "select * from '/etc/passwd.csv'",
        "select * from secret",
        "create external table t stored as csv location 'out/'",
        "copy (select 1 as a) to 'out/x.csv'",
        "copy (select 1 as a) to 'in/dir/x.csv'",
        "copy (select 1 as a) to '/tmp/onward-denied/' stored as csv",
    ];
    for sql in denied {
        let error = run(&confined, sql, None).await.map(|rows| lines(&rows)).unwrap_err();
        assert_eq!(classify(&error).kind(), ErrorKind::Denied, "{sql}: {error}");
    }
    assert!(!f.path("out/x.csv").exists());
}

#[tokio::test]
async fn files_of_the_data_directory_are_not_written_by_hand() {
    let f = Fixture::new();
    let target = f.root.path().join("data/tables/x.csv");
    let error = f.error(&format!("copy (select 1 as a) to '{}'", target.display())).await;
    assert!(error.message.contains("data directory"), "{error}");
}
