//! Messages and bytes between a server and its clients, by what they are for.

use std::fmt;
use tokio::time::Instant;

/// What a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Publish,
    Published,
    Ask,
    Task,
    Nothing,
    Extend,
    Result,
    Stored,
    Acknowledge,
    Acknowledged,
    History,
    Known,
    Look,
    Seen,
    Consumer,
    Present,
}

impl Kind {
    const ALL: [Kind; 16] = [
        Kind::Publish,
        Kind::Published,
        Kind::Ask,
        Kind::Task,
        Kind::Nothing,
        Kind::Extend,
        Kind::Result,
        Kind::Stored,
        Kind::Acknowledge,
        Kind::Acknowledged,
        Kind::History,
        Kind::Known,
        Kind::Look,
        Kind::Seen,
        Kind::Consumer,
        Kind::Present,
    ];

    fn name(self) -> &'static str {
        match self {
            Kind::Publish => "task, from the submitter",
            Kind::Published => "its acknowledgement",
            Kind::Ask => "request for tasks",
            Kind::Task => "task, to a worker",
            Kind::Nothing => "answer that there is none",
            Kind::Extend => "extension of a lease",
            Kind::Result => "result",
            Kind::Stored => "its acknowledgement, and the copy for who waits for it",
            Kind::Acknowledge => "acknowledgement of the task",
            Kind::Acknowledged => "its confirmation",
            Kind::History => "question what is known of a task",
            Kind::Known => "its answer",
            Kind::Look => "question who has tasks",
            Kind::Seen => "its answer",
            Kind::Consumer => "making a consumer, and its answer",
            Kind::Present => "record of a worker, and its acknowledgement",
        }
    }

    /// Whether it is there because of a task, and not of the time that passes.
    fn is_of_task(self) -> bool {
        !matches!(
            self,
            Kind::Look | Kind::Seen | Kind::Consumer | Kind::Present | Kind::Extend
        )
    }
}

/// What was sent.
#[derive(Debug)]
pub(super) struct Traffic {
    began: Instant,
    messages: [u64; Kind::ALL.len()],
    bytes: [u64; Kind::ALL.len()],
    /// The second that is being counted, and what it had; the most of one.
    second: (u64, u64, u64),
    most: (u64, u64),
}

impl Traffic {
    pub(super) fn new() -> Self {
        Traffic {
            began: Instant::now(),
            messages: Default::default(),
            bytes: Default::default(),
            second: (0, 0, 0),
            most: (0, 0),
        }
    }

    /// Some messages with as many bytes together. What a submitter sends is not in the most of a
    /// second: it waits where the server is slow.
    pub(super) fn sent(&mut self, kind: Kind, messages: u64, bytes: usize) {
        let at = kind as usize;
        self.messages[at] += messages;
        self.bytes[at] += bytes as u64;
        if matches!(kind, Kind::Publish | Kind::Published) {
            return;
        }
        let second = self.began.elapsed().as_secs();
        if second != self.second.0 {
            self.second = (second, 0, 0);
        }
        self.second.1 += messages;
        self.second.2 += bytes as u64;
        self.most.0 = self.most.0.max(self.second.1);
        self.most.1 = self.most.1.max(self.second.2);
    }

    /// Messages that are there because of tasks.
    pub(super) fn messages_of_tasks(&self) -> u64 {
        let of_tasks = Kind::ALL.into_iter().filter(|kind| kind.is_of_task());
        of_tasks.map(|kind| self.messages[kind as usize]).sum()
    }

    pub(super) fn messages(&self) -> u64 {
        self.messages.iter().sum()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.iter().sum()
    }

    /// The most messages and bytes of a second.
    pub(super) fn most(&self) -> (u64, u64) {
        self.most
    }

    /// A line of a table for each kind.
    pub(super) fn lines(&self, tasks: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for kind in Kind::ALL {
            let (messages, bytes) = (self.messages[kind as usize], self.bytes[kind as usize]);
            if messages > 0 {
                writeln!(
                    f,
                    "| {} | {messages} | {:.3} | {:.0} |",
                    kind.name(),
                    messages as f64 / tasks as f64,
                    bytes as f64 / tasks as f64
                )?;
            }
        }
        Ok(())
    }
}
