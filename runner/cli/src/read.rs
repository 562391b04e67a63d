//! A file that an option names and that is read as a whole, before anything runs.

use super::signals::{self, Time};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use std::io;
use std::path::Path;
use std::time::Duration;

/// How often a file that has nothing yet is checked for a signal.
const LOOK_EVERY: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};
const CHUNK: usize = 64 << 10;

/// All of the file, or `most + 1` bytes of a longer one. A pipe is waited for until its writers
/// have come and closed it, a signal arrives, or `patience` is over.
pub(super) fn read(path: &Path, most: u64, patience: Option<Duration>) -> io::Result<Vec<u8>> {
    // Opening a pipe that has no writer would wait for one, whatever signals arrive.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&file)?;
    let is_file = FileType::from_raw_mode(stat.st_mode).is_file();
    let time = patience.filter(|_| !is_file).map(Time::new);
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let mut bytes = Vec::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        if time.is_some_and(Time::is_over) {
            let why = "no program has written all of it in time";
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
        let mut watched = [PollFd::new(&file, PollFlags::IN)];
        match poll(&mut watched, Some(&LOOK_EVERY)) {
            Ok(0) | Err(Errno::INTR) => {
                if signals::arrived().is_some() {
                    let why = "interrupted while no program had written all of it";
                    return Err(io::Error::new(io::ErrorKind::Interrupted, why));
                }
                continue;
            }
            Ok(_) => {}
            Err(errno) => return Err(errno.into()),
        }
        let room = CHUNK.min((most - bytes.len()).saturating_add(1));
        match rustix::io::read(&file, &mut chunk[..room]) {
            Ok(0) => return Ok(bytes),
            Ok(len) => bytes.extend_from_slice(&chunk[..len]),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(errno) => return Err(errno.into()),
        }
        if bytes.len() > most {
            return Ok(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_is_read_to_its_end_or_its_most() {
        let scratch = tempfile::tempdir().expect("a directory");
        let path = scratch.path().join("file");
        std::fs::write(&path, vec![7; 100_000]).expect("written");
        assert_eq!(read(&path, 100_000, None).expect("read"), [7; 100_000]);
        assert_eq!(read(&path, 99_999, None).expect("read").len(), 100_000);
        assert_eq!(read(&path, 10, None).expect("read").len(), 11);
        let error = read(scratch.path(), 10, None).expect_err("a directory");
        assert_eq!(error.kind(), io::ErrorKind::IsADirectory);
    }

    #[test]
    fn a_pipe_is_waited_for() {
        let scratch = tempfile::tempdir().expect("a directory");
        let path = scratch.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RUSR | Mode::WUSR).expect("a pipe");
        let error = read(&path, 10, Some(Duration::from_millis(1))).expect_err("no writer");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let writing = std::thread::spawn({
            let path = path.clone();
            move || {
                let mut pipe = std::fs::File::options().write(true).open(path)?;
                pipe.write_all(b"some")?;
                std::thread::sleep(Duration::from_millis(150));
                pipe.write_all(b" and more")
            }
        });
        assert_eq!(read(&path, 100, None).expect("read"), b"some and more");
        writing.join().expect("no panic").expect("written");
    }
}
