//! The results, as JSON and as tables in Markdown. Everything in the tables is in the JSON:
//! `docs/peers.md` is made from `docs/peers.json`, and a test compares them.

use super::described::{Described, Place, described};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// All results.
#[derive(Serialize, Deserialize)]
pub(crate) struct Measured {
    /// `YYYY-MM-DD HH:MM UTC`.
    pub(crate) date: String,
    pub(crate) commit: String,
    pub(crate) machine: Machine,
    /// Rounds of all rows in turns.
    pub(crate) rounds: usize,
    /// How long each row repeated each kind of work in each round, in milliseconds.
    pub(crate) batch_ms: u64,
    /// Tasks at the same time where throughput was measured.
    pub(crate) in_flight: usize,
    /// Names and versions of what was compared.
    pub(crate) versions: Vec<(String, String)>,
    pub(crate) rows: Vec<Row>,
    /// Names of rows that are missing, and why.
    pub(crate) skipped: Vec<(String, String)>,
}

/// Where it was measured.
#[derive(Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) processors: usize,
    pub(crate) kernel: String,
    /// The load average of a minute, before and after.
    pub(crate) load: (f64, f64),
}

/// A way to run tasks.
#[derive(Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) id: String,
    /// The text of `described.rs`, for readers of the JSON alone.
    pub(crate) name: String,
    pub(crate) state: String,
    pub(crate) walls: String,
    pub(crate) crash: String,
    pub(crate) endless: String,
    /// A task finds no data of an earlier one.
    pub(crate) fresh: bool,
    /// Nanoseconds from starting the program to its first result, with nothing cached;
    /// and again, where it keeps compiled code.
    pub(crate) first_ns: Spread,
    pub(crate) again_ns: Option<Spread>,
    /// The proportional set size of one more task or worker that waits, in bytes.
    pub(crate) waiting_bytes: Option<f64>,
    pub(crate) small: Work,
    pub(crate) compute: Work,
    pub(crate) large: Work,
}

/// The times of one kind of work.
#[derive(Serialize, Deserialize)]
pub(crate) struct Work {
    /// Of tasks one after the other: the median, in nanoseconds, round by round.
    pub(crate) p50_ns: Spread,
    /// Of the tasks of all rounds; `None` for fewer than a hundred tasks.
    pub(crate) p99_ns: Option<f64>,
    pub(crate) tasks: usize,
    /// With `in_flight` at the same time, round by round.
    pub(crate) per_second: Spread,
    /// Processor time of a task, of all processes that have to do with it, in nanoseconds, round by
    /// round: of both, tasks one after the other and at the same time.
    pub(crate) processor_ns: Spread,
}

/// Of the numbers of all rounds.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) p10: f64,
    pub(crate) median: f64,
    pub(crate) p90: f64,
}

/// The page.
pub(crate) fn markdown(all: &Measured) -> String {
    let mut page = String::new();
    let rows: Vec<(&Row, &'static Described)> = all
        .rows
        .iter()
        .filter_map(|row| Some((row, described(&row.id)?)))
        .collect();
    introduction(&mut page, all);
    numbers(&mut page, &rows);
    losses(&mut page, &rows);
    around(&mut page, &rows);
    spreads(&mut page, &rows);
    rest(&mut page, all);
    page
}

fn line(page: &mut String, text: &str) {
    page.push_str(text);
    page.push('\n');
}

fn introduction(page: &mut String, all: &Measured) {
    let Machine {
        processor,
        processors,
        kernel,
        load,
    } = &all.machine;
    line(
        page,
        &format!(
            "# wrun beside its peers\n\n\
             Made by `cargo bench -p wrun-cli --bench peers` from [peers.json](peers.json); \
             [benchmarks.md](benchmarks.md) describes how to repeat it.\n\n\
             {}, commit {}: {processors} virtual processors ({processor}), {kernel}, load average {:.1} \
             before and {:.1} after. {} rounds; in each, every row in turn did each kind of work for {} ms.\n\n\
             All rows run the same C source ([work](../guest-tasks/work/kernel.h)), compiled to \
             WebAssembly by clang and for the two native rows by the machine's compiler, `-O2`; one \
             row runs the same work in JavaScript. Every output is checked.\n\n\
             - **64 B**: 64 bytes in, the same 64 bytes out.\n\
             - **compute**: a Mandelbrot picture, 64 KiB out.\n\
             - **1 MiB**: 1 MiB in, its SHA-256 out.",
            all.date, all.commit, load.0, load.1, all.rounds, all.batch_ms
        ),
    );
}

fn numbers(page: &mut String, rows: &[(&Row, &'static Described)]) {
    line(
        page,
        "\n## The numbers\n\n\
         **Fresh**: whether a task finds no data of the task before it, which the benchmark checks. \
         *In part*: its sandbox is new, the process or the JavaScript heap around it is not. A \
         worker that is kept has less work for each task than a new one: compare rows that run in the \
         same place and have the same value here. p50 and p99 are of tasks that run one \
         after the other, /s is with several at the same time; both depend on what else the machine \
         does. **CPU** is processor time (user and system) of a task, of all processes that have to do \
         with it, from the kernel's clock of 10 ms: it hardly depends on other load.\n\n\
         | | runs in | fresh | compute CPU | p50 | p99 | /s | 64 B CPU | p50 | p99 | /s | 1 MiB CPU | p50 | p99 | /s | first result | started again | one more waits |\n\
         |---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    );
    for (row, described) in rows {
        let _ = write!(
            page,
            "| {} | {} | {} |",
            name(described),
            described.place.words(),
            described.freshness()
        );
        for work in [&row.compute, &row.small, &row.large] {
            let _ = write!(
                page,
                " {} | {} | {} | {} |",
                time(work.processor_ns.median),
                time(work.p50_ns.median),
                work.p99_ns.map_or("–".to_owned(), time),
                rate(work.per_second.median)
            );
        }
        let _ = writeln!(
            page,
            " {} | {} | {} |",
            time(row.first_ns.median),
            row.again_ns
                .map_or("as first".to_owned(), |again| time(again.median)),
            row.waiting_bytes.map_or("–".to_owned(), bytes)
        );
    }
    line(
        page,
        "\n**First result**: from starting the program (for a library, a program that uses it) to the \
         output of one 64 B task, with nothing compiled before; **started again** is the same with \
         compiled code on disk. **One more waits**: proportional set size of one more task \
         that waits for its input or, where workers are kept, of one more worker that waits for a \
         task.",
    );
}

/// One property of a row; less is better.
struct Question {
    words: &'static str,
    answer: fn(&Row) -> Option<Spread>,
}

const QUESTIONS: [Question; 12] = [
    Question {
        words: "compute CPU",
        answer: |row| Some(row.compute.processor_ns),
    },
    Question {
        words: "64 B CPU",
        answer: |row| Some(row.small.processor_ns),
    },
    Question {
        words: "1 MiB CPU",
        answer: |row| Some(row.large.processor_ns),
    },
    Question {
        words: "64 B p50",
        answer: |row| Some(row.small.p50_ns),
    },
    Question {
        words: "64 B /s",
        answer: |row| Some(inverse(row.small.per_second)),
    },
    Question {
        words: "compute p50",
        answer: |row| Some(row.compute.p50_ns),
    },
    Question {
        words: "compute /s",
        answer: |row| Some(inverse(row.compute.per_second)),
    },
    Question {
        words: "1 MiB p50",
        answer: |row| Some(row.large.p50_ns),
    },
    Question {
        words: "1 MiB /s",
        answer: |row| Some(inverse(row.large.per_second)),
    },
    Question {
        words: "first result",
        answer: |row| Some(row.first_ns),
    },
    Question {
        words: "started again",
        answer: |row| row.again_ns.or(Some(row.first_ns)),
    },
    Question {
        words: "one more waits",
        answer: |row| {
            row.waiting_bytes.map(|bytes| Spread {
                p10: bytes,
                median: bytes,
                p90: bytes,
            })
        },
    },
];

fn inverse(rate: Spread) -> Spread {
    Spread {
        p10: 1.0 / rate.p90,
        median: 1.0 / rate.median,
        p90: 1.0 / rate.p10,
    }
}

fn losses(page: &mut String, rows: &[(&Row, &'static Described)]) {
    line(
        page,
        "\n## Where wrun loses\n\n\
         The peers that need less, and how many times less, by the medians, if the spreads do not \
         overlap. In *italics*: peers whose tasks are not fresh, or fresh in part. A row of wrun is \
         missing for a property in which no peer needs less.\n\n\
         | | | peers that run tasks in the same place | peers elsewhere |\n\
         |---|---|---|---|",
    );
    for (row, described) in rows.iter().filter(|(_, described)| described.is_wrun()) {
        for question in &QUESTIONS {
            let (mut same, mut elsewhere) = (Vec::new(), Vec::new());
            for (times, peer) in better(row, question, rows) {
                let mark = if peer.freshness() == "yes" { "" } else { "*" };
                let words = format!("{mark}{}{mark} {times:.1}", peer.name);
                if peer.place == described.place {
                    same.push(words);
                } else {
                    elsewhere.push(words);
                }
            }
            let elsewhere = match &elsewhere[..] {
                [] => "none".to_owned(),
                [one] => one.clone(),
                [most, other] => format!("{most}, {other}"),
                [most, others @ ..] => format!("{most}, and {} others", others.len()),
            };
            if same.is_empty() && elsewhere == "none" {
                continue;
            }
            let _ = writeln!(
                page,
                "| {} | {} | {} | {elsewhere} |",
                described.name,
                question.words,
                if same.is_empty() {
                    "none".to_owned()
                } else {
                    same.join(", ")
                },
            );
        }
    }
}

/// The peers that need less than a row of wrun, and how many times less; most first.
fn better(
    row: &Row,
    question: &Question,
    rows: &[(&Row, &'static Described)],
) -> Vec<(f64, &'static Described)> {
    let Some(own) = (question.answer)(row) else {
        return Vec::new();
    };
    let mut better: Vec<_> = rows
        .iter()
        .filter(|(_, peer)| !peer.is_wrun())
        .filter_map(|(peer, described)| {
            let theirs = (question.answer)(peer)?;
            (0.0 < theirs.median && theirs.p90 < own.p10)
                .then(|| (own.median / theirs.median, *described))
        })
        .collect();
    better.sort_by(|a, b| b.0.total_cmp(&a.0));
    better
}

fn around(page: &mut String, rows: &[(&Row, &'static Described)]) {
    line(
        page,
        "\n## Isolation of a task\n\n\
         Tasks in the calling process share its address space; the others do not.\n\n\
         | | shares memory with its host | made for each task | isolation | a crash of the runtime ends | an endless loop is ended by |\n\
         |---|---|---|---|---|---|",
    );
    for (_, described) in rows {
        let _ = writeln!(
            page,
            "| {} | {} | {} | {} | {} | {} |",
            name(described),
            if described.place == Place::Same {
                "yes"
            } else {
                "no"
            },
            described.state,
            described.walls,
            described.crash,
            described.endless
        );
    }
}

fn spreads(page: &mut String, rows: &[(&Row, &'static Described)]) {
    line(
        page,
        "\n## Spread\n\nMedian (10th to 90th percentile) of the rounds.",
    );
    for (index, title) in ["64 B", "compute", "1 MiB"].into_iter().enumerate() {
        let _ = writeln!(
            page,
            "\n| {title} | CPU | p50 of a round | tasks | /s |\n|---|--:|--:|--:|--:|"
        );
        for (row, described) in rows {
            let work = [&row.small, &row.compute, &row.large][index];
            let _ = writeln!(
                page,
                "| {} | {} | {} | {} | {} |",
                described.name,
                spread(work.processor_ns, time),
                spread(work.p50_ns, time),
                work.tasks,
                spread(work.per_second, rate)
            );
        }
    }
    line(page, "\n| | first result | started again |\n|---|--:|--:|");
    for (row, described) in rows {
        let _ = writeln!(
            page,
            "| {} | {} | {} |",
            described.name,
            spread(row.first_ns, time),
            row.again_ns.map_or(String::new(), |it| spread(it, time))
        );
    }
}

fn rest(page: &mut String, all: &Measured) {
    if !all.skipped.is_empty() {
        line(page, "\n## Not measured\n");
        for (name, why) in &all.skipped {
            line(page, &format!("- {name}: {why}"));
        }
    }
    line(page, "\n## Versions\n");
    let versions: Vec<String> = all
        .versions
        .iter()
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    line(page, &format!("{}.", versions.join(", ")));
    line(
        page,
        &format!(
            "\nThroughput: {} tasks at the same time. Pools of workers have one for each processor.",
            all.in_flight
        ),
    );
}

fn name(described: &Described) -> String {
    if described.is_wrun() {
        format!("**{}**", described.name)
    } else {
        described.name.to_owned()
    }
}

fn spread(spread: Spread, show: fn(f64) -> String) -> String {
    format!(
        "{} ({} to {})",
        show(spread.median),
        show(spread.p10),
        show(spread.p90)
    )
}

fn time(nanos: f64) -> String {
    match nanos {
        n if n < 1e6 => format!("{:.1} us", n / 1e3),
        n if n < 1e9 => format!("{:.2} ms", n / 1e6),
        n => format!("{:.2} s", n / 1e9),
    }
}

fn rate(per_second: f64) -> String {
    match per_second {
        n if n < 100.0 => format!("{n:.1}"),
        n if n < 10_000.0 => format!("{n:.0}"),
        n => format!("{:.0}k", n / 1e3),
    }
}

fn bytes(bytes: f64) -> String {
    match bytes {
        // Less than a page cannot be told from noise.
        n if n < 4096.0 => "< 4 KiB".to_owned(),
        n if n < 1_048_576.0 => format!("{:.0} KiB", n / 1024.0),
        n => format!("{:.1} MiB", n / 1_048_576.0),
    }
}
