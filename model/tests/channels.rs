//! Channels within one process: what must hold in whatever order threads come.

use crate::support::{Tokens, check};
use loom::future::block_on;
use loom::thread;
use wrun_model::{Channels, Message, Port, PortError};

fn channel(channels: &Channels, capacity: u32) -> (Port, Port) {
    channels.channel(capacity).expect("a channel")
}

/// All that arrives until the channel is closed.
fn drain(port: &Port) -> Vec<Vec<u8>> {
    let mut got = Vec::new();
    loop {
        match block_on(port.receive()) {
            Ok(message) => got.push(message.data.to_vec()),
            Err(error) => {
                assert_eq!(error, PortError::Closed);
                return got;
            }
        }
    }
}

#[test]
fn messages_arrive_once_and_in_order_and_a_drop_is_seen() {
    check(|| {
        let tokens = Tokens::default();
        let (one, other) = channel(&Channels::default(), 2);
        let sender = {
            let tokens = tokens.clone();
            thread::spawn(move || {
                // The third may have to wait for room.
                for data in [b"1", b"2", b"3"] {
                    block_on(one.send(tokens.bytes(data))).expect("nobody closed it");
                }
            })
        };
        assert_eq!(drain(&other), [b"1", b"2", b"3"]);
        sender.join().expect("the sender");
        assert_eq!(tokens.alive(), 0);
    });
}

#[test]
fn two_who_wait_at_one_end_are_both_told() {
    check(|| {
        let (one, other) = channel(&Channels::default(), 2);
        let other = std::sync::Arc::new(other);
        let receiver = {
            let other = other.clone();
            thread::spawn(move || drain(&other))
        };
        one.try_send("1").expect("there is room");
        one.try_send("2").expect("there is room");
        drop(one);
        let mut got = drain(&other);
        got.extend(receiver.join().expect("the receiver"));
        got.sort();
        assert_eq!(got, [b"1", b"2"]);
    });
}

/// Whoever is told first need not be the one who takes it.
#[test]
fn who_only_looks_takes_no_ones_turn() {
    check(|| {
        let (one, other) = channel(&Channels::default(), 1);
        let other = std::sync::Arc::new(other);
        let [looks, takes] = [true, false].map(|looks| {
            let other = other.clone();
            thread::spawn(move || match looks {
                true => block_on(other.readable()),
                false => drop(block_on(other.receive()).expect("a message")),
            })
        });
        one.try_send("1").expect("there is room");
        takes.join().expect("who takes it");
        one.close();
        looks.join().expect("who looks");
    });
}

#[test]
fn no_more_wait_than_the_capacity_says_and_refused_ones_come_back() {
    check(|| {
        let tokens = Tokens::default();
        let (one, other) = channel(&Channels::default(), 1);
        let one = std::sync::Arc::new(one);
        let senders = [b"1", b"2"].map(|data| {
            let (one, tokens) = (one.clone(), tokens.clone());
            thread::spawn(move || match one.try_send(tokens.bytes(data)) {
                Ok(()) => 1,
                Err(unsent) => {
                    assert_eq!(unsent.error, PortError::WouldBlock);
                    assert_eq!(&unsent.message.data[..], data);
                    0
                }
            })
        });
        let sent: usize = senders.map(|it| it.join().expect("a sender")).iter().sum();
        assert_eq!((sent, tokens.alive()), (1, 1));
        assert!(other.try_receive().is_ok());
        assert_eq!(other.try_receive().expect_err("one"), PortError::WouldBlock);
        assert_eq!(tokens.alive(), 0);
    });
}

#[test]
fn a_close_ends_whoever_waits_for_room_or_messages() {
    check(|| {
        let tokens = Tokens::default();
        let (one, other) = channel(&Channels::default(), 1);
        one.try_send(tokens.bytes(b"1")).expect("there is room");
        let sender = {
            let tokens = tokens.clone();
            thread::spawn(move || {
                let unsent = block_on(one.send(tokens.bytes(b"2"))).expect_err("closed");
                assert_eq!(unsent.error, PortError::Closed);
                assert_eq!(&unsent.message.data[..], b"2");
                drop(unsent);
                block_on(one.receive()).expect_err("closed")
            })
        };
        other.close();
        assert_eq!(sender.join().expect("the sender"), PortError::Closed);
        // What was sent before is still received.
        assert_eq!(drain(&other), [b"1"]);
        assert_eq!(tokens.alive(), 0);
    });
}

#[test]
fn a_drop_while_something_is_sent_loses_nothing_that_was_not_taken() {
    check(|| {
        let tokens = Tokens::default();
        let (one, other) = channel(&Channels::default(), 1);
        let dropper = thread::spawn(move || drop(other));
        match one.try_send(tokens.bytes(b"1")) {
            // Lost with the end that would have received it; or it lies there until then.
            Ok(()) => {}
            Err(unsent) => {
                assert_eq!(unsent.error, PortError::Closed);
                assert_eq!(tokens.alive(), 1);
            }
        }
        dropper.join().expect("the dropper");
        assert_eq!(tokens.alive(), 0);
        assert_eq!(
            one.try_send("2").expect_err("no end").error,
            PortError::Closed
        );
    });
}

/// An end that moves; what it is connected to is closed meanwhile, and somebody sweeps.
#[test]
fn an_end_moves_while_it_is_closed_and_swept() {
    check(|| {
        let tokens = Tokens::default();
        let channels = Channels::default();
        let (one, other) = channel(&channels, 1);
        let (moving, far) = channel(&channels, 1);
        moving.try_send(tokens.bytes(b"before")).expect("room");
        let sweeper = {
            let channels = channels.clone();
            thread::spawn(move || channels.sweep())
        };
        let closer = {
            let tokens = tokens.clone();
            thread::spawn(move || {
                far.try_send(tokens.bytes(b"for whoever has it"))
                    .expect("room");
                let got = far.try_receive().expect("it was sent");
                assert_eq!(&got.data[..], b"before");
                far.close();
            })
        };
        let message = Message::new(tokens.bytes(b"it")).port(moving);
        one.try_send(message).expect("room, and open");
        let mut message = other.try_receive().expect("it was sent");
        let moved = message.ports.pop().expect("it moved along");
        drop(message);
        assert_eq!(drain(&moved), [b"for whoever has it"]);
        closer.join().expect("the closer");
        sweeper.join().expect("the sweeper");
        drop((one, other, moved));
        assert_eq!(tokens.alive(), 0);
    });
}

/// A message with a port meets the drop of where it goes to: the port comes back as it
/// was, or is closed.
#[test]
fn an_end_moves_to_one_who_leaves() {
    check(|| {
        let channels = Channels::default();
        let (one, other) = channel(&channels, 1);
        let (moving, far) = channel(&channels, 1);
        let dropper = thread::spawn(move || drop(other));
        let unsent = one.try_send(Message::new("it").port(moving)).err();
        dropper.join().expect("the dropper");
        // Nothing must be noted as moving that is not.
        channels.sweep();
        match unsent {
            Some(mut unsent) => {
                assert_eq!(unsent.error, PortError::Closed);
                let back = unsent.message.ports.pop().expect("it came back");
                far.try_send("still open").expect("room, and open");
                assert_eq!(drain_one(&back), b"still open");
            }
            None => {
                let error = far.try_send("x").expect_err("closed").error;
                assert_eq!(error, PortError::Closed);
            }
        }
    });
}

fn drain_one(port: &Port) -> Vec<u8> {
    port.try_receive().expect("a message").data.to_vec()
}

/// A channel made while somebody sweeps, and an end that moves into it.
#[test]
fn what_is_reachable_stays_open_whenever_it_is_swept() {
    check(|| {
        let channels = Channels::default();
        let (one, other) = channel(&channels, 1);
        let (moving, far) = channel(&channels, 1);
        let (third, _far) = channel(&channels, 1);
        // Something lies in a queue, so that the sweep looks.
        one.try_send(Message::new("").port(third)).expect("room");
        let sweeper = {
            let channels = channels.clone();
            thread::spawn(move || channels.sweep())
        };
        let (fresh, to) = channel(&channels, 1);
        fresh.try_send(Message::new("").port(moving)).expect("room");
        sweeper.join().expect("the sweeper");
        let moved = to.try_receive().expect("it was sent").ports.pop();
        far.try_send("alive").expect("nobody may close it");
        assert_eq!(drain_one(&moved.expect("it moved along")), b"alive");
        assert_eq!(other.try_receive().expect("it was sent").ports.len(), 1);
    });
}

/// What nobody reaches is closed, also when two sweep, and everything in it dropped
/// once.
#[test]
fn what_nobody_reaches_is_swept() {
    check(|| {
        let tokens = Tokens::default();
        let channels = Channels::default();
        let (a, far_a) = channel(&channels, 1);
        let (b, far_b) = channel(&channels, 1);
        a.try_send(Message::new(tokens.bytes(b"b")).port(far_b))
            .expect("room");
        b.try_send(Message::new(tokens.bytes(b"a")).port(far_a))
            .expect("room");
        let sweeper = {
            let channels = channels.clone();
            thread::spawn(move || channels.sweep())
        };
        channels.sweep();
        sweeper.join().expect("the sweeper");
        for port in [a, b] {
            assert_eq!(
                port.try_send("x").expect_err("swept").error,
                PortError::Closed
            );
        }
        assert_eq!(tokens.alive(), 0);
    });
}
