//! What must hold in whatever order threads come: README.md says what is tried.

#![cfg(not(miri))]

mod channels;
mod locks;
mod support;
mod waiters;
