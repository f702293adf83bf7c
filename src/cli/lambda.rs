//! `onward lambda`.
//!
//! ```text
//!   Lambda --> event: a name, and what `onward host` is run with --> host: joins, works, leaves --> answer: why it ended
//!                  ^                                                                                     |
//!                  +---------------- the next invocation of the same environment -----------------------+
//! ```
//!
//! Everything is made when an invocation comes, and gone when it is answered: settings, the host's runtime and its threads, connections, keys,
//! the process that functions are forked from, directories. So an environment that is used again starts clean, nothing runs in one that
//! is frozen, and a snapshot (SnapStart) holds nothing that its copies must not share: no random number, no name, no connection, no time.

use std::time::{Duration, Instant, SystemTime};

use clap::Parser;
use lambda_runtime::{Diagnostic, LambdaEvent, service_fn};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::global::GlobalArgs;
use super::host::{self, HostArgs};
use super::{Cli, Command, Failure, runtime};

pub(super) const AFTER_HELP: &str = "\
AWS Lambda starts it, or whoever stands in for it (cargo lambda watch). An invocation is {\"name\": NAME, \"arguments\": [\"host\", \"--join\",
URL, \"--outbound\", ...], \"lifetime_ms\": N}: it runs that host until the coordinator tells it to leave or its time is over, and answers
{\"name\": NAME, \"ended\": WHY}. What is logged is said by --log or ONWARD_LOG of the function. See deploy/lambda.";

/// What the environment of a function says, and the library of Lambda panics without.
const VARIABLES: [&str; 4] = [
    "AWS_LAMBDA_RUNTIME_API",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_LAMBDA_FUNCTION_VERSION",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
];
/// At the end of an invocation, for what comes when the host has left: functions are reaped, directories removed, the answer is sent.
const MARGIN: Duration = Duration::from_secs(10);

#[derive(Debug, Deserialize)]
struct Event {
    name: String,
    arguments: Vec<String>,
    lifetime_ms: u64,
}

#[derive(Debug, Serialize)]
struct Ended {
    name: String,
    ended: &'static str,
}

pub(super) fn run(global: &GlobalArgs) -> Result<(), Failure> {
    if let Some(missing) = VARIABLES.iter().find(|name| std::env::var_os(name).is_none()) {
        let message =
            format!("{missing} is not set: `onward lambda` is started by AWS Lambda, or beside what stands in for it");
        return Err(Failure::Message(message));
    }
    global.start_log("info")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(lambda_runtime::run(service_fn(invoked))).map_err(|error| Failure::Message(error.to_string()))
}

async fn invoked(event: LambdaEvent<Event>) -> Result<Ended, Diagnostic> {
    let (event, context) = event.into_parts();
    let left = time_left(context.deadline(), SystemTime::now(), Duration::from_millis(event.lifetime_ms));
    // Its own runtime, which ends with it: whatever the host left running would go on in the next invocation.
    let ran = tokio::task::spawn_blocking(move || run_host(event, left)).await;
    ran.unwrap_or_else(|panicked| Err(failed("Onward.Panic", panicked)))
}

fn run_host(event: Event, left: Duration) -> Result<Ended, Diagnostic> {
    let begun = Instant::now();
    let Event { name, arguments, .. } = event;
    let (global, args) = parse(arguments)?;
    let config = global.config().map_err(|failure| failed("Onward.Settings", said(failure)))?;
    let (leave_after, end_after) = periods(left, Duration::from_millis(config.host_leave_timeout_ms));
    let runtime = runtime().map_err(|failure| failed("Onward.Host", said(failure)))?;
    let leaving = CancellationToken::new();
    let deadline = async {
        tokio::time::sleep(leave_after).await;
        tracing::info!(host = name, "the invocation is about to end: leaving when nothing of this host is needed");
        leaving.cancel();
        tokio::time::sleep(end_after - leave_after).await;
    };
    let served = runtime.block_on(host::serve(config, args, leaving.clone(), deadline));
    runtime.shutdown_timeout(Duration::from_secs(1));
    served.map_err(|failure| failed("Onward.Host", said(failure)))?;
    let ended = if begun.elapsed() < leave_after { "it was told to leave" } else { "its time was over" };
    Ok(Ended { name, ended })
}

/// The arguments of `onward host --outbound`, and nothing else.
fn parse(arguments: Vec<String>) -> Result<(GlobalArgs, HostArgs), Diagnostic> {
    let parsed = Cli::try_parse_from(std::iter::once("onward".to_owned()).chain(arguments));
    match parsed.map_err(|error| failed("Onward.Arguments", error))? {
        Cli { global, command: Command::Host(args) } if args.outbound => Ok((global, args)),
        _ => Err(failed("Onward.Arguments", "an invocation runs `host --outbound`: nobody can reach it")),
    }
}

/// What is left of an invocation that may last for `lifetime`.
fn time_left(deadline: SystemTime, now: SystemTime, lifetime: Duration) -> Duration {
    // Who stands in for Lambda may say a deadline that was long ago.
    deadline.duration_since(now).map_or(lifetime, |left| left.min(lifetime))
}

/// When a host with so much time begins to leave, and when it ends at once: it gets its time to leave, though not more than half of all.
fn periods(left: Duration, leave_timeout: Duration) -> (Duration, Duration) {
    let leave_after = left - (leave_timeout + MARGIN).min(left / 2);
    (leave_after, left - MARGIN.min(left / 4))
}

fn said(failure: Failure) -> String {
    match failure {
        Failure::Message(message) => message,
        Failure::Code(code) => format!("exit code {code}"),
    }
}

fn failed(kind: &str, why: impl ToString) -> Diagnostic {
    Diagnostic { error_type: kind.to_owned(), error_message: why.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_leaves_before_its_invocation_ends() {
        let seconds = Duration::from_secs;
        assert_eq!(periods(seconds(900), seconds(30)), (seconds(860), seconds(890)));
        assert_eq!(periods(seconds(900), seconds(3_600)), (seconds(450), seconds(890)), "half of it at most");
        assert_eq!(periods(seconds(8), seconds(30)), (seconds(4), seconds(6)));
        assert_eq!(periods(Duration::ZERO, seconds(30)), (Duration::ZERO, Duration::ZERO));
    }

    #[test]
    fn the_earlier_end_counts() {
        let (now, lifetime) = (SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000), Duration::from_secs(900));
        let left = |deadline: SystemTime| time_left(deadline, now, lifetime).as_secs();
        assert_eq!(left(now + Duration::from_secs(60)), 60);
        assert_eq!(left(now + Duration::from_secs(9_000)), 900);
        assert_eq!(left(SystemTime::UNIX_EPOCH + Duration::from_secs(600)), 900, "as cargo lambda has it");
    }

    #[test]
    fn an_invocation_runs_a_host_that_dials_out_and_nothing_else() {
        let parsed = |line: &str| parse(line.split(' ').map(str::to_owned).collect()).map(|(_, args)| args.outbound);
        assert_eq!(parsed("host --join grpc://10.0.0.1:50052 --outbound --name a --set vcpus=2"), Ok(true));
        for line in ["host --join grpc://10.0.0.1:50052 --advertise auto", "serve", "zygote", "host", "--help", ""] {
            let error = parsed(line).expect_err(line);
            assert_eq!(error.error_type, "Onward.Arguments", "{line}");
        }
    }
}
