//! Files as guests see them: listings, limits on handles, and calls with odd but legal
//! arguments. docs/files.md says what is promised.

use crate::support::{BOTH, builder, silent, wat};
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;
use wrun::{DirGrant, Limit, Limits, Mode, Outcome, Task};

/// A guest of WASI 0.1, put together from calls. What it `put`s comes out as decimal
/// numbers.
struct Script {
    pages: u32,
    data: String,
    next: usize,
    body: String,
}

/// Where results of calls go, and where there is room for more.
const RESULT: u32 = 64;
const ROOM: u32 = 32 << 10;

impl Script {
    fn new() -> Self {
        Script::with_pages(2)
    }

    fn with_pages(pages: u32) -> Self {
        Script {
            pages,
            data: String::new(),
            next: 1024,
            body: String::new(),
        }
    }

    /// A text in its memory: pointer and length, as parameters.
    fn text(&mut self, text: &str) -> String {
        let at = self.next;
        self.next += text.len().next_multiple_of(8);
        let mut escaped = String::new();
        for byte in text.bytes() {
            write!(escaped, "\\{byte:02x}").unwrap();
        }
        writeln!(self.data, "(data (i32.const {at}) \"{escaped}\")").unwrap();
        format!("(i32.const {at}) (i32.const {})", text.len())
    }

    fn code(&mut self, code: &str) -> &mut Self {
        writeln!(self.body, "{code}").unwrap();
        self
    }

    /// Puts what a call says.
    fn put(&mut self, call: &str) -> &mut Self {
        self.code(&format!("(call $put (i64.extend_i32_u {call}))"))
    }

    /// Puts what is at an address.
    fn put_at(&mut self, at: u32) -> &mut Self {
        self.put(&format!("(i32.load (i32.const {at}))"))
    }

    /// A list of one buffer, at an address.
    fn buffer(&mut self, at: u32, begin: u32, len: u32) -> &mut Self {
        self.code(&format!(
            "(i32.store (i32.const {at}) (i32.const {begin}))
             (i32.store (i32.const {}) (i32.const {len}))",
            at + 4
        ))
    }

    /// Opens a path below the first granted directory and puts the errno. The
    /// descriptor is in a global.
    fn open(&mut self, path: &str, oflags: u32, rights: u64) -> &mut Self {
        let path = self.text(path);
        self.put(&format!(
            "(call $path_open (i32.const 3) (i32.const 1) {path} (i32.const {oflags})
                (i64.const {rights}) (i64.const 0) (i32.const 0) (i32.const {RESULT}))"
        ));
        self.code(&format!("(global.set $fd (i32.load (i32.const {RESULT})))"))
    }

    fn wat(&self) -> String {
        let Script {
            pages, data, body, ..
        } = self;
        format!(
            r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_pwrite" (func $fd_pwrite (param i32 i32 i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_pread" (func $fd_pread (param i32 i32 i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_renumber" (func $fd_renumber (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_readdir" (func $fd_readdir (param i32 i32 i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_prestat_get" (func $fd_prestat_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open" (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_filestat_get" (func $path_filestat_get (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_unlink_file" (func $path_unlink_file (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_create_directory" (func $path_create_directory (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_remove_directory" (func $path_remove_directory (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_rename" (func $path_rename (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_readlink" (func $path_readlink (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock_time_get (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
  (memory (export "memory") {pages})
  {data}
  (global $fd (mut i32) (i32.const -1))
  (func $char (param $char i32)
    (i32.store8 (i32.const 16) (local.get $char))
    (i32.store (i32.const 0) (i32.const 16))
    (i32.store (i32.const 4) (i32.const 1))
    (if (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable)))
  (func $digits (param $number i64)
    (if (i64.ge_u (local.get $number) (i64.const 10))
      (then (call $digits (i64.div_u (local.get $number) (i64.const 10)))))
    (call $char (i32.add (i32.const 48) (i32.wrap_i64 (i64.rem_u (local.get $number) (i64.const 10))))))
  (func $put (param $number i64)
    (call $digits (local.get $number))
    (call $char (i32.const 32)))
  (func (export "_start")
    (local $a i32) (local $b i32) (local $c i32) (local $d i32) (local $cookie i64) (local $time i64)
    {body}))"#
        )
    }
}

/// What a script puts when it is run in a mode.
#[track_caller]
fn puts(mode: Mode, script: &Script, change: impl FnOnce(Task) -> Task) -> Vec<u64> {
    let report = run(mode, &script.wat(), change);
    let output = match &report {
        Outcome::Completed(output) => output.as_bytes().to_vec(),
        other => panic!("{mode}: {other}"),
    };
    let text = String::from_utf8(output).unwrap();
    text.split_whitespace()
        .map(|number| number.parse().unwrap())
        .collect()
}

#[track_caller]
fn run(mode: Mode, text: &str, change: impl FnOnce(Task) -> Task) -> Outcome {
    let runner = builder(mode).build().unwrap();
    let artifact = wat(&runner, "files.wat", text);
    let limits = Limits::default().timeout(Duration::from_secs(60));
    let task = change(Task::new(&artifact).limits(limits));
    runner.blocking_run(task).unwrap().outcome
}

fn granted(directory: &Path) -> impl FnOnce(Task) -> Task {
    let grant = DirGrant::new(directory).guest("/d");
    |task| task.dir(grant)
}

/// An empty file for each of this many numbers.
fn fill(directory: &Path, count: u32) {
    for index in 0..count {
        std::fs::write(directory.join(format!("file-{index}")), "").unwrap();
    }
}

/// Reads descriptor `$a` with buffers of 600 bytes, calls `each` for each entry (at
/// `$c`, its name's length in `$d`) but `.` and `..`.
fn for_each_entry(each: &str) -> String {
    format!(
        "(local.set $cookie (i64.const 0))
        (loop $more
          (if (call $fd_readdir (local.get $a) (i32.const {ROOM}) (i32.const 600)
              (local.get $cookie) (i32.const {RESULT})) (then unreachable))
          (local.set $b (i32.add (i32.const {ROOM}) (i32.load (i32.const {RESULT}))))
          (local.set $c (i32.const {ROOM}))
          (block $buffer
            (loop $entries
              (br_if $buffer (i32.gt_u (i32.add (local.get $c) (i32.const 24)) (local.get $b)))
              (local.set $d (i32.load offset=16 (local.get $c)))
              (br_if $buffer (i32.gt_u
                (i32.add (i32.add (local.get $c) (i32.const 24)) (local.get $d)) (local.get $b)))
              (local.set $cookie (i64.load (local.get $c)))
              (if (i32.ne (i32.load8_u offset=24 (local.get $c)) (i32.const 46)) (then {each}))
              (local.set $c (i32.add (i32.add (local.get $c) (i32.const 24)) (local.get $d)))
              (br $entries)))
          (br_if $more (i32.eq (i32.load (i32.const {RESULT})) (i32.const 600))))"
    )
}

/// Counts at an address.
fn count(at: u32) -> String {
    format!("(i32.store (i32.const {at}) (i32.add (i32.load (i32.const {at})) (i32.const 1)))")
}

#[test]
fn a_directory_that_is_emptied_while_it_is_read_ends_empty() {
    const GONE: u32 = 128;
    for mode in BOTH {
        let directory = tempfile::tempdir().unwrap();
        fill(directory.path(), 500);
        let mut script = Script::new();
        script.code("(local.set $a (i32.const 3))");
        script.code(&for_each_entry(&format!(
            "(if (call $path_unlink_file (i32.const 3) (i32.add (local.get $c) (i32.const 24))
                (local.get $d)) (then unreachable)) {}",
            count(GONE)
        )));
        script.put_at(GONE);
        // From the beginning: what is there now.
        script.put(&format!(
            "(call $fd_readdir (i32.const 3) (i32.const {ROOM}) (i32.const 600) (i64.const 0)
                (i32.const {RESULT}))"
        ));
        script.put_at(RESULT);
        let dots = 24 + 1 + 24 + 2;
        assert_eq!(
            puts(mode, &script, granted(directory.path())),
            [500, 0, dots],
            "{mode}"
        );
        assert_eq!(directory.path().read_dir().unwrap().count(), 0, "{mode}");
    }
}

#[test]
fn entries_tell_the_number_and_the_kind_of_their_files() {
    const SAME: u32 = 128;
    const KINDS: u32 = 136;
    for mode in BOTH {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("file"), "x").unwrap();
        std::fs::create_dir(path("directory")).unwrap();
        std::os::unix::fs::symlink("nowhere", path("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        let mut script = Script::new();
        script.code("(local.set $a (i32.const 3))");
        script.code(&for_each_entry(&format!(
            "(i32.store (i32.const {KINDS}) (i32.add (i32.load (i32.const {KINDS}))
                (i32.shl (i32.const 1) (i32.load8_u offset=20 (local.get $c)))))
             (if (call $path_filestat_get (i32.const 3) (i32.const 0)
                 (i32.add (local.get $c) (i32.const 24)) (local.get $d) (i32.const 256))
               (then unreachable))
             (if (i64.eq (i64.load offset=8 (local.get $c)) (i64.load (i32.const 264)))
               (then {}))",
            count(SAME)
        )));
        script.put_at(SAME).put_at(KINDS);
        // There is no kind for a socket that has a name.
        let kinds = 1 << 0 | 1 << 3 | 1 << 4 | 1 << 7;
        assert_eq!(
            puts(mode, &script, granted(directory.path())),
            [4, kinds],
            "{mode}"
        );
    }
}

#[test]
fn a_listing_that_is_going_on_is_renumbered_with_its_descriptor() {
    for mode in BOTH {
        let directory = tempfile::tempdir().unwrap();
        fill(directory.path(), 3);
        let mut script = Script::new();
        let list = |fd: &str, cookie: u32| {
            format!(
                "(call $fd_readdir {fd} (i32.const {ROOM}) (i32.const 600) (i64.const {cookie})
                    (i32.const {RESULT}))"
            )
        };
        script
            .open(".", 2, 1 << 14)
            .code("(local.set $a (global.get $fd))");
        script
            .open(".", 2, 1 << 14)
            .code("(local.set $b (global.get $fd))");
        script.put(&list("(local.get $a)", 0)).put_at(RESULT);
        // One of them goes meanwhile, and is still told.
        let name = script.text("file-1");
        script.put(&format!("(call $path_unlink_file (i32.const 3) {name})"));
        script.put("(call $fd_renumber (local.get $a) (local.get $b))");
        script.put(&list("(local.get $b)", 2)).put_at(RESULT);
        script.put(&list("(local.get $a)", 2));
        // From the beginning it is not.
        script.put(&list("(local.get $b)", 0)).put_at(RESULT);
        // Beyond the end there is nothing; a file is not a directory.
        script.put(&list("(local.get $b)", 100)).put_at(RESULT);
        script
            .open("file-2", 0, 2)
            .put(&list("(global.get $fd)", 0));
        let entry = 24 + 6;
        let dots = 24 + 1 + 24 + 2;
        let expected = [
            0,
            0,
            0,
            dots + 3 * entry,
            0,
            0,
            0,
            3 * entry,
            8,
            0,
            dots + 2 * entry,
            0,
            0,
            0,
            8,
        ];
        assert_eq!(
            puts(mode, &script, granted(directory.path())),
            expected,
            "{mode}"
        );
    }
}

#[test]
fn names_that_are_not_utf_8_do_not_hide_the_others() {
    use std::os::unix::ffi::OsStrExt;
    for mode in BOTH {
        let directory = tempfile::tempdir().unwrap();
        fill(directory.path(), 2);
        let odd = std::ffi::OsStr::from_bytes(b"odd-\xff");
        std::fs::write(directory.path().join(odd), "").unwrap();
        let mut script = Script::new();
        script.code("(local.set $a (i32.const 3))");
        script.code(&for_each_entry(&count(128)));
        script.put_at(128);
        assert_eq!(
            puts(mode, &script, granted(directory.path())),
            [3],
            "{mode}"
        );
    }
}

#[test]
fn a_listing_counts_as_memory_while_it_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    fill(directory.path(), 2_000);
    for mode in BOTH {
        let list = format!(
            "(call $fd_readdir (global.get $fd) (i32.const {ROOM}) (i32.const 600) (i64.const 0)
                (i32.const {RESULT}))"
        );
        // Two of them do not fit, one after the other any number.
        let mut script = Script::new();
        for _ in 0..3 {
            script.open(".", 2, 1 << 14).put(&list);
            script.put("(call $fd_close (global.get $fd))");
        }
        script.open(".", 2, 1 << 14).put(&list).put(&list);
        script.open(".", 2, 1 << 14).put(&list);
        let memory = (128 << 10) + 150_000;
        let expected = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 48];
        let grant = granted(directory.path());
        let numbers = puts(mode, &script, |task| {
            grant(task.limits(Limits::default().max_memory(memory)))
        });
        assert_eq!(numbers, expected, "{mode}");
    }
}

/// Opens the same file until that fails.
fn open_until_refused(script: &mut Script) {
    let path = script.text("file-0");
    script.code(&format!(
        "(loop $again
           (local.set $a (call $path_open (i32.const 3) (i32.const 0) {path} (i32.const 0)
             (i64.const 2) (i64.const 0) (i32.const 0) (i32.const {RESULT})))
           (if (i32.eqz (local.get $a)) (then
             (local.set $b (i32.add (local.get $b) (i32.const 1)))
             (br_if $again (i32.lt_u (local.get $b) (i32.const 20000))))))"
    ));
    script.put("(local.get $b)").put("(local.get $a)");
}

#[test]
fn more_files_than_a_task_may_have_are_an_error() {
    let directory = tempfile::tempdir().unwrap();
    fill(directory.path(), 1);
    for mode in BOTH {
        let mut script = Script::new();
        open_until_refused(&mut script);
        // Nothing is created then, and a wait still works.
        let new = script.text("new");
        script.put(&format!(
            "(call $path_open (i32.const 3) (i32.const 0) {new} (i32.const 1) (i64.const 66)
                (i64.const 0) (i32.const 0) (i32.const {RESULT}))"
        ));
        script.code("(i64.store (i32.const 512) (i64.const 7))");
        script.code("(i32.store (i32.const 528) (i32.const 1))");
        script.code("(i64.store (i32.const 536) (i64.const 1000))");
        script.put(
            "(call $poll_oneoff (i32.const 512) (i32.const 600) (i32.const 1) (i32.const 700))",
        );
        script.put("(call $fd_close (i32.const 10))");
        script.open("file-0", 0, 2);
        // Three streams and the directory are handles, too.
        let expected = [996, 33, 33, 0, 0, 0];
        assert_eq!(
            puts(mode, &script, granted(directory.path())),
            expected,
            "{mode}"
        );
        assert!(!directory.path().join("new").exists(), "{mode}");
    }
}

#[test]
fn a_process_without_descriptors_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    fill(directory.path(), 1);
    let mut script = Script::new();
    open_until_refused(&mut script);
    let file = directory.path().join("open.wat");
    std::fs::write(&file, script.wat()).unwrap();
    for mode in crate::support::MODES {
        let command = format!(
            "ulimit -n 256; exec {} --mode {mode} --dir {}::/d {}",
            crate::support::wrun().display(),
            directory.path().display(),
            file.display()
        );
        let output = std::process::Command::new("sh")
            .args(["-c", &command])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let numbers: Vec<u32> = text
            .split_whitespace()
            .map(|number| number.parse().unwrap())
            .collect();
        let [opened, errno] = numbers[..] else {
            panic!("{mode}: {text} {}", String::from_utf8_lossy(&output.stderr));
        };
        assert!((1..256).contains(&opened), "{mode}: {opened}");
        assert_eq!(errno, 41, "{mode}");
    }
}

#[test]
fn odd_paths_mean_what_they_mean_in_posix() {
    for mode in BOTH {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fill(directory.path(), 1);
        std::fs::create_dir(path("sub")).unwrap();
        std::fs::write(path("sub/inner"), "x").unwrap();
        for (to, link) in [
            ("sub", "to-sub"),
            ("sub/", "to-sub-slash"),
            ("file-0", "to-file"),
            ("../outside", "out"),
        ] {
            std::os::unix::fs::symlink(to, path(link)).unwrap();
        }
        // Even one that points into the grant: the guest's names are not the host's.
        std::os::unix::fs::symlink(path("file-0"), path("absolute")).unwrap();
        let mut script = Script::new();
        let mut expected = Vec::new();
        for (name, oflags, errno) in [
            ("sub/", 2, 0),
            ("sub/", 0, 0),
            ("sub//inner", 0, 0),
            ("./sub/./inner", 0, 0),
            ("sub/../file-0", 0, 0),
            ("file-0/", 0, 54),
            ("to-sub/", 2, 0),
            ("to-sub", 2, 0),
            ("to-sub/inner", 0, 0),
            ("to-sub-slash/inner", 0, 0),
            ("to-sub-slash", 2, 0),
            ("to-file/", 0, 54),
            ("to-file", 0, 0),
            ("absolute", 0, 63),
            ("out", 0, 63),
            ("../d/file-0", 0, 63),
            ("/file-0", 0, 63),
            ("", 0, 44),
        ] {
            script.open(name, oflags, 2);
            expected.push((format!("open {name:?}"), errno));
        }
        for (call, name, errno) in [
            ("path_create_directory", "new/", 0),
            ("path_create_directory", "new", 20),
            ("path_unlink_file", "new/", 31),
            ("path_unlink_file", "file-0/", 54),
            // Linux would say that the link is not a directory.
            ("path_unlink_file", "to-sub/", 31),
            ("path_remove_directory", "to-sub/", 54),
            ("path_remove_directory", "new/", 0),
            ("path_remove_directory", "new/", 44),
        ] {
            let text = script.text(name);
            script.put(&format!("(call ${call} (i32.const 3) {text})"));
            expected.push((format!("{call} {name:?}"), errno));
        }
        let [from, to] = ["sub/", "moved/"].map(|name| script.text(name));
        script.put(&format!(
            "(call $path_rename (i32.const 3) {from} (i32.const 3) {to})"
        ));
        expected.push(("rename".into(), 0));
        let link = script.text("absolute");
        script.put(&format!(
            "(call $path_filestat_get (i32.const 3) (i32.const 0) {link} (i32.const 512))"
        ));
        expected.push(("attributes of the link itself".into(), 0));
        let long = "x".repeat(5000);
        let long = script.text(&long);
        for call in ["path_unlink_file", "path_create_directory"] {
            script.put(&format!("(call ${call} (i32.const 3) {long})"));
            expected.push((format!("{call} of a long name"), 37));
        }
        let numbers = puts(mode, &script, granted(directory.path()));
        let told: Vec<_> = expected
            .iter()
            .zip(&numbers)
            .map(|((what, _), errno)| (what.clone(), *errno))
            .collect();
        assert_eq!(told, expected, "{mode}");
    }
}

#[test]
fn a_slash_at_the_end_of_a_directorys_name_is_not_told() {
    for mode in BOTH {
        for (name, len) in [
            ("/d/", 2),
            ("/d//", 2),
            ("/", 1),
            ("//", 1),
            ("a/b/", 3),
            (".", 1),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let mut script = Script::new();
            script.put("(call $fd_prestat_get (i32.const 3) (i32.const 64))");
            script.put_at(68);
            let grant = DirGrant::new(directory.path()).guest(name);
            let numbers = puts(mode, &script, |task| task.dir(grant));
            assert_eq!(numbers, [0, len], "{mode} {name}");
        }
    }
}

#[test]
fn reading_nothing_does_not_wait() {
    for mode in BOTH {
        let mut script = Script::new();
        script.buffer(256, ROOM, 0);
        // No buffers, an empty one, another stream, no stream.
        for (fd, buffers) in [(0, 0), (0, 1), (1, 0), (77, 0)] {
            script.put(&format!(
                "(call $fd_read (i32.const {fd}) (i32.const 256) (i32.const {buffers})
                    (i32.const {RESULT}))"
            ));
        }
        let numbers = puts(mode, &script, |task| task.input(silent()));
        assert_eq!(numbers, [0, 0, 8, 8], "{mode}");
    }
}

#[test]
fn buffers_may_be_many_or_large() {
    const FILE: u32 = 200 << 20;
    const BUFFER: u32 = 1 << 20;
    let directory = tempfile::tempdir().unwrap();
    // Of holes.
    let file = std::fs::File::create(directory.path().join("large")).unwrap();
    file.set_len(u64::from(FILE)).unwrap();
    std::os::unix::fs::FileExt::write_at(&file, b"\x2a", u64::from(FILE) - 1).unwrap();
    for mode in BOTH {
        let mut script = Script::with_pages((FILE + BUFFER) / 65536 + 1);
        script.open("large", 0, 2);
        let call = |call: &str, buffers: u32, more: &str| {
            format!(
                "(call ${call} (global.get $fd) (i32.const 256) (i32.const {buffers}) {more}
                    (i32.const {RESULT}))"
            )
        };
        // All of it at once, more than one call of wasmtime's may copy.
        script.buffer(256, BUFFER, FILE + 1);
        script.put(&call("fd_read", 1, "")).put_at(RESULT);
        script.put(&format!("(i32.load8_u (i32.const {}))", BUFFER + FILE - 1));
        script.put(&call("fd_read", 1, "")).put_at(RESULT);
        // At a position, up to the end.
        script.buffer(256, BUFFER, 10 << 20);
        let near_the_end = format!("(i64.const {})", FILE - (9 << 20));
        script
            .put(&call("fd_pread", 1, &near_the_end))
            .put_at(RESULT);
        script.put(&format!(
            "(i32.load8_u (i32.const {}))",
            BUFFER + (9 << 20) - 1
        ));
        // Nothing in the first thousand buffers; then something in the first of many.
        script.code(&format!(
            "(memory.fill (i32.const {ROOM}) (i32.const 0) (i32.const 16384))
             (i32.store (i32.const 256) (i32.const 1))"
        ));
        let many = |buffers: u32| {
            format!(
                "(call $fd_pread (global.get $fd) (i32.const {ROOM}) (i32.const {buffers})
                    (i64.const 0) (i32.const {RESULT}))"
            )
        };
        script.put(&many(1024)).put_at(RESULT).put(&many(1025));
        script.code(&format!(
            "(i32.store (i32.const {}) (i32.const 5))",
            ROOM + 4
        ));
        script.code(&format!(
            "(i32.store (i32.const {ROOM}) (i32.const {BUFFER}))"
        ));
        script.put(&many(1500)).put_at(RESULT);
        let (file, nine) = (u64::from(FILE), 9 << 20);
        let expected = [0, 0, file, 42, 0, 0, 0, nine, 42, 0, 0, 28, 0, 5];
        let grant = granted(directory.path());
        assert_eq!(puts(mode, &script, grant), expected, "{mode}");
    }
}

#[test]
fn output_that_is_written_in_parts_is_whole() {
    const LEN: u32 = 3_000_001;
    for mode in BOTH {
        let directory = tempfile::tempdir().unwrap();
        // The buffer begins with the memory: nothing of it may be changed on the way.
        let mut script = Script::with_pages(LEN / 65536 + 1);
        script.open("all", 1 | 8, 64);
        script.code(&format!(
            "(local.set $a (i32.const 2048))
             (loop $more
               (i32.store8 (local.get $a) (i32.rem_u (local.get $a) (i32.const 251)))
               (br_if $more (i32.lt_u
                 (local.tee $a (i32.add (local.get $a) (i32.const 1))) (i32.const {LEN}))))"
        ));
        script.buffer(256, 0, LEN);
        script.code(&format!(
            "(local.set $b (call $fd_write (global.get $fd) (i32.const 256) (i32.const 1)
                (i32.const {RESULT})))
             (local.set $c (i32.load (i32.const {RESULT})))"
        ));
        script.put("(local.get $b)").put("(local.get $c)");
        // Where the file ends, twice.
        script.buffer(256, 2048, LEN - 2048);
        script.put(&format!(
            "(call $fd_pwrite (global.get $fd) (i32.const 256) (i32.const 1) (i64.const {LEN})
                (i32.const {RESULT}))"
        ));
        script.put_at(RESULT);
        let rest = u64::from(LEN - 2048);
        assert_eq!(
            puts(mode, &script, granted(directory.path())),
            [0, 0, u64::from(LEN), 0, rest],
            "{mode}"
        );
        let written = std::fs::read(directory.path().join("all")).unwrap();
        let len = LEN as usize;
        assert_eq!(written.len(), 2 * len - 2048, "{mode}");
        let right = |from: usize, begin: usize| {
            (from..len).all(|at| written[begin + at - from] == (at % 251) as u8)
        };
        assert!(right(2048, 2048) && right(2048, len), "{mode}");
        // The description of the buffer at the time of the call.
        assert_eq!(
            written[256..264],
            [0, 0, 0, 0, 0xc1, 0xc6, 0x2d, 0],
            "{mode}"
        );
        // And what it put there before.
        assert_eq!(
            written[..12],
            [16, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0],
            "{mode}"
        );
    }
}

/// One subscription to a clock, at an address.
fn clock(at: u32, userdata: u32, clock: u32, timeout: &str, absolute: u32) -> String {
    format!(
        "(i64.store (i32.const {at}) (i64.const {userdata}))
         (i64.store (i32.const {}) (i64.const 0))
         (i32.store (i32.const {}) (i32.const {clock}))
         (i64.store (i32.const {}) {timeout})
         (i32.store (i32.const {}) (i32.const {absolute}))",
        at + 8,
        at + 16,
        at + 24,
        at + 40,
    )
}

#[test]
fn sleeps_are_as_long_as_requested_on_every_clock() {
    const SUBSCRIPTIONS: u32 = 4096;
    const EVENTS: u32 = 8192;
    const NOW: u32 = 12_000;
    for mode in BOTH {
        let mut script = Script::new();
        let poll = |count: u32| {
            format!(
                "(call $poll_oneoff (i32.const {SUBSCRIPTIONS}) (i32.const {EVENTS})
                    (i32.const {count}) (i32.const {RESULT}))"
            )
        };
        let now = |clock: u32| {
            format!(
                "(if (call $clock_time_get (i32.const {clock}) (i64.const 0) (i32.const {NOW}))
                   (then unreachable))
                 (local.set $time (i64.load (i32.const {NOW})))"
            )
        };
        let mut expected = Vec::new();
        for id in [0, 1] {
            for nanoseconds in [0, 1, 100_000, 1_999_999, 2_000_001, 7_500_000] {
                for absolute in [0, 1] {
                    script.code(&now(id));
                    let until = match absolute {
                        0 => format!("(i64.const {nanoseconds})"),
                        _ => format!("(i64.add (local.get $time) (i64.const {nanoseconds}))"),
                    };
                    script.code(&clock(SUBSCRIPTIONS, 77, id, &until, absolute));
                    script.put(&poll(1)).put_at(RESULT).put_at(EVENTS);
                    script.code(&format!(
                        "(if (call $clock_time_get (i32.const {id}) (i64.const 0)
                            (i32.const {NOW})) (then unreachable))"
                    ));
                    script.put(&format!(
                        "(i64.ge_u (i64.load (i32.const {NOW}))
                            (i64.add (local.get $time) (i64.const {nanoseconds})))"
                    ));
                    expected.extend([0, 1, 77, 1]);
                }
            }
        }
        // Of several, those that are due.
        for (index, timeout) in [3_600_000_000_000u64, 50_000, 40_000, u64::MAX]
            .into_iter()
            .enumerate()
        {
            let index = index as u32;
            let timeout = format!("(i64.const {})", timeout.cast_signed());
            script.code(&clock(SUBSCRIPTIONS + 48 * index, index, 1, &timeout, 0));
        }
        script.put(&poll(4));
        script.put(&format!(
            "(i32.and (i32.ge_u (i32.load (i32.const {RESULT})) (i32.const 1))
                (i32.le_u (i32.load (i32.const {RESULT})) (i32.const 2)))"
        ));
        expected.extend([0, 1]);
        // Beside a stream that has nothing to read.
        let subscription = SUBSCRIPTIONS + 48;
        script.code(&clock(SUBSCRIPTIONS, 5, 1, "(i64.const 100000)", 0));
        script.code(&format!(
            "(i64.store (i32.const {subscription}) (i64.const 6))
             (i64.store (i32.const {}) (i64.const 1))
             (i64.store (i32.const {}) (i64.const 0))",
            subscription + 8,
            subscription + 16,
        ));
        script.put(&poll(2)).put_at(RESULT).put_at(EVENTS);
        expected.extend([0, 1, 5]);
        // Clocks that there are not, flags that there are not, too many, none.
        for (id, absolute) in [(2, 0), (3, 0), (4, 0), (1, 2)] {
            script.code(&clock(SUBSCRIPTIONS, 1, id, "(i64.const 1)", absolute));
            script.put(&poll(1));
            expected.push(28);
        }
        script.put(&poll(1001)).put(&poll(0));
        expected.extend([28, 28]);
        let numbers = puts(mode, &script, |task| task.input(silent()));
        assert_eq!(numbers, expected, "{mode}");
    }
}

#[test]
fn a_deadline_ends_a_call_that_takes_long() {
    // Between two parts of its work: without them it is done, and the guest with it.
    const WANTED: u32 = 512 << 20;
    for mode in BOTH {
        let mut script = Script::with_pages(WANTED / 65536 + 1);
        script.code(&format!(
            "(drop (call $random_get (i32.const 4096) (i32.const {WANTED})))"
        ));
        let component = format!(
            r#"(module
  (import "wasi:random/random@0.2.12" "get-random-bytes" (func $random (param i64 i32)))
  (memory (export "memory") 1)
  (global $free (mut i32) (i32.const 65536))
  (func (export "cabi_realloc") (param i32 i32 i32) (param $size i32) (result i32)
    (drop (memory.grow (i32.const 1025)))
    (global.get $free))
  (func (export "run") (param i32 i32) (result i32)
    (call $random (i64.const {}) (i32.const 64))
    (i32.store (i32.const 16) (i32.const 0))
    (i32.store (i32.const 24) (i32.const 0))
    (i32.const 16)))"#,
            64 << 20
        );
        for (text, timeout) in [(script.wat(), 20), (component, 5)] {
            let limits = Limits::default()
                .max_memory(1 << 30)
                .timeout(Duration::from_millis(timeout));
            let outcome = run(mode, &text, |task| task.limits(limits));
            assert_eq!(outcome, Outcome::LimitExceeded(Limit::Deadline), "{mode}");
        }
    }
}

#[test]
fn random_bytes_have_no_bound_but_the_memory() {
    const WANTED: u32 = 70 << 20;
    for mode in BOTH {
        let mut script = Script::with_pages(WANTED / 65536 + 1);
        script.put(&format!(
            "(call $random_get (i32.const 4096) (i32.const {WANTED}))"
        ));
        // Eight bytes in different places, none of which is zero but by a rare chance.
        for at in [4096, 1 << 20, WANTED / 2, WANTED + 4096 - 8] {
            script.put(&format!(
                "(i64.ne (i64.load (i32.const {at})) (i64.const 0))"
            ));
        }
        assert_eq!(puts(mode, &script, |task| task), [0, 1, 1, 1, 1], "{mode}");
    }
}

/// A guest of WASI 0.2: `body` may use `$root`, the granted directory, and `$put`.
pub(crate) fn component(body: &str) -> String {
    format!(
        r#"(module
  (import "wasi:filesystem/preopens@0.2.12" "get-directories" (func $directories (param i32)))
  (import "wasi:filesystem/types@0.2.12" "[method]descriptor.open-at"
    (func $open (param i32 i32 i32 i32 i32 i32 i32)))
  (import "wasi:filesystem/types@0.2.12" "[method]descriptor.unlink-file-at"
    (func $unlink (param i32 i32 i32 i32)))
  (import "wasi:filesystem/types@0.2.12" "[method]descriptor.read-via-stream"
    (func $reader (param i32 i64 i32)))
  (import "wasi:filesystem/types@0.2.12" "[resource-drop]descriptor" (func $drop (param i32)))
  (import "wasi:filesystem/types@0.2.12" "[method]descriptor.read-directory"
    (func $list (param i32 i32)))
  (import "wasi:filesystem/types@0.2.12" "[method]directory-entry-stream.read-directory-entry"
    (func $next (param i32 i32)))
  (import "wasi:filesystem/types@0.2.12" "[resource-drop]directory-entry-stream"
    (func $end (param i32)))
  (import "wasi:clocks/monotonic-clock@0.2.12" "subscribe-duration"
    (func $timer (param i64) (result i32)))
  (import "wasi:clocks/monotonic-clock@0.2.12" "subscribe-instant"
    (func $alarm (param i64) (result i32)))
  (import "wasi:clocks/monotonic-clock@0.2.12" "now" (func $now (result i64)))
  (import "wasi:io/poll@0.2.12" "[method]pollable.block" (func $block (param i32)))
  (import "wasi:io/poll@0.2.12" "[method]pollable.ready" (func $ready (param i32) (result i32)))
  (import "wasi:io/poll@0.2.12" "[resource-drop]pollable" (func $forget (param i32)))
  (import "wasi:random/random@0.2.12" "get-random-bytes" (func $random (param i64 i32)))
  (memory (export "memory") 2)
  (global $free (mut i32) (i32.const 16384))
  (global $out (mut i32) (i32.const 8192))
  (data (i32.const 1024) "file-0")
  (func (export "cabi_realloc") (param i32 i32) (param $align i32) (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
    (global.set $free (i32.add (local.get $at) (local.get $size)))
    (if (i32.gt_u (global.get $free) (i32.const 131072)) (then
      (global.set $free (i32.const 16384))
      (local.set $at (i32.const 16384))
      (if (i32.gt_u (local.get $size) (i32.const 65536)) (then unreachable))))
    (local.get $at))
  (func $char (param $char i32)
    (i32.store8 (global.get $out) (local.get $char))
    (global.set $out (i32.add (global.get $out) (i32.const 1))))
  (func $put (param $number i64)
    (if (i64.ge_u (local.get $number) (i64.const 10))
      (then (call $digits (i64.div_u (local.get $number) (i64.const 10)))))
    (call $char (i32.add (i32.const 48) (i32.wrap_i64 (i64.rem_u (local.get $number) (i64.const 10)))))
    (call $char (i32.const 32)))
  (func $digits (param $number i64)
    (if (i64.ge_u (local.get $number) (i64.const 10))
      (then (call $digits (i64.div_u (local.get $number) (i64.const 10)))))
    (call $char (i32.add (i32.const 48) (i32.wrap_i64 (i64.rem_u (local.get $number) (i64.const 10))))))
  (func (export "run") (param i32 i32) (result i32)
    (local $root i32) (local $a i32) (local $b i32) (local $time i64)
    (call $directories (i32.const 64))
    (if (i32.load (i32.const 68)) (then
      (local.set $root (i32.load (i32.load (i32.const 64))))))
    {body}
    (i32.store (i32.const 16) (i32.const 0))
    (i32.store (i32.const 20) (i32.const 8192))
    (i32.store (i32.const 24) (i32.sub (global.get $out) (i32.const 8192)))
    (i32.const 16)))"#
    )
}

#[track_caller]
fn component_puts(mode: Mode, body: &str, change: impl FnOnce(Task) -> Task) -> Vec<u64> {
    match run(mode, &component(body), change) {
        Outcome::Completed(output) => String::from_utf8(output.as_bytes().to_vec())
            .unwrap()
            .split_whitespace()
            .map(|number| number.parse().unwrap())
            .collect(),
        other => panic!("{mode}: {other}"),
    }
}

#[test]
fn a_component_empties_a_directory_while_it_reads_it() {
    // Lists twice; deletes everything the first time.
    let list = |delete: &str| {
        format!(
            "(call $list (local.get $root) (i32.const 128))
             (if (i32.load8_u (i32.const 128)) (then unreachable))
             (local.set $a (i32.load (i32.const 132)))
             (local.set $b (i32.const 0))
             (block $end
               (loop $more
                 (call $next (local.get $a) (i32.const 160))
                 (if (i32.load8_u (i32.const 160)) (then unreachable))
                 (br_if $end (i32.eqz (i32.load8_u (i32.const 164))))
                 (local.set $b (i32.add (local.get $b) (i32.load8_u (i32.const 168))))
                 {delete}
                 (br $more)))
             (call $put (i64.extend_i32_u (local.get $b)))
             (call $end (local.get $a))"
        )
    };
    let delete = "(call $unlink (local.get $root) (i32.load (i32.const 172))
            (i32.load (i32.const 176)) (i32.const 192))
         (if (i32.load8_u (i32.const 192)) (then unreachable))";
    for mode in BOTH {
        let directory = tempfile::tempdir().unwrap();
        fill(directory.path(), 500);
        let body = list(delete) + &list("");
        // A regular file's type is 6.
        assert_eq!(
            component_puts(mode, &body, granted(directory.path())),
            [500 * 6, 0],
            "{mode}"
        );
        assert_eq!(directory.path().read_dir().unwrap().count(), 0, "{mode}");
    }
}

#[test]
fn a_components_listing_counts_as_memory_while_it_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    fill(directory.path(), 2_000);
    let list = "(call $list (local.get $root) (i32.const 128))
        (call $put (i64.extend_i32_u (i32.load8_u (i32.const 128))))";
    let end = "(call $end (i32.load (i32.const 132)))";
    let error = "(call $put (i64.extend_i32_u (i32.load8_u (i32.const 132))))";
    let body = format!("{list} {end} {list} {end} {list} {list} {error}");
    for mode in BOTH {
        let grant = granted(directory.path());
        let limits = Limits::default().max_memory((128 << 10) + 150_000);
        let numbers = component_puts(mode, &body, |task| grant(task.limits(limits)));
        assert_eq!(numbers, [0, 0, 0, 1, 22], "{mode}");
    }
}

#[test]
fn more_handles_than_a_component_may_have_are_an_error() {
    let directory = tempfile::tempdir().unwrap();
    fill(directory.path(), 1);
    let until_refused = |call: &str| {
        format!(
            "(local.set $b (i32.const 0))
             (loop $again
               {call}
               (if (i32.eqz (i32.load8_u (i32.const 128))) (then
                 (local.set $b (i32.add (local.get $b) (i32.const 1)))
                 (br_if $again (i32.lt_u (local.get $b) (i32.const 20000))))))
             (call $put (i64.extend_i32_u (local.get $b)))
             (call $put (i64.extend_i32_u (i32.load8_u offset=4 (i32.const 128))))"
        )
    };
    let open = "(call $open (local.get $root) (i32.const 0) (i32.const 1024) (i32.const 6)
        (i32.const 0) (i32.const 1) (i32.const 128))";
    // An error's code is where a stream's handle is; with eight bytes before it in
    // neither.
    let body = format!(
        "{open} (local.set $a (i32.load (i32.const 132)))
         {} (call $drop (local.get $a))
         {open} (local.set $a (i32.load (i32.const 132))) {} {}
         (local.set $b (call $timer (i64.const 1000)))
         (call $block (local.get $b)) (call $forget (local.get $b))",
        until_refused(open),
        until_refused("(call $reader (local.get $a) (i64.const 0) (i32.const 128))"),
        until_refused("(call $list (local.get $root) (i32.const 128))"),
    );
    for mode in BOTH {
        let numbers = component_puts(mode, &body, granted(directory.path()));
        assert_eq!(numbers, [998, 22, 0, 22, 0, 22], "{mode}");
    }
}

#[test]
fn a_components_sleeps_are_as_long_as_requested() {
    let mut body = String::new();
    let mut expected = Vec::new();
    for nanoseconds in [0, 1, 100_000, 1_999_999, 2_000_001, 7_500_000] {
        for made in [
            format!("(call $timer (i64.const {nanoseconds}))"),
            format!("(call $alarm (i64.add (local.get $time) (i64.const {nanoseconds})))"),
        ] {
            write!(
                body,
                "(local.set $time (call $now))
                 (local.set $a {made})
                 (call $block (local.get $a))
                 (call $put (i64.extend_i32_u (i64.ge_u (call $now)
                   (i64.add (local.get $time) (i64.const {nanoseconds})))))
                 (call $put (i64.extend_i32_u (call $ready (local.get $a))))
                 (call $forget (local.get $a))"
            )
            .unwrap();
            expected.extend([1, 1]);
        }
    }
    // A query does not wait.
    body.push_str(
        "(local.set $a (call $timer (i64.const 3600000000000)))
         (call $put (i64.extend_i32_u (call $ready (local.get $a))))",
    );
    expected.push(0);
    for mode in BOTH {
        assert_eq!(component_puts(mode, &body, |task| task), expected, "{mode}");
    }
}

#[test]
fn random_bytes_beyond_a_components_memory_are_its_limit() {
    let body = "(call $random (i64.const 33554432) (i32.const 128))";
    for mode in BOTH {
        let limits = Limits::default().max_memory(16 << 20);
        let outcome = run(mode, &component(body), |task| task.limits(limits));
        assert_eq!(outcome, Outcome::LimitExceeded(Limit::Memory), "{mode}");
    }
}
