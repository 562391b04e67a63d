//! The whole command `wrun map`: real work with two jobs compared with one, and beside what
//! runs a program or a call for each input: GNU parallel, xargs, and Node's piscina.

use crate::command::wasmtime;
use crate::measure::Bench;
use crate::node::Pool;
use crate::{guest, wrun_command, wrun_program};
use anyhow::{Context, ensure};
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Bytes of each file whose digest is computed.
const SMALL_FILE: usize = 4 << 10;
/// Files, for the rows that start a program for each.
const FILES: u32 = 200;
/// Lines, for the rows that make a call for each; and where each has a new process.
const LINES: u32 = 20_000;
const FEW_LINES: u32 = 2_000;

/// Real work: its guest, arguments, and how its inputs are made.
struct Work {
    /// Of the rows in thread mode and in process mode.
    names: [&'static str; 2],
    guest: &'static str,
    args: &'static [&'static str],
    input: &'static str,
    /// How often the input is in a file, and in how many files.
    repeated: usize,
    files: usize,
    /// How the inputs are named; `None` if they are files that become files.
    options: Option<&'static [&'static str]>,
}

const WORK: [Work; 3] = [
    Work {
        names: [
            "map markdown, thread, two jobs over one",
            "map markdown, process, two jobs over one",
        ],
        guest: "markdown/markdown.wasm",
        args: &[],
        input: "inputs/article.md",
        repeated: 60,
        files: 200,
        options: None,
    },
    Work {
        names: [
            "map words, thread, two jobs over one",
            "map words, process, two jobs over one",
        ],
        guest: "wordcount/wordcount.wasm",
        args: &[],
        input: "inputs/article.md",
        repeated: 30_000,
        files: 1,
        options: Some(&["--split", "4MiB"]),
    },
    Work {
        names: [
            "map pictures, thread, two jobs over one",
            "map pictures, process, two jobs over one",
        ],
        guest: "image-filter/image-filter.wasm",
        args: &["edges"],
        input: "inputs/sunset.png",
        repeated: 1,
        files: 48,
        options: None,
    },
];

pub(crate) fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    let scratch = tempfile::tempdir()?;
    for work in &WORK {
        if work.names.iter().any(|name| bench.wants(name)) {
            scales(bench, work, scratch.path())?;
        }
    }
    beside_programs(bench, scratch.path())?;
    beside_piscina(bench, scratch.path())
}

/// The command, with a cache of its own.
fn map(scratch: &Path, mode: &str, jobs: usize) -> Command {
    let mut command = wrun_command();
    command
        .env("WRUN_CACHE_DIR", scratch.join("cache"))
        .args(["map", "--quiet", "--mode", mode])
        .args(["--jobs", &jobs.to_string()]);
    command
}

fn time(command: &mut Command) -> anyhow::Result<Duration> {
    Ok(finished(command)?.0)
}

/// How long a command took, and what it printed.
fn finished(command: &mut Command) -> anyhow::Result<(Duration, Vec<u8>)> {
    let began = Instant::now();
    let output = command.stdin(Stdio::null()).output()?;
    let took = began.elapsed();
    ensure!(
        output.status.success(),
        "{command:?}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok((took, output.stdout))
}

fn scales(bench: &mut Bench, work: &Work, scratch: &Path) -> anyhow::Result<()> {
    if std::thread::available_parallelism()?.get() < 2 {
        eprintln!("{}: skipped: there is one processor", work.names[0]);
        return Ok(());
    }
    let inputs = scratch.join("inputs");
    std::fs::create_dir(&inputs)?;
    let content = std::fs::read(guest(work.input))?.repeat(work.repeated);
    for number in 0..work.files {
        std::fs::write(inputs.join(format!("{number:04}")), &content)?;
    }
    for (name, mode) in work.names.into_iter().zip(["thread", "process"]) {
        let run = |jobs: usize| {
            let mut command = map(scratch, mode, jobs);
            // The names are those of the folder before it.
            let outputs = tempfile::tempdir_in(scratch)?;
            match work.options {
                Some(options) => command.args(options).arg("--no-stats"),
                None => command.arg("--output-dir").arg(outputs.path()),
            };
            // What is split is one file.
            let what = match work.options {
                Some(_) => inputs.join("0000"),
                None => inputs.clone(),
            };
            command.arg(guest(work.guest)).arg(what).arg("--");
            time(command.args(work.args))
        };
        bench.row(
            name,
            "the same with --jobs 1",
            10,
            &mut || run(2),
            &mut || run(1),
        )?;
    }
    std::fs::remove_dir_all(&inputs)?;
    Ok(())
}

/// A program that is started for each file by another, and `wrun map` over the same files.
fn beside_programs(bench: &mut Bench, scratch: &Path) -> anyhow::Result<()> {
    let rows = [
        ("map digests, thread, beside xargs", "thread", "xargs"),
        ("map digests, process, beside xargs", "process", "xargs"),
        ("map digests, thread, beside parallel", "thread", "parallel"),
        (
            "map digests, process, beside parallel",
            "process",
            "parallel",
        ),
    ];
    if !rows.iter().any(|(name, ..)| bench.wants(name)) {
        return Ok(());
    }
    let Some(wasmtime) = wasmtime() else {
        eprintln!("map digests: skipped: wasmtime not found: run runner/cli/benches/peers.sh");
        return Ok(());
    };
    let jobs = std::thread::available_parallelism()?.get();
    let folder = scratch.join("files");
    std::fs::create_dir(&folder)?;
    for number in 0..FILES {
        let content = number.to_le_bytes().repeat(SMALL_FILE / 4);
        std::fs::write(folder.join(format!("{number:04}")), content)?;
    }
    let mut list: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(&folder)? {
        list.push(entry?.path());
    }
    list.sort();
    let names = list.iter().map(|path| format!("{}\n", path.display()));
    let names: String = names.collect();
    let names_file = scratch.join("names");
    std::fs::write(&names_file, names)?;
    let module = guest("digest/digest.wasm");
    let expected = RefCell::new(None);
    for (name, mode, peer) in rows {
        let program = Command::new(peer)
            .arg("--version")
            .stdin(Stdio::null())
            .output();
        if !program.is_ok_and(|output| output.status.success()) {
            eprintln!("{name}: skipped: cannot start {peer}");
            continue;
        }
        let mut wrun = || {
            let mut command = map(scratch, mode, jobs);
            command.args(["--format", "bytes", "--files-from"]);
            command.arg(&names_file).arg(&module);
            digests(&mut command, true, &mut expected.borrow_mut())
        };
        // Each has the compiled code in its cache.
        let mut floor = || {
            let mut command = Command::new(peer);
            match peer {
                "xargs" => command
                    .args(["-n", "1", "-P"])
                    .arg(jobs.to_string())
                    .arg("-a"),
                _ => command
                    .args(["--will-cite", "--jobs"])
                    .arg(jobs.to_string())
                    .arg("-a"),
            };
            command.arg(&names_file).arg(&wasmtime).arg("run");
            command.arg("--dir").arg(&folder).arg(&module);
            // With xargs, the parts of lines that different programs print are mixed.
            let whole = peer != "xargs";
            digests(&mut command, whole, &mut expected.borrow_mut())
        };
        let floor_name = match peer {
            "xargs" => "xargs -P, wasmtime run, warm cache",
            _ => "GNU parallel, wasmtime run, warm cache",
        };
        bench.row(name, floor_name, 10, &mut wrun, &mut floor)?;
    }
    Ok(())
}

/// Runs it, and looks at the digests that it prints, in any order, if its lines are whole. The time
/// of one.
fn digests(
    command: &mut Command,
    whole: bool,
    expected: &mut Option<Vec<String>>,
) -> anyhow::Result<Duration> {
    let (took, stdout) = finished(command)?;
    let text = String::from_utf8(stdout)?;
    if !whole {
        let lines = text.matches('\n').count();
        ensure!(lines == FILES as usize, "{command:?}: {lines} lines");
        return Ok(took / FILES);
    }
    // What is behind it is the name of the file, or `-`.
    let words = text.lines().filter_map(|line| line.split(' ').next());
    let mut digests: Vec<String> = words.map(str::to_owned).collect();
    digests.sort();
    ensure!(
        digests.len() == FILES as usize && digests.iter().all(|digest| digest.len() == 64),
        "{command:?}: {} digests",
        digests.len()
    );
    let expected = expected.get_or_insert_with(|| digests.clone());
    ensure!(*expected == digests, "{command:?}: other digests");
    Ok(took / FILES)
}

/// A pool of threads that has run tasks before, and `wrun map` from its start to its end.
fn beside_piscina(bench: &mut Bench, scratch: &Path) -> anyhow::Result<()> {
    let rows: [(&str, &str, u32, &[&str]); 3] = [
        ("map lines, thread, beside piscina", "thread", LINES, &[]),
        (
            "map lines, process reused, beside piscina",
            "process",
            LINES,
            &["--reuse", "4294967295"],
        ),
        (
            "map lines, process, beside piscina",
            "process",
            FEW_LINES,
            &[],
        ),
    ];
    if !rows.iter().any(|(name, ..)| bench.wants(name)) {
        return Ok(());
    }
    let peers = wrun_program();
    let peers = peers.ancestors().nth(2).context("no target directory")?;
    let modules = peers.join("peers/node/node_modules");
    let module = guest("work/work.wasm");
    let pool = match modules.join("piscina").is_dir() {
        true => Pool::start(&modules, &module, LINES).map_err(|error| error.to_string()),
        false => Err("piscina not found: run runner/cli/benches/peers.sh".to_owned()),
    };
    let mut pool = match pool {
        Ok(pool) => pool,
        Err(why) => {
            eprintln!("map lines, beside piscina: skipped: {why}");
            return Ok(());
        }
    };
    let jobs = std::thread::available_parallelism()?.get();
    let lines = scratch.join("lines");
    let mut floor = || Ok(pool.run()? / LINES);
    for (name, mode, count, options) in rows {
        std::fs::write(&lines, format!("{}\n", Pool::LINE).repeat(count as usize))?;
        let mut wrun = || {
            let mut command = map(scratch, mode, jobs);
            command.args(options).args(["--format", "bytes", "--lines"]);
            command.arg(&lines).arg(&module);
            Ok(time(&mut command)? / count)
        };
        let floor_name = "Node's piscina, an instance for each line, from the first to the last";
        bench.row(name, floor_name, 10, &mut wrun, &mut floor)?;
    }
    Ok(())
}
