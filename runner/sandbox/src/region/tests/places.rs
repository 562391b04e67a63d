//! Offsets and lengths, compared with calculations in wider numbers. Nothing here needs a
//! memory file, so that Miri can run it (`model/README.md`).

use super::{pages, same};
use crate::region::*;
use wrun_sys::Pages;

/// A region of a file that is never accessed.
fn of(kind: Kind, offset: u64, len: u64, size: u64) -> Region {
    let (file, _) = std::io::pipe().expect("a pipe");
    let file = MemoryFile {
        file: file.into(),
        size,
        known_elsewhere: AtomicBool::new(false),
        elsewhere: false,
        words: OnceLock::new(),
        waiters: Waiters::default(),
        _charge: None,
    };
    Region::of(file, kind, offset, len)
}

/// Numbers at which mistakes are likely.
fn numbers() -> Vec<u64> {
    let page = page_size();
    let mut all: Vec<u64> = [0, page, 3 * page, i64::MAX as u64, u64::MAX]
        .into_iter()
        .flat_map(|it| [it.wrapping_sub(page), it, it.wrapping_add(page)])
        .flat_map(|it| [it.wrapping_sub(1), it, it.wrapping_add(1)])
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

#[test]
fn nothing_is_in_a_region_that_is_beyond_its_end() {
    let region = of(Kind::Exclusive, pages(2), pages(1) + 5, pages(4));
    for offset in numbers() {
        for len in numbers() {
            let inside = u128::from(offset) + u128::from(len) <= u128::from(region.len());
            assert_eq!(region.check(offset, len).is_ok(), inside, "{offset} {len}");
            if inside {
                let at = region.at(offset, len).expect("inside");
                assert_eq!(at, pages(2) + offset);
            }
        }
    }
}

#[test]
fn only_whole_pages_of_the_region_are_mapped() {
    let page = page_size();
    for kind in [Kind::Exclusive, Kind::Frozen] {
        let region = of(kind, pages(2), pages(1) + 5, pages(4));
        for offset in numbers() {
            for len in numbers() {
                let aligned = len > 0 && len.is_multiple_of(page) && offset.is_multiple_of(page);
                let inside = u128::from(offset) + u128::from(len) <= u128::from(pages(2));
                let mapped = region.map(offset, usize::try_from(len).expect("64 bits"));
                assert_eq!(mapped.is_ok(), aligned && inside, "{offset} {len}");
                if let Ok(mapped) = mapped {
                    assert_eq!(mapped.offset(), pages(2) + offset);
                    assert_eq!(mapped.len() as u64, len);
                    assert_eq!(mapped.is_private(), kind == Kind::Frozen);
                    assert!(region.is_mapped());
                }
                assert!(!region.is_mapped());
            }
        }
    }
}

#[test]
fn a_place_that_was_sent_is_in_its_file() {
    let page = u128::from(page_size());
    for offset in numbers() {
        for len in numbers() {
            for size in [
                0,
                pages(1),
                pages(3),
                pages(3) + 1,
                u64::MAX - page_size() + 1,
            ] {
                let parts = Parts {
                    kind: Kind::Exclusive,
                    offset,
                    len,
                };
                let end = u128::from(offset) + u128::from(len).next_multiple_of(page);
                let right = len > 0
                    && u128::from(offset).is_multiple_of(page)
                    && u128::from(size).is_multiple_of(page)
                    && end <= u128::from(size);
                let said = parts.end(size).map(u128::from);
                assert_eq!(said, right.then_some(end), "{offset} {len} {size}");
            }
        }
    }
}

#[test]
fn sizes_are_whole_pages_that_a_file_can_have() {
    for len in numbers() {
        for kind in [Kind::Exclusive, Kind::Shared] {
            let size = u128::from(len).next_multiple_of(u128::from(page_size()));
            let right = len > 0 && size <= i64::MAX as u128;
            let said = Draft::memory(len, kind).ok().map(u128::from);
            assert_eq!(said, right.then_some(size), "{len}");
        }
        refused!(Draft::memory(len, Kind::Frozen), WrongKind);
    }
}

#[test]
fn every_split_is_undone_by_a_join_and_by_nothing_else() {
    let len = pages(4) + 5;
    for at in 1..=4 {
        for second in 1..=4 {
            let whole = of(Kind::Exclusive, 0, len, pages(5));
            let (mut one, other) = whole.split(pages(at)).expect("splits");
            assert_eq!((one.len(), other.len()), (pages(at), len - pages(at)));
            // Its own length does not end at a page, or there is no position to split at.
            match other.split(pages(second)) {
                Ok((mut middle, last)) => {
                    assert!(pages(second) < len - pages(at));
                    refused!(one.check_join(&last), Misaligned);
                    refused!(last.check_join(&one), Misaligned);
                    refused!(one.freeze(), Busy);
                    let lease = middle.map(0, page_size() as usize).expect("maps");
                    refused!(one.check_join(&middle), Busy);
                    refused!(same(middle.join(last)), Busy);
                    drop(lease);
                    one.join(middle).expect("neighbours");
                    assert_eq!(one.len(), pages(at + second));
                }
                Err(refused) => {
                    refused!(Err::<(), _>(refused.error), OutOfBounds);
                    one.join(refused.region).expect("neighbours");
                    assert_eq!(one.len(), len);
                    assert!(one.is_whole());
                }
            }
        }
    }
}
