//! Functions of a hostile build: SQL calls `abs`, and in them that does something else, which its argument chooses.

use datafusion::arrow::array::Int64Array;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Result as DfResult, ScalarValue, exec_datafusion_err};
use datafusion::logical_expr::{ColumnarValue, ScalarUDF, Volatility, create_udf};

use super::*;

/// What a hostile function may try.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(i64)]
enum Crime {
    /// Ends with what the system said.
    ReadFile,
    WriteFile,
    ListDirectory,
    /// Ends with the number of variables.
    ReadEnvironment,
    /// Is killed by the kernel.
    OpenSocket,
    Fork,
    StartProgram,
    SharedMemory,
    SignalHost,
    ReadHostMemory,
    OtherRing,
    ChangeRights,
    Datagrams,
    KillHost,
    OtherConvention,
    /// Is killed by the host.
    TakeMemory,
}

use Crime::*;

/// `abs` of a hostile build. What it could do, it says in an error.
fn hostile() -> ScalarUDF {
    let commit = |arguments: &[ColumnarValue]| -> DfResult<ColumnarValue> {
        let number = match &arguments[0] {
            ColumnarValue::Array(array) => array.as_any().downcast_ref::<Int64Array>().map(|array| array.value(0)),
            ColumnarValue::Scalar(ScalarValue::Int64(value)) => *value,
            ColumnarValue::Scalar(_) => None,
        };
        let done = commit(number.unwrap_or_default());
        Err(exec_datafusion_err!("did it: {done}"))
    };
    create_udf("abs", vec![DataType::Int64], DataType::Int64, Volatility::Volatile, Arc::new(commit))
}

fn commit(crime: i64) -> String {
    let is = |other: Crime| crime == other as i64;
    if is(ReadFile) {
        return format!("{:?}", std::fs::read("/proc/version"));
    } else if is(WriteFile) {
        return format!("{:?}", std::fs::write(std::env::temp_dir().join("onward-hostile"), "x"));
    } else if is(ListDirectory) {
        return format!("{:?}", std::fs::read_dir("/").map(|entries| entries.count()));
    } else if is(ReadEnvironment) {
        return format!("{} variables", std::env::vars_os().count());
    } else if is(OpenSocket) {
        return format!("{:?}", std::net::TcpListener::bind("127.0.0.1:0"));
    } else if is(StartProgram) {
        return format!("{:?}", std::process::Command::new("/bin/true").status());
    } else if is(ChangeRights) {
        let public = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        return format!("{:?}", std::fs::set_permissions("/", public));
    } else if is(Datagrams) {
        return format!("{:?}", std::os::unix::net::UnixDatagram::pair());
    } else if is(OtherRing) {
        // SAFETY: a null pointer is refused, if the call is made at all.
        return unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, std::ptr::null::<()>()) }.to_string();
    } else if is(TakeMemory) {
        let mut taken: Vec<Vec<u8>> = Vec::new();
        loop {
            taken.push(vec![1; 16 << 20]);
        }
    }
    // SAFETY: what comes of them is not used.
    let result = unsafe {
        if is(Fork) {
            i64::from(libc::fork())
        } else if is(SharedMemory) {
            let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
            libc::mmap(std::ptr::null_mut(), 1 << 30, libc::PROT_WRITE, flags, -1, 0) as i64
        } else if is(KillHost) {
            libc::syscall(libc::SYS_tgkill, libc::getppid(), libc::getppid(), libc::SIGKILL)
        } else if is(OtherConvention) {
            // getpid
            libc::syscall(0x4000_0000 | 39)
        } else if is(SignalHost) {
            i64::from(libc::kill(libc::getppid(), 0))
        } else {
            let mut there = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 1 };
            libc::process_vm_readv(libc::getppid(), &there.clone(), 1, &raw mut there, 1, 0) as i64
        }
    };
    result.to_string()
}

/// Not a test: `main` of a zygote of the hostile build.
#[test]
#[ignore = "it is the main function of other tests' zygotes"]
fn hostile_zygote_process() {
    if std::env::var_os(ZYGOTE_VARIABLE).is_some() {
        let registry = crate::function::Registry::build().with_scalar(hostile());
        let code = crate::zygote::fork_on_request(|socket| crate::function::run(socket, registry));
        std::process::exit(i32::from(code != std::process::ExitCode::SUCCESS));
    }
}

/// Runs it in function 1, beside another one, which must not notice.
async fn try_to(crime: Crime) -> (Fixture, Result<String, String>) {
    let mut fixture = Fixture::with(zygote_of("hostile::hostile_zygote_process"), |_| {});
    fixture.host.start_function(FunctionId(1), 1, 1 << 20);
    assert!(matches!(fixture.event().await, HostEvent::FunctionReady { .. }));
    let bystander = fixture.start(2, 1).await;
    let stage = Stage::new(1, 0, OutputKind::Preserve, 1);
    let sql = format!("select abs(value) from range({0}, {0} + 1)", crime as i64);
    fixture.host.define_stage(FunctionId(1), stage.define(&plan(&sql, 1).await));
    fixture.host.run_attempt(FunctionId(1), stage.run(0, 0, &[0], vec![], 1 << 16));
    let came = match fixture.event().await {
        HostEvent::AttemptFailed { error, .. } => Ok(error.message),
        HostEvent::FunctionLost { function: FunctionId(1), reason } => Err(reason),
        other => panic!("{crime:?}: {other:?}"),
    };
    let harmless = Stage::new(2, 0, OutputKind::Preserve, 1);
    let rows = plan("select value from range(0, 10)", 1).await;
    fixture.host.define_stage(FunctionId(2), harmless.define(&rows));
    fixture.host.run_attempt(FunctionId(2), harmless.run(0, 0, &[0], vec![], 1 << 16));
    assert_eq!(fixture.prepared().await.output.rows(), 10, "{crime:?}");
    assert!(is_alive(bystander));
    (fixture, came)
}

/// Files that the host did not give it, and variables of its host, are not there for a function.
#[tokio::test]
async fn a_hostile_function_sees_no_file_and_no_environment() {
    for crime in [ReadFile, WriteFile, ListDirectory, ReadEnvironment] {
        let (fixture, came) = try_to(crime).await;
        let said = came.unwrap_or_else(|reason| panic!("{crime:?}: {reason}"));
        let expected = if crime == ReadEnvironment { "did it: 0 variables" } else { "PermissionDenied" };
        assert!(said.contains(expected), "{crime:?}: {said}");
        fixture.end().await;
    }
    assert!(!std::env::temp_dir().join("onward-hostile").exists());
}

/// Sockets, processes, other processes, and memory that its host would not see end it.
#[tokio::test]
async fn a_hostile_function_is_killed_for_a_forbidden_call() {
    let mut crimes = vec![OpenSocket, Fork, StartProgram, SharedMemory, SignalHost, ReadHostMemory, OtherRing];
    crimes.extend([ChangeRights, Datagrams, KillHost]);
    if cfg!(target_arch = "x86_64") {
        crimes.push(OtherConvention);
    }
    for crime in crimes {
        let (fixture, came) = try_to(crime).await;
        let reason = came.err().unwrap_or_else(|| panic!("{crime:?} was possible"));
        assert!(reason.contains("SIGSYS") && reason.contains("may not make"), "{crime:?}: {reason}");
        fixture.end().await;
    }
}

/// Memory that no operator accounts for is seen from outside.
#[tokio::test]
async fn a_hostile_function_that_takes_too_much_memory_is_killed() {
    let (fixture, came) = try_to(TakeMemory).await;
    let reason = came.err().unwrap();
    assert!(reason.contains("MiB of memory") && reason.contains("signal: 9"), "{reason}");
    fixture.end().await;
}

/// /proc shows nothing of the host's environment, which may hold credentials, and no descriptor but its own.
#[tokio::test]
async fn a_function_has_no_environment_and_one_socket() {
    let mut fixture = Fixture::new();
    let pid = fixture.start(1, 1).await;
    // It is confined before it runs anything.
    let stage = Stage::new(1, 0, OutputKind::Preserve, 1);
    fixture.host.define_stage(FunctionId(1), stage.define(&plan("select 1", 1).await));
    fixture.host.run_attempt(FunctionId(1), stage.run(0, 0, &[0], vec![], 1 << 16));
    fixture.prepared().await;
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    assert!(environment.iter().all(|byte| *byte == 0), "{}", String::from_utf8_lossy(&environment));
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    // Its messages for people go where the host's go.
    let is_own = |entry: &std::fs::DirEntry| !["0", "1", "2"].iter().any(|name| entry.file_name() == *name);
    let open = open.map(Result::unwrap).filter(is_own);
    let open: Vec<_> = open.map(|entry| std::fs::read_link(entry.path()).unwrap()).collect();
    let foreign = |path: &&std::path::PathBuf| path.is_absolute() && !path.starts_with("/dev");
    assert_eq!(open.iter().find(foreign), None, "{open:?}");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    for line in ["CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{line}: {status}");
    }
    fixture.end().await;
}
