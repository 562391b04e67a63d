use super::*;
use rustix::fs::{MemfdFlags, memfd_create};
use wrun_sandbox::port::{Transport, contents, in_memory};
use wrun_sandbox::services::{NoServices, SpawnError};

fn spawn(input: Data, port: Option<wrun_sandbox::port::PortParts>) -> WireRequest {
    let name = "x".to_owned();
    WireRequest::Spawn { name, input, port }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let sealed = || in_memory(b"12345").expect("a file");
    let open = memfd_create("open", MemfdFlags::ALLOW_SEALING).expect("a file");
    rustix::io::pwrite(&open, b"12345", 0).expect("written");
    let (pipe, _writer) = io::pipe().expect("a pipe");
    let (end, _far) = Transport::Socket.channel(1).expect("a channel");
    let (parts, [messages, credit, arena]) = end.into_parts().expect("parts");
    let long = WireRequest::Spawn {
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
    for (request, descriptors) in bad {
        let shown = format!("{request:?}");
        assert!(service_request(request, descriptors).is_err(), "{shown}");
    }
    assert!(service_request(spawn(Data::File(5), None), vec![sealed()]).is_ok());
}

/// The next response, while requests are served.
async fn next(responder: &mut Responder, responses: &mut Responses) -> Option<Order> {
    next_along(responder, responses)
        .await
        .map(|(order, _)| order)
}

async fn next_along(
    responder: &mut Responder,
    responses: &mut Responses,
) -> Option<(Order, Vec<OwnedFd>)> {
    tokio::select! {
        biased;
        why = responder.serve() => panic!("{why}"),
        response = responses.next() => response,
    }
}

#[tokio::test]
async fn an_output_lies_in_one_file_until_its_child_is_let_go_of() {
    /// Every child has a large output.
    struct Talkative;
    #[async_trait::async_trait]
    impl Services for Talkative {
        async fn request(&self, _: ServiceRequest) -> ServiceResponse {
            ServiceResponse::End(Outcome::Completed(Output(vec![7; INLINE + 1].into())))
        }
        fn notify(&self, _: Notification) -> bool {
            true
        }
    }
    let (mut responder, mut responses) = Responder::new(Arc::new(Talkative), 0);
    let mut inodes = Vec::new();
    for (id, child) in [(1, 1), (2, 1), (3, 2), (4, 1)] {
        if id == 4 {
            responder
                .notified(Notification::Release(1))
                .expect("it has one");
        }
        responder
            .take(id, WireRequest::End(child), vec![])
            .expect("a valid request");
        let (order, mut along) = next_along(&mut responder, &mut responses)
            .await
            .expect("one");
        let len = match order {
            Order::Response {
                response: WireResponse::Output(len),
                ..
            } => usize::try_from(len).expect("a length"),
            other => panic!("{other:?}"),
        };
        responses.sent();
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
async fn requests_are_numbered_and_counted() {
    let (mut responder, mut responses) = Responder::new(Arc::new(NoServices), 0);
    let request = || spawn(Data::Inline(Bytes::new()), None);
    assert!(responder.take(2, request(), vec![]).is_err());
    for id in 1..=MOST as u64 {
        responder
            .take(id, request(), vec![])
            .expect("as many as may be");
    }
    assert!(responder.take(MOST as u64 + 1, request(), vec![]).is_err());
    assert!(responder.take(1, request(), vec![]).is_err());
    assert!(responder.notified(Notification::Kill(1)).is_err());
    for (id, right) in [(0, false), (1, true), (MOST as u64 + 2, false)] {
        assert_eq!(
            responder.notified(Notification::Withdraw(id)).is_ok(),
            right,
            "{id}"
        );
    }
    assert!(matches!(
        next(&mut responder, &mut responses).await,
        Some(Order::Response {
            response: WireResponse::NotSpawned(SpawnError::NotGranted),
            ..
        })
    ));
    let (mut responder, _responses) = Responder::new(Arc::new(NoServices), 0);
    responder
        .take(1, WireRequest::End(7), vec![])
        .expect("a valid request");
    assert_eq!(
        responder.serve().await,
        "its request names an unknown child"
    );
}

#[tokio::test]
async fn a_withdrawn_lock_request_gets_a_response() {
    use wrun_sandbox::lock_table::LockMode;
    /// The lock is never available.
    struct Taken;
    #[async_trait::async_trait]
    impl Services for Taken {
        async fn request(&self, _: ServiceRequest) -> ServiceResponse {
            std::future::pending().await
        }
        fn notify(&self, _: Notification) -> bool {
            false
        }
    }
    let (mut responder, mut responses) = Responder::new(Arc::new(Taken), 0);
    let lock = WireRequest::Lock {
        name: "l".to_owned(),
        mode: LockMode::Shared,
        if_available: false,
    };
    responder.take(1, lock, vec![]).expect("a valid request");
    for _ in 0..2 {
        responder
            .notified(Notification::Withdraw(1))
            .expect("a known request");
    }
    assert!(matches!(
        next(&mut responder, &mut responses).await,
        Some(Order::Response {
            id: 1,
            response: WireResponse::NotAvailable,
        })
    ));
    responses.sent();
    assert!(!responder.is_waiting() && responder.waiting.is_empty());
}
