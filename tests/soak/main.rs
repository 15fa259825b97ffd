//! A long run of everything at once, with faults at random.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test panics where it can't go on"
)]

mod checker;
