//! Python clients: `adbc_driver_flightsql` and `pyarrow.flight` with the versions of tests/python/requirements.txt.
//!
//! They are installed once into a virtual environment below the target directory, named by what is in it.

use std::ffi::OsStr;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use datafusion::arrow::ipc::reader::FileReader;
use onward_tpch::{Answer, Comparison, Dataset, GenerateOptions, answers, compare, queries};
use tokio::process::Command;

use super::server::{TestServer, assert_idle, query};
use crate::support::root;

/// Installing may need the network.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(600);
const CHECK_TIMEOUT: Duration = Duration::from_secs(300);

pub fn python_dir() -> PathBuf {
    root().join("tests/python")
}

/// The environment's interpreter, after making the environment when it is not there.
pub async fn python() -> PathBuf {
    let requirements = python_dir().join("requirements.txt");
    let mut hash = DefaultHasher::new();
    std::fs::read(&requirements).expect("the requirements").hash(&mut hash);
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("python-{:016x}", hash.finish()));
    let (python, ready) = (root.join("bin/python"), root.join("ready"));
    std::fs::create_dir_all(&root).expect("a directory");
    // One test makes the environment, of this process or another; the others wait for it.
    let lock = File::create(root.join("lock")).expect("a file");
    let lock =
        tokio::task::spawn_blocking(move || lock.lock().map(|()| lock)).await.expect("no panic").expect("a lock");
    if !ready.exists() {
        let mut make = Command::new("python3");
        make.args(["-m", "venv"]).arg(&root);
        let mut install = Command::new(&python);
        install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]).arg(&requirements);
        for mut command in [make, install] {
            let said = run(&mut command, INSTALL_TIMEOUT).await.unwrap_or_else(|said| {
                let (root, requirements) = (root.display(), requirements.display());
                panic!(
                    "the Python clients cannot be installed. With network access, run\n  python3 -m venv {root} && \
                     {root}/bin/pip install -r {requirements} && touch {root}/ready\nIt failed with:\n{said}"
                )
            });
            drop(said);
        }
        File::create(&ready).expect("a file");
    }
    drop(lock);
    python
}

/// Runs a program to its end; what it said, as an error when it failed.
async fn run(command: &mut Command, limit: Duration) -> Result<String, String> {
    let child = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(limit, child).await;
    let output = output.map_err(|_| format!("no end after {limit:?}"))?.map_err(|error| error.to_string())?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(said) } else { Err(said) }
}

/// Runs one check of tests/python/clients.py.
async fn check(server: &TestServer, name: &str, arguments: &[&OsStr]) {
    let uri = format!("grpc://{}", server.address);
    let mut command = Command::new(python().await);
    command.arg(python_dir().join("clients.py")).args([uri.as_str(), name]).args(arguments);
    if let Err(said) = run(&mut command, CHECK_TIMEOUT).await {
        panic!("tests/python/clients.py {name}:\n{said}");
    }
}

macro_rules! checks {
    ($($name:ident)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            // A fetch that its client gives up before the server heard of it leaves a result that waits.
            let server = TestServer::start_with(|options| options.config.result_retention_ms = 10_000).await;
            check(&server, stringify!($name), &[]).await;
            assert_idle(&server.coordinator).await;
            server.stop().await;
        }
    )*};
}

checks! { adbc_queries adbc_catalog adbc_errors adbc_ends adbc_sessions pyarrow_queries }

/// Tokens as both clients send them.
#[tokio::test(flavor = "multi_thread")]
async fn tokens() {
    let dir = tempfile::tempdir().expect("a directory");
    let token_file = dir.path().join("token");
    std::fs::write(&token_file, "secret").expect("a file");
    let server = TestServer::start_with(|options| options.token_file = Some(token_file)).await;
    for name in ["adbc_token", "pyarrow_token"] {
        check(&server, name, &["secret".as_ref()]).await;
    }
    server.stop().await;
}

/// The 22 queries of TPC-H with 4 functions, through both clients, against the committed answers.
#[tokio::test(flavor = "multi_thread")]
async fn tpch_through_python() {
    const SCALE: f64 = 0.01;
    let server = TestServer::start().await;
    let data = server.dir.path().join("data");
    let dataset = Dataset::open_or_generate(&GenerateOptions::new(SCALE, &data)).expect("data");
    let mut client = server.client().await;
    for statement in dataset.registration().expect("statements") {
        query(&mut client, &statement).await.expect("a table");
    }
    let folder = server.dir.path().join("queries");
    std::fs::create_dir(&folder).expect("a directory");
    for number in 1..=22 {
        let sql = queries::sql(number, SCALE);
        std::fs::write(folder.join(format!("q{number:02}.sql")), sql.as_bytes()).expect("a file");
    }
    check(&server, "tpch", &[folder.as_os_str()]).await;
    for number in 1..=22 {
        let answer: Answer = answers::committed(number, SCALE).expect("readable").expect("committed");
        for client in ["adbc", "pyarrow"] {
            let file = File::open(folder.join(format!("q{number:02}.{client}.arrow"))).expect("rows");
            let batches: Vec<_> = FileReader::try_new(file, None).expect("Arrow").map(|b| b.expect("rows")).collect();
            let rows = compare::rows_of(&batches).expect("text");
            let found = compare::compare(number, &rows, &answer);
            assert!(!matches!(found, Comparison::Wrong(_)), "Q{number} through {client}: {found:?}");
        }
    }
    server.stop().await;
}
