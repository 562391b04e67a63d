//! The worker's decisions, on a queue in memory, with a clock that is paused.

use super::*;
use crate::queue::{Mark, MemoryQueue, Queue as _};
use crate::{AnswerKind, ModuleRef, TaskId};
use serde_json::json;

const ACK_WAIT: Duration = Duration::from_secs(30);

/// Runs tasks for as long as their name says, or as it says otherwise.
#[derive(Default)]
struct Timed {
    most: AtomicUsize,
    now: AtomicUsize,
    runs: AtomicUsize,
}

impl Execute for Timed {
    async fn execute(&self, message: TaskMessage, _tenant: &Token) -> Executed {
        struct Ended<'a>(&'a AtomicUsize);
        impl Drop for Ended<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
        let ended = Ended(&self.now);
        self.most.fetch_max(now, Ordering::Relaxed);
        self.runs.fetch_add(1, Ordering::Relaxed);
        match message.args.first().map(String::as_str) {
            Some("fail") => Executed::GiveBack("the disk is full".into()),
            Some("hang") => std::future::pending().await,
            time => {
                let seconds = time.and_then(|time| time.parse().ok()).unwrap_or(1);
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                drop(ended);
                let report = json!({"outcome": {"kind": "completed"}});
                Executed::Answer(Box::new(Answer::report(message.id, report)))
            }
        }
    }
}

struct Scene {
    queue: MemoryQueue,
    execute: Arc<Timed>,
}

fn token(text: &str) -> Token {
    text.parse().expect("a token")
}

fn id(text: &str) -> TaskId {
    text.parse().expect("an id")
}

impl Scene {
    fn new() -> Self {
        Scene {
            queue: MemoryQueue::new(ACK_WAIT),
            execute: Arc::default(),
        }
    }

    fn message(name: &str, arg: &str) -> TaskMessage {
        let module = ModuleRef {
            blake3: None,
            name: Some("m".into()),
        };
        let mut message = TaskMessage::new(id(name), module);
        message.args.push(arg.into());
        message
    }

    fn submit(&self, tenant: &str, message: &TaskMessage) {
        let class = token("normal");
        self.queue
            .submit(&class, &token(tenant), message)
            .expect("submitted");
    }

    fn worker(&self, jobs: usize) -> Arc<Worker<MemoryQueue, Timed>> {
        let worker = Worker::new(
            Arc::new(self.queue.clone()),
            self.execute.clone(),
            "w",
            jobs,
        );
        let running = worker.clone();
        tokio::spawn(async move { running.run().await });
        worker
    }

    fn kind(&self, name: &str) -> Option<AnswerKind> {
        self.queue.result(&id(name)).map(|answer| answer.kind)
    }

    fn runs(&self) -> usize {
        self.execute.runs.load(Ordering::Relaxed)
    }
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn never_more_than_can_start_and_each_has_an_answer() {
    let scene = Scene::new();
    for number in 0..100 {
        scene.submit("a", &Scene::message(&format!("t{number}"), "1"));
    }
    let worker = scene.worker(4);
    pass(30).await;
    assert_eq!(scene.queue.results(), 100);
    assert_eq!(scene.execute.most.load(Ordering::Relaxed), 4);
    assert_eq!((scene.runs(), worker.counters().answered()), (100, 100));
    assert!(scene.queue.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_long_task_is_extended_and_runs_once() {
    let scene = Scene::new();
    scene.submit("a", &Scene::message("long", "3600"));
    let (_one, _other) = (scene.worker(1), scene.worker(1));
    pass(3700).await;
    assert_eq!(scene.kind("long"), Some(AnswerKind::Report));
    assert_eq!(scene.runs(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_tenant_with_many_tasks_does_not_delay_one_with_few() {
    let scene = Scene::new();
    for number in 0..1000 {
        scene.submit("many", &Scene::message(&format!("m{number}"), "1"));
    }
    for number in 0..10 {
        scene.submit("few", &Scene::message(&format!("f{number}"), "1"));
    }
    scene.worker(2);
    pass(15).await;
    assert!((0..10).all(|number| scene.kind(&format!("f{number}")).is_some()));
}

#[tokio::test(start_paused = true)]
async fn a_task_that_takes_workers_down_is_buried() {
    let scene = Scene::new();
    scene.submit("a", &Scene::message("poison", "hang"));
    for _ in 0..3 {
        // A worker that leases it and is never heard of again.
        let leases = scene.queue.lease(1).await.expect("a lease");
        assert_eq!(leases.len(), 1);
    }
    scene.worker(1);
    pass(31).await;
    assert_eq!(scene.kind("poison"), Some(AnswerKind::Buried));
    assert_eq!(scene.runs(), 0);
    let dead = scene.queue.dead();
    assert!(dead[0].why.starts_with("3 workers were lost"), "{dead:?}");
    assert_eq!(dead[0].deliveries, 4);
}

#[tokio::test(start_paused = true)]
async fn what_fails_here_is_tried_again_with_longer_pauses_and_then_buried() {
    let scene = Scene::new();
    scene.submit("a", &Scene::message("unlucky", "fail"));
    scene.worker(1);
    pass(1 + 2 + 4).await;
    assert!((3..=4).contains(&scene.runs()), "{}", scene.runs());
    pass(3600).await;
    assert_eq!(scene.kind("unlucky"), Some(AnswerKind::Buried));
    assert_eq!(scene.runs(), 21);
    assert!(scene.queue.dead()[0].why.contains("the disk is full"));
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_changes_nothing() {
    let scene = Scene::new();
    scene.submit("a", &Scene::message("t", "1"));
    // Stopped past the end of its lease, and then it goes on.
    let stopped = scene.queue.lease(1).await.expect("a lease").remove(0);
    let worker = scene.worker(1);
    pass(40).await;
    let first = scene.queue.result(&id("t")).expect("a result");
    let late = Answer::without_report(id("t"), AnswerKind::Refused, "late");
    let completion = scene.queue.complete(&stopped, Some(&late), None).await;
    assert_eq!(completion.expect("completed"), crate::Completion::Late);
    assert_eq!(scene.queue.result(&id("t")), Some(first));
    assert_eq!(worker.counters().answered(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_has_passed_is_an_answer() {
    let scene = Scene::new();
    let mut message = Scene::message("t", "1");
    message.deadline_ms = Some(1);
    scene.submit("a", &message);
    scene.worker(1);
    pass(1).await;
    assert_eq!(
        (scene.kind("t"), scene.runs()),
        (Some(AnswerKind::Expired), 0)
    );
}

#[tokio::test(start_paused = true)]
async fn marks_reach_a_task_that_runs_and_one_that_is_queued() {
    let scene = Scene::new();
    scene.submit("a", &Scene::message("runs", "hang"));
    scene.submit("a", &Scene::message("queued", "hang"));
    scene.worker(1);
    pass(5).await;
    scene.queue.marks().set(
        id("queued"),
        Some(Mark::Bury {
            why: "an operator".into(),
        }),
    );
    pass(5).await;
    assert_eq!(scene.kind("queued"), None);
    scene.queue.marks().set(id("runs"), Some(Mark::Cancel));
    pass(5).await;
    assert_eq!(scene.kind("runs"), Some(AnswerKind::Cancelled));
    assert_eq!(scene.kind("queued"), Some(AnswerKind::Buried));
    assert_eq!(scene.execute.now.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn draining_finishes_what_it_can_and_gives_back_the_rest() {
    let scene = Scene::new();
    scene.submit("a", &Scene::message("short", "5"));
    scene.submit("a", &Scene::message("long", "100"));
    scene.submit("a", &Scene::message("queued", "1"));
    let worker = scene.worker(2);
    pass(1).await;
    assert_eq!(worker.drain(Duration::from_secs(10)).await, 1);
    pass(1).await;
    assert_eq!(scene.kind("short"), Some(AnswerKind::Report));
    assert_eq!((scene.kind("long"), scene.kind("queued")), (None, None));
    assert_eq!(scene.queue.len(), 2);
    // What was given back does not count as a loss.
    scene.worker(2);
    pass(120).await;
    assert_eq!(scene.kind("long"), Some(AnswerKind::Report));
    assert_eq!(
        scene
            .queue
            .result(&id("long"))
            .expect("a result")
            .deliveries,
        2
    );
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_cannot_be_reached_costs_nothing() {
    let scene = Scene::new();
    scene.submit("a", &Scene::message("t", "5"));
    let worker = scene.worker(1);
    pass(1).await;
    scene.queue.reachable(false);
    pass(20).await;
    assert_eq!(worker.counters().running(), 0);
    scene.queue.reachable(true);
    pass(6).await;
    assert_eq!(
        (scene.kind("t"), scene.runs()),
        (Some(AnswerKind::Report), 1)
    );
}

#[tokio::test(start_paused = true)]
async fn hostile_messages_are_buried_with_words() {
    let scene = Scene::new();
    let (class, tenant) = (token("normal"), token("a"));
    for body in [
        "",
        "{",
        "[]",
        "{\"v\":1,\"id\":\"x\"}",
        "\u{0}",
        "{\"v\":1e99}",
    ] {
        scene.queue.publish(&class, &tenant, body);
    }
    scene.queue.publish(&class, &tenant, vec![b'a'; 1 << 20]);
    scene.worker(4);
    pass(1).await;
    let dead = scene.queue.dead();
    assert_eq!(dead.len(), 7);
    assert!(dead.iter().all(|dead| !dead.why.is_empty()));
    assert_eq!(scene.kind("x"), Some(AnswerKind::Buried));
    assert!(scene.queue.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_message_of_a_later_version_waits_for_a_worker_that_knows_it() {
    let scene = Scene::new();
    let body = r#"{"v":3,"id":"later","colour":"red"}"#;
    scene.queue.publish(&token("normal"), &token("a"), body);
    let worker = scene.worker(1);
    pass(5).await;
    assert_eq!(scene.kind("later"), None);
    assert!(worker.counters().given_back() >= 2);
    assert_eq!(scene.queue.len(), 1);
}

/// While a fleet is updated, workers of both versions serve one queue, and messages of both are in
/// it.
#[tokio::test(start_paused = true)]
async fn workers_of_two_versions_serve_one_queue() {
    let scene = Scene::new();
    let start = |name: &str, knows: u32| {
        let (queue, execute) = (Arc::new(scene.queue.clone()), scene.execute.clone());
        let mut worker = Worker::new(queue, execute, name, 1);
        Arc::get_mut(&mut worker).expect("not shared yet").knows = knows;
        let running = worker.clone();
        tokio::spawn(async move { running.run().await });
        worker
    };
    let submit = |version: u32, number: u32| {
        let name = format!("v{version}-{number}");
        let mut message = Scene::message(&name, "1");
        if version == 2 {
            message.tasks.insert("part".into(), message.module.clone());
        }
        scene.submit("a", &message);
    };
    let new = start("new", 2);
    let old = start("old", 1);
    for number in 0..20 {
        submit(1, number);
        submit(2, number);
    }
    pass(300).await;
    assert!(scene.queue.results() >= 30, "{}", scene.queue.results());
    // The old one is updated, too. What it gave back last comes within a minute.
    assert_eq!(old.drain(Duration::ZERO).await, 0);
    pass(70).await;
    assert_eq!((scene.queue.results(), scene.queue.len()), (40, 0));
    assert!(scene.queue.dead().is_empty());
    assert_eq!(scene.runs(), 40);
    // What the old one cannot run it gave back, and the new one ran it.
    assert!(old.counters().given_back() > 0);
    assert_eq!(new.counters().given_back(), 0);
    assert!(old.counters().answered() > 0);
    for number in 0..20 {
        let answer = scene.queue.result(&id(&format!("v2-{number}")));
        assert_eq!(answer.expect("a result").worker.as_deref(), Some("new"));
    }
}
