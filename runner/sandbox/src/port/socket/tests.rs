//! What a far end may do, and the consequences.

use super::*;
use crate::port::Transport;
use crate::port::packet::{IN_ARENA, INLINE, kind_byte};
use crate::port::sealed::in_memory;
use crate::region::{Kind, Ledger};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::net::send;

fn within<T>(work: impl FnOnce() -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .expect("a runtime");
    let _context = runtime.enter();
    work()
}

fn raw(to: &SocketEnd, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds)));
    sendmsg(&to.messages.fd, &[IoSlice::new(bytes)], &mut control, SEND).expect("sent");
}

fn head(kind: u8, ports: u8, zero: u8, len: u32) -> Vec<u8> {
    let mut head = vec![kind, ports, 0, zero];
    head.extend(len.to_le_bytes());
    head.extend(0_u64.to_le_bytes());
    head
}

fn region(kind: u8, offset: u64, len: u64) -> Vec<u8> {
    let mut head = head(INLINE, 0, 0, 0);
    head[2] = 1;
    head.push(kind);
    head.extend(offset.to_le_bytes());
    head.extend(len.to_le_bytes());
    head
}

fn made(len: u64, kind: Kind) -> Region {
    let ledger = Ledger::new(u64::MAX, true);
    let draft = ledger.make(len, kind).expect("a draft");
    draft.finish().expect("a region")
}

#[test]
fn packets_that_make_no_sense_close_the_channel() {
    within(|| {
        let file = in_memory(b"12345").expect("a file");
        let (pipe, _writer) = std::io::pipe().expect("a pipe");
        let [one, other] = channel(1).expect("a channel");
        let [strange, _far] = channel(1).expect("a channel");
        let port_of = |capacity: u8, side: u8, sent: u64| {
            let counts = [sent, 0, 0].map(u64::to_le_bytes).concat();
            let end = vec![capacity, side, 0, 0];
            [head(INLINE, 1, 0, 0), end, counts].concat()
        };
        let port = |capacity, sent| port_of(capacity, 0, sent);
        let mut many = head(INLINE, 0, 0, 0);
        many[2] = 9;
        let mut received = head(INLINE, 0, 0, 0);
        received[8] = 1;
        let (_, [messages, credit, arena]) = strange.lent();
        let three = || vec![messages, credit, arena];
        let exclusive = made(4096, Kind::Exclusive);
        let mut frozen = made(4096, Kind::Exclusive);
        frozen.freeze().expect("freezes");
        let shared = made(4096, Kind::Shared);
        let [memory, ice, common] =
            [&exclusive, &frozen, &shared].map(|it| it.to_send().expect("goes").0);
        let cases: Vec<(&str, Vec<u8>, Vec<BorrowedFd<'_>>)> = vec![
            ("short", vec![0; HEADER - 1], vec![]),
            ("a kind", head(2, 0, 0, 0), vec![]),
            ("notes", head(INLINE, 0, 2, 0), vec![]),
            ("more received than sent", received, vec![]),
            ("less than it says", head(INLINE, 0, 0, 1), vec![]),
            ("more", [head(INLINE, 0, 0, 0), vec![0]].concat(), vec![]),
            ("a length", head(IN_ARENA, 0, 0, u32::MAX), vec![]),
            ("not that much", head(IN_ARENA, 0, 0, 6), vec![]),
            (
                "a file of its own",
                head(IN_ARENA, 0, 0, 5),
                vec![file.as_fd()],
            ),
            (
                "data here and there",
                [head(IN_ARENA, 0, 0, 5), vec![1]].concat(),
                vec![],
            ),
            ("many regions", many, vec![]),
            (
                "half a region",
                region(0, 0, 4096)[..HEADER + 12].into(),
                vec![memory],
            ),
            ("no region", region(0, 0, 4096), vec![]),
            ("two for one", region(0, 0, 4096), vec![memory, memory]),
            ("a kind of region", region(3, 0, 4096), vec![memory]),
            ("not frozen", region(1, 0, 4096), vec![memory]),
            ("shared and frozen", region(2, 0, 4096), vec![ice]),
            (
                "shared that can be sealed",
                region(2, 0, 4096),
                vec![memory],
            ),
            ("nothing of it", region(0, 0, 0), vec![memory]),
            ("beyond its end", region(0, 0, 4097), vec![memory]),
            (
                "beyond all ends",
                region(0, u64::MAX - 4095, 4096),
                vec![memory],
            ),
            ("between pages", region(0, 1, 1), vec![memory]),
            ("a message as region", region(0, 0, 5), vec![file.as_fd()]),
            ("a pipe as region", region(0, 0, 4096), vec![pipe.as_fd()]),
            ("a socket as region", region(0, 0, 4096), vec![messages]),
            ("a gift", head(INLINE, 0, 0, 0), vec![file.as_fd()]),
            ("many ports", head(INLINE, 9, 0, 0), vec![]),
            ("two sockets", port(1, 0), vec![messages, credit]),
            ("half a port", port(1, 0)[..HEADER + 24].into(), three()),
            ("no capacity", port(0, 0), three()),
            ("capacity", port(65, 0), three()),
            ("a third side", port_of(1, 2, 0), three()),
            ("more than may wait", port(1, 2), three()),
            (
                "the wrong way around",
                port(1, 0),
                vec![credit, messages, arena],
            ),
            (
                "no sockets",
                port(1, 0),
                vec![file.as_fd(), pipe.as_fd(), arena],
            ),
            (
                "no memory",
                port(1, 0),
                vec![messages, credit, pipe.as_fd()],
            ),
        ];
        for (what, bytes, fds) in cases {
            let [one, other] = channel(1).expect("a channel");
            one.arena.put(0, b"12345").expect("put");
            raw(&one, &bytes, &fds);
            assert_eq!(
                other.try_receive().expect_err(what),
                PortError::Closed,
                "{what}"
            );
            assert_eq!(
                other.try_receive().expect_err(what),
                PortError::Closed,
                "{what}"
            );
            let unsent = other.try_send(Message::new("x")).expect_err(what);
            assert_eq!(unsent.error, PortError::Closed, "{what}");
        }
        // A valid message.
        one.arena.put(0, b"12345").expect("put");
        raw(&one, &head(IN_ARENA, 0, 0, 5), &[]);
        assert_eq!(other.try_receive().expect("received").data, "12345");
        raw(&one, &port(1, 0), &three());
        assert_eq!(other.try_receive().expect("received").ports.len(), 1);
        // A region that its sender has sealed can still come from an honest holder.
        for (kind, file) in [(0, memory), (0, ice), (1, ice), (2, common)] {
            raw(&one, &region(kind, 0, 4096), &[file]);
            let message = other.try_receive().expect("received");
            assert_eq!(kind_byte(message.regions[0].kind()), kind);
        }
    });
}

#[test]
fn what_cannot_move_comes_back_with_everything() {
    within(|| {
        let (one, other) = Transport::Socket.channel(1).expect("a channel");
        let local = Ledger::new(u64::MAX, false);
        let here = local.make(1, Kind::Shared).expect("a draft");
        let here = here.finish().expect("a region");
        let mapped = made(4096, Kind::Exclusive);
        let lease = mapped.map(0, 4096).expect("maps");
        for stays in [here, mapped] {
            let message = Message::new("x")
                .region(made(1, Kind::Shared))
                .region(stays);
            let unsent = one.try_send(message).expect_err("it stays");
            assert_eq!(unsent.error, PortError::OtherRunner);
            assert_eq!(unsent.message.regions.len(), 2);
        }
        drop(lease);
        // Including its credit.
        let full = Message::new("x").region(made(1, Kind::Shared));
        one.try_send(full).expect("there is room");
        let refused = Message::default().region(made(2, Kind::Shared));
        let unsent = one.try_send(refused).expect_err("full");
        assert_eq!(unsent.error, PortError::WouldBlock);
        assert_eq!(unsent.message.regions[0].len(), 2);
        assert_eq!(other.try_receive().expect("received").regions[0].len(), 1);
        one.try_send(unsent.message).expect("there is room");
    });
}

#[test]
fn nothing_blocks_whatever_the_other_side_sets() {
    within(|| {
        let [one, other] = channel(1).expect("a channel");
        for socket in [
            &one.messages,
            &one.credit.socket,
            &other.messages,
            &other.credit.socket,
        ] {
            let flags = fcntl_getfl(&socket.fd).expect("flags");
            fcntl_setfl(&socket.fd, flags - OFlags::NONBLOCK).expect("set");
        }
        assert_eq!(
            other.try_receive().expect_err("nothing"),
            PortError::WouldBlock
        );
        one.try_send("x".into()).expect("there is room");
        let unsent = one.try_send("y".into()).expect_err("full");
        assert_eq!(unsent.error, PortError::WouldBlock);
        // Notes until no more fit.
        for _ in 0..100_000 {
            if send(&other.credit.socket.fd, &[0; 64], SEND).is_err() {
                break;
            }
        }
        // A note without room.
        assert!(other.try_receive().is_ok());
        let unsent = one.try_send("y".into()).expect_err("not told");
        assert_eq!(unsent.error, PortError::WouldBlock);
    });
}

#[test]
fn credit_for_what_was_not_sent_closes_the_channel() {
    within(|| {
        for (sent, note) in [(0, 1), (1, 2), (2, 255), (2, 3)] {
            let [one, other] = channel(2).expect("a channel");
            (0..sent).for_each(|_| one.try_send("x".into()).expect("there is room"));
            send(&other.credit.socket.fd, &[note], SEND).expect("sent");
            let mut says = head(INLINE, 0, 1, 0);
            raw(&other, &says, &[]);
            let refused = one.try_receive().expect_err("a lie");
            assert_eq!(refused, PortError::Closed, "{sent} {note}");
            let [one, other] = channel(2).expect("a channel");
            (0..sent).for_each(|_| one.try_send("x".into()).expect("there is room"));
            says[3] = 0;
            says[8] = note;
            raw(&other, &says, &[]);
            let refused = one.try_receive().expect_err("a lie");
            assert_eq!(refused, PortError::Closed, "{sent} {note}");
        }
        // It is read when room is missing, too.
        let [one, other] = channel(1).expect("a channel");
        one.try_send("x".into()).expect("there is room");
        send(&other.credit.socket.fd, &[2], SEND).expect("sent");
        let unsent = one.try_send("y".into()).expect_err("a lie");
        assert_eq!(unsent.error, PortError::Closed);
    });
}

#[test]
fn counts_move_along() {
    within(|| {
        let (one, other) = Transport::Socket.channel(1).expect("a channel");
        let moved = |port: Port| {
            let (parts, fds) = port.into_parts().expect("parts");
            Port::from_parts(parts, fds).expect("a port")
        };
        let (mut one, mut other) = (one, other);
        for _ in 0..300 {
            one.try_send("it").expect("there is room");
            one = moved(one);
            let unsent = one.try_send("no").expect_err("full");
            assert_eq!(unsent.error, PortError::WouldBlock);
            assert_eq!(other.try_receive().expect("received").data, "it");
            other = moved(other);
            other.try_send("back").expect("there is room");
            assert_eq!(one.try_receive().expect("received").data, "back");
        }
    });
}

/// Whether an unread note is there.
fn is_noted(end: &SocketEnd) -> bool {
    end.credit.socket.is(PollFlags::IN)
}

#[tokio::test]
async fn an_answer_says_what_is_owed_and_a_turn_that_ends_notes_it() {
    let [one, other] = channel(1).expect("a channel");
    // As in another process: receipts are noted by its own thread.
    let apart = |work: &(dyn Fn() + Sync)| {
        std::thread::scope(|scope| scope.spawn(work).join().expect("it works"));
    };
    let ask = || apart(&|| one.try_send("ask".into()).expect("there is room"));
    let hear = || apart(&|| drop(one.try_receive().expect("received")));
    let answer = || {
        other.try_receive().expect("received");
        other.try_send("answer".into()).expect("there is room");
    };
    credit::in_turns(async {
        // The first exchange shows that it replies.
        ask();
        answer();
        assert!(is_noted(&one));
        hear();
        for _ in 0..300 {
            ask();
            answer();
            assert!(!is_noted(&one));
            hear();
        }
        ask();
        answer();
        assert!(!is_noted(&one));
        tokio::task::yield_now().await;
        // It need not read the reply.
        ask();
        hear();
        other.try_receive().expect("received");
        assert!(!is_noted(&one));
        // The task that it notifies finds room.
        let [elsewhere, _far] = channel(1).expect("a channel");
        elsewhere.try_send("told".into()).expect("there is room");
        assert!(is_noted(&one));
        ask();
        other.try_receive().expect("received");
    })
    .await;
    ask();
    other.try_receive().expect("received");
    // Outside of a turn, at once.
    ask();
}

#[tokio::test]
async fn who_takes_turns_is_told_by_the_answer_alone() {
    let [one, other] = channel(1).expect("a channel");
    let apart = |work: &(dyn Fn() + Sync)| {
        std::thread::scope(|scope| scope.spawn(work).join().expect("it works"));
    };
    let ask = || apart(&|| one.try_send("ask".into()).expect("there is room"));
    let is_full = || apart(&|| drop(one.try_send("more".into()).expect_err("full")));
    let hear = || apart(&|| drop(one.try_receive().expect("received")));
    let receive = || other.receive_soon(Moment::Timed);
    let answer = || {
        receive().expect("received");
        other.try_send("answer".into()).expect("there is room");
    };
    let waits = || assert_eq!(receive().expect_err("nothing"), PortError::WouldBlock);
    credit::in_turns(async {
        for round in 0..300 {
            ask();
            is_full();
            answer();
            waits();
            assert_eq!(is_noted(&one), round + 1 < 16, "{round}");
            hear();
        }
        // A side that has not read the reply has room, but not for more.
        ask();
        answer();
        waits();
        assert!(!is_noted(&one));
        ask();
        is_full();
        // That was not an alternation.
        receive().expect("received");
        waits();
        assert!(is_noted(&one));
        hear();
        for _ in 0..40 {
            ask();
            answer();
            waits();
            hear();
        }
        ask();
        answer();
        waits();
        assert!(!is_noted(&one));
        tokio::task::yield_now().await;
    })
    .await;
    // The side that waits for a note has it when the turn has ended.
    assert!(is_noted(&one));
}

#[test]
fn what_lies_unread_is_believed_no_more_than_what_is_received() {
    within(|| {
        for (received, notes, closes) in [(1, 0, false), (2, 0, true), (1, 2, false)] {
            let [one, other] = channel(1).expect("a channel");
            one.try_send("x".into()).expect("there is room");
            let mut says = head(INLINE, 0, notes, 0);
            says[8] = received;
            raw(&other, &says, &[]);
            let sent = one.try_send("y".into());
            match (closes, notes) {
                (true, _) => assert_eq!(sent.expect_err("a lie").error, PortError::Closed),
                (_, 0) => sent.expect("there is room"),
                _ => {
                    assert_eq!(sent.expect_err("nonsense").error, PortError::WouldBlock);
                    assert_eq!(one.try_receive().expect_err("it"), PortError::Closed);
                }
            }
        }
        let [one, other] = channel(1).expect("a channel");
        one.try_send("x".into()).expect("there is room");
        raw(&other, &[0; HEADER - 1], &[]);
        let unsent = one.try_send("y".into()).expect_err("nonsense");
        assert_eq!(unsent.error, PortError::WouldBlock);
    });
}
