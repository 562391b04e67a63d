//! What the types of `wrun-guest` promise, tried by one task alone.

use std::mem::forget;
use std::time::Duration;
use wrun_guest::{
    Barrier, Exclusive, Frozen, Message, PAGE, PortError, Region, RegionError, Shared, SpawnError,
    StartError, Waited, channel, context, parent, spawn, start,
};

/// What was tried, and what of it was otherwise.
#[derive(Default)]
struct Tried {
    count: u32,
    wrong: Vec<&'static str>,
}

impl Tried {
    fn check(&mut self, what: &'static str, holds: bool) {
        self.count += 1;
        if !holds {
            self.wrong.push(what);
        }
    }
}

pub(crate) fn types() -> Result<Vec<u8>, String> {
    let mut tried = Tried::default();
    exclusive(&mut tried)?;
    frozen(&mut tried)?;
    shared(&mut tried)?;
    messages(&mut tried)?;
    others(&mut tried);
    match &tried.wrong[..] {
        [] => Ok(format!("{} promises kept\n", tried.count).into_bytes()),
        wrong => Err(format!("not so: {}", wrong.join("; "))),
    }
}

fn exclusive(tried: &mut Tried) -> Result<(), String> {
    // Neither a multiple of a page nor of a word.
    let mut region = Exclusive::new(PAGE + 1003)?;
    tried.check("new is zero", region.read(PAGE, 1003)? == [0; 1003]);
    let mut all = region.map()?;
    tried.check("as long as the region", all.len() == PAGE as usize + 1003);
    tried.check("aligned", all.as_ptr().addr().is_multiple_of(PAGE as usize));
    tried.check(
        "whole numbers",
        all.view::<u64>().len() == (PAGE as usize + 1003) / 8,
    );
    all[PAGE as usize + 1002] = 9;
    all.view_mut::<u32>()[1] = 0x0403_0201;
    drop(all);
    tried.check("stored", region.read(4, 4)? == [1, 2, 3, 4]);
    tried.check("stored at the end", region.read(PAGE + 1002, 1)? == [9]);
    region.write(5, &[7])?;
    tried.check("written", region.map()?[..8] == [0, 0, 0, 0, 1, 7, 3, 4]);
    let tail = region.map_range(PAGE, 1003)?;
    tried.check("a part", tail.len() == 1003 && tail[1002] == 9);
    drop(tail);
    tried.check(
        "too far",
        matches!(region.map_range(PAGE, 1004), Err(RegionError::OutOfBounds))
            && region.map_range(u64::MAX, 2).is_err()
            && region.read(PAGE + 1000, 4).is_err()
            && region.write(PAGE + 1003, &[1]).is_err(),
    );
    tried.check(
        "nothing",
        matches!(region.map_range(0, 0), Err(RegionError::OutOfBounds))
            && matches!(Exclusive::new(0), Err(RegionError::OutOfBounds)),
    );
    tried.check(
        "no page begins there",
        matches!(region.map_range(8, 8), Err(RegionError::Misaligned)),
    );
    tried.check(
        "more than there is",
        matches!(Exclusive::new(1 << 50), Err(RegionError::Limit)),
    );

    let refused = region.split(10).map(drop);
    let Err(refused) = refused else {
        return Err("a region was split within a page".into());
    };
    tried.check(
        "comes back whole",
        refused.error == RegionError::Misaligned && refused.region.len() == PAGE + 1003,
    );
    let (mut low, high) = refused.region.split(PAGE)?;
    let Err(refused) = high.freeze().map(drop) else {
        return Err("a part was frozen".into());
    };
    tried.check("a part is not frozen", refused.error == RegionError::Busy);
    let mut high = refused.region;
    tried.check("both parts are mapped at once", {
        let (mut low, mut high) = (low.map()?, high.map()?);
        low[0] = 1;
        high[0] = 2;
        low[0] == 1 && high[0] == 2 && high.len() == 1003
    });
    let Err(refused) = high.join(low) else {
        return Err("the parts were joined in the wrong order".into());
    };
    tried.check(
        "not in that order",
        refused.error == RegionError::Misaligned,
    );
    low = refused.region;
    low.join(high)?;
    tried.check(
        "joined",
        low.len() == PAGE + 1003 && low.read(PAGE, 1)? == [2],
    );

    forget(low.map()?);
    tried.check(
        "a forgotten mapping stays",
        matches!(low.map(), Err(RegionError::Busy)) && low.read(0, 1)? == [1],
    );
    Ok(())
}

fn frozen(tried: &mut Tried) -> Result<(), String> {
    let region = Exclusive::from_bytes(b"for all")?.freeze()?;
    let mut one = region.map()?;
    let other = region.duplicate()?.map()?;
    one[0] = b'F';
    tried.check(
        "private",
        one[..] == *b"For all" && other[..] == *b"for all",
    );
    tried.check("unchanged", region.read(0, 7)? == b"for all");
    drop(region);
    tried.check("outlives its handle", other[4..] == *b"all");
    Ok(())
}

fn shared(tried: &mut Tried) -> Result<(), String> {
    let region = Shared::new(64)?;
    let again = region.duplicate()?;
    let (word, other) = (region.u32(4)?, again.u32(4)?);
    tried.check("before", word.fetch_add(5) == 0 && other.swap(7) == 5);
    tried.check(
        "compared",
        word.compare_exchange(7, 0b1100) == Ok(7) && word.compare_exchange(7, 1) == Err(0b1100),
    );
    tried.check(
        "bits",
        word.fetch_or(0b11) == 0b1100
            && word.fetch_and(0b0110) == 0b1111
            && word.fetch_xor(0b0010) == 0b0110
            && other.load() == 0b0100,
    );
    tried.check(
        "around the end",
        word.fetch_sub(5) == 4 && word.load() == u32::MAX,
    );
    let wide = region.u64(8)?;
    wide.store(1 << 40);
    tried.check(
        "64 bits",
        again.read(13, 1)? == [1] && wide.fetch_sub(1) == 1 << 40,
    );
    tried.check(
        "no word there",
        matches!(region.u32(2), Err(RegionError::Misaligned))
            && matches!(region.u64(4), Err(RegionError::Misaligned))
            && matches!(region.u32(64), Err(RegionError::OutOfBounds))
            && region.u64(u64::MAX - 7).is_err(),
    );
    tried.check(
        "waits",
        word.wait_timeout(0, Duration::from_secs(60)) == Waited::NotEqual
            && word.wait_timeout(u32::MAX, Duration::from_millis(1)) == Waited::TimedOut
            && word.notify(1) == 0,
    );
    region.write(60, b"last")?;
    tried.check(
        "copied",
        again.read(60, 4)? == b"last" && region.write(61, b"last").is_err(),
    );
    let barrier = Barrier::new(&region, 32, 1)?;
    tried.check("one is all", barrier.wait() && barrier.wait());
    Ok(())
}

fn messages(tried: &mut Tried) -> Result<(), String> {
    let (ours, theirs) = channel(1)?;
    tried.check(
        "no such capacity",
        matches!(channel(65), Err(PortError::Limit)),
    );
    let everything = || -> Result<Message, String> {
        Ok(Message::new("data")
            .region(Exclusive::from_bytes(b"exclusive")?)
            .region(Exclusive::from_bytes(b"frozen")?.freeze()?)
            .region(Shared::new(6)?)
            .port(channel(1)?.0))
    };
    let whole = |message: &Message| {
        let lengths: Vec<u64> = message.regions.iter().map(Region::len).collect();
        message.data == b"data" && lengths == [9, 6, 6] && message.ports.len() == 1
    };
    ours.send(everything()?)?;
    let unsent = ours.try_send(everything()?).err().ok_or("it was sent")?;
    tried.check(
        "not sent, and all there",
        unsent.error == PortError::WouldBlock && whole(&unsent.message),
    );
    let came = theirs.receive()?;
    tried.check("came", whole(&came));
    tried.check(
        "their kinds",
        matches!(
            &came.regions[..],
            [Region::Exclusive(_), Region::Frozen(_), Region::Shared(_)]
        ),
    );
    tried.check("their bytes", came.exclusive()?.read(0, 9)? == b"exclusive");
    tried.check(
        "nothing there",
        theirs.try_receive().err() == Some(PortError::WouldBlock),
    );
    ours.send(unsent.message)?;
    let Region::Exclusive(mut mapped) = theirs.receive()?.regions.swap_remove(0) else {
        return Err("another kind".into());
    };
    tried.check("of another kind", {
        let message = Message::default().region(Shared::new(1)?);
        message.frozen().err() == Some(RegionError::WrongKind)
            && Message::new("").shared().is_err()
            && Frozen::try_from(Region::from(Shared::new(1)?)).is_err()
    });
    forget(mapped.map()?);
    let unsent = ours
        .send(Message::new("data").region(mapped))
        .err()
        .ok_or("it was sent")?;
    tried.check(
        "mapped",
        unsent.error == PortError::Busy && unsent.message.regions[0].len() == 9,
    );
    let unsent = ours
        .send(vec![1; (256 << 10) + 1])
        .err()
        .ok_or("it was sent")?;
    tried.check(
        "too large",
        unsent.error == PortError::TooLarge && unsent.message.data.len() == (256 << 10) + 1,
    );
    ours.send("last words")?;
    drop(ours);
    tried.check("still received", theirs.receive()?.data == b"last words");
    tried.check("closed", theirs.receive().err() == Some(PortError::Closed));
    let unsent = theirs.send("no").err().ok_or("it was sent")?;
    tried.check(
        "closed for sending",
        unsent.error == PortError::Closed && unsent.message.data == b"no",
    );
    Ok(())
}

fn others(tried: &mut Tried) {
    tried.check("nobody started it", parent().is_none());
    tried.check("not cancelled", !context::cancelled());
    tried.check("has a name", context::info().name.ends_with("talk.wasm"));
    let port = channel(1).ok().map(|(port, _)| port);
    let unstarted = spawn("nobody", b"", port).err();
    tried.check(
        "not granted, and the port comes back",
        unstarted.is_some_and(|it| it.error == SpawnError::NotGranted && it.port.is_some()),
    );
    tried.check(
        "not granted",
        start("nobody", b"", 1).err() == Some(StartError::Spawn(SpawnError::NotGranted)),
    );
}
