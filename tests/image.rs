//! The worker program's code on large pages: which processes map it, that none can change it,
//! and what happens where it does not fit. Each test has a process to itself.

use crate::support::processes::own_copy;
use crate::support::{alone, builder, children, guest};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use wrun::{Artifact, Builder, Mode, ProcessOptions, Runner, Task};

/// Whether this kernel can put a memory file on pages of 2 MiB.
fn has_large_pages() -> bool {
    let size = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size");
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let version: Vec<u32> = release
        .split(|c: char| !c.is_ascii_digit())
        .take(2)
        .filter_map(|number| number.parse().ok())
        .collect();
    let has = size.is_ok_and(|size| size.trim() == "2097152") && version >= vec![6, 1];
    if !has {
        println!("SKIPPED: Linux {release} has no pages of 2 MiB for memory files");
    }
    has
}

fn load(builder: Builder) -> (Runner, Artifact) {
    let runner = builder
        .process(ProcessOptions::default().spares(0))
        .build()
        .unwrap();
    let echo = guest(&runner, "echo/echo.wat");
    (runner, echo)
}

fn run(runner: &Runner, task: &Artifact) {
    let report = runner.blocking_run(Task::new(task).input("hello")).unwrap();
    assert_eq!(report.stdout, "hello", "{}", report.outcome);
}

/// The protections with which a process maps the image.
fn mapped(process: &str) -> Vec<String> {
    fs::read_to_string(format!("/proc/{process}/maps"))
        .unwrap()
        .lines()
        .filter(|line| line.contains("memfd:wrun-image"))
        .filter_map(|line| line.split(' ').nth(1).map(str::to_owned))
        .collect()
}

/// A process's descriptors of the image.
fn open(process: &str) -> Vec<PathBuf> {
    fs::read_dir(format!("/proc/{process}/fd"))
        .unwrap()
        .flatten()
        .map(|descriptor| descriptor.path())
        .filter(|path| {
            fs::read_link(path).is_ok_and(|to| to.to_string_lossy().contains("wrun-image"))
        })
        .collect()
}

#[test]
fn zygotes_share_one_that_no_process_can_change() {
    alone(
        "image::zygotes_share_one_that_no_process_can_change",
        || {
            if !has_large_pages() {
                return;
            }
            let (runner, echo) = load(builder(Mode::Process));
            run(&runner, &echo);
            let other = guest(&runner, "hostile/fail.wat");
            let _ = runner.blocking_run(Task::new(&other)).unwrap();
            let zygotes = children();
            assert_eq!(zygotes.len(), 2);
            for zygote in zygotes {
                let zygote = zygote.to_string();
                assert_eq!(mapped(&zygote), ["r--p", "r-xp"]);
                assert!(open(&zygote).is_empty());
            }
            // One copy, and its owner cannot write to it either.
            let copies = open("self");
            assert_eq!(copies.len(), 1);
            assert_eq!(mapped("self"), ["r--p"]);
            let writing = fs::OpenOptions::new().write(true).open(&copies[0]);
            let written = writing.and_then(|mut file| file.write(b"x"));
            let error = written.unwrap_err();
            assert_eq!(
                error.raw_os_error(),
                Some(rustix::io::Errno::PERM.raw_os_error()),
                "{error}"
            );
            drop(runner);
            assert!(open("self").is_empty());
            assert!(mapped("self").is_empty());
        },
    );
}

#[test]
fn a_program_that_was_replaced_keeps_its_own_code() {
    alone(
        "image::a_program_that_was_replaced_keeps_its_own_code",
        || {
            if !has_large_pages() {
                return;
            }
            let folder = tempfile::tempdir().unwrap();
            let program = folder.path().join("program");
            let copy = own_copy(folder.path());
            fs::copy(&copy, &program).unwrap();
            let (runner, echo) =
                load(builder(Mode::Process).process(ProcessOptions::default().worker(&program)));
            run(&runner, &echo);
            assert_eq!(images_of_zygotes(), [2]);
            replace(&program);
            let other = guest(&runner, "hostile/fail.wat");
            let _ = runner.blocking_run(Task::new(&other)).unwrap();
            let mut images = images_of_zygotes();
            images.sort_unstable();
            assert_eq!(images, [0, 2]);
        },
    );
}

/// Segments that each zygote maps from the image.
fn images_of_zygotes() -> Vec<usize> {
    let zygotes = children().into_iter();
    zygotes
        .map(|zygote| mapped(&zygote.to_string()).len())
        .collect()
}

/// Puts a program there that does the same and is another file.
fn replace(program: &Path) {
    let new = program.with_extension("new");
    fs::copy(program, &new).unwrap();
    fs::rename(&new, program).unwrap();
}
