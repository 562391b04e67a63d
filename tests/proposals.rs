//! What of WebAssembly is a task: each proposal, and each limit of what a file declares,
//! with the same answer in both modes, from `inspect` and from `compile`.

use crate::support::command::{Wrun, scratch};
use crate::support::{BOTH, MODES, builder, runner};
use wrun::{ErrorKind, Limit, Limits, Outcome, Task};

/// What becomes of a file.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// It runs to its end.
    Runs,
    /// It is not a task; the message contains this.
    Refused(&'static str),
    /// It exceeds a limit at once.
    Exceeds(Limit),
}

use Fate::{Exceeds, Refused, Runs};

const ONE_THREAD: &str = "a task has one thread";

/// A name, what becomes of it, and the file: fields and a function's body of a module, or
/// a whole component.
const TABLE: &[(&str, Fate, &str, &str)] = &[
    ("mvp", Runs, "", "nop"),
    (
        "sign extension",
        Runs,
        "",
        "(drop (i32.extend8_s (i32.const 1)))",
    ),
    (
        "multi-value",
        Runs,
        "(func $f (result i32 i32) (i32.const 1) (i32.const 2))",
        "(call $f) drop drop",
    ),
    (
        "bulk memory",
        Runs,
        "(data $d \"x\")",
        "(memory.init $d (i32.const 0) (i32.const 0) (i32.const 1)) (data.drop $d)",
    ),
    (
        "reference types",
        Runs,
        "(table 1 externref)",
        "(table.set (i32.const 0) (ref.null extern))",
    ),
    ("simd", Runs, "", "(drop (v128.const i32x4 1 2 3 4))"),
    (
        "relaxed simd",
        Runs,
        "",
        "(drop (i32x4.relaxed_trunc_f32x4_s (v128.const i32x4 0 0 0 0)))",
    ),
    ("tail calls", Runs, "(func $f)", "(return_call $f)"),
    (
        "extended constants",
        Runs,
        "(global i32 (i32.add (i32.const 1) (i32.const 2)))",
        "nop",
    ),
    (
        "multi-memory",
        Runs,
        "(memory $b 1)",
        "(i32.store $b (i32.const 0) (i32.const 1))",
    ),
    (
        "memory64",
        Runs,
        "(memory $b i64 1)",
        "(i32.store $b (i64.const 0) (i32.const 1))",
    ),
    ("table64", Runs, "(table i64 1 funcref)", "nop"),
    (
        "atomics without shared memory",
        Runs,
        "",
        "(drop (i32.atomic.rmw.add (i32.const 0) (i32.const 1)))",
    ),
    (
        "function references",
        Runs,
        "(type $t (func)) (func $f) (elem declare func $f)",
        "(call_ref $t (ref.func $f))",
    ),
    (
        "gc",
        Runs,
        "(type $s (struct (field i32)))",
        "(drop (struct.new $s (i32.const 1)))",
    ),
    (
        "exceptions",
        Runs,
        "(tag $e)",
        "(block $h (try_table (catch $e $h) (throw $e)))",
    ),
    (
        "shared memory",
        Refused(ONE_THREAD),
        "(memory $b 1 1 shared)",
        "nop",
    ),
    (
        "shared memory of 64 bits",
        Refused(ONE_THREAD),
        "(memory $b i64 1 1 shared)",
        "nop",
    ),
    (
        "import of a shared memory",
        Refused("the task imports env.memory"),
        "(import \"env\" \"memory\" (memory 1 1 shared))",
        "nop",
    ),
    (
        "shared-everything threads",
        Refused(ONE_THREAD),
        "(global (shared i32) (i32.const 0))",
        "nop",
    ),
    (
        "legacy exceptions",
        Refused("legacy exceptions"),
        "(tag $e)",
        "try (throw $e) catch_all end",
    ),
    (
        "stack switching",
        Refused("stack switching"),
        "(type $f (func)) (type $c (cont $f)) (func $g) (elem declare func $g)",
        "(drop (cont.new $c (ref.func $g)))",
    ),
    (
        "custom page sizes",
        Refused("custom page sizes"),
        "(memory $b 1 (pagesize 1))",
        "nop",
    ),
    (
        "wide arithmetic",
        Refused("wide arithmetic"),
        "",
        "(i64.add128 (i64.const 1) (i64.const 1) (i64.const 1) (i64.const 1)) drop drop",
    ),
    (
        "memory control",
        Refused("memory control"),
        "",
        "(memory.discard (i32.const 0) (i32.const 0))",
    ),
    (
        "101 memories",
        Refused("not valid WebAssembly"),
        "MEMORIES",
        "nop",
    ),
    (
        "a memory of 4 GiB",
        Exceeds(Limit::Memory),
        "(memory $b 65536)",
        "nop",
    ),
    (
        "a memory of the most that 64 bits can say",
        Refused("one memory has 64 GiB at most"),
        "(memory $b i64 0x1000000000000)",
        "nop",
    ),
    (
        "a table of too many elements",
        Exceeds(Limit::TableElements),
        "(table 1000001 funcref)",
        "nop",
    ),
    (
        "a table of all elements",
        Exceeds(Limit::TableElements),
        "(table 0xffffffff funcref)",
        "nop",
    ),
    (
        "a table of 64 bits",
        Exceeds(Limit::TableElements),
        "(table i64 0xffffffffffffffff funcref)",
        "nop",
    ),
    (
        "component async",
        Refused("WASI 0.3"),
        "component",
        "(type (func async))",
    ),
    (
        "component streams",
        Refused("WASI 0.3"),
        "component",
        "(type (stream u8))",
    ),
    (
        "component error contexts",
        Refused("WASI 0.3"),
        "component",
        "(type error-context)",
    ),
    (
        "component fixed-length lists",
        Refused("cm-fixed-length-lists"),
        "component",
        "(type (list u8 4))",
    ),
    (
        "component maps",
        Refused("cm-map"),
        "component",
        "(type (map string u8))",
    ),
    (
        "a shared memory in a component",
        Refused(ONE_THREAD),
        "component",
        "(core module (memory 1 1 shared))",
    ),
];

/// A component that exports `run` of the world's type.
const COMPONENT: &str = r#"(component
    EXTRA
    (core module $m
        (memory (export "memory") 1)
        (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 16))
        (func (export "run") (param i32 i32) (result i32) (i32.const 0)))
    (core instance $i (instantiate $m))
    (func (export "run") (param "input" (list u8)) (result (result (list u8) (error string)))
        (canon lift (core func $i "run") (memory $i "memory") (realloc (func $i "realloc")))))"#;

fn text(fields: &str, body: &str) -> String {
    if fields == "component" {
        return COMPONENT.replace("EXTRA", body);
    }
    let fields = fields.replace("MEMORIES", &"(memory 1)".repeat(100));
    // An import comes first.
    let (imports, fields) = match fields.starts_with("(import") {
        true => (fields, String::new()),
        false => (String::new(), fields),
    };
    format!(
        r#"(module {imports} (memory $m (export "memory") 1) {fields}
            (func (export "_start") {body}))"#
    )
}

#[test]
fn the_component_of_the_table_runs() {
    for mode in BOTH {
        let runner = runner(mode);
        let bytes = text("component", "").into_bytes();
        let artifact = runner.blocking_load_bytes("t", bytes).unwrap();
        let report = runner.blocking_run(Task::new(&artifact)).unwrap();
        assert!(report.outcome.is_completed(), "{mode}: {}", report.outcome);
    }
}

#[test]
fn each_proposal_has_one_answer() {
    let mut wrong = Vec::new();
    let runners = BOTH.map(runner);
    for (name, fate, fields, body) in TABLE {
        let text = text(fields, body);
        let answers = runners.each_ref().map(|runner| {
            let artifact = match runner.blocking_load_bytes(name, text.clone().into_bytes()) {
                Ok(artifact) => artifact,
                Err(error) => return (error.kind() == ErrorKind::NotLoadable, error.to_string()),
            };
            match runner.blocking_run(Task::new(&artifact)) {
                Ok(report) => (false, report.outcome.to_string()),
                Err(error) => (false, format!("the runner failed: {error}")),
            }
        });
        let [(refused, answer), process] = &answers;
        let right = match fate {
            Runs => answer == "completed",
            Refused(words) => *refused && answer.contains(words),
            Exceeds(limit) => *answer == Outcome::LimitExceeded(*limit).to_string(),
        };
        let settings = answer.contains("Config") || answer.contains("wasmtime");
        if !right || settings || (refused, answer) != (&process.0, &process.1) {
            wrong.push(format!("{name}: wanted {fate:?}, got {answers:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The command's exit code, and that all its ways to say it say the same.
#[test]
fn a_refusal_reads_the_same_everywhere() {
    let scratch = scratch();
    let file = scratch.path().join("t.wat");
    let output = scratch.path().join("out");
    for (name, fate, fields, body) in TABLE {
        let Refused(words) = fate else { continue };
        std::fs::write(&file, text(fields, body)).unwrap();
        let mut said = Vec::new();
        for mode in MODES {
            let ran = Wrun::mode(mode).arg(&file).run();
            assert_eq!(ran.code(), 126, "{name} in {mode} mode: {ran}");
            said.push(ran.stderr);
        }
        let compiled = Wrun::new()
            .args(["compile", "-o"])
            .arg(&output)
            .arg(&file)
            .run();
        assert_eq!(compiled.code(), 126, "{name}: {compiled}");
        said.push(compiled.stderr);
        let inspected = Wrun::new().arg("inspect").arg(&file).run();
        assert_eq!(inspected.code(), 126, "{name}: {inspected}");
        said.push(format!("{}{}", inspected.text(), inspected.stderr));
        for said in said {
            assert!(
                said.contains(words) && !said.contains("Config"),
                "{name}: {said}"
            );
        }
    }
}

/// A memory with 64-bit addresses grows as far as it is allowed to, up to 64 GiB.
#[test]
fn a_wide_memory_grows_beyond_4_gib() {
    const GROW: &str = r#"(module (memory (export "memory") i64 1)
        (func (export "_start")
            (if (i64.eq (memory.grow (i64.const PAGES)) (i64.const -1)) (then unreachable))
            (i64.store (i64.const AT) (i64.const 7))
            (if (i64.ne (i64.load (i64.const AT)) (i64.const 7)) (then unreachable))))"#;
    let ends = |mode, pages: u64, limits: Limits| {
        let text = GROW
            .replace("PAGES", &pages.to_string())
            .replace("AT", &((pages << 16) + 100).to_string());
        let runner = builder(mode).build().unwrap();
        let artifact = runner.blocking_load_bytes("t", text.into_bytes()).unwrap();
        let report = runner
            .blocking_run(Task::new(&artifact).limits(limits))
            .unwrap();
        (report.outcome.to_string(), report.limit_value)
    };
    for mode in BOTH {
        let allowed = |gib: u64| {
            Limits::default()
                .max_memory(gib << 30)
                .max_total_memory(200 << 30)
        };
        let completed = ("completed".to_owned(), None);
        assert_eq!(ends(mode, 81_920, allowed(8)), completed, "{mode}: 5 GiB");
        let refused = |gib: u64| ("limit exceeded: memory".to_owned(), Some(gib << 30));
        assert_eq!(
            ends(mode, 81_920, allowed(5)),
            refused(5),
            "{mode}: over the limit"
        );
        // Over what one memory can be.
        assert_eq!(
            ends(mode, 1 << 20, allowed(100)),
            refused(100),
            "{mode}: 64 GiB and more"
        );
    }
}
