//! The real servers that the tests run against. Each test binary has its own, and none outlives it.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "test code panics where it can't go on, and each test binary uses a part of this"
)]

pub mod apiserver;
pub mod crd_server;
pub mod kubectl;
pub mod nats;
pub mod process;
pub mod proxy;
pub mod refusal;
pub mod requests;
pub mod scratch;
pub mod tools;
pub mod worker;
