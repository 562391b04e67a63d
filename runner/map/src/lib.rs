//! Runs one task of [`wrun`] over many inputs: on all cores, in memory that does not depend on
//! their number, and with a journal to carry on from.
//!
//! *What* is run is apart from *where*. A [`Source`] yields inputs, a [`Plan`] makes an [`Order`] of
//! each, and a [`Place`] carries it out: this machine ([`Local`]), or another that implements the
//! trait. [`Map::run`] turns a stream of inputs into a stream of [`Record`]s, with back pressure: no
//! input is taken while the tasks that are submitted, or the records that wait, are many.
//!
//! ```
//! use std::sync::Arc;
//! use wrun::{Mode, Runner, Task};
//! use wrun_map::{Local, Map, Plan, Pumped, Reader, Source};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let scratch = tempfile::tempdir()?;
//! # let words = scratch.path().join("words.txt");
//! # std::fs::write(&words, "one\ntwo words\nand three more\n")?;
//! let runner = Arc::new(Runner::builder().mode(Mode::Thread).build()?);
//! let count = runner.blocking_load("../../guest-tasks/wordcount/wordcount.wasm")?;
//! let place = Local::new(runner, move || Task::new(&count));
//!
//! // Lines are read on a thread of their own.
//! let lines = Source::Lines(vec![words]);
//! let inputs = Pumped::start(|reading| lines.open(Reader::default(), reading))?;
//! let mut records = Map::new(place, Plan::new()).in_flight(4).run(inputs);
//!
//! let mut counts = Vec::new();
//! tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
//!     while let Some(record) = wrun_map::next(&mut records).await {
//!         let record = record?;
//!         counts.push(String::from_utf8_lossy(record.output().unwrap()).into_owned());
//!     }
//!     Ok::<_, wrun_map::Error>(())
//! })?;
//! assert_eq!(counts, ["0 1 3\n", "0 2 9\n", "0 3 14\n"]);
//! # Ok(())
//! # }
//! ```
//!
//! Whatever happens to one input is in its record: a trap, a limit, a file that cannot be read. An
//! [`Error`] ends the batch: a source that cannot be read any further, a full disk, a runner
//! without memory or processes.
//!
//! # Journal
//!
//! A [`Journal`] keeps what is done. A [`Collector`] writes records, or their outputs, to a
//! [`Stream`] or a [`Folder`], and commits them to the journal in batches: first the output, then
//! the journal with the length of the output. After a crash, [`Stream::resume`] cuts off what the
//! journal does not have, and [`Map::journalled`] leaves out the inputs that it has, once all inputs
//! that were taken before were seen again and have the same digest. So each input is in the output
//! once, wherever the process was killed. What survives a loss of power is said at
//! [`Opening::sync`].

#![forbid(unsafe_code)]

mod chain;
mod collector;
mod driver;
mod error;
mod fail;
mod file_reader;
mod histogram;
mod input;
mod journal;
mod output;
mod place;
mod plan;
mod pump;
mod record;
mod source;
mod summary;
mod template;
mod trace;

pub use chain::Resume;
pub use collector::Collector;
pub use driver::{Map, Records};
pub use error::Error;
pub use fail::{FailPolicy, Failures, Halt};
pub use histogram::Histogram;
pub use input::{FileInput, Input, InputError, Payload};
pub use journal::{Failed, Identity, Journal, Now, Opening, Status};
pub use output::{Folder, Format, Stream};
pub use place::{Local, Place, PlaceError};
pub use plan::{Order, Pass, Plan};
pub use pump::{Inputs, Meter, Pumped, Reading};
pub use record::{Ending, Record};
pub use source::{Reader, Source};
pub use summary::Summary;
pub use template::Template;
pub use trace::Trace;

/// The next item of a stream; `None` at its end. Cancel safe.
pub async fn next<S: futures_core::Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    std::future::poll_fn(|cx| std::pin::Pin::new(&mut *stream).poll_next(cx)).await
}
