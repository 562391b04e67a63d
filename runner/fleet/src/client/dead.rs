//! The stream of the dead: looking, queueing again.

use super::Fleet;
use crate::error::{Error, ErrorKind};
use crate::nats::{error_words, task_subject};
use crate::protocol::{DeadTask, TaskId};
use async_nats::HeaderMap;

/// Maximum of buried tasks that are looked at.
const MOST: u64 = 10_000;

impl Fleet {
    /// The tasks that were buried last, the oldest first: at most 10,000.
    ///
    /// # Errors
    ///
    /// The server cannot be reached.
    pub async fn dead(&self) -> Result<Vec<DeadTask>, Error> {
        Ok(self
            .dead_numbered()
            .await?
            .into_iter()
            .map(|(_, dead)| dead)
            .collect())
    }

    async fn dead_numbered(&self) -> Result<Vec<(u64, DeadTask)>, Error> {
        let failed =
            |error: &dyn std::error::Error| Error::server("look at the dead", error_words(error));
        let info = self
            .layout
            .dead
            .get_info()
            .await
            .map_err(|error| failed(&error))?;
        let state = info.state;
        if state.messages == 0 {
            return Ok(Vec::new());
        }
        let first = state
            .first_sequence
            .max(state.last_sequence.saturating_sub(MOST - 1));
        let mut found = Vec::new();
        for number in first..=state.last_sequence {
            let message = match self.layout.dead.get_raw_message(number).await {
                Ok(message) => message,
                // It was taken away.
                Err(error) if error.to_string().contains("no message found") => continue,
                Err(error) => return Err(failed(&error)),
            };
            // What others have written there is none.
            if let Ok(dead) = serde_json::from_slice::<DeadTask>(&message.payload) {
                found.push((number, dead));
            }
        }
        Ok(found)
    }

    /// Queues a buried task again, as if it had not run: its result is taken away first. With no
    /// id, all that have one. Returns how many.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if the task is not buried; the server cannot be reached.
    pub async fn requeue(&self, id: Option<&TaskId>) -> Result<u64, Error> {
        let dead = self.dead_numbered().await?;
        let mut queued = 0;
        for (number, dead) in dead {
            let Some(dead_id) = dead.id.as_ref().filter(|it| id.is_none_or(|id| id == *it)) else {
                continue;
            };
            let Some(body) = dead.message() else {
                let message = format!("the message of task {dead_id} was too long to be kept");
                return Err(Error::invalid(message));
            };
            let failed = |error: &dyn std::error::Error| {
                Error::server("queue the task again", error_words(error))
            };
            let key = dead_id.as_str();
            self.layout
                .results
                .purge(key)
                .await
                .map_err(|error| failed(&error))?;
            self.layout
                .returns
                .purge(key)
                .await
                .map_err(|error| failed(&error))?;
            self.layout
                .marks
                .purge(key)
                .await
                .map_err(|error| failed(&error))?;
            let mut headers = HeaderMap::new();
            // If this is interrupted and repeated, it is the same task.
            headers.insert(
                "Nats-Msg-Id",
                format!("{dead_id}-requeued-{number}").as_str(),
            );
            let subject = task_subject(&dead.class, &dead.tenant);
            let jetstream = &self.layout.jetstream;
            let published = jetstream
                .publish_with_headers(subject, headers, body.into())
                .await;
            published
                .map_err(|error| failed(&error))?
                .await
                .map_err(|error| failed(&error))?;
            self.layout
                .dead
                .delete_message(number)
                .await
                .map_err(|error| failed(&error))?;
            queued += 1;
        }
        match id {
            Some(id) if queued == 0 => Err(Error::new(
                ErrorKind::NotFound,
                format!("task {id} is not among the dead"),
            )),
            _ => Ok(queued),
        }
    }
}
