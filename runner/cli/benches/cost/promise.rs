//! The promises of the project, as data: the only place of a bound. The rows of this
//! benchmark and the tables of `SPEC.md` take theirs from here; `tests/spec.rs` includes this
//! file.

use std::fmt;

/// Promises about one thing, a table of `SPEC.md`.
pub(crate) struct Subject {
    pub(crate) title: &'static str,
    /// Text about all of them.
    pub(crate) about: &'static str,
    pub(crate) promises: &'static [Promise],
}

/// One promise.
pub(crate) struct Promise {
    /// A letter and a number; a promise keeps it for good.
    pub(crate) id: &'static str,
    /// What is promised, and the floor, without the number.
    pub(crate) words: &'static str,
    pub(crate) check: Check,
}

/// How a promise is checked.
#[derive(Clone, Copy)]
pub(crate) enum Check {
    /// A row of this benchmark, by its whole name.
    Row { name: &'static str, bound: Bound },
    /// A test of `tests/`, as file and name.
    Test {
        name: &'static str,
        /// What it asserts, for people.
        bound: &'static str,
        /// A variable and its value with which the test does everything that is promised:
        /// without it, the test does a part.
        thorough: Option<(&'static str, &'static str)>,
    },
}

/// The bound of a ratio.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Bound {
    /// Cost over cost.
    AtMost(f64),
    /// Rate over rate.
    AtLeast(f64),
}

impl Bound {
    /// Whether a ratio is within it.
    pub(crate) fn allows(self, ratio: f64) -> bool {
        match self {
            Bound::AtMost(most) => ratio <= most,
            Bound::AtLeast(least) => ratio >= least,
        }
    }

    pub(crate) fn number(self) -> f64 {
        let (Bound::AtMost(number) | Bound::AtLeast(number)) = self;
        number
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Bound::AtMost(most) => format!("<= {most}"),
            Bound::AtLeast(least) => format!(">= {least}"),
        };
        f.pad(&text)
    }
}

impl Check {
    pub(crate) fn name(&self) -> &'static str {
        let (Check::Row { name, .. } | Check::Test { name, .. }) = self;
        name
    }
}

/// All promises, in the order of `SPEC.md`.
pub(crate) fn promises() -> impl Iterator<Item = &'static Promise> {
    SUBJECTS.iter().flat_map(|subject| subject.promises)
}

/// The bound of a row, by its whole name.
pub(crate) fn bound_of(row: &str) -> Option<Bound> {
    promises().find_map(|promise| match promise.check {
        Check::Row { name, bound } if name == row => Some(bound),
        _ => None,
    })
}

const fn row(id: &'static str, name: &'static str, bound: Bound, words: &'static str) -> Promise {
    let check = Check::Row { name, bound };
    Promise { id, words, check }
}

const fn test(
    id: &'static str,
    name: &'static str,
    bound: &'static str,
    words: &'static str,
) -> Promise {
    let check = Check::Test {
        name,
        bound,
        thorough: None,
    };
    Promise { id, words, check }
}

const fn thorough_test(
    id: &'static str,
    name: &'static str,
    (variable, value): (&'static str, &'static str),
    bound: &'static str,
    words: &'static str,
) -> Promise {
    let check = Check::Test {
        name,
        bound,
        thorough: Some((variable, value)),
    };
    Promise { id, words, check }
}

use Bound::{AtLeast, AtMost};

pub(crate) const SUBJECTS: &[Subject] = &[
    Subject {
        title: "Thread mode",
        about: "The floor is a program that uses wasmtime and wasmtime-wasi as their \
                documentation says, with wrun's settings of the pool, and nothing of wrun.",
        promises: &[
            row(
                "T1",
                "thread latency",
                AtMost(1.5),
                "time of one small task, compared with the same call in bare wasmtime",
            ),
            row(
                "T2",
                "thread throughput",
                AtLeast(0.7),
                "small tasks per second in a batch (`Runner::batch`), compared with bare wasmtime \
                 on every core",
            ),
            test(
                "T3",
                "leaks::ten_thousand_tasks_wait_at_once",
                "< 2 GiB",
                "resident memory of a program with 10,000 tasks that wait at the same time",
            ),
            test(
                "T4",
                "leaks::small_tasks_in_thread_mode_leave_nothing",
                "< 32 MiB, nothing else",
                "what 8,000 tasks leave behind and 2,000 do not: resident memory; descriptors, \
                 threads, processes",
            ),
            row(
                "T5",
                "small task beside computing, thread, signal",
                AtMost(1.5),
                "99th percentile of a small task's time beside twice as many tasks that compute as \
                 there are processors: preempted by signals, compared with epochs",
            ),
        ],
    },
    Subject {
        title: "Compute",
        about: "The processor time of the thread that runs the guest, compared with bare wasmtime \
                running the same code without any checks: in process mode, and in thread mode \
                with `--preempt signal`. With its default, thread mode has checks in its code, and \
                its rows of the benchmark (`compute ..., thread`) no bound. Python and JavaScript guests are built by `guest-tasks/build.sh python javascript`.",
        promises: &[
            row(
                "E1",
                "compute mandelbrot, process",
                AtMost(1.03),
                "a fractal, from C",
            ),
            row(
                "E2",
                "compute digest, process",
                AtMost(1.03),
                "SHA-256, from C",
            ),
            row(
                "E3",
                "compute gzip, process",
                AtMost(1.03),
                "gzip, from Zig",
            ),
            row(
                "E4",
                "compute csv-stats, process",
                AtMost(1.03),
                "sums over a table, from Go",
            ),
            row(
                "E5",
                "compute image-filter, process",
                AtMost(1.03),
                "blurring a picture, from Rust",
            ),
            row(
                "E6",
                "compute wordcount, process",
                AtMost(1.03),
                "counting words, from AssemblyScript",
            ),
            row(
                "E7",
                "compute markdown, process",
                AtMost(1.03),
                "Markdown to HTML, from Rust",
            ),
            row(
                "E8",
                "compute python, process",
                AtMost(1.03),
                "primes, in Python",
            ),
            row(
                "E9",
                "compute javascript, process",
                AtMost(1.03),
                "a template, in JavaScript",
            ),
            row(
                "E10",
                "compute mandelbrot, thread, signal",
                AtMost(1.03),
                "a fractal: in thread mode, preempted by signals",
            ),
            row(
                "E11",
                "compute digest, thread, signal",
                AtMost(1.03),
                "SHA-256: in thread mode, preempted by signals",
            ),
            row(
                "E12",
                "compute gzip, thread, signal",
                AtMost(1.03),
                "gzip: in thread mode, preempted by signals",
            ),
            row(
                "E13",
                "compute csv-stats, thread, signal",
                AtMost(1.03),
                "sums over a table: in thread mode, preempted by signals",
            ),
            row(
                "E14",
                "compute image-filter, thread, signal",
                AtMost(1.03),
                "blurring a picture: in thread mode, preempted by signals",
            ),
            row(
                "E15",
                "compute wordcount, thread, signal",
                AtMost(1.03),
                "counting words: in thread mode, preempted by signals",
            ),
            row(
                "E16",
                "compute markdown, thread, signal",
                AtMost(1.03),
                "Markdown to HTML: in thread mode, preempted by signals",
            ),
            row(
                "E17",
                "compute python, thread, signal",
                AtMost(1.03),
                "primes, in Python: in thread mode, preempted by signals",
            ),
            row(
                "E18",
                "compute javascript, thread, signal",
                AtMost(1.03),
                "a template, in JavaScript: in thread mode, preempted by signals",
            ),
        ],
    },
    Subject {
        title: "The command",
        about: "The floor is `wasmtime run` of the same task, its cache warm as wrun's is. \
                Needs a `wasmtime`: `runner/cli/benches/peers.sh`, or `WASMTIME_BIN`.",
        promises: &[
            row(
                "C1",
                "command hello, thread",
                AtMost(1.2),
                "`wrun --mode thread` of a command that prints a line, compared with `wasmtime \
                 run`",
            ),
            row(
                "C2",
                "command csv-stats, thread",
                AtMost(1.2),
                "the same of a command that reads a table",
            ),
            row(
                "C3",
                "command hello, process over thread",
                AtMost(1.3),
                "`wrun` of the command that prints a line in process mode, compared with thread \
                 mode",
            ),
            row(
                "C4",
                "command csv-stats, process over thread",
                AtMost(1.3),
                "the same of the command that reads a table",
            ),
        ],
    },
    Subject {
        title: "Process mode",
        about: "The floors are a pipe between two processes that are awake with a sandbox in bare \
                wasmtime, a lean program that forks, makes a sandbox, calls and writes to a pipe, \
                and Node 20.",
        promises: &[
            row(
                "P1",
                "process latency, waiting spare",
                AtMost(2.5),
                "from `submit` to the outcome in a spare that waits, compared with a round trip \
                 through bare pipes and one bare sandbox, made on demand",
            ),
            row(
                "P2",
                "process latency, waiting spare, no jail",
                AtMost(2.5),
                "the same without a jail",
            ),
            row(
                "P3",
                "process latency, waiting spare, both after a pause",
                AtMost(2.5),
                "the same as the first, with task and floor both after a pause of a millisecond",
            ),
            row(
                "P4",
                "process latency, reused worker",
                AtMost(2.5),
                "the same in a worker that has run others, compared with the same floor",
            ),
            row(
                "P5",
                "process throughput, full jail",
                AtLeast(0.85),
                "tasks per second, a fresh process for each, compared with the lean program with \
                 the same number at the same time",
            ),
            row(
                "P6",
                "process throughput, no jail",
                AtLeast(0.85),
                "the same without a jail",
            ),
            row(
                "P7",
                "process start, first result",
                AtLeast(100.0),
                "how many times sooner the first result arrives than with Node's \
                 `child_process.fork`",
            ),
            row(
                "P8",
                "process memory, zygote",
                AtMost(1.0),
                "private memory of a zygote, compared with 16 MiB",
            ),
            row(
                "P9",
                "process memory, waiting worker",
                AtMost(1.0),
                "private memory of a worker that waits, compared with 1 MiB",
            ),
            test(
                "P10",
                "storms::a_thousand_tasks_in_a_thousand_processes",
                "1,000 at once",
                "tasks that run at the same time, each in its own process; one more waits and runs \
                 later",
            ),
            test(
                "P11",
                "leaks::small_tasks_in_process_mode_leave_nothing",
                "< 32 MiB, nothing else",
                "what 8,000 tasks leave behind and 2,000 do not: resident memory of the runner; \
                 descriptors, threads, processes",
            ),
            test(
                "P12",
                "storms::tasks_in_a_storm_have_one_outcome_each",
                "1 each of 10,000",
                "outcomes of tasks while processes are killed and stopped at random; the output of \
                 completed tasks is right; no process and no descriptor is left",
            ),
            test(
                "P13",
                "storms::a_runner_may_die_at_any_moment",
                "1 s, in 95 of 100",
                "time until the last process has ended after `kill -9` of its runner at a random \
                 moment; none stays; five may be late, because the machine may be busy",
            ),
        ],
    },
    Subject {
        title: "Tasks that talk",
        about: "The floors are the least of their kind: two threads with bounded channels, a pipe \
                between two processes, `mmap` of a memory file of the same size, `memcpy`.",
        promises: &[
            row(
                "M1",
                "port round trip, thread",
                AtMost(2.5),
                "8 bytes to another task and back, compared with two threads with bounded channels",
            ),
            row(
                "M2",
                "port round trip, process",
                AtMost(2.5),
                "the same between two processes, compared with a round trip through bare pipes",
            ),
            row(
                "M3",
                "port stream 1 GiB, process",
                AtLeast(0.5),
                "bytes per second in messages of 64 KiB, of which two may wait, compared with a \
                 bare pipe",
            ),
            row(
                "M4",
                "port stream 1 GiB, process, 64 wait",
                AtLeast(0.5),
                "the same where 64 messages may wait",
            ),
            row(
                "M5",
                "region handover 64 KiB, process",
                AtMost(10.0),
                "handing a region of 64 KiB to another task, which maps it and gives it back, \
                 compared with a bare `mmap` of the same size and a round trip through bare pipes",
            ),
            row(
                "M6",
                "region handover 1 MiB, process",
                AtMost(10.0),
                "the same of 1 MiB",
            ),
            row(
                "M7",
                "region handover 64 MiB, process",
                AtMost(10.0),
                "the same of 64 MiB",
            ),
            row(
                "M8",
                "region handover 64 KiB, thread",
                AtMost(10.0),
                "64 KiB between threads, compared with the same floor",
            ),
            row(
                "M9",
                "region handover 64 MiB, thread",
                AtMost(10.0),
                "64 MiB between threads, compared with the same floor",
            ),
            row(
                "M10",
                "region handover of any size, process",
                AtMost(1.25),
                "handing over 64 MiB, compared with 64 KiB",
            ),
            row(
                "M11",
                "region handover of any size, thread",
                AtMost(1.25),
                "the same between threads",
            ),
            row(
                "M12",
                "region stream 1 GiB, process",
                AtLeast(0.7),
                "bytes per second copied into regions of 16 MiB and read by another task, compared \
                 with `memcpy` of the same number of bytes",
            ),
            row(
                "M13",
                "region stream 1 GiB, thread",
                AtLeast(0.7),
                "the same between threads",
            ),
            thorough_test(
                "M14",
                "talk::they_agree_under_load",
                ("WRUN_TALK_RUNS", "1000"),
                "1,000 times the same",
                "output of each guest that communicates, in both modes and in every language, with \
                 more of them at the same time than processors",
            ),
            thorough_test(
                "M15",
                "talk::any_of_them_may_be_killed_at_any_moment",
                ("WRUN_TALK_KILLS", "10000"),
                "nothing, of 10,000",
                "what is left behind after any party is killed at any moment: tasks, locks, \
                 regions, descriptors, processes, and at most 64 MiB of resident memory; the \
                 others end or get an error",
            ),
        ],
    },
    Subject {
        title: "Work that tasks share",
        about: "The floor is the same task alone, without children. On two processors.",
        promises: &[
            row(
                "W1",
                "share words by 2 tasks, thread",
                AtLeast(1.7),
                "how many times faster two children count words in a frozen region of 32 MiB",
            ),
            row(
                "W2",
                "share words by 2 tasks, process",
                AtLeast(1.7),
                "the same in process mode",
            ),
            row(
                "W3",
                "share a sort by 2 tasks, thread",
                AtLeast(1.7),
                "how many times faster two children make and sort 4 Mi numbers in a region that \
                 is split",
            ),
            row(
                "W4",
                "share a sort by 2 tasks, process",
                AtLeast(1.7),
                "the same in process mode",
            ),
        ],
    },
    Subject {
        title: "Serving HTTP",
        about: "What `wrun serve` loses: nothing but the request that a crash belongs to. Its \
                speed is measured by another [benchmark](docs/benchmarks.md#serving-http).",
        promises: &[
            thorough_test(
                "H1",
                "serve_load::each_request_has_one_answer_while_guests_trap_and_workers_die",
                ("WRUN_SERVE_REQUESTS", "200000"),
                "1 each of 200,000",
                "answers to requests while workers are killed and guests trap at random: the right \
                 one or its error, none of another request; nothing is left behind",
            ),
            thorough_test(
                "H2",
                "serve_load::reloads_under_load_lose_no_request_and_never_go_back",
                ("WRUN_SERVE_RELOADS", "50"),
                "none of 50 reloads",
                "reloads under load that lose a request, or after which one is answered by an \
                 older version",
            ),
        ],
    },
    Subject {
        title: "Comparing",
        about: "The results of `wrun compare` are reliable. Each promise is a test.",
        promises: &[
            thorough_test(
                "V1",
                "compare::every_guest_that_completes_can_be_compared",
                ("WRUN_COMPARE_ALL", "1"),
                "< 1 min each",
                "time to compare each guest in the tree, with the defaults",
            ),
            test(
                "V2",
                "compare::two_runs_agree_within_their_spread",
                "within p10..p90",
                "medians of the ratios to the floors, of one run within the spread of another",
            ),
            test(
                "V3",
                "compare::a_mode_that_is_slower_is_seen_to_be",
                "seen",
                "a mode that was slowed on purpose",
            ),
            test(
                "V4",
                "compare::a_floor_that_is_measured_wrongly_is_found_out",
                "marked",
                "rows whose floor was measured wrongly on purpose",
            ),
            test(
                "V5",
                "isolation::a_strict_jail_stops_escaped_code",
                "10 of 10",
                "acts of code that escaped the sandbox that a strict jail stops",
            ),
            test(
                "V6",
                "isolation::what_guests_do_is_stopped_and_harms_nobody",
                "both modes",
                "harmful acts of guests that end only their own task, while eight others run",
            ),
        ],
    },
    Subject {
        title: "Both modes",
        about: "The same task, the same bytes.",
        promises: &[test(
            "B1",
            "differential::every_guest_does_the_same_in_both_modes",
            "0",
            "guests of the tree whose outcome, output or exit code differ between the modes",
        )],
    },
];
