//! The way of a task from the broker to its outcome. `pull_loop` pulls it, `run` takes it through its steps, `redelivery`
//! and `admission` decide whether it starts, and `attempt` has the handler run it.

mod admission;
mod attempt;
mod conditions;
mod demand;
mod heartbeat;
mod pull_loop;
mod redelivery;
mod run;

pub use pull_loop::run as pull_loop;
