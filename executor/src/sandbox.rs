//! What a function may do: compute, spill, and talk to its host.
//!
//! | what | by | who tries otherwise |
//! | --- | --- | --- |
//! | files and directories: those below its spill directory; others come as descriptors | Landlock | gets EACCES |
//! | no sockets, processes, programs; no other process's memory, no signals; no rights and owners of files | seccomp | is killed |
//! | no memory that the host's watchdog does not see | seccomp | is killed |
//! | no environment, no capabilities, no core dumps, a bound on descriptors | at its start | |
//! | memory | the host's watchdog ([`crate::host`]) | is killed |
//!
//! It is entered once the host has said where the function may spill, before there is a second thread or anything of a
//! query. What the kernel does not have is left out, and the host says so at its start ([`missing`]); what it has and refuses
//! ends the function. Whether a path exists, and how large what lies there is, a function can find out (`stat`).
//!
//! Memory is not limited by a cgroup: one charges shared memory to whoever touched it first, and so cached columns and
//! segments to functions that decoded or wrote them.

use std::collections::BTreeMap;
use std::ffi::c_char;
use std::path::Path;
use std::sync::LazyLock;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, make_bitflags,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// The kernel's interface that the rules are written for; older ones enforce what they know of it.
const LANDLOCK: ABI = ABI::V6;
/// Descriptors of one function. It closes those of segments when they are mapped.
const MOST_DESCRIPTORS: u64 = 16_384;

/// Why a function cannot be confined although the kernel could do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SandboxError {
    /// Landlock.
    #[error("Landlock: {0}")]
    Landlock(#[from] RulesetError),
    /// Its directory.
    #[error("Landlock: {0}")]
    Directory(#[from] landlock::PathFdError),
    /// The ruleset was taken and is not in force.
    #[error("Landlock: its rules are not in force")]
    NotEnforced,
    /// The filters could not be made.
    #[error("seccomp: {0}")]
    Filter(&'static BackendError),
    /// The one that names this process could not be made.
    #[error("seccomp: {0}")]
    OwnFilter(BackendError),
    /// The filters were refused.
    #[error("seccomp: {0}")]
    Seccomp(#[from] seccompiler::Error),
    /// Limits or capabilities.
    #[error("limits: {0}")]
    Limits(#[from] rustix::io::Errno),
}

/// What this kernel cannot enforce, for people.
pub(crate) fn missing() -> Vec<&'static str> {
    let mut missing = Vec::new();
    match landlock_abi() {
        ..1 => missing.push("Landlock is not there: functions can open files"),
        1..4 => missing.push("Landlock is old (network from Linux 6.7): seccomp alone keeps functions from it"),
        _ => {}
    }
    if !has_seccomp() {
        missing.push("seccomp is not there: functions can open sockets and start processes");
    }
    missing
}

fn landlock_abi() -> i64 {
    const VERSION: u32 = 1;
    // SAFETY: without attributes and with this flag the kernel answers its version and touches no memory.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<()>(), 0_usize, VERSION) }
}

fn has_seccomp() -> bool {
    let action = libc::SECCOMP_RET_KILL_PROCESS;
    // SAFETY: the kernel reads the action, which lives as long as the call.
    unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) == 0 }
}

/// Makes what all functions share, before any is forked.
pub(crate) fn prepare() {
    LazyLock::force(&FILTERS);
}

/// What can be given up right after the fork. This process must have one thread.
pub(crate) fn drop_privileges() -> Result<(), SandboxError> {
    clear_environment();
    let limit = |resource, most: u64| {
        let Rlimit { maximum, .. } = getrlimit(resource);
        let most = Some(maximum.map_or(most, |maximum| maximum.min(most)));
        setrlimit(resource, Rlimit { current: most, maximum: most })
    };
    limit(Resource::Core, 0)?;
    limit(Resource::Nofile, MOST_DESCRIPTORS)?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    Ok(())
}

/// Empties the environment, also where /proc shows it: it may hold the host's credentials.
fn clear_environment() {
    unsafe extern "C" {
        static mut environ: *mut *mut c_char;
    }
    // SAFETY: there is one thread, so nobody reads or changes the environment meanwhile; its strings end in 0 and are this
    // process's own, on its first stack or its heap.
    unsafe {
        let mut entry = environ;
        while !entry.is_null() && !(*entry).is_null() {
            std::ptr::write_bytes(*entry, 0, libc::strlen(*entry));
            entry = entry.add(1);
        }
        libc::clearenv();
    }
}

/// Confines this thread, and those that it starts, to `spill_dir` and the descriptors it has and is given.
pub(crate) fn enter(spill_dir: &Path) -> Result<(), SandboxError> {
    if landlock_abi() >= 1 {
        let files: BitFlags<AccessFs> = make_bitflags!(AccessFs::{
            ReadFile | WriteFile | ReadDir | RemoveFile | RemoveDir | MakeReg | MakeDir | Refer | Truncate
        });
        let confined = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(LANDLOCK))?
            .handle_access(AccessNet::from_all(LANDLOCK))?
            .scope(Scope::from_all(LANDLOCK))?
            .create()?
            .add_rule(PathBeneath::new(PathFd::new(spill_dir)?, files))?
            .restrict_self()?;
        if confined.ruleset == RulesetStatus::NotEnforced {
            return Err(SandboxError::NotEnforced);
        }
    }
    if has_seccomp() {
        for filter in FILTERS.as_ref().map_err(SandboxError::Filter)? {
            seccompiler::apply_filter(filter)?;
        }
        seccompiler::apply_filter(&own_signals().map_err(SandboxError::OwnFilter)?)?;
    }
    Ok(())
}

static FILTERS: LazyLock<Result<Vec<BpfProgram>, BackendError>> = LazyLock::new(filters);

/// The same number everywhere; new in Linux 6.6.
const SYS_FCHMODAT2: libc::c_long = 452;
/// TIOCSTI and TIOCLINUX: requests to a terminal that type into it.
const TYPING: [u64; 2] = [0x5412, 0x541c];
/// Calls of the x32 convention have numbers from here on, which no rule names.
#[cfg(target_arch = "x86_64")]
const X32_CALLS: u32 = 0x4000_0000;

/// Calls that no function makes, whatever their arguments.
const FORBIDDEN: &[libc::c_long] = &[
    // Programs and processes.
    libc::SYS_execve,
    libc::SYS_execveat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
    libc::SYS_unshare,
    libc::SYS_setns,
    // The network. Pairs of stream sockets, which reach nobody else, are left: runtimes wake threads with them.
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    // Other ways to them: a ring makes calls that no filter sees.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // Memory that is nobody's own.
    libc::SYS_memfd_create,
    libc::SYS_memfd_secret,
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_msgget,
    libc::SYS_semget,
    libc::SYS_mq_open,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_kcmp,
    // Rights, owners and times of files, which Landlock does not know of.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    SYS_FCHMODAT2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utime,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utimes,
    libc::SYS_utimensat,
    // The machine.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    libc::SYS_acct,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
];

/// One that kills, and one that says that `clone3` is not there: its flags lie in memory, where no filter sees them, and the
/// C library falls back to `clone`.
fn filters() -> Result<Vec<BpfProgram>, BackendError> {
    let arch = std::env::consts::ARCH.try_into()?;
    let only = |argument, operator, value| {
        SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Qword, operator, value)?])
    };
    let thread = libc::CLONE_THREAD as u64;
    let shared = (libc::MAP_SHARED | libc::MAP_ANONYMOUS) as u64;
    let mut rules: BTreeMap<_, _> = FORBIDDEN.iter().map(|call| (*call, vec![])).collect();
    rules.insert(libc::SYS_clone, vec![only(0, SeccompCmpOp::MaskedEq(thread), 0)?]);
    rules.insert(libc::SYS_mmap, vec![only(3, SeccompCmpOp::MaskedEq(shared), shared)?]);
    // Limits may be read.
    rules.insert(libc::SYS_prlimit64, vec![only(2, SeccompCmpOp::Ne, 0)?]);
    // A datagram socket sends to whoever has an address.
    let kind = 0xf;
    let others = (0..=kind).filter(|other| *other != libc::SOCK_STREAM as u64);
    let others = others.map(|other| only(1, SeccompCmpOp::MaskedEq(kind), other)).collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_socketpair, others);
    // Nothing is typed into the terminal of the server.
    let typing = TYPING.map(|request| only(1, SeccompCmpOp::Eq, request));
    rules.insert(libc::SYS_ioctl, typing.into_iter().collect::<Result<_, _>>()?);
    let kills = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::KillProcess, arch)?;
    let absent = SeccompAction::Errno(libc::ENOSYS as u32);
    let falls_back = SeccompFilter::new([(libc::SYS_clone3, vec![])].into(), SeccompAction::Allow, absent, arch)?;
    Ok(vec![
        kills.try_into()?,
        falls_back.try_into()?,
        #[cfg(target_arch = "x86_64")]
        x32(),
    ])
}

/// Signals go to this process only (`abort` sends one).
fn own_signals() -> Result<BpfProgram, BackendError> {
    let own = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, u64::from(std::process::id()))?;
    let rules = [(libc::SYS_tgkill, vec![SeccompRule::new(vec![own])?])].into();
    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::KillProcess, arch)?.try_into()
}

/// Kills for calls of another convention, which the kernel may know: the other filters do not see them.
#[cfg(target_arch = "x86_64")]
fn x32() -> BpfProgram {
    let step = |code: u32, jf, k| seccompiler::sock_filter { code: code as u16, jt: 0, jf, k };
    vec![
        // The number of the call comes first in what a filter sees.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 1, X32_CALLS),
        step(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_KILL_PROCESS),
        step(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ]
}
