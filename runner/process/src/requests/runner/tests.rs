use super::*;
use rustix::fs::{MemfdFlags, memfd_create};
use wrun_sandbox::port::{Transport, contents, in_memory};
use wrun_sandbox::services::{NoServices, SpawnError};

fn spawn(input: Data, port: Option<wrun_sandbox::port::PortParts>) -> WireAsk {
    let name = "x".to_owned();
    WireAsk::Spawn { name, input, port }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let sealed = || in_memory(b"12345").expect("a file");
    let open = memfd_create("open", MemfdFlags::ALLOW_SEALING).expect("a file");
    rustix::io::pwrite(&open, b"12345", 0).expect("written");
    let (pipe, _writer) = io::pipe().expect("a pipe");
    let (end, _far) = Transport::Socket.channel(1).expect("a channel");
    let (parts, [messages, credit, arena]) = end.into_parts().expect("parts");
    let long = WireAsk::Spawn {
        name: "x".repeat(MAX_NAME + 1),
        input: Data::Inline(Bytes::new()),
        port: None,
    };
    let nothing = || Data::Inline(Bytes::new());
    let bad = [
        (long, vec![]),
        (
            spawn(Data::Inline(vec![0; INLINE + 1].into()), None),
            vec![],
        ),
        (spawn(Data::File(4), None), vec![sealed()]),
        (spawn(Data::File(u64::MAX), None), vec![sealed()]),
        (spawn(Data::File(5), None), vec![open]),
        (spawn(Data::File(5), None), vec![pipe.into()]),
        (spawn(Data::File(5), None), vec![]),
        (spawn(nothing(), Some(parts)), vec![credit, messages, arena]),
        (
            spawn(nothing(), Some(parts)),
            vec![sealed(), sealed(), sealed()],
        ),
        (spawn(nothing(), Some(parts)), vec![]),
    ];
    for (ask, descriptors) in bad {
        let told = format!("{ask:?}");
        assert!(ask_of(ask, descriptors).is_err(), "{told}");
    }
    assert!(ask_of(spawn(Data::File(5), None), vec![sealed()]).is_ok());
}

/// The next answer, while what was asked goes on.
async fn next(responder: &mut Responder, answers: &mut Answers) -> Option<Order> {
    next_along(responder, answers).await.map(|(order, _)| order)
}

async fn next_along(
    responder: &mut Responder,
    answers: &mut Answers,
) -> Option<(Order, Vec<OwnedFd>)> {
    tokio::select! {
        biased;
        why = responder.answer() => panic!("{why}"),
        answer = answers.next() => answer,
    }
}

#[tokio::test]
async fn an_output_lies_in_one_file_until_its_child_is_let_go_of() {
    /// Every child has said much.
    struct Talkative;
    #[async_trait::async_trait]
    impl Services for Talkative {
        async fn ask(&self, _: Ask) -> Answer {
            Answer::End(Outcome::Completed(Output(vec![7; INLINE + 1].into())))
        }
        fn tell(&self, _: Word) -> bool {
            true
        }
    }
    let (mut responder, mut answers) = Responder::new(Arc::new(Talkative), 0);
    let mut inodes = Vec::new();
    for (id, child) in [(1, 1), (2, 1), (3, 2), (4, 1)] {
        if id == 4 {
            responder.told(Word::Release(1)).expect("it has one");
        }
        responder
            .take(id, WireAsk::End(child), vec![])
            .expect("an ask");
        let (order, mut along) = next_along(&mut responder, &mut answers).await.expect("one");
        let len = match order {
            Order::Answer {
                answer: WireAnswer::Output(len),
                ..
            } => usize::try_from(len).expect("a length"),
            other => panic!("{other:?}"),
        };
        answers.sent();
        let file = along.pop().expect("a file");
        inodes.push(rustix::fs::fstat(&file).expect("a file").st_ino);
        let output = contents(file, len).expect("a sealed file");
        assert_eq!(output, vec![7; INLINE + 1]);
    }
    assert_eq!(inodes[0], inodes[1]);
    assert_ne!(inodes[0], inodes[2]);
    assert_ne!(inodes[0], inodes[3]);
}

#[tokio::test]
async fn asks_are_numbered_and_counted() {
    let (mut responder, mut answers) = Responder::new(Arc::new(NoServices), 0);
    let ask = || spawn(Data::Inline(Bytes::new()), None);
    assert!(responder.take(2, ask(), vec![]).is_err());
    for id in 1..=MOST as u64 {
        responder
            .take(id, ask(), vec![])
            .expect("as many as may be");
    }
    assert!(responder.take(MOST as u64 + 1, ask(), vec![]).is_err());
    assert!(responder.take(1, ask(), vec![]).is_err());
    assert!(responder.told(Word::Kill(1)).is_err());
    for (id, right) in [(0, false), (1, true), (MOST as u64 + 2, false)] {
        assert_eq!(responder.told(Word::Withdraw(id)).is_ok(), right, "{id}");
    }
    assert!(matches!(
        next(&mut responder, &mut answers).await,
        Some(Order::Answer {
            answer: WireAnswer::NotSpawned(SpawnError::NotGranted),
            ..
        })
    ));
    let (mut responder, _answers) = Responder::new(Arc::new(NoServices), 0);
    responder.take(1, WireAsk::End(7), vec![]).expect("an ask");
    assert_eq!(responder.answer().await, "it asks about what it has not");
}

#[tokio::test]
async fn a_lock_is_withdrawn_and_the_ask_answered() {
    use wrun_sandbox::lock_table::LockMode;
    /// Nobody ever gets it.
    struct Taken;
    #[async_trait::async_trait]
    impl Services for Taken {
        async fn ask(&self, _: Ask) -> Answer {
            std::future::pending().await
        }
        fn tell(&self, _: Word) -> bool {
            false
        }
    }
    let (mut responder, mut answers) = Responder::new(Arc::new(Taken), 0);
    let lock = WireAsk::Lock {
        name: "l".to_owned(),
        mode: LockMode::Shared,
        if_available: false,
    };
    responder.take(1, lock, vec![]).expect("an ask");
    for _ in 0..2 {
        responder.told(Word::Withdraw(1)).expect("it was asked");
    }
    assert!(matches!(
        next(&mut responder, &mut answers).await,
        Some(Order::Answer {
            id: 1,
            answer: WireAnswer::NotAvailable,
        })
    ));
    answers.sent();
    assert!(!responder.is_waiting() && responder.waiting.is_empty());
}
