//! Whether a command line is one task in a process of its own, seen from afar: its worker is forked
//! before the arguments are parsed, because they must not be in its memory.
//!
//! A wrong guess costs time and nothing else. An unused worker is ended; one that is missing is
//! started when it is needed.

/// What others do, or what does nothing with a task.
const OTHERS: [&[u8]; 8] = [
    b"inspect",
    b"compile",
    b"compare",
    b"map",
    b"serve",
    b"completions",
    b"man",
    b"help",
];

/// Options for which such a worker has other walls, or for which none is needed. `--mode` is read
/// with its value.
const OPTIONS: [&[u8]; 5] = [
    b"--help",
    b"--version",
    b"--jail",
    b"--allow-tcp",
    b"--start",
];

/// Forks the worker if the command line seems to need one.
pub(super) fn worker() -> Option<wrun::EarlyWorker> {
    let mut look = Look::default();
    wrun_sys::any_argument(|index, argument| index > 0 && !look.at(argument))?;
    look.is_task().then(|| {
        let worker = wrun::early_worker();
        // Guests allocate in their own process.
        wrun_sys::share_heap();
        worker
    })
}

#[derive(Debug, Default)]
struct Look {
    seen: usize,
    /// The argument before was `--mode`.
    mode: bool,
    task: bool,
    other: bool,
}

impl Look {
    /// Looks at the next argument; returns whether those behind it matter.
    fn at(&mut self, argument: &[u8]) -> bool {
        let is_first = self.seen == 0;
        self.seen += 1;
        let is_mode = std::mem::replace(&mut self.mode, argument == b"--mode");
        let is_thread = argument == b"--mode=thread" || is_mode && argument == b"thread";
        let is_option = argument.starts_with(b"-");
        let is_other = match is_option {
            true => {
                matches!(argument, b"-h" | b"-V")
                    || OPTIONS.iter().any(|it| argument.starts_with(it))
            }
            false => is_first && OTHERS.contains(&argument),
        };
        self.other |= is_thread || is_other;
        // An option's value can look like it. Then options behind it are missed.
        let is_file = [&b".wasm"[..], b".wat"]
            .iter()
            .any(|ending| argument.ends_with(ending));
        self.task |= !(is_option || is_first && argument == b"run");
        !(self.other || !is_option && is_file)
    }

    fn is_task(&self) -> bool {
        self.task && !self.other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_task(line: &str) -> bool {
        let mut look = Look::default();
        let _ = line.split(' ').all(|word| look.at(word.as_bytes()));
        look.is_task()
    }

    #[test]
    fn one_task_in_a_process_is_recognised() {
        for line in [
            "hello.wat",
            "run hello.wat",
            "task -x",
            "--timeout 5s --mode process a.wasm --help",
            "--mode=process a",
            "a.wasm --mode thread",
            "--dir /tmp:ro a.wasm",
        ] {
            assert!(is_task(line), "{line}");
        }
        for line in [
            "--help",
            "-V",
            "run",
            "run --help",
            "inspect a.wasm",
            "serve a.wasm",
            "map a.wasm b",
            "--mode thread a.wasm",
            "run --mode=thread a.wasm",
            "--jail off a.wasm",
            "--jail=best-effort a.wasm",
            "--allow-tcp 127.0.0.1:1 a.wasm",
            "--start=fork a.wasm",
            "--quiet",
        ] {
            assert!(!is_task(line), "{line}");
        }
    }
}
