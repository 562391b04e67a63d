use super::*;
use crate::record::Ending;
use std::fs;
use std::time::Duration;

fn identity(task: &str) -> Identity {
    Identity {
        task: task.into(),
        ..Identity::default()
    }
}

fn record(index: u64, completed: bool) -> Record {
    let outcome = match completed {
        true => wrun::Outcome::Completed(wrun::Output::default()),
        false => wrun::Outcome::Failed("why".into()),
    };
    let report = wrun::Report::new(1, "t", wrun::Mode::Thread, outcome);
    Record {
        index,
        name: format!("input {index}"),
        carried: None,
        input_bytes: None,
        attempts: 1,
        ending: Ending::Ran(Box::new(report)),
        file: None,
        submitted: Duration::ZERO,
        ended: Duration::ZERO,
        text: None,
        chain: [index as u8; 32],
    }
}

fn batch(indices: &[u64]) -> Batch {
    let mut batch = Batch::default();
    for index in indices {
        batch.add(&record(*index, index % 10 != 3));
    }
    batch
}

const RESUME: Opening = Opening {
    resume: true,
    force: false,
    sync: false,
};

fn open(path: &Path, opening: Opening) -> Result<Journal, Error> {
    Journal::open(path, &identity("a"), opening)
}

fn commit(journal: &mut Journal, indices: &[u64], output: u64) {
    let now = Now::default();
    journal
        .commit(batch(indices), output, now)
        .expect("committed");
}

#[test]
fn what_was_committed_is_there_again() {
    let scratch = tempfile::tempdir().expect("a directory");
    let path = scratch.path().join("journal");
    let mut journal = open(&path, Opening::default()).expect("made");
    assert!(journal.is_new());
    let told = open(&path, RESUME).expect_err("in use").to_string();
    assert!(told.contains("another process"), "{told}");
    commit(&mut journal, &[1, 0, 4], 100);
    commit(&mut journal, &[2, 3, 7], 250);
    let status = Status::read(&path).expect("a status");
    assert!(status.is_running && !status.is_complete);
    assert_eq!((status.ended(), status.completed), (6, 5));
    assert_eq!(status.failed, [("failed".to_owned(), 1)]);
    assert_eq!(status.latest[0].name, "input 3");
    drop(journal);
    let told = open(&path, Opening::default())
        .expect_err("exists")
        .to_string();
    assert!(told.contains("exists already"), "{told}");
    let mut journal = open(&path, RESUME).expect("opened");
    assert_eq!((journal.output(), journal.counts()), (250, (6, 1)));
    let resume = journal.resume().expect("the rest");
    assert_eq!(
        (resume.done, resume.chain),
        (vec![(0, 4), (7, 7)], Some([7; 32]))
    );
    // The output has lost its end.
    assert_eq!(journal.roll_back(249).expect("rolled back"), 3);
    let resume = journal.resume().expect("the rest");
    assert_eq!(
        (resume.done, resume.chain),
        (vec![(0, 1), (4, 4)], Some([4; 32]))
    );
    assert_eq!((journal.output(), journal.counts()), (100, (3, 0)));
}

#[test]
fn a_journal_for_something_else_is_refused_by_name() {
    let scratch = tempfile::tempdir().expect("a directory");
    let path = scratch.path().join("journal");
    drop(open(&path, RESUME).expect("made"));
    let mut other = identity("b");
    other.grants = "x".into();
    let told = Journal::open(&path, &other, RESUME).expect_err("refused");
    assert!(told.to_string().contains("other task, grants:"), "{told}");
    let force = Opening {
        force: true,
        ..RESUME
    };
    drop(Journal::open(&path, &other, force).expect("forced"));
    drop(Journal::open(&path, &other, RESUME).expect("it is for that now"));
}

/// A journal that is cut anywhere is refused, or has a state that it once had.
#[test]
fn a_journal_cut_anywhere_is_refused_or_older() {
    // Each length is written and opened: in memory, where there is such a directory.
    let scratch = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    let scratch = scratch.expect("a directory");
    let path = scratch.path().join("journal");
    let mut journal = open(&path, Opening::default()).expect("made");
    for at in 0..5 {
        commit(&mut journal, &[2 * at, 2 * at + 1], (at + 1) * 10);
    }
    let wal = scratch.path().join("journal-wal");
    // As a process leaves them that is killed.
    let (whole, log) = (
        fs::read(&path).expect("read"),
        fs::read(&wal).expect("read"),
    );
    drop(journal);
    let checkpointed = fs::read(&path).expect("read");
    assert!(log.len() > 5 * 4096 && !wal.exists());
    let cut = scratch.path().join("cut");
    let cut_wal = scratch.path().join("cut-wal");
    let mut opened = [0, 0];
    let mut check = |main: &[u8], log: &[u8]| {
        let _ = fs::remove_file(scratch.path().join("cut-shm"));
        fs::write(&cut, main).expect("written");
        fs::write(&cut_wal, log).expect("written");
        let state = open(&cut, RESUME).and_then(|journal| {
            let resume = journal.resume()?;
            Ok((journal.output(), journal.counts().0, resume.done))
        });
        opened[usize::from(state.is_ok())] += 1;
        if let Ok((output, ended, done)) = state {
            assert_eq!(ended, output / 5, "{done:?}");
            let expected: &[_] = if ended == 0 { &[] } else { &[(0, ended - 1)] };
            assert_eq!(done, expected);
        }
    };
    // Every length in thorough runs (half a minute); otherwise those around pages, and some of each.
    let step = match std::env::var_os("WRUN_MAP_KILLS") {
        Some(_) => 1,
        None => 257,
    };
    let lengths = |len: usize| {
        let around = [
            0, 1, 15, 16, 17, 23, 24, 31, 32, 33, 99, 100, 4095, 4096, 4097,
        ];
        (0..len).step_by(step).chain(around).chain([len - 1, len])
    };
    for len in lengths(log.len()) {
        check(&whole, &log[..len.min(log.len())]);
    }
    for len in lengths(whole.len()) {
        check(&whole[..len.min(whole.len())], &log);
    }
    for len in lengths(checkpointed.len()) {
        check(&checkpointed[..len.min(checkpointed.len())], &[]);
    }
    assert!(opened.iter().all(|count| *count > 20), "{opened:?}");
}
