use super::*;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};
use wrun_sys::Pages;

fn made(len: u64, kind: Kind) -> Region {
    let draft = Draft::new(len, kind, false).expect("a draft");
    draft.finish().expect("a region")
}

fn pages(count: u64) -> u64 {
    count * page_size()
}

fn bytes(region: &Region, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xee; len];
    region.read(offset, &mut bytes).expect("reads");
    bytes
}

macro_rules! refused {
    ($result:expr, $error:ident) => {
        match $result {
            Err(RegionError::$error { .. }) => {}
            other => panic!("not {}: {other:?}", stringify!($error)),
        }
    };
}

mod places;

fn same<T>(result: Result<T, Refused>) -> Result<T, RegionError> {
    result.map_err(|refused| refused.error)
}

#[test]
fn bytes_are_what_was_written_and_nothing_is_beyond_the_end() {
    for kind in [Kind::Exclusive, Kind::Shared] {
        let region = made(10_000, kind);
        assert_eq!(bytes(&region, 0, 10_000), vec![0; 10_000]);
        region.write(9_995, b"hello").expect("writes");
        assert_eq!(bytes(&region, 9_994, 6), b"\0hello");
        refused!(region.write(9_996, b"hello"), OutOfBounds);
        refused!(region.write(u64::MAX, b"hello"), OutOfBounds);
        refused!(region.read(10_000, &mut [0]), OutOfBounds);
        region.read(10_000, &mut []).expect("nothing");
        assert_eq!(region.memory(), 10_000_u64.next_multiple_of(page_size()));
    }
    refused!(Draft::new(0, Kind::Shared, false).map(drop), OutOfBounds);
    refused!(
        Draft::new(u64::MAX, Kind::Shared, false).map(drop),
        OutOfBounds
    );
    refused!(Draft::new(1, Kind::Frozen, false).map(drop), WrongKind);
}

#[test]
fn what_is_frozen_stays_as_it_is() {
    let mut region = made(pages(2), Kind::Exclusive);
    region.write(1, b"ice").expect("writes");
    let lease = region.map(0, pages(1) as usize).expect("maps");
    refused!(region.freeze(), Busy);
    drop(lease);
    region.freeze().expect("freezes");
    refused!(region.write(1, b"hot"), WrongKind);
    refused!(region.freeze(), WrongKind);
    refused!(
        same(region.duplicate().expect("one more").split(pages(1))).map(drop),
        WrongKind
    );
    let other = region.duplicate().expect("one more");
    drop(region);
    assert_eq!(bytes(&other, 1, 3), b"ice");
    let mappable = other.map(0, pages(2) as usize).expect("maps");
    assert!(mappable.is_private());
    other
        .map(0, pages(2) as usize)
        .expect("any number of times");
    refused!(made(1, Kind::Exclusive).duplicate(), WrongKind);
}

#[test]
fn pages_are_mapped_whole_and_once() {
    let region = made(pages(3) - 7, Kind::Exclusive);
    let page = pages(1) as usize;
    for (offset, len) in [(0, 0), (0, page - 1), (1, page), (0, page + 8)] {
        refused!(region.map(offset, len).map(drop), Misaligned);
    }
    for (offset, len) in [
        (0, 4 * page),
        (pages(3), page),
        (u64::MAX - pages(1) + 1, page),
    ] {
        refused!(region.map(offset, len).map(drop), OutOfBounds);
    }
    let mappable = region.map(pages(2), page).expect("the last page");
    assert_eq!((mappable.offset(), mappable.len()), (pages(2), page));
    refused!(region.map(0, page).map(drop), Busy);
    drop(mappable);
    region.map(0, page).expect("again");
    refused!(made(1, Kind::Shared).map(0, page).map(drop), WrongKind);
}

#[test]
fn parts_are_regions_and_make_a_whole_again() {
    let region = made(pages(3) + 5, Kind::Exclusive);
    region.write(pages(1) - 1, b"ab").expect("writes");
    let region = match region.split(1) {
        Err(Refused {
            region,
            error: RegionError::Misaligned,
        }) => region,
        other => panic!("{other:?}"),
    };
    let (mut first, second) = region.split(pages(1)).expect("splits");
    assert_eq!((first.len(), second.len()), (pages(1), pages(2) + 5));
    assert_eq!(
        (bytes(&first, pages(1) - 1, 1), bytes(&second, 0, 1)),
        (b"a".into(), b"b".into())
    );
    refused!(first.read(pages(1), &mut [0]), OutOfBounds);
    refused!(first.freeze(), Busy);
    refused!(
        second.map(pages(3), pages(1) as usize).map(drop),
        OutOfBounds
    );
    let (second, third) = second.split(pages(1)).expect("splits");
    refused!(first.check_join(&third), Misaligned);
    refused!(second.check_join(&first), Misaligned);
    refused!(first.check_join(&first), Misaligned);
    refused!(first.check_join(&made(1, Kind::Exclusive)), Misaligned);
    let lease = second.map(0, pages(1) as usize).expect("maps");
    refused!(first.check_join(&second), Busy);
    drop(lease);
    first.join(second).expect("neighbours");
    refused!(first.freeze(), Busy);
    first.join(third).expect("neighbours");
    first.freeze().expect("it is whole");
    assert_eq!(bytes(&first, pages(1) - 1, 2), b"ab");
}

#[test]
fn words_are_aligned_inside_and_of_shared_regions() {
    let region = made(20, Kind::Shared);
    assert_eq!(region.apply(16, Op::Add(7_u32)).expect("adds"), 0);
    assert_eq!(region.apply(16, Op::Exchange(9_u32)).expect("exchanges"), 7);
    assert_eq!(bytes(&region, 16, 4), 9_u32.to_le_bytes());
    let compare = Op::CompareExchange {
        expected: 9,
        value: 0xff_u32,
    };
    assert_eq!(region.apply(16, compare).expect("exchanges"), 9);
    assert_eq!(region.apply(16, compare).expect("does not"), 0xff);
    assert_eq!(region.apply(16, Op::And(0xf0_u32)).expect("ands"), 0xff);
    assert_eq!(region.apply(16, Op::Or(1_u32)).expect("ors"), 0xf0);
    assert_eq!(region.apply(16, Op::Xor(0xff_u32)).expect("xors"), 0xf1);
    assert_eq!(region.apply::<u32>(16, Op::Load).expect("loads"), 0x0e);
    assert_eq!(region.apply(8, Op::Store(u64::MAX)).expect("stores"), 0);
    assert_eq!(region.apply(8, Op::Add(2_u64)).expect("adds"), u64::MAX);
    refused!(region.apply::<u64>(16, Op::Load), OutOfBounds);
    refused!(region.apply::<u64>(4, Op::Load), Misaligned);
    refused!(region.apply::<u32>(20, Op::Load), OutOfBounds);
    refused!(region.apply::<u32>(u64::MAX - 3, Op::Load), OutOfBounds);
    refused!(
        made(20, Kind::Exclusive).apply::<u32>(0, Op::Load),
        WrongKind
    );
}

#[test]
fn threads_count_to_the_same_number() {
    let region = made(8, Kind::Shared);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let region = region.duplicate().expect("one more");
                for _ in 0..10_000 {
                    region.apply(0, Op::Add(1_u64)).expect("adds");
                }
            });
        }
    });
    assert_eq!(region.apply::<u64>(0, Op::Load).expect("loads"), 40_000);
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().build().expect("a runtime")
}

#[test]
fn whoever_waits_is_woken_or_times_out() {
    for (elsewhere, blocking) in [(false, false), (true, false), (false, true), (true, true)] {
        let draft = Draft::new(8, Kind::Shared, elsewhere).expect("a draft");
        let region = draft.finish().expect("a region");
        let region = &region;
        let wait = move |expected, time: Option<Duration>| {
            if blocking {
                return region.blocking_wait(4, expected, time).expect("a word");
            }
            let until = time.map(|time| Instant::now() + time);
            let waited = region.wait_until(4, expected, until);
            runtime().block_on(waited).expect("a word")
        };
        assert_eq!(wait(1, None), Waited::NotEqual);
        assert_eq!(wait(0, Some(Duration::ZERO)), Waited::TimedOut);
        assert_eq!(wait(0, Some(Duration::from_millis(20))), Waited::TimedOut);
        assert_eq!(region.notify(4, 9).expect("a word"), 0);
        std::thread::scope(|scope| {
            let waiting: Vec<_> = (0..3).map(|_| scope.spawn(move || wait(0, None))).collect();
            let mut woken = 0;
            while woken < 3 {
                assert_eq!(region.notify(0, 9).expect("a word"), 0);
                let one = region.notify(4, 1).expect("a word");
                assert!(one <= 1, "{one}");
                woken += one;
                std::thread::yield_now();
            }
            for waiting in waiting {
                assert_eq!(waiting.join().expect("it ends"), Waited::Woken);
            }
        });
        // A waiter whose value is changed first does not miss it.
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| wait(0, None));
            std::thread::sleep(Duration::from_millis(10));
            region.apply(4, Op::Store(1_u32)).expect("stores");
            region.notify(4, u32::MAX).expect("a word");
            // A thread that came late finds the value changed.
            let waited = waiting.join().expect("it ends");
            assert!(matches!(waited, Waited::Woken | Waited::NotEqual));
        });
        assert!(
            region.file.waiters.is_empty(),
            "nobody stands there any more"
        );
    }
}

#[test]
fn whoever_gives_up_waiting_is_forgotten() {
    let region = made(8, Kind::Shared);
    runtime().block_on(async {
        let waiting = region.wait_until(0, 0, None);
        let _ = tokio::time::timeout(Duration::from_millis(5), waiting).await;
    });
    assert!(region.file.waiters.is_empty());
    assert_eq!(region.notify(0, 1).expect("a word"), 0);
}

#[test]
fn waiting_in_the_kernel_leaves_turns_to_others() {
    let draft = Draft::new(8, Kind::Shared, true).expect("a draft");
    let region = draft.finish().expect("a region");
    runtime().block_on(async {
        let mut waiting = std::pin::pin!(region.wait_until(0, 0, None));
        let timer = tokio::time::sleep(Duration::from_millis(30));
        tokio::select! {
            waited = &mut waiting => panic!("{waited:?}"),
            () = timer => {}
        }
    });
}

fn travels(region: Region) -> Region {
    let (file, parts) = region.to_send().expect("goes");
    let file = file.try_clone_to_owned().expect("one more");
    Region::from_parts(file, parts).expect("comes")
}

#[test]
fn a_region_travels() {
    for kind in [Kind::Exclusive, Kind::Shared, Kind::Frozen] {
        let mut region = made(pages(2) + 1, Kind::Shared);
        if kind != Kind::Shared {
            region = made(pages(2) + 1, Kind::Exclusive);
        }
        region.write(pages(2), b"x").expect("writes");
        if kind == Kind::Frozen {
            region.freeze().expect("freezes");
        }
        let there = travels(region);
        assert_eq!((there.kind(), there.len()), (kind, pages(2) + 1));
        assert_eq!(bytes(&there, pages(2), 1), b"x");
    }
    // A region that stays and one that is sent are the same.
    let draft = Draft::new(4, Kind::Shared, true).expect("a draft");
    let stays = draft.finish().expect("a region");
    let goes = travels(stays.duplicate().expect("one more"));
    goes.apply(0, Op::Store(5_u32)).expect("stores");
    assert_eq!(stays.apply::<u32>(0, Op::Load).expect("loads"), 5);
    let until = Some(Instant::now() + Duration::from_secs(20));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| runtime().block_on(stays.wait_until(0, 5, until)));
        std::thread::sleep(Duration::from_millis(5));
        goes.apply(0, Op::Store(6_u32)).expect("stores");
        goes.notify(0, 1).expect("a word");
        let waited = waiting.join().expect("it ends").expect("a word");
        assert_eq!(waited, Waited::Woken);
    });
    let here = made(pages(2), Kind::Exclusive);
    let is_known = |region: &Region| {
        let pages = region.map(0, pages(1) as usize).expect("maps");
        pages.is_known_elsewhere()
    };
    assert!(!is_known(&here));
    let (stays, goes) = here.split(pages(1)).expect("splits");
    assert!(is_known(&travels(goes)) && is_known(&stays));
    // Parts can be joined again.
    let (first, second) = made(pages(2), Kind::Exclusive)
        .split(pages(1))
        .expect("splits");
    let (mut first, second) = (travels(first), travels(second));
    first.join(second).expect("neighbours");
    first.freeze().expect("it is whole");
    // A mapped region cannot be given away.
    let region = made(pages(1), Kind::Exclusive);
    let lease = region.map(0, pages(1) as usize).expect("maps");
    refused!(region.to_send().map(drop), Busy);
    drop(lease);
    region.to_send().expect("goes");
    // A mapped frozen region can, because its pages do not change.
    let mut region = made(pages(1), Kind::Exclusive);
    region.freeze().expect("freezes");
    let _lease = region.map(0, pages(1) as usize).expect("maps");
    region.to_send().expect("goes");
}

/// A region of a runner that has processes, held by its maker.
fn made_by(ledger: &Ledger, len: u64) -> Region {
    let draft = ledger.make(len, Kind::Exclusive).expect("a draft");
    draft.finish().expect("a region")
}

/// Drops what is sent, as a sender does.
fn given(region: Region) -> Region {
    let (file, parts) = region.to_send().expect("goes");
    let file = file.try_clone_to_owned().expect("one more");
    drop(region);
    Region::from_parts(file, parts).expect("comes")
}

/// Has its runner claim a region; returns whether the pages themselves are mapped then.
fn claimed(ledger: &Ledger, region: Region) -> (Region, bool) {
    let region = match region.into_claim() {
        Ok((file, claim)) => {
            let (file, sole) = runtime().block_on(ledger.claim(file));
            claim.answered(file, sole)
        }
        Err(region) => region,
    };
    let len = usize::try_from(whole_pages(region.len()).expect("pages")).expect("fits");
    let copied = region.map(0, len).expect("maps").is_copied();
    (region, !copied)
}

#[test]
fn what_came_is_mapped_only_where_nobody_has_kept_it() {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let ledger = Ledger::new(u64::MAX, true);
    let fresh = made_by(&ledger, pages(2));
    fresh.write(5, b"bytes").expect("writes");
    let (fresh, itself) = claimed(&ledger, fresh);
    assert!(itself, "nobody else ever had it");
    let (mut region, itself) = claimed(&ledger, given(fresh));
    assert!(itself, "nobody has kept it");
    for round in 0..3 {
        (region, _) = claimed(&ledger, given(region));
        assert!(!region.is_to_be_claimed(), "{round}");
        assert_eq!(bytes(&region, 5, 5), b"bytes");
    }
    region.freeze().expect("nobody stands in the way");

    let sent = || given(made_by(&ledger, pages(2)));
    let descriptor = |region: &Region| {
        let file = region.file.file.try_clone();
        file.expect("one more")
    };
    // A descriptor; then none any more.
    let region = sent();
    let kept = descriptor(&region);
    let (region, itself) = claimed(&ledger, region);
    assert!(!itself && region.is_to_be_claimed());
    drop(kept);
    let (region, itself) = claimed(&ledger, region);
    assert!(itself);
    drop(region);
    // A mapping.
    let region = sent();
    let kept = SharedWords::map(&region.file.file, 4096).expect("maps");
    let (region, itself) = claimed(&ledger, region);
    assert!(!itself);
    drop(kept);
    assert!(claimed(&ledger, region).1);
    // A message that is not read.
    let region = sent();
    let (far, near) = std::os::unix::net::UnixStream::pair().expect("a pair");
    {
        let fds = [region.file.file.as_fd()];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        let parts = [std::io::IoSlice::new(b"x")];
        sendmsg(&near, &parts, &mut control, SendFlags::empty()).expect("sent");
    }
    let (region, itself) = claimed(&ledger, region);
    assert!(!itself);
    drop((far, near));
    assert!(claimed(&ledger, region).1);
    // It is released a moment later, as by a sender.
    let region = sent();
    let kept = descriptor(&region);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(2));
            drop(kept);
        });
        // On a busy machine it may be too late, which only makes it slower.
        let (region, _) = claimed(&ledger, region);
        eprintln!("copied: {}", region.is_to_be_claimed());
    });
    // The previous holder has sealed it against writing.
    let region = sent();
    rustix::fs::fcntl_add_seals(&region.file.file, SealFlags::FUTURE_WRITE).expect("seals");
    let (region, itself) = claimed(&ledger, region);
    assert!(!itself);
    refused!(region.write(0, b"x"), Busy);
    // A region of another ledger; a part; a shared region.
    let other = Ledger::new(u64::MAX, true);
    assert!(!claimed(&ledger, given(made_by(&other, pages(2)))).1);
    let (first, second) = sent().split(pages(1)).expect("splits");
    assert!(!claimed(&ledger, first).1 && !claimed(&ledger, second).1);
    let (first, second) = made_by(&ledger, pages(2)).split(pages(1)).expect("splits");
    let (mut first, itself) = claimed(&ledger, first);
    assert!(
        !itself,
        "the other part may be sent while this one is mapped"
    );
    first.join(second).expect("neighbours");
    assert!(claimed(&ledger, first).1, "neither was sent");
    // From then on, tasks could open their regions by path.
    let region = sent();
    ledger.opens_files();
    assert!(!claimed(&ledger, region).1);
}

#[test]
fn whoever_stands_in_the_way_of_a_write_is_an_error() {
    let region = made(pages(1), Kind::Exclusive);
    let flags = rustix::fs::fcntl_getfl(&region.file.file).expect("flags");
    rustix::fs::fcntl_setfl(&region.file.file, flags | rustix::fs::OFlags::APPEND).expect("set");
    refused!(region.write(0, b"x"), Busy);
    rustix::fs::fcntl_setfl(&region.file.file, flags).expect("set");
    region.write(0, b"x").expect("writes");
    let mut region = region;
    rustix::fs::fcntl_add_seals(&region.file.file, SealFlags::SEAL).expect("seals");
    refused!(region.freeze(), Busy);
    // A shared region cannot be sealed.
    let region = made(pages(1), Kind::Shared);
    for seal in [SealFlags::WRITE, SealFlags::FUTURE_WRITE] {
        let sealed = rustix::fs::fcntl_add_seals(&region.file.file, seal);
        assert_eq!(sealed, Err(rustix::io::Errno::PERM));
    }
}

#[test]
fn what_is_sent_is_not_believed() {
    let memory = |flags: MemfdFlags, size: u64, seals: SealFlags| {
        let file = rustix::fs::memfd_create("test", flags | MemfdFlags::CLOEXEC).expect("a file");
        rustix::fs::ftruncate(&file, size).expect("a size");
        if size > 0 {
            reserve(&file, 0, size).expect("memory");
        }
        if !seals.is_empty() {
            rustix::fs::fcntl_add_seals(&file, seals).expect("seals");
        }
        file
    };
    let sealable = MemfdFlags::ALLOW_SEALING;
    let of = |kind, offset, len| Parts { kind, offset, len };
    let exclusive = of(Kind::Exclusive, 0, pages(1));
    let good = || memory(sealable, pages(2), SEALS);
    Region::from_parts(good(), exclusive).expect("the good one is good");
    let shared = memory(sealable, pages(2), SEALS_OF_SHARED);
    let shared = Region::from_parts(shared, of(Kind::Shared, 0, pages(2)));
    shared.expect("the good one is good");

    let (pipe, other_end) = rustix::pipe::pipe().expect("a pipe");
    let temporary = tempfile::tempfile().expect("a file");
    let null = std::fs::File::open("/dev/zero").expect("a device");
    let read_only = {
        let file = good();
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        OwnedFd::from(std::fs::File::open(path).expect("opens"))
    };
    let sparse = rustix::fs::memfd_create("test", sealable).expect("a file");
    rustix::fs::ftruncate(&sparse, pages(2)).expect("a size");
    reserve(&sparse, 0, pages(1)).expect("memory");
    rustix::fs::fcntl_add_seals(&sparse, SEALS).expect("seals");
    let bad: Vec<(&str, OwnedFd, Parts)> = vec![
        ("a pipe", pipe, exclusive),
        ("a pipe's other end", other_end, exclusive),
        ("a file", temporary.into(), exclusive),
        ("a device", null.into(), exclusive),
        ("only to be read", read_only, exclusive),
        (
            "not sealable",
            memory(MemfdFlags::empty(), pages(2), SealFlags::empty()),
            exclusive,
        ),
        (
            "not sealed",
            memory(sealable, pages(2), SealFlags::empty()),
            exclusive,
        ),
        (
            "may shrink",
            memory(sealable, pages(2), SealFlags::GROW),
            exclusive,
        ),
        (
            "may grow",
            memory(sealable, pages(2), SealFlags::SHRINK),
            exclusive,
        ),
        ("not frozen", good(), of(Kind::Frozen, 0, pages(2))),
        (
            "not frozen for those who have it",
            memory(sealable, pages(2), SEALS | SealFlags::FUTURE_WRITE),
            of(Kind::Frozen, 0, pages(2)),
        ),
        ("may be sealed", good(), of(Kind::Shared, 0, pages(2))),
        (
            "frozen",
            memory(sealable, pages(2), SEALS_OF_SHARED | SealFlags::WRITE),
            of(Kind::Shared, 0, pages(2)),
        ),
        (
            "frozen for those who map it anew",
            memory(
                sealable,
                pages(2),
                SEALS_OF_SHARED | SealFlags::FUTURE_WRITE,
            ),
            of(Kind::Shared, 0, pages(2)),
        ),
        ("without its pages", sparse, exclusive),
        ("nothing", good(), of(Kind::Exclusive, 0, 0)),
        ("too long", good(), of(Kind::Exclusive, 0, pages(2) + 1)),
        ("beyond the end", good(), of(Kind::Exclusive, pages(2), 1)),
        (
            "far beyond the end",
            good(),
            of(Kind::Exclusive, pages(1), u64::MAX),
        ),
        (
            "a place without an end",
            good(),
            of(Kind::Exclusive, u64::MAX - pages(1) + 1, pages(1)),
        ),
        ("not at a page", good(), of(Kind::Exclusive, 1, 1)),
        (
            "half a page",
            memory(sealable, pages(1) / 2, SEALS),
            of(Kind::Exclusive, 0, 1),
        ),
        (
            "a part of a shared one",
            memory(sealable, pages(2), SEALS_OF_SHARED),
            of(Kind::Shared, pages(1), pages(1)),
        ),
        (
            "a beginning of a shared one",
            memory(sealable, pages(2), SEALS_OF_SHARED),
            of(Kind::Shared, 0, pages(1)),
        ),
    ];
    for (what, file, parts) in bad {
        match Region::from_parts(file, parts) {
            Err(RegionError::Foreign(_)) => {}
            other => panic!("{what}: {other:?}"),
        }
    }
}
