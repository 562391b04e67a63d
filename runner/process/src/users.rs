//! User numbers for the programs that root starts: each program has one that no other
//! process of the machine has.
//!
//! The kernel counts much by user: descriptors in flight, processes, pending signals. Of
//! two programs with one number, each could use up what the other needs, and signal it.
//! Invariant: of two runners in one network namespace, neither picks a number that the
//! other uses, unless the whole range is in use.

use crate::jail::Plan;
use rand::RngExt;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with};
use std::fs::File;
use std::io::Read;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use wrun_types::config::{Config, Jail};

/// The default range: beyond the numbers that systemd gives out (services, containers,
/// foreign images), that `/etc/subuid` usually has, and that SSSD generates.
pub(super) const USERS: RangeInclusive<u32> = 0x7800_0000..=0x7800_FFFF;

/// Numbers that are tried before one is taken that may be in use.
const TRIES: u32 = 64;
/// Maximum that is read from a file of the system.
const MAX_FILE: u64 = 4 << 20;

/// The range from which numbers are picked.
#[derive(Debug)]
pub(super) struct Users {
    range: RangeInclusive<u32>,
    /// The range was configured: it is also for tasks with granted directories.
    chosen: bool,
    /// Numbers that the system's files assign to others.
    others: Vec<RangeInclusive<u32>>,
}

/// A number, while this exists.
pub(super) struct User {
    pub(super) number: u32,
    chosen: bool,
    /// A name that only one socket can have, and that the kernel removes with it.
    _name: Option<OwnedFd>,
}

impl Users {
    pub(super) fn new(chosen: Option<RangeInclusive<u32>>) -> Self {
        let mut others = Vec::new();
        if chosen.is_none() {
            let text = |path: &str| {
                let mut text = Vec::new();
                // Without it, no users are known.
                let _ =
                    File::open(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut text));
                String::from_utf8_lossy(&text).into_owned()
            };
            others.extend(single(&text("/etc/passwd")));
            others.extend(ranges(&text("/etc/subuid")));
            others.retain(|range| overlaps(range, &USERS));
        }
        Users {
            chosen: chosen.is_some(),
            range: chosen.unwrap_or(USERS),
            others,
        }
    }

    /// Whether they were configured, and are meant to access granted directories as they
    /// are.
    pub(super) fn are_chosen(&self) -> bool {
        self.chosen
    }

    /// A number that is not in use, as far as known; otherwise any of the range.
    pub(super) fn pick(&self) -> User {
        let mut random = rand::rng();
        let mut pick = || random.random_range(self.range.clone());
        for _ in 0..TRIES {
            let number = pick();
            if self.others.iter().any(|range| range.contains(&number)) {
                continue;
            }
            match reserve(number) {
                Reserved::Yes(name) => return self.user(number, Some(name)),
                Reserved::InUse => {}
                Reserved::Unknown => return self.user(number, None),
            }
        }
        self.user(pick(), None)
    }

    fn user(&self, number: u32, name: Option<OwnedFd>) -> User {
        User {
            number,
            chosen: self.chosen,
            _name: name,
        }
    }
}

impl User {
    /// Makes a program run as this user.
    pub(super) fn apply(&self, plan: &mut Plan) {
        if self.chosen {
            plan.identity = Some((self.number, self.number));
        } else {
            plan.own_user = Some(self.number);
        }
    }
}

enum Reserved {
    Yes(OwnedFd),
    InUse,
    /// The system provides no name.
    Unknown,
}

fn reserve(number: u32) -> Reserved {
    let named = || -> rustix::io::Result<OwnedFd> {
        let name = format!("wrun/user/{number}");
        let address = SocketAddrUnix::new_abstract_name(name.as_bytes())?;
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        bind(&socket, &address)?;
        Ok(socket)
    };
    match named() {
        Ok(socket) => Reserved::Yes(socket),
        Err(rustix::io::Errno::ADDRINUSE) => Reserved::InUse,
        Err(_) => Reserved::Unknown,
    }
}

fn overlaps(one: &RangeInclusive<u32>, other: &RangeInclusive<u32>) -> bool {
    one.start() <= other.end() && other.start() <= one.end()
}

/// The users of a file like `/etc/passwd`.
fn single(text: &str) -> impl Iterator<Item = RangeInclusive<u32>> {
    let number = |line: &str| line.split(':').nth(2)?.parse::<u32>().ok();
    text.lines()
        .filter_map(number)
        .map(|number| number..=number)
}

/// The ranges of a file like `/etc/subuid`.
fn ranges(text: &str) -> impl Iterator<Item = RangeInclusive<u32>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':').skip(1);
        let first: u32 = fields.next()?.parse().ok()?;
        let count: u32 = fields.next()?.trim_end().parse().ok()?;
        Some(first..=first.saturating_add(count.checked_sub(1)?))
    })
}

/// The users for started programs, if any: only root may choose them, and without a jail
/// programs keep the runner's user.
pub(super) fn users_of(config: &Config) -> Option<Users> {
    let root = rustix::process::geteuid().is_root();
    (root && config.identity.is_none() && config.jail != Jail::Off)
        .then(|| Users::new(config.users.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_number_is_given_twice_while_it_is_in_use() {
        // Two runners that know nothing of each other.
        let range = 0x7801_0000..=0x7801_0003;
        let (one, other) = (
            Users::new(Some(range.clone())),
            Users::new(Some(range.clone())),
        );
        let taken = [one.pick(), other.pick(), one.pick(), other.pick()];
        let numbers: HashSet<u32> = taken.iter().map(|user| user.number).collect();
        assert_eq!(numbers, range.clone().collect());
        // More than the range has.
        assert!(range.contains(&one.pick().number));
        let [first, ..] = taken;
        let free = first.number;
        drop(first);
        assert_eq!(other.pick().number, free);
    }

    #[test]
    fn numbers_of_the_system_are_left_out() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nodd:x:2013265920:1::/:\n::\nx:y:-1:\n";
        let known: Vec<_> = single(passwd).collect();
        assert_eq!(known, [0..=0, 2_013_265_920..=2_013_265_920]);
        let subuid = "me:100000:65536\nyou:4294967295:9\nnone:1:0\nbad:x:1\n";
        let known: Vec<_> = ranges(subuid).collect();
        assert_eq!(known, [100_000..=165_535, u32::MAX..=u32::MAX]);
        let mut users = Users::new(Some(7..=9));
        users.others = vec![7..=8];
        assert_eq!(users.pick().number, 9);
        assert!(overlaps(&(0..=7), &(7..=9)) && !overlaps(&(0..=6), &(7..=9)));
    }
}
