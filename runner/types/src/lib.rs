//! Plain data: a task's input, its grants and limits, and how it ended.
//!
//! Part of [wrun](https://docs.rs/wrun), which re-exports the public items. It has no
//! system call and nothing that runs a task.

#![forbid(unsafe_code)]
#![expect(missing_docs, reason = "wrun documents what is public")]

pub mod compile_budget;
pub mod config;
pub mod error;
pub mod grant;
pub mod injection;
pub mod jail_report;
pub mod limits;
pub mod outcome;
pub mod report;
mod report_form;
pub mod spec;
pub mod task_error;
pub mod worker_stats;
