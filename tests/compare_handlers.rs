//! `wrun compare` for handlers of HTTP requests: by a request, in both modes, and what a fault
//! costs the clients of others.

use crate::compare::{comparison, row};
use crate::support::command::{Wrun, scratch, write};
use crate::support::{BOTH, Schema, alone, repo};
use serde_json::Value;
use std::time::Duration;
use wrun::Mode;
use wrun_compare::{Fault, Finding, Measure, Policy, Verdict};

#[test]
fn a_handler_is_compared_by_a_request() {
    alone(
        "compare_handlers::a_handler_is_compared_by_a_request",
        || {
            let measures = [
                Measure::Cold,
                Measure::Warm,
                Measure::Throughput,
                Measure::Latency,
                Measure::Cpu,
            ];
            let results = comparison("http-hello/http-hello.wasm")
                .measures(measures)
                .budget(Duration::from_secs(6))
                .run()
                .unwrap();
            assert_eq!(results.verdict, Verdict::Comparable, "{results:?}");
            let subject = &results.subject;
            assert_eq!(subject.request.as_deref(), Some("GET http://localhost/"));
            assert_eq!((subject.status, subject.output_bytes), (Some(200), 6));
            for measure in measures {
                for mode in BOTH {
                    let row = row(&results, measure, mode);
                    // Floors of processes answer one at a time.
                    let has_floor = measure != Measure::Latency || mode == Mode::Thread;
                    let what = format!("{} in {mode}: {:?}", measure.name(), results.notes);
                    assert!(!row.value.is_empty(), "{what}");
                    assert_eq!(row.floor.is_some(), has_floor, "{what}");
                }
            }
            for policy in [Policy::Instance, Policy::Spare, Policy::Reuse] {
                let rows = results.cost.iter().filter(|row| row.policy == Some(policy));
                let mut latency = rows.filter(|row| row.measure == Measure::Latency);
                assert!(
                    latency.next().is_some_and(|row| row.at > Some(1)),
                    "{}",
                    policy.name()
                );
            }
            let page = results.to_html();
            assert!(page.contains("A request while others are answered"));
        },
    );
}

#[test]
fn what_a_fault_costs_the_requests_of_others() {
    alone(
        "compare_handlers::what_a_fault_costs_the_requests_of_others",
        || {
            let faults = [Fault::Trap, Fault::EndlessLoop, Fault::Segfault];
            let results = comparison("http-hello/http-hello.wasm")
                .measures([])
                .faults(faults)
                .run()
                .unwrap();
            assert_eq!(results.isolation.len(), 6);
            for row in &results.isolation {
                let what = format!("{} in {}", row.fault.name(), row.mode);
                let Finding::Measured(seen) = &row.finding else {
                    panic!("{what}: {:?}", row.finding);
                };
                let requests = seen.requests.expect(&what);
                assert!(
                    requests.answered >= requests.clients,
                    "{what}: {requests:?}"
                );
                let dies = row.fault == Fault::Segfault && row.mode == Mode::Thread;
                assert_eq!(seen.held, !dies, "{what}: {seen:?}");
                let lost = if dies { requests.clients } else { 0 };
                assert_eq!(requests.lost, lost, "{what}: {requests:?}");
            }
            let page = results.to_html();
            assert!(page.contains(" requests lost"), "{page}");
        },
    );
}

#[test]
fn requests_on_the_command_line() {
    let folder = scratch();
    let json = folder.path().join("compared.json");
    let digest = repo("guest-tasks/http-digest/http-digest.wasm");
    let input = write(folder.path(), "body", "abc");
    let ran = Wrun::new()
        .args(["compare", "--runs", "2", "--budget", "1s", "--only", "warm"])
        .args(["--only", "trap", "--request", "PUT /"])
        .arg("--input")
        .arg(&input)
        .arg("--json")
        .arg(&json)
        .arg(&digest)
        .run();
    ran.expect_code(0, "compare");
    let shown = ran.text();
    assert!(shown.contains("PUT http://localhost/: 200"), "{shown}");
    assert!(shown.contains("3 B in"), "{shown}");
    let result = std::fs::read(&json).unwrap();
    let result: Value = serde_json::from_slice(&result).unwrap();
    Schema::of("compare.schema.json").check(&result).unwrap();
    let command = result["command"].as_str().unwrap();
    assert!(command.contains("--request 'PUT /'"), "{command}");
    // What it answers is compared, not only that it does.
    let hostile = repo("guest-tasks/http-hostile/http-hostile.wasm");
    for (path, code, why) in [
        ("/trap", 1, "cannot be compared: trap"),
        ("/status?code=404", 0, "the status of its response is 404"),
    ] {
        let ran = Wrun::new()
            .args(["compare", "--runs", "1", "--budget", "1s", "--only", "warm"])
            .args(["--request", path])
            .arg(&hostile)
            .run();
        ran.expect_code(code, path);
        assert!(ran.text().contains(why), "{path}: {ran}");
    }
    let ran = Wrun::new()
        .args(["compare", "--request", "GET /"])
        .arg(repo("guest-tasks/echo/echo.wat"))
        .run();
    ran.expect_code(2, "no handler");
    assert!(ran.stderr.contains("does not answer any"), "{ran}");
}
