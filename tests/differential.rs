//! The promise of one task ABI: every guest of the tree, run by the command in
//! both modes, does what `guest-tasks/manifest.json` says, and the same in both.

use crate::support::command::{Wrun, scratch};
use crate::support::manifest::{files, grants, guests, manifest, text, title};
use crate::support::{Schema, WAYS, tool};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use wrun::{Mode, Preemption};

/// What may differ between the modes, and why. Everything else must be equal,
/// but for [`without_innermost_offset`]. Each entry is a JSON pointer into the
/// report, and when it is left out.
const PERMITTED: [(&str, When, &str); 15] = [
    ("/mode", When::Always, "it is the difference"),
    ("/stats/queue_ns", When::Always, "a time"),
    ("/stats/start_ns", When::Always, "a time"),
    ("/stats/run_ns", When::Always, "a time"),
    ("/stats/total_ns", When::Always, "a time"),
    (
        "/stats/compile_ns",
        When::Always,
        "a time; and the second run finds the code in the cache",
    ),
    ("/stats/cpu_ns", When::Always, "a time"),
    ("/stats/worker_pid", When::Always, "only one has a worker"),
    ("/stats/start_method", When::Always, "only one has a worker"),
    ("/stats/usage", When::Always, "only one has a worker"),
    ("/jail", When::Always, "only one has a worker to put in it"),
    (
        "/stats/peak_memory_bytes",
        When::Deadline,
        "how far a task came before its deadline is chance",
    ),
    (
        "/stats/fuel",
        When::Deadline,
        "how far a task came before its deadline is chance",
    ),
    (
        "/stats/memory_growth_refused",
        When::Deadline,
        "how far a task came before its deadline is chance",
    ),
    (
        "/denied",
        When::Deadline,
        "how far a task came before its deadline is chance",
    ),
];

/// When a part of the report may differ.
#[derive(PartialEq)]
enum When {
    Always,
    /// The deadline ended the task.
    Deadline,
}

/// The other permitted difference, in what a trap says on stderr and in the
/// report: the code offset of the innermost frame. If a function traps with its first
/// instruction, the engine names the function where its code checks the epoch, and the
/// instruction where it does not, or where an epoch tick came between (in one of some hundred
/// runs).
fn without_innermost_offset(text: &str) -> String {
    let Some((before, frames)) = text.split_once("\n  at ") else {
        return text.to_owned();
    };
    let (innermost, outer) = frames.split_once('\n').unwrap_or((frames, ""));
    let name = innermost.split_once(" (+0x").map_or(innermost, |it| it.0);
    format!("{before}\n  at {name}\n{outer}")
}

/// What the two modes gave, without what may differ.
fn comparable(report: &Value) -> Value {
    let mut report = report.clone();
    let overdue = report.pointer("/outcome/limit") == Some(&json!("deadline"));
    for (pointer, when, _) in &PERMITTED {
        if (*when == When::Always || overdue)
            && let Some(value) = report.pointer_mut(pointer)
        {
            *value = Value::Null;
        }
    }
    if let Some(Value::String(message)) = report.pointer_mut("/outcome/message") {
        *message = without_innermost_offset(message);
    }
    report
}

#[test]
fn no_guest_is_forgotten_and_none_is_missing() {
    let guests = guests();
    let mut there = BTreeSet::new();
    let mut folders = vec![guests.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                // Toolchains put copies there.
                if entry.file_name() != "target" {
                    folders.push(path);
                }
            } else if path
                .extension()
                .is_some_and(|ending| ["wasm", "wat"].map(AsRef::as_ref).contains(&ending))
            {
                let path = path.strip_prefix(&guests).unwrap();
                there.insert(path.to_string_lossy().into_owned());
            }
        }
    }
    let mut wrong = String::new();
    let manifest = manifest();
    let named: BTreeSet<&str> = manifest.iter().map(|case| text(case, "guest")).collect();
    // A handler runs for a request.
    let served = [
        include_str!("clients.rs"),
        include_str!("http.rs"),
        include_str!("serve.rs"),
    ];
    for guest in &there {
        let is_served = served.iter().any(|tests| tests.contains(guest.as_str()));
        if !named.contains(guest.as_str()) && !is_served {
            let _ = writeln!(wrong, "no case runs {guest}");
        }
    }
    let mut titles = BTreeSet::new();
    for case in &manifest {
        let title = title(case);
        let guest = text(case, "guest");
        if case["built_on_demand"] != json!(true) && !there.contains(guest) {
            let _ = writeln!(wrong, "{title}: there is no {guest}");
        }
        let expected = [&case["input"]["file"], &case["expect"]["stdout"]["file"]];
        let folders = case["dirs"].as_array().into_iter().flatten();
        if case["built_on_demand"] != json!(true) {
            for file in files(case).filter(|file| !file.exists()) {
                let _ = writeln!(wrong, "{title}: there is no {}", file.display());
            }
        }
        for name in expected
            .into_iter()
            .chain(folders.map(|dir| &dir["host"]))
            .filter_map(Value::as_str)
        {
            if !guests.join(name).exists() {
                let _ = writeln!(wrong, "{title}: there is no {name}");
            }
        }
        if !titles.insert(title.clone()) {
            let _ = writeln!(wrong, "{title}: two cases have this name");
        }
    }
    assert!(wrong.is_empty(), "guest-tasks/manifest.json:\n{wrong}");
}

#[test]
fn every_guest_does_the_same_in_both_modes() {
    let manifest = manifest();
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    let skipped = Mutex::new(BTreeSet::new());
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        // Some cases sleep until their deadline: more threads than cores.
        for _ in 0..cores + 2 {
            scope.spawn(|| {
                while let Some(case) = manifest.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let guest = guests().join(text(case, "guest"));
                    let missing = files(case).find(|file| !file.exists());
                    if case["built_on_demand"] == json!(true)
                        && let Some(missing) = missing
                    {
                        skipped.lock().unwrap().insert(missing);
                        continue;
                    }
                    let wrong = problems(case, &guest);
                    if !wrong.is_empty() {
                        failures.lock().unwrap().push((title(case), wrong));
                    }
                }
            });
        }
    });
    let skipped = skipped.into_inner().unwrap();
    for guest in &skipped {
        tool::not_built(guest);
    }
    let mut failures = failures.into_inner().unwrap();
    failures.sort();
    let mut table = String::new();
    for (title, wrong) in &failures {
        let _ = writeln!(table, "{title}");
        for line in wrong {
            let _ = writeln!(table, "    {line}");
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {} cases:\n{table}",
        failures.len(),
        manifest.len()
    );
}

/// What one mode made of a case.
struct Seen {
    code: i32,
    stdout: Vec<u8>,
    stderr: String,
    report: Option<Value>,
    misbehaviour: Option<String>,
    /// What the task left in the folders it could write to.
    left: Vec<(String, Vec<u8>)>,
}

fn problems(case: &Value, guest: &Path) -> Vec<String> {
    let mut wrong = Vec::new();
    let [epoch, signal, process] = WAYS.map(|(mode, preemption)| {
        let seen = run(case, guest, mode, preemption);
        wrong.extend(
            against_expectation(case, &seen)
                .into_iter()
                .map(|what| format!("{mode}, {preemption}: {what}")),
        );
        seen
    });
    compare("thread", &epoch, &process, &mut wrong);
    compare("thread preempted by signals", &signal, &process, &mut wrong);
    wrong
}

/// Notes what a thread and a process made of a case that should be the same.
fn compare(name: &str, thread: &Seen, process: &Seen, wrong: &mut Vec<String>) {
    let differ = |what: &str, thread: &dyn std::fmt::Debug, process: &dyn std::fmt::Debug| {
        format!(
            "the modes differ in {what}: {name} {}, process {}",
            shortened(&format!("{thread:?}")),
            shortened(&format!("{process:?}"))
        )
    };
    if thread.code != process.code {
        wrong.push(differ("exit code", &thread.code, &process.code));
    }
    if thread.stdout != process.stdout {
        let lengths = (thread.stdout.len(), process.stdout.len());
        wrong.push(differ("length of stdout", &lengths.0, &lengths.1));
        wrong.push(differ(
            "stdout",
            &String::from_utf8_lossy(&thread.stdout),
            &String::from_utf8_lossy(&process.stdout),
        ));
    }
    if without_innermost_offset(&thread.stderr) != without_innermost_offset(&process.stderr) {
        wrong.push(differ("stderr", &thread.stderr, &process.stderr));
    }
    if thread.left != process.left {
        wrong.push(differ("files left", &thread.left, &process.left));
    }
    let (one, other) = (
        thread.report.as_ref().map(comparable),
        process.report.as_ref().map(comparable),
    );
    if one != other {
        wrong.push(differ("the report", &one, &other));
    }
}

fn run(case: &Value, guest: &Path, mode: Mode, preemption: Preemption) -> Seen {
    let scratch = scratch();
    let report = scratch.path().join("report.json");
    let mut wrun = Wrun::new().args(["--mode", mode.name(), "--preempt", preemption.name()]);
    wrun = wrun.arg("--report").arg(&report);
    let limits = &case["limits"];
    if let Some(timeout) = limits["timeout_ms"].as_u64() {
        wrun = wrun.arg(format!("--timeout={timeout}ms"));
    }
    for (key, flag) in [
        ("fuel", "--fuel"),
        ("max_memory", "--max-memory"),
        ("max_output", "--max-output"),
    ] {
        if let Some(limit) = limits[key].as_u64() {
            wrun = wrun.arg(format!("{flag}={limit}"));
        }
    }
    let (options, writable) = grants(case, scratch.path());
    wrun = wrun.args(options);
    wrun = match &case["input"] {
        Value::Null => wrun,
        Value::String(word) if word == "silent" => wrun.silent_stdin(),
        input => match (input["file"].as_str(), input["text"].as_str()) {
            (Some(file), None) => {
                wrun.stdin_from(crate::support::command::open(&guests().join(file)))
            }
            (None, Some(text)) => wrun.stdin(text),
            _ => panic!("{}: what is the input {input}?", title(case)),
        },
    };
    let args = case["args"].as_array().into_iter().flatten();
    let ran = wrun
        .arg(guest)
        .args(args.map(|arg| arg.as_str().unwrap()))
        .run();
    let report = fs::read(&report)
        .ok()
        .map(|bytes| serde_json::from_slice(&bytes).unwrap());
    let mut left = Vec::new();
    for folder in writable {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let bytes = fs::read(entry.path()).unwrap_or_else(|error| error.to_string().into());
            left.push((entry.file_name().to_string_lossy().into_owned(), bytes));
        }
    }
    left.sort();
    Seen {
        code: ran.code(),
        misbehaviour: ran.misbehaviour(),
        stdout: ran.stdout,
        stderr: ran.stderr,
        report,
        left,
    }
}

fn against_expectation(case: &Value, seen: &Seen) -> Vec<String> {
    let expect = &case["expect"];
    // A guest that panics says so on stderr: only other lines are of the host.
    let guest_panics = expect["stderr"]["contains"]
        .as_str()
        .is_some_and(|words| words.contains("panic"));
    let mut wrong: Vec<String> = seen
        .misbehaviour
        .iter()
        .filter(|_| !guest_panics)
        .cloned()
        .collect();
    let known = [
        "outcome",
        "detail",
        "exit_code",
        "stdout",
        "stderr",
        "message",
    ];
    for key in expect.as_object().into_iter().flatten().map(|(key, _)| key) {
        if !known.contains(&key.as_str()) {
            wrong.push(format!("this test does not know expect.{key}"));
        }
    }
    if json!(seen.code) != expect["exit_code"] {
        wrong.push(format!(
            "exit code {} instead of {}; stderr {}",
            seen.code,
            expect["exit_code"],
            shortened(&format!("{:?}", seen.stderr))
        ));
    }
    if let Some(report) = &seen.report
        && let Err(why) = Schema::load().check(report)
    {
        wrong.push(format!("the report is not as its schema says: {why}"));
    }
    let outcome = seen.report.as_ref().map(|report| &report["outcome"]);
    match (expect["outcome"].as_str(), outcome) {
        (Some("refused"), None) => {}
        (Some("refused"), Some(outcome)) => wrong.push(format!("it ran: {outcome}")),
        (_, None) => wrong.push("there is no report".into()),
        (_, Some(outcome)) => {
            if outcome["kind"] != expect["outcome"] {
                wrong.push(format!(
                    "outcome {outcome} instead of {}",
                    expect["outcome"]
                ));
            }
            let detail = match outcome["kind"].as_str() {
                Some("trapped") => &outcome["trap"],
                Some("limit-exceeded") => &outcome["limit"],
                _ => &Value::Null,
            };
            if !expect["detail"].is_null() && *detail != expect["detail"] {
                wrong.push(format!(
                    "{detail} instead of {}: {outcome}",
                    expect["detail"]
                ));
            }
        }
    }
    if let Some(why) = unlike(&seen.stdout, &expect["stdout"]) {
        wrong.push(format!("stdout {why}"));
    }
    if let Some(why) = unlike(seen.stderr.as_bytes(), &expect["stderr"]) {
        wrong.push(format!("stderr {why}"));
    }
    // wrun says it on stderr, and the report has it where there is one.
    let complaint: String = seen
        .stderr
        .split_inclusive('\n')
        .skip_while(|line| !line.starts_with("wrun: "))
        .collect();
    let recorded = outcome.and_then(|outcome| outcome["message"].as_str());
    for message in [Some(complaint.as_str()), recorded].into_iter().flatten() {
        if let Some(why) = unlike(message.as_bytes(), &expect["message"]) {
            wrong.push(format!("message {why}"));
        }
    }
    wrong
}

/// Why `bytes` are not what was expected; none when they are.
fn unlike(bytes: &[u8], expected: &Value) -> Option<String> {
    let shown = || shortened(&format!("{:?}", String::from_utf8_lossy(bytes)));
    let (kind, value) = match expected {
        Value::Null => return None,
        expected => expected.as_object()?.iter().next()?,
    };
    let value = value.as_str()?;
    match kind.as_str() {
        "text" if bytes == value.as_bytes() => None,
        "text" => Some(format!("is {} instead of {value:?}", shown())),
        "contains" if String::from_utf8_lossy(bytes).contains(value) => None,
        "contains" => Some(format!("is {}, without {value:?}", shown())),
        "file" if fs::read(guests().join(value)).unwrap() == bytes => None,
        "file" => Some(format!("is not {value} but {}", shown())),
        "sha256" => {
            let digest = sha256(bytes);
            (digest != value).then(|| format!("has SHA-256 {digest} instead of {value}"))
        }
        other => Some(format!("is compared by {other:?}, which is unknown")),
    }
}

/// By the guest that is tested for it: `digest`, which is compared with known
/// digests above.
fn sha256(bytes: &[u8]) -> String {
    let ran = Wrun::mode("thread")
        .arg(guests().join("digest/digest.wasm"))
        .stdin(bytes)
        .run();
    ran.text()
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .into()
}

fn shortened(text: &str) -> String {
    const MOST: usize = 400;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
        None => text.to_owned(),
    }
}
