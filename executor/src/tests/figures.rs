//! Figures, printed and never asserted: `cargo test --release -p onward-executor -- --ignored figures --nocapture`.

use std::time::Instant;

use super::*;

fn report(what: &str, mut micros: Vec<u128>) {
    micros.sort_unstable();
    let at = |percent: usize| micros[(micros.len() - 1) * percent / 100];
    println!("{what}: p50 {} us, p90 {} us, min {} us, n {}", at(50), at(90), micros[0], micros.len());
}

/// From the launch of a process to its hello, and a small attempt in a warm function from command to event.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "it prints figures"]
async fn figures() {
    let mut fixture = Fixture::new();
    let mut started = Vec::new();
    for id in 1..=10 {
        let start = Instant::now();
        fixture.start(id, 1).await;
        started.push(start.elapsed().as_micros());
    }
    report("function start to ready", started);

    let sql = "select value % 25 as key, count(*), sum(value) from range(0, 1000) group by 1 order by 1";
    for vcpus in [1, 2] {
        let function = FunctionId(100 + vcpus);
        fixture.start(function.0, vcpus as usize).await;
        for (query, inline) in [(1, 64 << 10), (2, 0)] {
            let stage = Stage::new(query, 0, OutputKind::Preserve, 1);
            let plan = plan(sql, vcpus as usize).await;
            let definition = stage.define(&plan);
            println!("plan of {} bytes", definition.plan.len());
            let (mut whole, mut inside) = (Vec::new(), Vec::new());
            for task in 0..1000 {
                let start = Instant::now();
                if task % 2 == 0 {
                    fixture.host.define_stage(function, definition.clone());
                }
                fixture.host.run_attempt(function, stage.run(task, 0, &[0], vec![], inline));
                let done = fixture.prepared().await;
                whole.push(start.elapsed().as_micros());
                inside.push(u128::from(done.elapsed_us));
                let segments: Vec<_> = done.output.segments.iter().map(|segment| segment.id()).collect();
                fixture.host.remove_segments(&segments);
            }
            let place = if inline == 0 { "segment" } else { "inline" };
            report(&format!("attempt, {vcpus} vcpus, {place}"), whole);
            report("  of it inside the function", inside);
        }
    }
    fixture.end().await;
}
