//! `wrun map`: what it reads and writes, what becomes of inputs that fail, and how a batch ends.
//! What a journal promises is in `map_journal.rs`.

use crate::support::command::{Ran, Running, Wrun, scratch, write};
use crate::support::processes::leaves;
use crate::support::{MODES, eventually, repo};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

/// What should take no time at all, on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(60);

/// Returns its input, unless that begins with the letter of a misdeed.
pub(crate) const PICKY: &str = r#"(module
  (memory (export "memory") 1)
  (global $free (mut i32) (i32.const 16))
  (func (export "cabi_realloc") (param i32 i32 i32) (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (global.get $free))
    (global.set $free (i32.add (local.get $at) (local.get $size)))
    (local.get $at))
  (func $spin (param $turns i32)
    (loop $more
      (local.set $turns (i32.sub (local.get $turns) (i32.const 1)))
      (br_if $more (local.get $turns))))
  (func (export "run") (param $input i32) (param $length i32) (result i32)
    (local $first i32)
    (local.set $first (i32.load8_u (local.get $input)))
    (if (i32.eq (local.get $first) (i32.const 0x74)) (then unreachable)) ;; t
    (if (i32.eq (local.get $first) (i32.const 0x6c)) (then (loop $forever (br $forever)))) ;; l
    (if (i32.eq (local.get $first) (i32.const 0x6d)) ;; m
      (then
        (loop $more
          (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
        unreachable))
    (if (i32.eq (local.get $first) (i32.const 0x73)) (then (call $spin (i32.const 2000000)))) ;; s
    (i32.store offset=4 (i32.const 0) (local.get $input))
    (i32.store offset=8 (i32.const 0) (local.get $length))
    (i32.const 0)))"#;

pub(crate) fn map(mode: &str) -> Wrun {
    Wrun::new().args(["map", "--no-progress", "--mode", mode])
}

pub(crate) fn guest(name: &str) -> std::path::PathBuf {
    repo("guest-tasks").join(name)
}

/// Its records.
#[track_caller]
fn records(ran: &Ran) -> Vec<Value> {
    records_of(&ran.stdout)
}

#[track_caller]
fn records_of(bytes: &[u8]) -> Vec<Value> {
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    let parsed = lines.map(|line| serde_json::from_slice(line).expect("a record"));
    let records: Vec<Value> = parsed.collect();
    records
}

fn kinds(records: &[Value]) -> Vec<&str> {
    let kinds = records
        .iter()
        .map(|record| record["outcome"]["kind"].as_str());
    kinds.map(Option::unwrap).collect()
}

#[test]
fn every_kind_of_input_reaches_the_task() {
    for mode in MODES {
        let folder = scratch();
        let lines = write(folder.path(), "lines", "one\n\nthree");
        let echo = guest("echo/echo.wat");
        let ran = map(mode).arg("--lines").arg(&lines).arg(&echo).run();
        let all = records(ran.expect_code(0, mode));
        let outputs: Vec<_> = all
            .iter()
            .map(|it| it["output"].as_str().unwrap())
            .collect();
        assert_eq!(outputs, ["one", "", "three"], "{mode}");
        assert_eq!(all[2]["index"], 2);
        assert_eq!(all[2]["name"], format!("{}:3", lines.display()));
        assert!(all[2]["stats"]["run_ns"].is_u64(), "{mode}: {}", all[2]);

        let rows = write(
            folder.path(),
            "rows.jsonl",
            "{\"id\": 7, \"text\": \"a\"}\n{\"id\": 8}\n",
        );
        let args = ["--no-stats", "--field", "text", "--jsonl"];
        let ran = map(mode).args(args).arg(&rows).arg(&echo).run();
        let all = records(ran.expect_code(1, mode));
        assert_eq!(all[0]["row"], json!({"id": 7}), "{mode}");
        assert_eq!(all[0]["output"], "a", "{mode}");
        assert_eq!(all[1]["outcome"]["kind"], "not-run", "{mode}");
        assert!(all[0].get("stats").is_none(), "{mode}");

        let ran = map(mode).args(["--csv", "-", "--field", "b"]).arg(&echo);
        let ran = ran.stdin("a,b\n1,\"x\ny\"\n").run();
        let all = records(ran.expect_code(0, mode));
        assert_eq!(
            (&all[0]["output"], &all[0]["row"]),
            (&json!("x\ny"), &json!({"a": "1"}))
        );

        let text = "some words\n".repeat(3000);
        let big = write(folder.path(), "big", &text);
        let ran = map(mode).args(["--split", "4KiB", "--format", "bytes"]);
        let ran = ran.arg(&echo).arg(&big).run();
        assert_eq!(ran.expect_code(0, mode).text(), text, "{mode}");

        let list = format!("{}\0{}\0", lines.display(), big.display());
        let ran = map(mode).args(["-0", "--files-from", "-", "--format", "bytes"]);
        let ran = ran.arg(&echo).stdin(list).run();
        assert_eq!(
            ran.expect_code(0, mode).text(),
            format!("one\n\nthree{text}"),
            "{mode}"
        );
    }
}

#[test]
fn a_command_has_its_input_in_its_arguments() {
    for mode in MODES {
        let ran = map(mode).args(["--lines", "-", "--format", "bytes"]);
        let ran = ran
            .arg(guest("env/env.wasm"))
            .args(["--", "<{}>", "{/.}", "{//}", "{#}"]);
        let ran = ran.stdin("a/b.tar.gz\n").run();
        let text = ran.expect_code(0, mode).text();
        for word in ["<a/b.tar.gz>", "b.tar", "a", "1"] {
            assert!(text.contains(word), "{mode}: no {word} in {text}");
        }
        // And a file as a whole, of which only the name is an argument.
        let folder = scratch();
        write(folder.path(), "in.txt", "abc");
        let grant = format!("{}::/in:ro", folder.path().display());
        let ran = map(mode).args(["--format", "bytes", "--dir", &grant]);
        let ran = ran.arg(guest("digest/digest.wasm")).arg(folder.path());
        let ran = ran.args(["--", "/in/{/}"]).run();
        let text = ran.expect_code(0, mode).text();
        assert!(
            text.starts_with("ba7816bf") && text.ends_with("/in/in.txt\n"),
            "{mode}: {text}"
        );
    }
}

#[test]
fn order_is_that_of_the_inputs_unless_it_need_not_be() {
    for mode in MODES {
        let folder = scratch();
        let picky = write(folder.path(), "picky.wat", PICKY);
        let lines: Vec<_> = (0..60)
            .map(|at| {
                if at % 7 == 0 {
                    format!("s{at}")
                } else {
                    at.to_string()
                }
            })
            .collect();
        let input = lines.join("\n");
        for unordered in [false, true] {
            let ran = map(mode).args(["--lines", "-", "--jobs", "3"]);
            let ran = if unordered {
                ran.arg("--unordered")
            } else {
                ran
            };
            let ran = ran.arg(&picky).stdin(input.clone()).run();
            let mut all = records(ran.expect_code(0, mode));
            if unordered {
                all.sort_by_key(|record| record["index"].as_u64());
            }
            let outputs: Vec<_> = all
                .iter()
                .map(|it| it["output"].as_str().unwrap())
                .collect();
            assert_eq!(outputs, lines, "{mode} {unordered}");
        }
    }
}

/// One poisoned input in a thousand costs one record.
#[test]
fn a_poisoned_input_costs_its_own_record() {
    for mode in MODES {
        let folder = scratch();
        let picky = write(folder.path(), "picky.wat", PICKY);
        for (poison, kind, word) in [
            ("t", "trapped", "unreachable"),
            ("l", "limit-exceeded", "deadline"),
            ("m", "limit-exceeded", "memory"),
        ] {
            let lines = (0..1000).map(|at| {
                if at == 500 {
                    format!("{poison}\n")
                } else {
                    format!("{at}\n")
                }
            });
            let ran = map(mode).args(["--lines", "-", "--timeout", "10s", "--max-memory", "16MiB"]);
            let ran = ran.arg(&picky).stdin(lines.collect::<String>()).run();
            let all = records(ran.expect_code(1, mode));
            assert_eq!(all.len(), 1000, "{mode} {poison}");
            for (at, record) in all.iter().enumerate() {
                if at == 500 {
                    let outcome = &record["outcome"];
                    assert_eq!(outcome["kind"], kind, "{mode}: {record}");
                    assert!(outcome.to_string().contains(word), "{mode}: {record}");
                } else {
                    assert_eq!(
                        record["output"],
                        at.to_string(),
                        "{mode} {poison}: {record}"
                    );
                }
            }
            assert!(ran.stderr.contains("-:501: "), "{mode}: {ran}");
            assert!(ran.stderr.contains("1 of 1000 inputs"), "{mode}: {ran}");
        }
    }
}

/// What waits behind endless tasks has its whole time once it runs.
#[test]
fn a_task_that_waited_has_all_of_its_time() {
    for mode in MODES {
        let folder = scratch();
        let picky = write(folder.path(), "picky.wat", PICKY);
        let lines = "1\n".repeat(50) + "l\nl\n" + &"2\n".repeat(50) + "l\n3\n";
        let ran = map(mode).args(["--jobs", "1", "--timeout", "3s", "--lines", "-"]);
        let ran = ran.arg(&picky).stdin(lines.clone()).run();
        let all = records(ran.expect_code(1, mode));
        for (record, line) in all.iter().zip(lines.lines()) {
            let kind = if line == "l" {
                "limit-exceeded"
            } else {
                "completed"
            };
            assert_eq!(record["outcome"]["kind"], kind, "{mode}: {record}");
        }
        assert_eq!(all.len(), 104, "{mode}");
    }
}

#[test]
fn a_file_that_vanishes_has_its_record() {
    for mode in MODES {
        let folder = scratch();
        let picky = write(folder.path(), "picky.wat", PICKY);
        let files = ["l", "gone", "after"].map(|name| write(folder.path(), name, name));
        let out = folder.path().join("out");
        let running = map(mode)
            .args(["--jobs", "1", "--timeout", "4s", "--output"])
            .arg(&out);
        let running = running.arg(&picky).args(&files).start();
        // It was found, and waits for the endless one.
        eventually("it runs", SOON, || out.exists());
        std::thread::sleep(Duration::from_secs(1));
        fs::remove_file(&files[1]).unwrap();
        running.end().expect_code(1, mode);
        let all = records_of(&fs::read(&out).unwrap());
        assert_eq!(
            kinds(&all),
            ["limit-exceeded", "not-run", "completed"],
            "{mode}"
        );
    }
}

/// The worker of one input in a thousand is killed, from outside. In thread mode there is none.
#[test]
fn a_worker_that_dies_costs_its_own_record() {
    let folder = scratch();
    let picky = write(folder.path(), "picky.wat", PICKY);
    let out = folder.path().join("out");
    for retries in [0, 2] {
        let running = map("process").args(["--jobs", "1", "--unordered", "--lines"]);
        let mut lines: Vec<_> = (0..1000).map(|at| at.to_string()).collect();
        lines[500] = "l".into();
        let lines = write(folder.path(), "lines", lines.join("\n"));
        let running = running
            .arg(&lines)
            .args(["--retries", &retries.to_string()]);
        let running = running.arg("--output").arg(&out).arg(&picky).start();
        for killed in 0..=retries {
            // Those before it are there, and then its worker is all that runs.
            eventually("500 records", SOON, || {
                fs::read(&out)
                    .is_ok_and(|it| it.iter().filter(|byte| **byte == b'\n').count() >= 500)
            });
            let busy = busy_leaf(&running);
            let pid = rustix::process::Pid::from_raw(busy).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            if killed < retries {
                eventually("it is gone", SOON, || {
                    !leaves(running.pid()).contains(&busy)
                });
            }
        }
        running.end().expect_code(1, "process");
        let all = records_of(&fs::read(&out).unwrap());
        assert_eq!(all.len(), 1000);
        for record in all {
            match record["index"].as_u64() {
                Some(500) => {
                    assert_eq!(record["outcome"]["signal"], 9, "{record}");
                    assert_eq!(record["attempts"], retries + 1);
                }
                at => assert_eq!(record["output"], at.unwrap().to_string(), "{record}"),
            }
        }
    }
}

/// The process below that uses the processor.
fn busy_leaf(running: &Running) -> i32 {
    use crate::support::processes::processor_time;
    let mut busy = None;
    eventually("a worker computes", SOON, || {
        let before: Vec<_> = leaves(running.pid())
            .into_iter()
            .map(|pid| (pid, processor_time(pid)))
            .collect();
        std::thread::sleep(Duration::from_millis(200));
        busy = before
            .into_iter()
            .find(|(pid, time)| processor_time(*pid) > time + 5)
            .map(|(pid, _)| pid);
        busy.is_some()
    });
    busy.unwrap()
}

#[test]
fn unusable_inputs_have_their_records() {
    for mode in MODES {
        let folder = scratch();
        let path = |name: &str| folder.path().join(name);
        write(folder.path(), "good", "good");
        write(folder.path(), "empty", "");
        let name = std::ffi::OsStr::new("not-\u{fffd}");
        write(folder.path(), name.to_str().unwrap(), "x");
        let bytes = write(folder.path(), "bytes", b"\xff\xfe");
        File::create(path("huge"))
            .unwrap()
            .set_len(4 << 30)
            .unwrap();
        let inputs = [
            "good",
            "gone",
            "empty",
            "good",
            "bytes",
            "huge",
            "nothing-*",
        ];
        let ran = map(mode)
            .arg(guest("echo/echo.wat"))
            .args(inputs.map(path))
            .run();
        let all = records(ran.expect_code(1, mode));
        let expected = [
            "completed",
            "not-run",
            "completed",
            "completed",
            "completed",
            "limit-exceeded",
            "not-run",
        ];
        assert_eq!(kinds(&all), expected, "{mode}");
        assert_eq!(
            (&all[0]["output"], &all[3]["output"]),
            (&json!("good"), &json!("good"))
        );
        assert_eq!(all[4]["output_base64"], "//4=", "{mode}");
        assert_eq!(all[5]["input_bytes"], 4_u64 << 30, "{mode}");
        assert!(
            all[1]["outcome"]["message"]
                .as_str()
                .unwrap()
                .contains("No such file")
        );
        // As arguments they must be text.
        let ran = map(mode).args(["--lines"]).arg(&bytes);
        let ran = ran.arg(guest("env/env.wasm")).args(["--", "{}"]).run();
        let all = records(ran.expect_code(1, mode));
        assert!(
            all[0]["outcome"]["message"]
                .as_str()
                .unwrap()
                .contains("not UTF-8"),
            "{mode}"
        );
        // A command reads all of a large file.
        let ran = map(mode)
            .args(["--format", "bytes"])
            .arg(guest("digest/digest.wasm"));
        File::create(path("large"))
            .unwrap()
            .set_len(40 << 20)
            .unwrap();
        let ran = ran.arg(path("large")).run();
        let zeros = "84f0db36b4b20671b7ea8c1ed1c4d6e20e01b5ff3fbeb3d6e2fc5d1ee1ea6c27";
        let text = ran.expect_code(0, mode).text();
        assert_eq!(
            text.split(' ').next().unwrap().trim().len(),
            zeros.len(),
            "{mode}: {text}"
        );
    }
}

#[test]
fn each_output_is_a_file() {
    for mode in MODES {
        let folder = scratch();
        let inputs = folder.path().join("in");
        fs::create_dir_all(inputs.join("sub")).unwrap();
        for (name, text) in [("a.md", "# A"), ("sub/b.md", "# B"), ("sub/c.md", "")] {
            write(&inputs, name, text);
        }
        let out = folder.path().join("out");
        let mut command = map(mode).arg("--output-dir").arg(&out);
        command.command.current_dir(folder.path());
        let ran = command.args(["--output-name", "{.}.html", "--format", "records"]);
        let ran = ran.arg(guest("markdown/markdown.wasm")).arg("in").run();
        let all = records(ran.expect_code(0, mode));
        assert_eq!(all[1]["file"], "in/sub/b.html", "{mode}");
        assert!(all[1].get("output").is_none(), "{mode}");
        let b = fs::read_to_string(out.join("in/sub/b.html")).unwrap();
        assert!(b.contains("<h1>B</h1>"), "{mode}: {b}");
        assert_eq!(
            fs::read_dir(&out).unwrap().count(),
            1,
            "{mode}: only the results"
        );
        // One file cannot have two inputs, and no name leads out.
        let out = folder.path().join("out2");
        let ran =
            map(mode)
                .arg("--output-dir")
                .arg(&out)
                .args(["--output-name", "{/}", "--lines", "-"]);
        let ran = ran
            .arg(guest("echo/echo.wat"))
            .stdin("x/a\ny/a\n..\nb\n")
            .run();
        ran.expect_code(1, mode);
        assert!(
            ran.stderr.contains("another input of this run"),
            "{mode}: {ran}"
        );
        assert_eq!(fs::read_to_string(out.join("a")).unwrap(), "x/a", "{mode}");
        assert_eq!(fs::read_to_string(out.join("b")).unwrap(), "b", "{mode}");
        assert_eq!(fs::read_dir(&out).unwrap().count(), 2, "{mode}");
        // What fails leaves no file.
        let picky = write(folder.path(), "picky.wat", PICKY);
        let out = folder.path().join("out3");
        let ran = map(mode)
            .arg("--output-dir")
            .arg(&out)
            .args(["--lines", "-"]);
        ran.arg(&picky).stdin("1\nt\n").run().expect_code(1, mode);
        assert_eq!(fs::read_dir(&out).unwrap().count(), 1, "{mode}");
    }
}

#[test]
fn results_are_not_written_over_inputs() {
    let folder = scratch();
    let echo = guest("echo/echo.wat");
    let lines = write(folder.path(), "lines", "1\n");
    let refused = |args: &[&Path], word: &str| {
        let ran = map("thread").args(args).run();
        ran.expect_code(2, word);
        assert!(ran.stderr.contains(word), "{ran}");
        assert_eq!(fs::read(&lines).unwrap(), b"1\n");
    };
    let option = Path::new;
    refused(
        &[option("--output"), &lines, option("--lines"), &lines, &echo],
        "would overwrite",
    );
    refused(
        &[option("--trace"), &lines, &echo, &lines],
        "would overwrite",
    );
    let out = folder.path().join("out");
    let twice = [
        option("--output"),
        &out,
        option("--trace"),
        &out,
        &echo,
        &lines,
    ];
    refused(&twice, "would overwrite");
    // Results below a directory of inputs are not inputs.
    let ran = map("thread")
        .arg("--output")
        .arg(&out)
        .arg(&echo)
        .arg(folder.path())
        .run();
    ran.expect_code(0, "a directory");
    assert_eq!(records_of(&fs::read(&out).unwrap()).len(), 1);
    let ran = map("thread")
        .arg("--output-dir")
        .arg(folder.path())
        .arg(&echo)
        .arg(&lines)
        .run();
    ran.expect_code(1, "a file where results go");
    assert!(ran.stderr.contains("results of this run"), "{ran}");
    // Nor does an output replace what the run uses, by its name.
    let own = write(folder.path(), "names", "task.wat\nnames\nother\n");
    let task = write(folder.path(), "task.wat", fs::read(&echo).unwrap());
    let ran = map("thread").arg("--output-dir").arg(folder.path());
    let ran = ran
        .args(["--output-name", "{}", "--lines"])
        .arg(&own)
        .arg(&task)
        .run();
    ran.expect_code(1, "names of its own files");
    assert_eq!(
        ran.stderr.matches("is used by this run").count(),
        2,
        "{ran}"
    );
    assert_eq!(fs::read(&task).unwrap(), fs::read(&echo).unwrap());
    assert_eq!(fs::read(folder.path().join("other")).unwrap(), b"other");
}

#[test]
fn failed_inputs_end_a_batch_if_that_was_asked_for() {
    for mode in MODES {
        let folder = scratch();
        let picky = write(folder.path(), "picky.wat", PICKY);
        let lines = "1\nt\nt\n".to_owned() + &"2\n".repeat(5000);
        let run = |fail: &str| {
            let ran = map(mode).args(["--lines", "-", "--fail", fail, "--jobs", "1"]);
            ran.arg(&picky).stdin(lines.clone()).run()
        };
        assert_eq!(
            records(run("never").expect_code(1, mode)).len(),
            5003,
            "{mode}"
        );
        assert_eq!(records(run("2").expect_code(1, mode)).len(), 5003, "{mode}");
        assert_eq!(
            records(run("50%").expect_code(1, mode)).len(),
            5003,
            "{mode}"
        );
        for fail in ["fast", "1", "0.01%"] {
            let ran = run(fail);
            let count = records(ran.expect_code(3, mode)).len();
            assert!((2..5003).contains(&count), "{mode} {fail}: {count}");
            assert!(ran.stderr.contains("--fail"), "{mode}: {ran}");
        }
    }
}

#[test]
fn one_signal_lets_tasks_finish_and_two_end_them() {
    use rustix::process::Signal;
    for mode in MODES {
        let folder = scratch();
        let picky = write(folder.path(), "picky.wat", PICKY);
        let out = folder.path().join("out");
        let input = "1\n".to_owned() + &"s\n".repeat(100_000);
        let lines = write(folder.path(), "lines", input);
        let start = || {
            let _ = fs::remove_file(&out);
            let running = map(mode).arg("--output").arg(&out).arg("--lines");
            let running = running.arg(&lines).arg(&picky).start();
            let begun = || fs::metadata(&out).is_ok_and(|it| it.len() > 0);
            eventually("a record", SOON, begun);
            running
        };
        let running = start();
        running.signal(Signal::INT);
        let ran = running.end();
        ran.expect_code(130, mode);
        assert!(ran.stderr.contains("interrupted after"), "{mode}: {ran}");
        let all = records_of(&fs::read(&out).unwrap());
        assert!(kinds(&all).iter().all(|kind| *kind == "completed") && all.len() < 100_000);
        // An endless one does not finish.
        write(folder.path(), "lines", "1\n".repeat(100) + "l\n");
        let mut running = start();
        let ends = |bytes: Vec<u8>| bytes.iter().filter(|byte| **byte == b'\n').count();
        let lines = || fs::read(&out).map_or(0, ends);
        eventually("all but one", SOON, || lines() == 100);
        running.signal(Signal::TERM);
        assert!(
            !running.ends_within(Duration::from_millis(500)),
            "{mode}: it waits for it"
        );
        running.signal(Signal::INT);
        running.end().expect_code(143, mode);
        assert_eq!(records_of(&fs::read(&out).unwrap()).len(), 100, "{mode}");
    }
}

#[test]
fn a_pipe_gets_the_output_and_one_without_a_reader_holds_nobody() {
    let folder = scratch();
    let pipe = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let lines = write(folder.path(), "lines", "1\n2\n");
    let echo = guest("echo/echo.wat");
    for mode in MODES {
        let start = || {
            let map = map(mode).arg("--format=bytes").arg("--output").arg(&pipe);
            map.arg("--lines").arg(&lines).arg(&echo).start()
        };
        let running = start();
        assert_eq!(fs::read(&pipe).unwrap(), b"12", "{mode}");
        running.end().expect_code(0, mode);
        let mut running = start();
        assert!(!running.ends_within(Duration::from_millis(300)), "{mode}");
        running.signal(rustix::process::Signal::TERM);
        let ran = running.end();
        ran.expect_code(143, mode);
        assert!(ran.stderr.contains("had opened the pipe"), "{mode}: {ran}");
    }
}

#[test]
fn a_reader_that_is_gone_and_a_full_disk_end_a_batch() {
    for mode in MODES {
        let echo = guest("echo/echo.wat");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ran = map(mode)
            .args(["--lines", "-"])
            .arg(&echo)
            .stdout_to(writer);
        let lines = "1\n".repeat(10_000);
        ran.stdin(lines.clone()).run().expect_code(141, mode);
        let full = File::options().write(true).open("/dev/full").unwrap();
        let ran = map(mode).args(["--lines", "-"]).arg(&echo).stdout_to(full);
        let ran = ran.stdin(lines).run();
        ran.expect_code(125, mode);
        assert!(ran.stderr.contains("No space left"), "{mode}: {ran}");
    }
}

/// Nothing that waits for an input, a reader or a turn makes memory grow.
#[test]
fn memory_does_not_depend_on_the_number_of_inputs() {
    use crate::support::processes::peak_memory;
    let folder = scratch();
    let count = |inputs: usize| {
        let lines = write(folder.path(), "lines", "some line of text\n".repeat(inputs));
        let out = folder.path().join("out");
        let mut running = map("thread").arg("--output").arg(&out).arg("--lines");
        running = running.arg(&lines).arg(guest("echo/echo.wat"));
        let mut running = running.start();
        let mut peak = 0;
        while !running.ends_within(Duration::from_millis(10)) {
            peak = peak.max(peak_memory(running.pid()).unwrap_or(0));
        }
        running.end().expect_code(0, "lines");
        peak
    };
    let (few, many) = (count(10_000), count(200_000));
    assert!(
        many as f64 <= 1.5 * few as f64,
        "{few} with few, {many} with many"
    );
}

#[test]
fn a_batch_can_be_seen() {
    for mode in MODES {
        let folder = scratch();
        let picky = write(folder.path(), "picky.wat", PICKY);
        let trace = folder.path().join("trace.json");
        let ran = map(mode).args(["--summary", "--lines", "-", "--trace"]);
        let ran = ran.arg(&trace).arg(&picky).stdin("1\nt\ns\n22\n").run();
        ran.expect_code(1, mode);
        for words in [
            "4 inputs in",
            "completed       3",
            "trapped         1",
            "time, median",
            "slow ",
        ] {
            assert!(ran.stderr.contains(words), "{mode}: no {words}: {ran}");
        }
        let events: Vec<Value> = serde_json::from_slice(&fs::read(&trace).unwrap()).unwrap();
        let begins = |event: &&Value| event["ph"] == "b" && event["cat"] == "task";
        assert_eq!(events.iter().filter(begins).count(), 4, "{mode}");
        for event in &events {
            assert!(
                event["ph"] == "M" || event["ts"].as_f64() >= Some(0.0),
                "{event}"
            );
        }
        let ran = map(mode).args(["--dry-run", "--lines", "-"]).arg(&picky);
        let ran = ran.args(["--", "-x", "{}"]).stdin("a b\n").run();
        let all = records(ran.expect_code(0, mode));
        assert_eq!(all[0]["args"], json!(["-x", "a b"]), "{mode}");
    }
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    let echo = guest("echo/echo.wat");
    for (args, word) in [
        (&[][..], "no inputs"),
        (&["--lines", "-", "--jsonl", "-"], "cannot be used with"),
        (&["--lines", "-", "--field", "x"], "--field needs"),
        (&["--lines", "-", "--journal", "j"], "--journal needs"),
        (&["--lines", "-", "--resume"], "--journal"),
        (&["--split", "1MiB"], "--split needs"),
        (
            &["--lines", "-", "--max-total-memory", "1MiB"],
            "no task could run",
        ),
        (&["--lines", "-", "--fail", "soon"], "expected fast"),
    ] {
        let ran = map("thread").args(args).arg(&echo).run();
        ran.expect_code(2, &format!("{args:?}"));
        assert!(ran.stderr.contains(word), "{args:?}: {ran}");
    }
    let ran = map("thread").args(["--lines", "gone"]).arg(&echo).run();
    assert!(
        ran.expect_code(2, "no file")
            .stderr
            .contains("cannot read gone"),
        "{ran}"
    );
    let ran = map("thread").args(["--lines", "-", "gone.wasm"]).run();
    ran.expect_code(127, "no task");
}

/// The commands of a section of docs/map.md, as they stand.
fn commands(section: &str) -> Vec<String> {
    let page = fs::read_to_string(repo("docs/map.md")).unwrap();
    let (_, section) = page.split_once(&format!("### {section}\n")).expect(section);
    let section = section.split("\n##").next().unwrap();
    let blocks = section.split("```sh\n").skip(1);
    let blocks = blocks.map(|block| block.split("```").next().unwrap().to_owned());
    blocks.collect()
}

#[test]
fn recipes_do_what_they_say() {
    let folder = scratch();
    for task in ["image-filter", "digest", "env", "wordcount"] {
        let name = format!("{task}.wasm");
        fs::copy(guest(&format!("{task}/{name}")), folder.path().join(name)).unwrap();
    }
    fs::create_dir(folder.path().join("photos")).unwrap();
    for name in ["a.png", "b.png"] {
        let photo = folder.path().join("photos").join(name);
        fs::copy(guest("inputs/sunset.png"), photo).unwrap();
    }
    let articles = "{\"id\": 1, \"text\": \"abc\"}\n{\"id\": 2, \"text\": \"\"}\n";
    write(folder.path(), "articles.jsonl", articles);
    write(folder.path(), "words.txt", "one\ntwo words\n");
    let wrun = crate::support::wrun();
    let mut path = wrun.parent().unwrap().as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap());
    let run = |section: &str| {
        let mut texts = Vec::new();
        for script in commands(section) {
            let mut command = Wrun::program(Path::new("sh")).args(["-ec", &script]);
            command
                .command
                .current_dir(folder.path())
                .env("PATH", &path);
            texts.push(command.run().expect_code(0, &script).text());
        }
        texts
    };
    let thumbnails = run("Thumbnails of a folder");
    assert_eq!(thumbnails, ["a-small.png\nb-small.png\n"]);
    let small = fs::read(folder.path().join("thumbs/a-small.png")).unwrap();
    assert!(small.starts_with(b"\x89PNG"));
    let digests = run("A WASI tool over a JSONL dataset");
    let first = &records_of(digests[0].as_bytes())[0];
    assert_eq!(first["row"], json!({"id": 1}));
    assert!(
        first["output"].as_str().unwrap().starts_with("ba7816bf"),
        "{first}"
    );
    assert!(digests[1].contains("--article=1") && digests[1].contains("--article=2"));
    let counts = run("Resume after a crash");
    assert!(
        counts[1].starts_with("complete\n  ended           2 of 2\n"),
        "{counts:?}"
    );
    let once = fs::read(folder.path().join("counts.jsonl")).unwrap();
    assert_eq!(records_of(&once)[1]["output"], "0 2 9\n");
    run("Resume after a crash");
    assert_eq!(fs::read(folder.path().join("counts.jsonl")).unwrap(), once);
}

/// Inputs for ever, which count how many were taken.
struct Endless(std::sync::Arc<std::sync::atomic::AtomicU64>);

impl futures_core::Stream for Endless {
    type Item = Result<wrun_map::Input, wrun_map::Error>;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        let at = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        // The first is endless, all others end at once.
        let line = if at == 0 {
            "l".to_owned()
        } else {
            at.to_string()
        };
        std::task::Poll::Ready(Some(Ok(wrun_map::Input::bytes("", line))))
    }
}

/// The library takes no more than it may, whatever is slow, and leaves nothing behind.
#[test]
fn a_stream_of_inputs_is_held_back_and_can_be_dropped() {
    use crate::support::{BOTH, builder, wat};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use wrun_map::{Local, Map, Plan, next};
    for mode in BOTH {
        let runner = Arc::new(builder(mode).max_running(4).build().unwrap());
        let picky = wat(&runner, "picky", PICKY);
        let tokio = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let place = || {
            let picky = picky.clone();
            Local::new(runner.clone(), move || wrun::Task::new(&picky))
        };
        tokio.block_on(async {
            let taken = Arc::new(AtomicU64::new(0));
            let map = Map::new(place(), Plan::new()).in_flight(3).window(20);
            let mut records = map.run(Endless(taken.clone()));
            // In order, the first holds back all others; and waiting for it can be given up.
            let waited = tokio::time::timeout(Duration::from_secs(2), next(&mut records)).await;
            assert!(waited.is_err(), "{mode}: the first is endless");
            assert_eq!(taken.load(Ordering::Relaxed), 20, "{mode}");
            assert_eq!(records.in_flight(), 1, "{mode}");
            drop(records);
            let taken = Arc::new(AtomicU64::new(0));
            let map = Map::new(place(), Plan::new()).in_flight(3).ordered(false);
            let mut records = map.run(Endless(taken.clone()));
            for _ in 0..200 {
                let record = next(&mut records).await.unwrap().unwrap();
                assert!(record.is_completed() && record.index > 0, "{mode}");
            }
            assert!(taken.load(Ordering::Relaxed) <= 204, "{mode}: {taken:?}");
            records.stop();
        });
        drop(tokio);
        // What was dropped has ended: the runner has nothing to wait for.
        eventually("no task", SOON, || runner.stats().running == 0);
    }
}
