//! *Where* an order is carried out: on this machine, by a runner. Another place, such as a fleet,
//! implements [`Place`].

use crate::file_reader::FileReader;
use crate::input::{InputError, Payload};
use crate::plan::Order;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use tokio::runtime::Handle;
use wrun::{Error, Input, Report, Runner, Task};

/// A file up to this size is read as a whole; a larger one is a stream.
const WHOLE: u64 = 1 << 20;

/// Carries out orders.
pub trait Place: Send + Sync + 'static {
    /// Runs the task once. Dropping the future ends the task.
    fn run(&self, order: &Order) -> impl Future<Output = Result<Report, PlaceError>> + Send;

    /// The runtime on which orders are carried out with the least effort; by default that of the
    /// batch.
    fn runtime(&self) -> Handle {
        Handle::current()
    }
}

/// Why an order has no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlaceError {
    /// The input cannot be read.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The runner failed.
    #[error(transparent)]
    Runner(#[from] Error),
    /// The place did not run the task, for this reason, and will not: the record says so.
    #[error("{_0}")]
    NotRun(String),
    /// The place failed, for this reason, and not because of the input: the batch ends.
    #[error("{_0}")]
    Failed(String),
}

/// This machine: a runner, and what makes the task.
pub struct Local {
    runner: Arc<Runner>,
    task: Box<dyn Fn() -> Task + Send + Sync>,
}

impl Local {
    /// `task` makes the task, with its limits and grants; arguments and input are added to it.
    pub fn new(runner: Arc<Runner>, task: impl Fn() -> Task + Send + Sync + 'static) -> Self {
        Local {
            runner,
            task: Box::new(task),
        }
    }
}

impl std::fmt::Debug for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Local").field(&self.runner).finish()
    }
}

impl Place for Local {
    async fn run(&self, order: &Order) -> Result<Report, PlaceError> {
        let input = match &order.payload {
            Payload::Bytes(bytes) => Input::bytes(bytes.clone()),
            Payload::File(file) => {
                let path = file.path.clone();
                let opened = tokio::task::spawn_blocking(move || open(&path)).await;
                let opened = opened.unwrap_or_else(|error| Err(io::Error::other(error)));
                opened.map_err(|error| {
                    let hint = wrun::limit_hint(&error);
                    InputError(format!(
                        "cannot read {}: {error}{hint}",
                        file.path.display()
                    ))
                })?
            }
        };
        let task = (self.task)().args(order.args.iter().cloned()).input(input);
        Ok(self.runner.run(task).await?)
    }

    fn runtime(&self) -> Handle {
        self.runner.runtime()
    }
}

fn open(path: &Path) -> io::Result<Input> {
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let expected = metadata.len().min(WHOLE) as usize;
    let mut bytes = Vec::with_capacity(expected + 1);
    (&mut file).take(WHOLE + 1).read_to_end(&mut bytes)?;
    Ok(match bytes.len() as u64 > WHOLE {
        true => Input::reader(FileReader::new(bytes, file)),
        false => Input::bytes(bytes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_file_is_read_and_a_large_one_is_not() {
        let scratch = tempfile::tempdir().expect("a directory");
        let path = scratch.path().join("file");
        std::fs::write(&path, "small").expect("written");
        let input = format!("{:?}", open(&path).expect("opened"));
        assert_eq!(input, "Input(5 bytes)");
        let file = File::options().write(true).open(&path).expect("opened");
        file.set_len(4 << 30).expect("a sparse file");
        let input = format!("{:?}", open(&path).expect("opened"));
        assert_eq!(input, "Input(reader)");
        assert!(open(scratch.path()).is_err());
        assert!(open(&scratch.path().join("gone")).is_err());
    }
}
