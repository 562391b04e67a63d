//! Regions in messages: what is sent, what comes back, who has what.

use crate::wrun::task::ports::{self, Message, Port, PortError};
use crate::wrun::task::regions::{Kind, Mapping, Region, RegionError};
use crate::{message, parent, said, second, text};
use std::alloc::Layout;
use std::fmt::Write as _;

const PAGE: u64 = 64 << 10;
const LARGE: usize = 2 << 20;

fn with(data: &str, regions: Vec<Region>) -> Message {
    Message { data: data.into(), regions, ports: vec![] }
}

fn why(error: RegionError) -> String {
    error.name().into()
}

fn made(len: u64, kind: Kind) -> Result<Region, String> {
    Region::create(len, kind).map_err(why)
}

/// Memory of this task that regions are laid over.
struct Window {
    start: *mut u8,
    layout: Layout,
}

impl Window {
    fn new(len: u64) -> Result<Self, String> {
        let len = len.next_multiple_of(PAGE) as usize;
        // At a large page, so that the machine can lay large ones there.
        let align = if len < LARGE { PAGE as usize } else { LARGE };
        let layout = Layout::from_size_align(len, align).map_err(|error| error.to_string())?;
        // Not touched, so that it takes no memory of the machine.
        let start = unsafe { std::alloc::alloc(layout) };
        if start.is_null() {
            return Err("no memory for a window".into());
        }
        Ok(Window { start, layout })
    }

    fn over(&self, region: &Region) -> Result<Mapping, RegionError> {
        let window = unsafe { std::slice::from_raw_parts(self.start, self.layout.size()) };
        region.map(0, window)
    }

    /// What is there now.
    fn at(&self, at: u64) -> u8 {
        unsafe { self.start.add(at as usize).read_volatile() }
    }

    fn set(&self, at: u64, to: u8) {
        unsafe { self.start.add(at as usize).write_volatile(to) }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        unsafe { std::alloc::dealloc(self.start, self.layout) }
    }
}

/// Everything that needs nobody else.
pub(crate) fn alone() -> Result<String, String> {
    let mut log = String::new();
    let mut note = |what: &str, got: String| {
        let _ = writeln!(log, "{what}: {got}");
    };
    let of = |regions: &[Region]| {
        let regions = regions.iter().map(|it| format!("{:?} {}", it.kind(), it.len()));
        regions.collect::<Vec<_>>().join(", ")
    };
    let (a, b) = ports::channel(2).map_err(said)?;

    let region = made(2 * PAGE, Kind::Exclusive)?;
    region.write(70_000, b"hello").map_err(why)?;
    a.send(with("moves", vec![region])).map_err(|unsent| said(unsent.error))?;
    let mut got = b.receive().map_err(said)?;
    note("came", format!("{} {}", String::from_utf8_lossy(&got.data), of(&got.regions)));
    let region = got.regions.pop().ok_or("no region")?;
    note("with", String::from_utf8_lossy(&region.read(70_000, 5).map_err(why)?).into());

    // One that is mapped stays, and all comes back in order.
    let window = Window::new(2 * PAGE)?;
    let mapping = window.over(&region).map_err(why)?;
    let others = || -> Result<Vec<Region>, String> {
        (1..=3).map(|len| made(len, Kind::Shared)).collect()
    };
    let (c, d) = ports::channel(1).map_err(said)?;
    let mut regions = others()?;
    regions.insert(1, region);
    let Err(mut unsent) = a.try_send(Message { data: vec![], regions, ports: vec![c] }) else {
        return Err("what is mapped has moved".into());
    };
    note("mapped", format!("{}, back: {}", unsent.error.name(), of(&unsent.regions)));
    let c = unsent.ports.pop().ok_or("no port came back")?;
    note("the port works", c.try_send(text("x")).map_or_else(|it| said(it.error), |()| "sent".into()));
    let region = unsent.regions.remove(1);
    window.set(70_004, b'!');
    drop(mapping);
    note("and it is as it was", String::from_utf8_lossy(&region.read(70_000, 5).map_err(why)?).into());

    // So does what there is no room for, or no end.
    let full = |regions| match d.try_send(Message { data: vec![], regions, ports: vec![] }) {
        Ok(()) => "sent".to_string(),
        Err(unsent) => format!("{}, back: {}", unsent.error.name(), of(&unsent.regions)),
    };
    note("there is room", full(others()?));
    note("no room", full(others()?));
    c.close();
    note("closed", full(others()?));
    note("what was sent is there", c.receive().map_or_else(said, |got| of(&got.regions)));
    let many = (1..=9).map(|len| made(len, Kind::Shared)).collect::<Result<_, _>>()?;
    note("too many", match a.try_send(with("", many)) {
        Ok(()) => "sent".to_string(),
        Err(unsent) => format!("{}, back: {}", unsent.error.name(), of(&unsent.regions)),
    });
    let eight = (1..=8).map(|len| made(len, Kind::Shared)).collect::<Result<_, _>>()?;
    a.send(with("", eight)).map_err(|unsent| said(unsent.error))?;
    note("as many as may be", of(&b.receive().map_err(said)?.regions));

    // Parts travel alone, and are joined by whoever has both.
    let region = made(3 * PAGE, Kind::Exclusive)?;
    region.write(PAGE - 1, b"ab").map_err(why)?;
    let (first, rest) = region.split(PAGE).map_err(why)?;
    let Err(unsent) = a.try_send(with("", vec![region])) else {
        return Err("what was split has moved".into());
    };
    note("what was split", format!("{}, back: {}", unsent.error.name(), of(&unsent.regions)));
    a.send(with("", vec![rest])).map_err(|unsent| said(unsent.error))?;
    a.send(with("", vec![first])).map_err(|unsent| said(unsent.error))?;
    let part = || b.receive().map_err(said)?.regions.pop().ok_or("no region".to_string());
    let (rest, first) = (part()?, part()?);
    note("frozen in parts", first.freeze().map_or_else(why, |()| "frozen".into()));
    first.join(&rest).map_err(why)?;
    note("joined", format!("{} {:?}", first.len(), first.read(PAGE - 1, 2)));
    note("frozen", first.freeze().map_or_else(why, |()| "frozen".into()));

    // Frozen and shared ones are with all who have a handle.
    let copy = first.duplicate().map_err(why)?;
    let mapping = Window::new(3 * PAGE)?;
    let laid = mapping.over(&first).map_err(why)?;
    a.send(with("", vec![copy, first])).map_err(|unsent| said(unsent.error))?;
    let got = b.receive().map_err(said)?.regions;
    note("came, while it is mapped", of(&got));
    note("its bytes", format!("{} {}", mapping.at(PAGE - 1), mapping.at(PAGE)));
    note("the others'", format!("{:?}", got[1].read(PAGE - 1, 2)));
    drop((laid, mapping, got));
    let exclusive = made(1, Kind::Exclusive)?;
    note("another of one", exclusive.duplicate().map_or_else(why, |_| "made".into()));
    let counter = made(8, Kind::Shared)?;
    let other = counter.duplicate().map_err(why)?;
    a.send(with("", vec![other])).map_err(|unsent| said(unsent.error))?;
    let other = b.receive().map_err(said)?.regions.pop().ok_or("no region")?;
    other.add_u32(4, 7).map_err(why)?;
    note("counted together", format!("{:?}", counter.load_u32(4)));

    // As many handles as there may be; a message more is received.
    drop(counter);
    let mut held = Vec::new();
    let refused = loop {
        match other.duplicate() {
            Ok(one) => held.push(one),
            Err(error) => break error,
        }
    };
    // The exclusive ones and `other` are handles, too.
    note("handles more", format!("{} and then {}", held.len(), refused.name()));
    a.send(with("", held.split_off(held.len() - 8))).map_err(|unsent| said(unsent.error))?;
    while let Ok(one) = other.duplicate() {
        held.push(one);
    }
    let over = b.receive().map_err(said)?;
    note("over it", of(&over.regions[7..]));
    a.send(text("more")).map_err(|unsent| said(unsent.error))?;
    note("and no more", b.try_receive().map_or_else(said, |_| "received".into()));
    drop(over);
    note("until there is room", b.try_receive().map_or_else(said, |_| "received".into()));
    Ok(log)
}

/// Does what each message says: `new N` has a region of N bytes made and sends it,
/// `grow N` has so many pages added to its memory. Tells how it went.
pub(crate) fn make(kind: u64) -> Result<String, String> {
    let port = parent()?;
    let kind = if kind == 0 { Kind::Exclusive } else { Kind::Shared };
    let mut count = 0;
    loop {
        let got = match port.receive() {
            Ok(got) => got,
            Err(PortError::Closed) => return Ok(format!("{count} made")),
            Err(error) => return Err(said(error)),
        };
        let order = String::from_utf8_lossy(&got.data).into_owned();
        let (what, number) = order.split_once(' ').ok_or("no order")?;
        let number: u64 = number.parse().map_err(|_| "no number")?;
        let answer = match what {
            "new" => match Region::create(number, kind) {
                Ok(region) => {
                    count += 1;
                    with("made", vec![region])
                }
                Err(error) => text(why(error)),
            },
            "grow" => match core::arch::wasm32::memory_grow::<0>(number as usize) {
                usize::MAX => text("refused"),
                _ => text("grown"),
            },
            _ => return Err("no such order".into()),
        };
        port.send(answer).map_err(|unsent| said(unsent.error))?;
    }
}

/// Adds up the bytes of each region that comes, where it is mapped, and keeps nothing.
pub(crate) fn sum() -> Result<String, String> {
    let port = parent()?;
    loop {
        let got = match port.receive() {
            Ok(got) => got,
            Err(PortError::Closed) => return Ok("nothing more came".into()),
            Err(error) => return Err(said(error)),
        };
        let mut sum = 0;
        for region in got.regions {
            let window = Window::new(region.len())?;
            let _mapping = window.over(&region).map_err(why)?;
            sum += (0..region.len()).map(|at| u64::from(window.at(at))).sum::<u64>();
        }
        port.send(text(sum.to_string())).map_err(|unsent| said(unsent.error))?;
    }
}

/// Counts in a shared region that comes, and tells who waits there.
pub(crate) fn add(count: u64) -> Result<String, String> {
    let got = parent()?.receive().map_err(said)?;
    let region = got.regions.first().ok_or("no region came")?;
    for _ in 0..count {
        region.add_u64(8, 1).map_err(why)?;
    }
    region.add_u32(0, 1).map_err(why)?;
    region.notify(0, u32::MAX).map_err(why)?;
    Ok(format!("{count} added"))
}

/// Keeps what comes, and maps it if that is said.
pub(crate) fn keep() -> Result<String, String> {
    let port = parent()?;
    let mut kept = Vec::new();
    loop {
        match port.receive() {
            Ok(got) => {
                let map = got.data == b"map";
                for region in got.regions {
                    let mapped = if map {
                        let window = Window::new(region.len())?;
                        let mapping = window.over(&region).map_err(why)?;
                        window.set(0, 1);
                        Some((mapping, window))
                    } else {
                        None
                    };
                    // Of what is mapped the handle may go.
                    kept.push((mapped, (!map).then_some(region)));
                }
                if got.data == b"drop" {
                    kept.clear();
                }
                port.send(text(kept.len().to_string())).map_err(|unsent| said(unsent.error))?;
            }
            Err(PortError::Closed) => return Ok(format!("{} kept", kept.len())),
            Err(error) => return Err(said(error)),
        }
    }
}

/// Hands a region to whoever is at the other end and gets it back.
pub(crate) fn toss(rounds: u64, size: u64) -> Result<String, String> {
    let port = second()?;
    let mut region = made(size, Kind::Exclusive)?;
    // The first round is for what happens once.
    let mut began = 0;
    for round in 0..=rounds {
        if round == 1 {
            began = crate::wasi::clocks::monotonic_clock::now();
        }
        port.send(with("", vec![region])).map_err(|unsent| said(unsent.error))?;
        region = port.receive().map_err(said)?.regions.pop().ok_or("no region came")?;
    }
    Ok((crate::wasi::clocks::monotonic_clock::now() - began).to_string())
}

/// Maps each region that comes, and gives it back.
pub(crate) fn catch() -> Result<String, String> {
    let port = second()?;
    let mut window = None;
    let mut count = 0;
    loop {
        let region = match port.receive() {
            Ok(mut got) => got.regions.pop().ok_or("no region came")?,
            Err(PortError::Closed) => return Ok(format!("{count} caught")),
            Err(error) => return Err(said(error)),
        };
        let window = match &window {
            Some(window) => window,
            None => window.insert(Window::new(region.len())?),
        };
        drop(window.over(&region).map_err(why)?);
        count += 1;
        port.send(with("", vec![region])).map_err(|unsent| said(unsent.error))?;
    }
}

/// Copies so many times `size` bytes into regions and sends them; four of them go
/// around.
pub(crate) fn pour(count: u64, size: u64) -> Result<String, String> {
    let port = second()?;
    let from = vec![7_u8; size as usize];
    let window = Window::new(size)?;
    let mut fresh = (0..4).map(|_| made(size, Kind::Exclusive)).collect::<Result<Vec<_>, _>>()?;
    let began = crate::wasi::clocks::monotonic_clock::now();
    for _ in 0..count {
        let region = match fresh.pop() {
            Some(region) => region,
            None => port.receive().map_err(said)?.regions.pop().ok_or("no region came")?,
        };
        let mapping = window.over(&region).map_err(why)?;
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), window.start, from.len()) };
        drop(mapping);
        port.send(with("", vec![region])).map_err(|unsent| said(unsent.error))?;
    }
    Ok((crate::wasi::clocks::monotonic_clock::now() - began).to_string())
}

/// Looks at each page of the regions that come, and sends them back.
pub(crate) fn drink() -> Result<String, String> {
    let port: Port = second()?;
    let mut window = None;
    let mut bytes = 0;
    loop {
        let region = match port.receive() {
            Ok(mut got) => got.regions.pop().ok_or("no region came")?,
            Err(PortError::Closed) => return Ok(format!("{bytes} bytes")),
            Err(error) => return Err(said(error)),
        };
        let len = region.len();
        let window = match &window {
            Some(window) => window,
            None => window.insert(Window::new(len)?),
        };
        let mapping = window.over(&region).map_err(why)?;
        if (0..len).step_by(4096).any(|at| window.at(at) != 7) {
            return Err("something else came".into());
        }
        drop(mapping);
        bytes += len;
        // Whoever poured may be done.
        let _ = port.send(message(vec![], vec![]).with(region));
    }
}

impl Message {
    fn with(mut self, region: Region) -> Self {
        self.regions.push(region);
        self
    }
}

/// Waits for a word that nobody changes.
pub(crate) fn wait() -> Result<String, String> {
    let word = made(8, Kind::Shared)?;
    word.wait(0, 0, None).map_err(why)?;
    Err("somebody changed it".into())
}
