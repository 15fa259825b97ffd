//! The operator against a real kube-apiserver and a real nats-server: one test per promise.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::float_cmp,
    reason = "a test panics where it can't go on"
)]

#[path = "../support/mod.rs"]
mod support;

mod bed;
mod cancel;
mod conflicts;
mod crash;
mod create;
mod delete;
mod drift;
mod faults;
mod relay;
mod relist;
mod supervision;
mod throttling;
mod unreadable;
mod update;
