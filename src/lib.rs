//! TaskGroup: a Kubernetes operator that gives every group of tasks its own pipeline (a NATS
//! JetStream stream, a durable consumer and a worker Deployment) and runs its tasks at exactly
//! its limit.
//!
//! The programs are in `main.rs` and `worker_main.rs`; everything they do is here, so that tests, benches and
//! the demo use the same code.

pub mod admin;
pub mod api;
pub mod broker;
pub mod cli;
pub mod crds;
pub mod debounce;
pub mod install;
pub mod keep;
pub mod operator;
mod processes;
pub mod program;
pub mod protocol;
pub mod relay;
pub mod supervisor;
pub mod telemetry;
pub mod worker;
