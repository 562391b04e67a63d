//! What tests share; a file per noun. There is no test here.

pub mod browser;
pub mod collector;
pub mod command;
pub mod frames;
pub mod guests;
pub mod line;
pub mod manifest;
pub mod nats;
pub mod processes;
pub mod tool;
pub mod web;

mod alone;
mod census;
mod dice;
mod flag;
mod paths;
mod runner;
mod schema;
mod wait;

pub(crate) use alone::alone;
pub(crate) use census::{Census, assert_nothing_left, mappings, status_kib};
pub(crate) use dice::Dice;
pub(crate) use flag::SetOnDrop;
pub(crate) use paths::{repo, wrun};
pub(crate) use processes::children;
pub(crate) use runner::{
    BOTH, MODES, WAYS, await_output, await_progress, begun_printing, builder, guest, preemption,
    runner, silent, still_works, wat,
};
pub(crate) use schema::Schema;
pub(crate) use wait::{eventually, settled, within};
