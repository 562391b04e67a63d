//! Everything that wrun promises across modes, tried from outside: the command
//! as its users type it, the library as embedders use it. One binary; a module
//! per promise.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a test that fails here has found something"
)]

mod ahead;
mod architecture;
mod bad_input;
mod batch;
mod clients;
mod commons;
mod compare;
mod compare_handlers;
mod compile_limits;
mod compiling;
mod containers;
mod corpus;
mod counterparts;
mod destinations;
mod differential;
mod draining;
mod early;
mod examples;
mod exit_codes;
mod fetches;
mod files;
mod fleet;
mod fleet_examples;
mod fleet_faults;
mod fleet_watch;
mod floods;
mod guides;
mod handing_over;
mod heritage;
mod hints;
mod hoards;
mod holders;
mod hostile_worker;
mod http;
mod image;
mod in_place;
mod interrupts;
mod isolation;
mod jail;
mod jobs;
mod killing;
mod leaks;
mod library;
mod lifecycle;
mod limits;
mod map;
mod map_journal;
mod names;
mod operation;
mod owners;
mod page;
mod panics;
mod peers;
mod ports;
mod preemption;
mod process_options;
mod proposals;
mod regions;
mod report;
mod retries;
mod serve;
mod serve_frames;
mod serve_hostile;
mod serve_load;
mod serve_tools;
mod shortages;
mod spec;
mod stdio;
mod storms;
mod streams;
mod support;
mod talk;
mod tasks;
mod terminal;
mod tracing;
mod wasi;
