//! The rows of the benchmark, and what a reader has to know before any two
//! numbers are compared.

/// Where a task runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the calling process.
    Same,
    /// In another process, which the calling process started or forked.
    Other,
    /// In a program that is started for it, from the shell's point of view.
    Program,
}

impl Place {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Place::Same => "the calling process",
            Place::Other => "another process",
            Place::Program => "a program for each task",
        }
    }
}

/// A row, without its numbers.
pub(crate) struct Described {
    pub(crate) id: &'static str,
    pub(crate) name: &'static str,
    pub(crate) place: Place,
    /// Whether a task finds no data of the task before it: the benchmark checks it.
    pub(crate) fresh: bool,
    /// Whether the process or the heap around its sandbox is new as well.
    pub(crate) new_around: bool,
    /// Whether compiled code is kept on disk from one start to the next.
    pub(crate) caches: bool,
    /// What is made for each task.
    pub(crate) state: &'static str,
    /// What isolates a task from its host.
    pub(crate) walls: &'static str,
    /// What a memory error in the runtime (or in native code) ends.
    pub(crate) crash: &'static str,
    /// What ends a task that loops.
    pub(crate) endless: &'static str,
}

impl Described {
    /// Whether a task finds no data of the task before it, for the table.
    pub(crate) fn freshness(&self) -> &'static str {
        match (self.fresh, self.new_around) {
            (true, true) => "yes",
            (true, false) => "in part",
            (false, _) => "**no**",
        }
    }

    pub(crate) fn is_wrun(&self) -> bool {
        self.id.starts_with("wrun")
    }
}

pub(crate) fn described(id: &str) -> Option<&'static Described> {
    PEERS.iter().find(|peer| peer.id == id)
}

const WASMTIME: &str = "wasmtime's sandbox";
const V8: &str = "V8's WebAssembly; the code around it has Node's rights";
const PROCESS_LOST: &str = "that process and the tasks in it; the host lives";

/// All rows, in the order of the tables.
pub(crate) const PEERS: [Described; 22] = [
    Described {
        id: "wrun-thread",
        name: "wrun, thread mode",
        place: Place::Same,
        fresh: true,
        new_around: true,
        caches: true,
        state: "a sandbox",
        walls: "wasmtime's sandbox, limits",
        crash: "the host and all tasks",
        endless: "deadline or kill",
    },
    Described {
        id: "wrun-thread-signal",
        name: "wrun, thread mode, preempted by signals",
        place: Place::Same,
        fresh: true,
        new_around: true,
        caches: true,
        state: "a sandbox",
        walls: "wasmtime's sandbox, limits",
        crash: "the host and all tasks",
        endless: "deadline or kill",
    },
    Described {
        id: "wrun-process",
        name: "wrun, process mode",
        place: Place::Other,
        fresh: true,
        new_around: true,
        caches: true,
        state: "a process and a sandbox",
        walls: "wasmtime's sandbox, limits, a process, the full jail",
        crash: "that task",
        endless: "deadline or kill",
    },
    Described {
        id: "wrun-process-no-jail",
        name: "wrun, process mode, no jail",
        place: Place::Other,
        fresh: true,
        new_around: true,
        caches: true,
        state: "a process and a sandbox",
        walls: "wasmtime's sandbox, limits, a process",
        crash: "that task",
        endless: "deadline or kill",
    },
    Described {
        id: "wrun-process-reused",
        name: "wrun, process mode, workers reused",
        place: Place::Other,
        fresh: true,
        new_around: false,
        caches: true,
        state: "a sandbox; the process ran other tasks",
        walls: "wasmtime's sandbox, limits, a process, the full jail",
        crash: "that task",
        endless: "deadline or kill",
    },
    Described {
        id: "wrun-command-thread",
        name: "`wrun --mode thread`",
        place: Place::Program,
        fresh: true,
        new_around: true,
        caches: true,
        state: "a program and a sandbox",
        walls: "wasmtime's sandbox, limits",
        crash: "that program",
        endless: "deadline or kill",
    },
    Described {
        id: "wrun-command-process",
        name: "`wrun --mode process`",
        place: Place::Program,
        fresh: true,
        new_around: true,
        caches: true,
        state: "a program, a process and a sandbox",
        walls: "wasmtime's sandbox, limits, a process, the full jail",
        crash: "that task",
        endless: "deadline or kill",
    },
    Described {
        id: "wasmtime-run",
        name: "`wasmtime run`",
        place: Place::Program,
        fresh: true,
        new_around: true,
        caches: true,
        state: "a program and a sandbox",
        walls: WASMTIME,
        crash: "that program",
        endless: "`-W timeout`, not given here",
    },
    Described {
        id: "bare-wasmtime",
        name: "bare wasmtime",
        place: Place::Same,
        fresh: true,
        new_around: true,
        caches: true,
        state: "an instance from a pool, without WASI",
        walls: WASMTIME,
        crash: "the host and all tasks",
        endless: "nothing",
    },
    Described {
        id: "bare-wasmtime-epochs",
        name: "bare wasmtime, epoch checks",
        place: Place::Same,
        fresh: true,
        new_around: true,
        caches: true,
        state: "an instance from a pool, without WASI",
        walls: WASMTIME,
        crash: "the host and all tasks",
        endless: "its epoch",
    },
    Described {
        id: "extism-fresh",
        name: "extism, a plug-in for each task",
        place: Place::Same,
        fresh: true,
        new_around: true,
        caches: true,
        state: "a plug-in",
        walls: WASMTIME,
        crash: "the host and all tasks",
        endless: "a timeout, not given here",
    },
    Described {
        id: "extism-kept",
        name: "extism, plug-ins kept",
        place: Place::Same,
        fresh: false,
        new_around: false,
        caches: true,
        state: "nothing: its memory has the data of the task before",
        walls: WASMTIME,
        crash: "the host and all tasks",
        endless: "a timeout, not given here",
    },
    Described {
        id: "node-thread-fresh",
        name: "Node worker_threads, one for each task",
        place: Place::Same,
        fresh: true,
        new_around: true,
        caches: false,
        state: "a thread, a JavaScript heap and an instance",
        walls: V8,
        crash: "the host and all tasks",
        endless: "`terminate`",
    },
    Described {
        id: "node-thread-kept",
        name: "Node worker_threads, kept",
        place: Place::Same,
        fresh: true,
        new_around: false,
        caches: false,
        state: "an instance; the JavaScript around it is kept",
        walls: V8,
        crash: "the host and all tasks",
        endless: "`terminate`, with all that wait for it",
    },
    Described {
        id: "node-process-fresh",
        name: "Node child_process.fork, one for each task",
        place: Place::Other,
        fresh: true,
        new_around: true,
        caches: false,
        state: "a process",
        walls: "V8's WebAssembly, a process; the code around it has Node's rights",
        crash: "that task",
        endless: "`kill`",
    },
    Described {
        id: "node-process-kept",
        name: "Node child_process.fork, kept",
        place: Place::Other,
        fresh: true,
        new_around: false,
        caches: false,
        state: "an instance; the JavaScript around it is kept",
        walls: "V8's WebAssembly, a process; the code around it has Node's rights",
        crash: PROCESS_LOST,
        endless: "`kill`, with all that wait for it",
    },
    Described {
        id: "piscina",
        name: "piscina",
        place: Place::Same,
        fresh: true,
        new_around: false,
        caches: false,
        state: "an instance; the JavaScript around it is kept",
        walls: V8,
        crash: "the host and all tasks",
        endless: "an AbortSignal ends its thread",
    },
    Described {
        id: "piscina-javascript",
        name: "piscina, the work in JavaScript",
        place: Place::Same,
        fresh: false,
        new_around: false,
        caches: false,
        state: "nothing: its heap has the data of the task before",
        walls: "a JavaScript heap of its own, with Node's rights",
        crash: "the host and all tasks",
        endless: "an AbortSignal ends its thread",
    },
    Described {
        id: "workerpool-thread",
        name: "workerpool, threads",
        place: Place::Same,
        fresh: true,
        new_around: false,
        caches: false,
        state: "an instance; the JavaScript around it is kept",
        walls: V8,
        crash: "the host and all tasks",
        endless: "`timeout` or `cancel` ends its thread",
    },
    Described {
        id: "workerpool-process",
        name: "workerpool, processes",
        place: Place::Other,
        fresh: true,
        new_around: false,
        caches: false,
        state: "an instance; the JavaScript around it is kept",
        walls: "V8's WebAssembly, a process; the code around it has Node's rights",
        crash: PROCESS_LOST,
        endless: "`timeout` or `cancel` ends its process",
    },
    Described {
        id: "native-thread",
        name: "native code, a thread for each task",
        place: Place::Same,
        fresh: false,
        new_around: false,
        caches: false,
        state: "a thread and a stack; all memory is shared",
        walls: "none",
        crash: "the host and all tasks",
        endless: "nothing",
    },
    Described {
        id: "native-fork",
        name: "native code, a fork for each task",
        place: Place::Other,
        fresh: true,
        new_around: true,
        caches: false,
        state: "a process, a copy of its parent",
        walls: "a process with its parent's rights",
        crash: "that task",
        endless: "`kill`",
    },
];
