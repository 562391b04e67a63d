//! Determines what stopped a fault: from how its task ended, which walls were in place, and
//! the error of the same call with invalid arguments. Pure.
//!
//! If an error number belongs to more than one wall, all possible ones are named.

use super::catalogue::By;
use super::scene::{Ended, Played, SIBLINGS};
use crate::{Fault, Finding, Seen};
use wrun::{
    JailReport, Layer, LayerState, Limit, Mode,
    measure::{Injection, InjectionResult},
};

/// Facts about a fault in addition to the observations.
pub(super) struct Known {
    pub(super) fault: Fault,
    pub(super) mode: Mode,
    /// It was injected in a program that was started for it.
    pub(super) sacrificed: bool,
    /// Whether the action left the trace of its success; `None` if it leaves none.
    pub(super) trace: Option<bool>,
    /// Whether the permissions of files do not prevent it.
    pub(super) is_open: bool,
    /// The kernel's restriction of debuggers, if it has one.
    pub(super) ptrace_scope: Option<u8>,
}

const NOTHING: &str = "nothing";

/// The course of the injected action, in any process.
enum Course {
    Stopped { by: String, detail: String },
    Done { detail: String },
    Unknown { why: String },
}

impl Known {
    /// For a host that survived.
    pub(super) fn finding(&self, played: &Played) -> Finding {
        let (by, detail, stopped) = match self.act(played) {
            Course::Stopped { by, detail } => (by, detail, true),
            Course::Done { detail } => (NOTHING.to_owned(), detail, false),
            Course::Unknown { why } => return Finding::NotMeasured { why },
        };
        Finding::Measured(Seen {
            held: stopped && played.lost == 0 && played.requests.is_none_or(|it| it.lost == 0),
            stopped_by: by,
            detail,
            siblings: SIBLINGS,
            siblings_lost: played.lost,
            requests: played.requests,
            host_alive: true,
            sacrificed: self.sacrificed,
            // A fault that nothing stopped was not detected.
            detected_ns: stopped.then_some(played.detected_ns),
            recovered_ns: played.recovered_ns,
        })
    }

    fn act(&self, played: &Played) -> Course {
        match (self.fault.by(), &played.ended) {
            (By::Guest, ended) => guest(self.fault, ended),
            (By::Host, ended) => host(self.fault, self.mode, ended),
            (By::Escaped, ended) => self.escaped(ended, played),
        }
    }

    fn escaped(&self, ended: &Ended, played: &Played) -> Course {
        let walls = Walls(played.jail.as_ref());
        let done = |detail: &str| Course::Done {
            detail: detail.to_owned(),
        };
        match ended {
            Ended::Exit(Injection::EXECUTED) if self.fault == Fault::Exec => {
                done("its process became the program")
            }
            Ended::Signal(libc::SIGSYS) => Course::Stopped {
                by: walls.filter(),
                detail: "killed for the call (SIGSYS)".to_owned(),
            },
            Ended::Injected(InjectionResult::Refused { errno, senseless }) => match self.trace {
                Some(true) => done("it reported a refusal, but the call took effect"),
                _ => Course::Stopped {
                    by: self.refused_by(*errno, *senseless, &walls),
                    detail: format!("refused: {}", name_of(*errno)),
                },
            },
            Ended::Injected(InjectionResult::Did(_)) => match self.trace {
                Some(false) => Course::Unknown {
                    why: "it reported success, but left no trace".to_owned(),
                },
                _ if self.is_elsewhere(&walls, played) => Course::Stopped {
                    by: wall(Layer::PidNamespace).to_owned(),
                    detail: "the host's number is another process's there".to_owned(),
                },
                _ if !played.is_true => Course::Unknown {
                    why: "it read other bytes than expected".to_owned(),
                },
                _ => done(did(self.fault)),
            },
            other => Course::Unknown {
                why: format!("it was neither done nor refused: {}", other.words()),
            },
        }
    }

    /// Whether it addressed the host by a number that belongs to another process; what it
    /// read of the host came from nowhere else.
    fn is_elsewhere(&self, walls: &Walls<'_>, played: &Played) -> bool {
        let reads = matches!(self.fault, Fault::HostMemory | Fault::HostEnvironment);
        self.aims_at_host()
            && self.mode == Mode::Process
            && walls.stands(Layer::PidNamespace)
            && !(reads && played.is_true)
    }

    fn aims_at_host(&self) -> bool {
        matches!(
            self.fault,
            Fault::Ptrace | Fault::Signal | Fault::HostMemory | Fault::HostEnvironment
        )
    }

    /// The walls that may have refused a call.
    fn refused_by(&self, errno: i32, senseless: i32, walls: &Walls<'_>) -> String {
        // The kernel itself has other errors for invalid arguments.
        if errno == senseless && [libc::EPERM, libc::EACCES, libc::ENOSYS].contains(&errno) {
            return walls.filter();
        }
        let of_files = matches!(
            self.fault,
            Fault::ReadFile | Fault::WriteFile | Fault::HostEnvironment
        );
        let candidates: &[Layer] = match errno {
            libc::ENETUNREACH | libc::ENETDOWN if self.fault == Fault::Connect => {
                &[Layer::NetNamespace]
            }
            // A separate network, without listeners.
            libc::ECONNREFUSED if self.fault == Fault::Connect => &[Layer::NetNamespace],
            libc::EACCES if self.fault == Fault::Connect => &[Layer::Landlock],
            libc::ENOENT if of_files => &[Layer::MountNamespace],
            libc::EACCES if of_files && self.is_open => &[Layer::Landlock],
            libc::EACCES if of_files => &[Layer::Landlock, Layer::Identity],
            libc::EFBIG => &[Layer::Rlimits],
            libc::ESRCH if self.aims_at_host() => &[Layer::PidNamespace],
            libc::EPERM if self.aims_at_host() => &[Layer::Landlock, Layer::Identity],
            libc::EAGAIN if self.fault == Fault::Fork => &[Layer::Rlimits, Layer::Cgroup],
            libc::ENOMEM => &[Layer::Rlimits],
            _ => &[],
        };
        let mut names: Vec<String> = candidates
            .iter()
            .filter(|layer| walls.stands(**layer))
            .map(|layer| wall(*layer).to_owned())
            .collect();
        let restricted = matches!(
            self.fault,
            Fault::Ptrace | Fault::HostMemory | Fault::HostEnvironment
        );
        if errno == libc::EPERM
            && restricted
            && let Some(scope @ 1..) = self.ptrace_scope
        {
            names.push(format!("Yama (ptrace_scope is {scope})"));
        }
        match names.is_empty() {
            true => "the system, without a wall of wrun's".to_owned(),
            false => names.join(" or "),
        }
    }
}

fn guest(fault: Fault, ended: &Ended) -> Course {
    let by = match (fault, ended) {
        (Fault::LockHolder, Ended::Trapped(_)) => "the runner, which releases its locks",
        (Fault::Trap | Fault::StackOverflow, Ended::Trapped(_)) => "wasmtime's sandbox",
        (Fault::EndlessLoop, Ended::Limit(Limit::Deadline)) => "the deadline",
        (Fault::MemoryBomb, Ended::Limit(Limit::Memory)) => "the memory limit",
        (Fault::OutputFlood, Ended::Limit(Limit::Output)) => "the output limit",
        // Not the intended wall, but the worker's process contained it.
        (_, Ended::Signal(_) | Ended::Exit(_)) => "its process",
        (_, other) => {
            return Course::Unknown {
                why: format!("it ended in an unexpected way: {}", other.words()),
            };
        }
    };
    Course::Stopped {
        by: by.to_owned(),
        detail: ended.words(),
    }
}

fn host(fault: Fault, mode: Mode, ended: &Ended) -> Course {
    match (mode, ended) {
        (Mode::Process, Ended::Signal(_) | Ended::Exit(_)) => Course::Stopped {
            by: "its process".to_owned(),
            detail: ended.words(),
        },
        _ => Course::Unknown {
            why: format!("{} had no effect: {}", fault.name(), ended.words()),
        },
    }
}

/// The description of a successful action.
fn did(fault: Fault) -> &'static str {
    match fault {
        Fault::ReadFile => "it read the file",
        Fault::WriteFile => "it wrote the file",
        Fault::Connect => "it connected",
        Fault::Fork => "it started a process",
        Fault::Ptrace => "it attached",
        Fault::Signal => "it may send signals",
        Fault::HostMemory => "it read the host's memory",
        Fault::ExecutableMemory => "it has such memory",
        Fault::HostEnvironment => "it read the host's environment",
        _ => "it was done",
    }
}

impl Ended {
    fn words(&self) -> String {
        match self {
            Ended::Injected(InjectionResult::Did(_)) => "it went on".to_owned(),
            Ended::Injected(InjectionResult::Refused { errno, .. }) => {
                format!("refused: {}", name_of(*errno))
            }
            Ended::Trapped(what) => format!("trapped: {what}"),
            Ended::Limit(limit) => format!("limit exceeded: {limit}"),
            Ended::Signal(signal) => format!("the worker died of {}", signal_name(*signal)),
            Ended::Exit(status) => format!("the worker exited with status {status}"),
            Ended::Other(what) => what.clone(),
        }
    }
}

/// The walls around a worker; `None` in thread mode.
struct Walls<'a>(Option<&'a JailReport>);

impl Walls<'_> {
    fn stands(&self, layer: Layer) -> bool {
        let report = self.0.and_then(|report| report.layer(layer));
        report.is_some_and(|report| report.state != LayerState::Unavailable)
    }

    /// The filter of system calls that refused it.
    fn filter(&self) -> String {
        match self.stands(Layer::Seccomp) {
            true => wall(Layer::Seccomp).to_owned(),
            false => "a seccomp filter that is not wrun's".to_owned(),
        }
    }
}

/// The name of a layer for readers.
fn wall(layer: Layer) -> &'static str {
    match layer {
        Layer::Landlock => "Landlock",
        Layer::MountNamespace => "the mount namespace",
        Layer::NetNamespace => "the network namespace",
        Layer::PidNamespace => "the process namespace",
        Layer::Identity => "the worker's identity",
        Layer::Cgroup => "the control group",
        other => other.name(),
    }
}

fn name_of(errno: i32) -> String {
    let name = match errno {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::ESRCH => "ESRCH",
        libc::EAGAIN => "EAGAIN",
        libc::ENOMEM => "ENOMEM",
        libc::EACCES => "EACCES",
        libc::EEXIST => "EEXIST",
        libc::EROFS => "EROFS",
        libc::EFBIG => "EFBIG",
        libc::EMFILE => "EMFILE",
        libc::ENOSYS => "ENOSYS",
        libc::EIO => "EIO",
        libc::EINVAL => "EINVAL",
        libc::ENETUNREACH => "ENETUNREACH",
        libc::ENETDOWN => "ENETDOWN",
        libc::ECONNREFUSED => "ECONNREFUSED",
        libc::EAFNOSUPPORT => "EAFNOSUPPORT",
        libc::ELOOP => "ELOOP",
        other => return format!("error {other}"),
    };
    name.to_owned()
}

/// A signal's name, such as `SIGSEGV`, or its number.
pub(super) fn signal_name(signal: i32) -> String {
    let name = match signal {
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGILL => "SIGILL",
        libc::SIGKILL => "SIGKILL",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGSYS => "SIGSYS",
        libc::SIGTERM => "SIGTERM",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use wrun::LayerReport;

    fn known(fault: Fault) -> Known {
        Known {
            fault,
            mode: Mode::Process,
            sacrificed: false,
            trace: None,
            is_open: true,
            ptrace_scope: None,
        }
    }

    fn played(ended: Ended, layers: &[Layer]) -> Played {
        let layers = layers
            .iter()
            .map(|layer| LayerReport::new(*layer, LayerState::Enforced, ""));
        Played {
            ended,
            is_true: true,
            lost: 0,
            requests: None,
            detected_ns: 1,
            recovered_ns: Some(2),
            jail: Some(JailReport::new(layers.collect())),
        }
    }

    fn refused(errno: i32, senseless: i32) -> Ended {
        Ended::Injected(InjectionResult::Refused { errno, senseless })
    }

    /// Whether it was contained, and by what.
    fn seen(known: &Known, played: &Played) -> (bool, String) {
        match known.finding(played) {
            Finding::Measured(seen) => (seen.held, seen.stopped_by),
            Finding::NotMeasured { why } => panic!("{why}"),
        }
    }

    #[test]
    fn walls_are_told_apart() {
        use Layer::{Identity, Landlock, MountNamespace, NetNamespace, PidNamespace, Seccomp};
        let all = Layer::ALL;
        for (fault, errno, senseless, layers, by) in [
            // A filter does not see arguments.
            (
                Fault::ReadFile,
                libc::EPERM,
                libc::EPERM,
                &all[..],
                "seccomp",
            ),
            (
                Fault::Fork,
                libc::ENOSYS,
                libc::ENOSYS,
                &[Seccomp],
                "seccomp",
            ),
            (
                Fault::Ptrace,
                libc::EPERM,
                libc::EPERM,
                &[],
                "a seccomp filter that is not wrun's",
            ),
            // The kernel does.
            (
                Fault::ReadFile,
                libc::EACCES,
                libc::EFAULT,
                &all,
                "Landlock",
            ),
            (
                Fault::ReadFile,
                libc::ENOENT,
                libc::EFAULT,
                &[MountNamespace],
                "the mount namespace",
            ),
            (
                Fault::Connect,
                libc::ENETUNREACH,
                libc::EBADF,
                &[NetNamespace, Seccomp],
                "the network namespace",
            ),
            (Fault::Connect, libc::EACCES, libc::EBADF, &all, "Landlock"),
            (
                Fault::Signal,
                libc::EPERM,
                libc::EINVAL,
                &[Landlock, Identity],
                "Landlock or the worker's identity",
            ),
            (
                Fault::Signal,
                libc::ESRCH,
                libc::EINVAL,
                &[PidNamespace],
                "the process namespace",
            ),
            (
                Fault::WriteFile,
                libc::EROFS,
                libc::EFAULT,
                &all,
                "the system, without a wall of wrun's",
            ),
        ] {
            let played = played(refused(errno, senseless), layers);
            assert_eq!(seen(&known(fault), &played), (true, by.to_owned()));
        }
        let closed = Known {
            is_open: false,
            ..known(Fault::ReadFile)
        };
        let played = played(refused(libc::EACCES, libc::EFAULT), &all);
        let by = "Landlock or the worker's identity".to_owned();
        assert_eq!(seen(&closed, &played), (true, by));
        let yama = Known {
            ptrace_scope: Some(1),
            ..known(Fault::HostMemory)
        };
        let played = self::played(refused(libc::EPERM, libc::EINVAL), &[]);
        let by = "Yama (ptrace_scope is 1)".to_owned();
        assert_eq!(seen(&yama, &played), (true, by));
    }

    #[test]
    fn what_was_done_is_told_from_what_was_said() {
        let did = || played(Ended::Injected(InjectionResult::Did(Vec::new())), &[]);
        let with = |trace| Known {
            trace,
            ..known(Fault::WriteFile)
        };
        let nothing = (false, NOTHING.to_owned());
        assert_eq!(seen(&with(Some(true)), &did()), nothing);
        let lied = with(Some(false)).finding(&did());
        assert!(matches!(lied, Finding::NotMeasured { .. }), "{lied:?}");
        let refused = played(refused(libc::EPERM, libc::EPERM), &[]);
        assert_eq!(seen(&with(Some(true)), &refused), nothing);
        // The host's number, which another process has here.
        let elsewhere = played(
            Ended::Injected(InjectionResult::Did(Vec::new())),
            &[Layer::PidNamespace],
        );
        let by = (true, "the process namespace".to_owned());
        assert_eq!(seen(&known(Fault::Signal), &elsewhere), by);
        let read = known(Fault::HostMemory);
        assert_eq!(seen(&read, &elsewhere), nothing);
        let other = Played {
            is_true: false,
            ..did()
        };
        let other = known(Fault::HostMemory).finding(&other);
        assert!(matches!(other, Finding::NotMeasured { .. }), "{other:?}");
    }

    #[test]
    fn a_lost_sibling_is_no_wall_that_held() {
        let mut played = played(Ended::Signal(libc::SIGSEGV), &[]);
        let by = "its process".to_owned();
        assert_eq!(seen(&known(Fault::Segfault), &played), (true, by.clone()));
        played.lost = 1;
        assert_eq!(seen(&known(Fault::Segfault), &played), (false, by));
        let trapped = self::played(Ended::Trapped("unreachable".into()), &[]);
        let other = known(Fault::EndlessLoop).finding(&trapped);
        assert!(matches!(other, Finding::NotMeasured { .. }), "{other:?}");
    }
}
