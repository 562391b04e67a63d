//! The manual pages: from clap's definitions, with additions.

use super::args::{COMPARE_EXAMPLES, Cli, EXAMPLES};
use super::fleet_args::{FLEET_EXAMPLES, WORKER_EXAMPLES};
use super::map_args::MAP_EXAMPLES;
use super::serve_args::SERVE_EXAMPLES;
use super::{Failure, exit, print};
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use std::fmt::Write as _;
use std::io;

const DESCRIPTION: &str = "\
wrun runs WebAssembly tasks: components, WASI 0.1 and 0.2 commands, core modules and WAT text. \
Each task runs in a process of its own behind the kernel's walls (process mode), or on a thread \
of wrun (thread mode); the outcome and the output are the same.

A task can use only what is granted: by default no directory, no environment variable, no \
socket and no other task. `wrun TASK` is short for `wrun run TASK`.";

const EXIT_STATUS: [(&str, &str); 14] = [
    ("0", "The task completed."),
    ("1", "The task failed: `run` returned an error."),
    ("1 to 255", "The code of a command, passed on."),
    (
        "2",
        "The command line is wrong, or names what cannot be used.",
    ),
    (
        "124",
        "The time limit passed (--timeout, --compile-timeout).",
    ),
    ("125", "wrun itself failed."),
    ("126", "The file is not a task."),
    ("127", "There is no such file."),
    (
        "129, 130",
        "wrun received SIGHUP or SIGINT (Ctrl-C), and ended the task.",
    ),
    ("134", "The task trapped."),
    ("137", "Another limit was exceeded; the message names it."),
    (
        "143",
        "wrun received SIGTERM, and the task did not end in time by itself.",
    ),
    ("152", "A limit on processor time (ulimit -t) was used up."),
    (
        "128+n",
        "The worker process died of signal n. Codes collide; --report tells them apart.",
    ),
];

const COMPARE_EXIT_STATUS: [(&str, &str); 6] = [
    ("0", "Both modes were compared."),
    ("1", "The task cannot be compared; the message says why."),
    (
        "2",
        "The command line is wrong, or names what cannot be used.",
    ),
    ("125", "wrun itself failed."),
    ("126, 127", "The file is not a task, or does not exist."),
    ("130", "Interrupted; the results so far are printed."),
];

const MAP_EXIT_STATUS: [(&str, &str); 7] = [
    ("0", "All inputs completed."),
    ("1", "Some inputs did not complete; their records say why."),
    (
        "2",
        "The command line is wrong, inputs cannot be read, or the journal was made for something \
         else.",
    ),
    ("3", "The batch ended early because of --fail."),
    (
        "125",
        "wrun itself failed: a full disk, a damaged journal, no memory or processes.",
    ),
    ("126, 127", "The file is not a task, or does not exist."),
    (
        "129, 130, 143",
        "SIGHUP, SIGINT (Ctrl-C) or SIGTERM ended the batch early.",
    ),
];

const MAP_SIGNALS: [(&str, &str); 1] = [(
    "SIGINT (Ctrl-C), SIGTERM, SIGHUP",
    "No more inputs are taken, and the tasks that run finish. A second one ends them; they are \
     repeated with --resume.",
)];

const SERVE_EXIT_STATUS: [(&str, &str); 6] = [
    (
        "0",
        "A signal ended the server, and all requests were answered.",
    ),
    ("1", "An app failed the request of --try at the start."),
    (
        "2",
        "The command line is wrong, or names what cannot be used.",
    ),
    ("125", "wrun itself failed, or cannot listen on an address."),
    (
        "126, 127",
        "A file is not an HTTP component, or does not exist.",
    ),
    (
        "130, 143",
        "SIGINT (Ctrl-C) or SIGTERM ended the server, and connections had to be cut.",
    ),
];

const SERVE_SIGNALS: [(&str, &str); 2] = [
    (
        "SIGTERM, SIGINT (Ctrl-C)",
        "No more connections are accepted, and the requests that are there have --grace to \
         finish. A second one ends them.",
    ),
    (
        "SIGHUP",
        "Loads the files again, and reads the routes of --config. If they can be served, they answer all new requests; otherwise \
         the old ones go on.",
    ),
];

const WORKER_EXIT_STATUS: [(&str, &str); 4] = [
    (
        "0",
        "A signal drained the worker, and all its tasks had ended.",
    ),
    ("2", "The command line or the file of --config is wrong."),
    ("125", "wrun itself failed, or NATS refused the connection."),
    (
        "130, 143",
        "SIGINT (Ctrl-C) or SIGTERM drained the worker, and tasks were given back.",
    ),
];

const WORKER_SIGNALS: [(&str, &str); 1] = [(
    "SIGTERM, SIGINT (Ctrl-C)",
    "No more tasks are taken, and those that run have --grace to end; the rest is given back to \
     the queue. A second one gives them back at once.",
)];

const FLEET_EXIT_STATUS: [(&str, &str); 6] = [
    ("0", "It is done."),
    (
        "1",
        "There is no result yet, or the task was not cancelled because it has a result.",
    ),
    ("2", "The command line is wrong."),
    ("125", "wrun itself failed, or NATS refused the connection."),
    ("127", "There is no such task or file."),
    (
        "others",
        "With submit --wait and result: those of wrun-run(1); 124 also for a task whose deadline \
         passed, 126 for one that was refused, 130 for one that was cancelled.",
    ),
];

const OTHER_EXIT_STATUS: [(&str, &str); 5] = [
    ("0", "It is done."),
    (
        "2",
        "The command line is wrong, or names what cannot be used.",
    ),
    (
        "124, 137",
        "Compiling exceeded its limit on time or memory.",
    ),
    ("125", "wrun itself failed."),
    ("126, 127", "The file is not a task, or does not exist."),
];

const SIGNALS: [(&str, &str); 3] = [
    (
        "SIGTERM",
        "Requests the task to stop, and ends it after --grace; at once if it does not observe \
         cancellation, or after a second SIGTERM.",
    ),
    ("SIGINT (Ctrl-C), SIGHUP", "End the task at once."),
    (
        "SIGTSTP (Ctrl-Z)",
        "Suspends wrun and its workers until fg or bg. The time does not count against --timeout.",
    ),
];

const ENVIRONMENT: [(&str, &str); 4] = [
    (
        "WRUN_CACHE_DIR",
        "The directory for compiled code; see FILES for the default.",
    ),
    (
        "XDG_CACHE_HOME, HOME",
        "Determine the default of WRUN_CACHE_DIR.",
    ),
    (
        "NO_COLOR",
        "If set and not empty, messages have no colours.",
    ),
    (
        "TERM",
        "The type of the terminal; `dumb` has no colours. Passed to the task with --terminal raw. \
         Tasks get no other variable that --env does not name, except COLUMNS and LINES on a \
         terminal.",
    ),
];

const FILES: [(&str, &str); 2] = [
    (
        "$XDG_CACHE_HOME/wrun, or ~/.cache/wrun",
        "Compiled code, which wrun makes again if it is removed. --no-cache does without it.",
    ),
    (
        ".wrun-*",
        "What --output, --report and similar options write, next to its destination, until it \
         is complete.",
    ),
];

/// Programs and pages that are not part of wrun.
const RELATED: [(&str, u8); 4] = [
    ("timeout", 1),
    ("landlock", 7),
    ("namespaces", 7),
    ("seccomp", 2),
];

/// Prints the page of `wrun`, or of one of its commands.
pub(super) fn man(name: Option<&str>) -> Result<u8, Failure> {
    let page = match name {
        None => whole(),
        Some(name) => of_command(name),
    };
    let page = page.map_err(|error| Failure::new(exit::RUNNER, error.to_string()))?;
    print(page.as_bytes())
}

fn whole() -> io::Result<String> {
    let cli = Cli::command().about("runs WebAssembly tasks in separate processes or on threads");
    let mut page = Page::new("wrun", cli.clone())?;
    page.heading("SYNOPSIS");
    page.usage("wrun", &cli);
    for command in cli.get_subcommands() {
        page.usage(&format!("wrun {}", command.get_name()), command);
    }
    page.heading("DESCRIPTION");
    page.text(DESCRIPTION);
    page.options(&cli, ".SH ")?;
    page.heading("COMMANDS");
    for command in cli.get_subcommands() {
        let about = command.get_about().map(ToString::to_string);
        page.item(
            &format!("wrun {}", command.get_name()),
            &about.unwrap_or_default(),
        );
    }
    page.text(
        "Each has a page of its own (wrun-run(1) and so on), which `wrun man COMMAND` prints. \
         The options of those other than `run`:",
    );
    for command in cli.get_subcommands().filter(|it| it.get_name() != "run") {
        page.heading(&format!("WRUN-{}", command.get_name().to_uppercase()));
        page.usage(&format!("wrun {}", command.get_name()), command);
        page.options(command, ".SS ")?;
    }
    page.heading("EXIT STATUS");
    page.items(&EXIT_STATUS);
    page.heading("SIGNALS");
    page.items(&SIGNALS);
    page.common();
    page.examples(EXAMPLES);
    page.see_also(&cli, None);
    Ok(page.0)
}

fn of_command(name: &str) -> io::Result<String> {
    let cli = Cli::command();
    let Some(command) = cli.find_subcommand(name) else {
        return Err(io::ErrorKind::NotFound.into());
    };
    let mut page = Page::new(&format!("wrun-{name}"), command.clone())?;
    page.heading("SYNOPSIS");
    page.usage(&format!("wrun {name}"), command);
    page.heading("DESCRIPTION");
    match name {
        "run" => page.text(DESCRIPTION),
        _ => page.text(
            &command
                .get_about()
                .map(ToString::to_string)
                .unwrap_or_default(),
        ),
    }
    page.options(command, ".SH ")?;
    page.heading("EXIT STATUS");
    match name {
        "run" => {
            page.items(&EXIT_STATUS);
            page.heading("SIGNALS");
            page.items(&SIGNALS);
        }
        "compare" => page.items(&COMPARE_EXIT_STATUS),
        "map" => {
            page.items(&MAP_EXIT_STATUS);
            page.heading("SIGNALS");
            page.items(&MAP_SIGNALS);
        }
        "serve" => {
            page.items(&SERVE_EXIT_STATUS);
            page.heading("SIGNALS");
            page.items(&SERVE_SIGNALS);
        }
        "worker" => {
            page.items(&WORKER_EXIT_STATUS);
            page.heading("SIGNALS");
            page.items(&WORKER_SIGNALS);
        }
        "fleet" => page.items(&FLEET_EXIT_STATUS),
        _ => page.items(&OTHER_EXIT_STATUS),
    }
    page.common();
    match name {
        "run" => page.examples(EXAMPLES),
        "compare" => page.examples(COMPARE_EXAMPLES),
        "map" => page.examples(MAP_EXAMPLES),
        "serve" => page.examples(SERVE_EXAMPLES),
        "worker" => page.examples(WORKER_EXAMPLES),
        "fleet" => page.examples(FLEET_EXAMPLES),
        _ => {}
    }
    page.see_also(&cli, Some(name));
    Ok(page.0)
}

/// A page in the language of man(7).
struct Page(String);

impl Page {
    /// With its title and its name.
    fn new(name: &str, command: Command) -> io::Result<Self> {
        let version = concat!("wrun ", env!("CARGO_PKG_VERSION"));
        let man = Man::new(command.display_name(name))
            .source(version)
            .manual("User Commands");
        let mut page = Page(String::new());
        // Once for all sections: the definition of an apostrophe.
        page.0.push_str(".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n");
        page.section(|to| man.render_title(to))?;
        page.section(|to| man.render_name_section(to))?;
        Ok(page)
    }

    /// A section by clap, without its definitions, which are there already.
    fn section(&mut self, render: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> io::Result<()> {
        let mut made = Vec::new();
        render(&mut made)?;
        for line in String::from_utf8_lossy(&made).lines() {
            if !line.starts_with(".ie ") && !line.starts_with(".el ") && !line.is_empty() {
                let _ = writeln!(self.0, "{line}");
            }
        }
        Ok(())
    }

    fn options(&mut self, command: &Command, heading: &str) -> io::Result<()> {
        let man = Man::new(command.clone());
        let mut part = Page(String::new());
        part.section(|to| man.render_options_section(to))?;
        self.0.push_str(&part.0.replace(".SH ", heading));
        Ok(())
    }

    fn heading(&mut self, name: &str) {
        let _ = writeln!(self.0, ".SH \"{}\"", escaped(name));
    }

    /// A line on how a command is typed.
    fn usage(&mut self, typed: &str, command: &Command) {
        let _ = write!(self.0, "\\fB{}\\fR [\\fIOPTIONS\\fR]", escaped(typed));
        let options = command.get_arguments().filter(|it| !it.is_positional());
        for option in options.filter(|it| it.is_required_set()) {
            let name = match (option.get_short(), option.get_long()) {
                (Some(short), _) => format!("-{short}"),
                (None, long) => format!("--{}", long.unwrap_or_default()),
            };
            let _ = write!(self.0, " \\fB{}\\fR", escaped(&name));
            for value in option.get_value_names().unwrap_or_default() {
                let _ = write!(self.0, " \\fI{}\\fR", escaped(value));
            }
        }
        for positional in command.get_positionals() {
            for (at, name) in positional
                .get_value_names()
                .unwrap_or_default()
                .iter()
                .enumerate()
            {
                let name = escaped(name);
                let _ = match at == 0 && positional.is_required_set() {
                    true => write!(self.0, " \\fI{name}\\fR"),
                    false => write!(self.0, " [\\fI{name}\\fR]"),
                };
            }
        }
        self.0.push_str("\n.br\n");
    }

    fn text(&mut self, text: &str) {
        for paragraph in text.split("\n\n") {
            let _ = writeln!(self.0, ".PP\n{}", escaped(paragraph));
        }
    }

    fn item(&mut self, name: &str, text: &str) {
        let (name, text) = (escaped(name), escaped(text));
        let _ = writeln!(self.0, ".TP\n\\fB{name}\\fR\n{text}");
    }

    fn items(&mut self, items: &[(&str, &str)]) {
        for (name, text) in items {
            self.item(name, text);
        }
    }

    /// The parts that concern all commands.
    fn common(&mut self) {
        self.heading("ENVIRONMENT");
        self.items(&ENVIRONMENT);
        self.heading("FILES");
        self.items(&FILES);
    }

    /// The first paragraph of a help text, line by line.
    fn examples(&mut self, help: &str) {
        self.heading("EXAMPLES");
        self.0.push_str(".nf\n");
        for line in help.lines().skip(1).take_while(|line| !line.is_empty()) {
            let _ = writeln!(self.0, "{}", escaped(line.trim_start()));
        }
        self.0.push_str(".fi\n");
    }

    /// The other pages: all but that of `name`, or of `wrun` itself.
    fn see_also(&mut self, cli: &Command, name: Option<&str>) {
        self.heading("SEE ALSO");
        let commands = cli.get_subcommands().map(Command::get_name);
        let commands = commands.filter(|it| Some(*it) != name);
        let ours = commands.map(|it| (format!("wrun-{it}"), 1));
        let whole = name.map(|_| ("wrun".to_owned(), 1));
        let related = RELATED.map(|(page, section)| (page.to_owned(), section));
        let pages = whole.into_iter().chain(ours).chain(related);
        let pages = pages.map(|(page, section)| format!("\\fB{}\\fR({section})", escaped(&page)));
        let _ = writeln!(self.0, "{}", pages.collect::<Vec<_>>().join(",\n"));
    }
}

/// Text with roff's special characters escaped.
fn escaped(text: &str) -> String {
    let text = text
        .replace('\\', "\\e")
        .replace('-', "\\-")
        .replace('\'', "\\*(Aq");
    match text.starts_with('.') {
        true => format!("\\&{text}"),
        false => text,
    }
}
