//! Explains what a task was refused, with the options of the command that grant it: the
//! same after `wrun run` and `wrun compare`.

use std::fmt::Write as _;
use wrun::{Access, Denial, Outcome, Report};

/// The reasons for a failure that the host knows: something was refused, or there was no
/// directory for a task that complains about files. `words` is the end of its stderr, `all`
/// is how to see all refusals.
pub fn hint(report: &Report, words: &str, all: &str) -> Option<String> {
    if matches!(report.outcome, Outcome::Exited(0)) {
        return None;
    }
    let refused = |it: &&Denial| it.access != Access::Directories;
    let mut others = report.denied.iter().filter(refused);
    if let Some(first) = others.next() {
        let mut hint = format!("it was refused: {}", denial(first));
        match others.count() {
            0 => {}
            1 => {
                let _ = write!(hint, "; and one more ({all})");
            }
            more => {
                let _ = write!(hint, "; and {more} more ({all})");
            }
        }
        return Some(hint);
    }
    // Many programs look for directories at start and need none. Of those that do, C
    // libraries refuse to open files without calling the host: only their messages are
    // left.
    let complains = match &report.outcome {
        Outcome::Exited(_) | Outcome::Trapped(_) => is_about_files(words),
        Outcome::Failed(message) => is_about_files(words) || is_about_files(message),
        _ => false,
    };
    (complains && !report.denied.is_empty())
        .then(|| "no directory is granted (--dir), which may be why".to_owned())
}

/// Messages of programs that cannot open a file: the errors that libraries without a
/// directory return, by text and by name, and how such messages begin.
const ABOUT_FILES: [&str; 22] = [
    "no such file",
    "capabilities insufficient",
    "bad file",
    "file descriptor",
    "enotcapable",
    "enoent",
    "ebadf",
    "filenotfound",
    "file not found",
    "filesystem",
    "not permitted",
    "permission denied",
    "access denied",
    "cannot open",
    "can't open",
    "could not open",
    "failed to open",
    "unable to open",
    "cannot read",
    "could not load",
    "cannot load",
    "cannot find",
];

fn is_about_files(words: &str) -> bool {
    let words = words.to_ascii_lowercase();
    ABOUT_FILES.iter().any(|it| words.contains(it))
}

/// One refused access.
pub fn denial(denial: &Denial) -> String {
    let target = &denial.target;
    let mut text = match denial.access {
        Access::Directories => "it looked for directories; none are granted (--dir)".to_owned(),
        Access::Path if leads_out(target) => {
            format!("the path {target:?} is outside what is granted (--dir)")
        }
        // A link can lead out; or the kernel has another reason, such as an immutable file.
        Access::Path => format!(
            "the path {target:?} leads outside what is granted (--dir), or the system does not \
             permit it"
        ),
        Access::Permission => format!(
            "access to {target:?}: its permissions, or those of a directory above it, forbid it"
        ),
        Access::SpecialFile => {
            format!("opening {target:?}, which is neither a file nor a directory; tasks may not")
        }
        Access::Write => {
            format!("changing {target:?} in a read-only directory (--dir without :ro)")
        }
        Access::TcpConnect => format!("connecting to {target} (--allow-tcp {target})"),
        Access::TcpListen => format!("listening on {target}; tasks may not"),
        Access::Udp => format!("UDP with {target}; tasks may not"),
        Access::NameLookup => format!("resolving {target:?} (--allow-tcp {target}:PORT)"),
        Access::HttpRequest => {
            format!("sending an HTTP request to {target} (--allow-http {target})")
        }
        Access::Task => format!("starting the task {target:?} (--task {target}=FILE)"),
        other => format!("{} {target:?}", other.name()),
    };
    if denial.count > 1 {
        let _ = write!(text, ", {} times", denial.count);
    }
    text
}

/// Whether a path below a granted directory is outside of it, whatever exists there.
fn leads_out(path: &str) -> bool {
    let mut depth = 0;
    path.starts_with('/')
        || path.split('/').any(|part| {
            match part {
                "" | "." => {}
                ".." => depth -= 1,
                _ => depth += 1,
            }
            depth < 0
        })
}
