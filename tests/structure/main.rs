//! Rules about the structure of `src/`, checked by reading the source: no import cycles, no context that collects
//! everything, NATS and the command line each in one place, and files of a readable length.
//!
//! Nothing is compiled or started, so this takes a moment. There is no list of exceptions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod contexts;
mod cycles;
mod lengths;
mod places;
mod source;
mod tokens;
