//! The wire contract: everything that two programs of TaskGroup, or a user and TaskGroup, say to each other in NATS.
//!
//! Operator, relay, worker, gateway, and command line meet here, and only here. No other module formats or parses a
//! subject, a message id, a header, or a JSON body that another process reads. Programs of neighboring versions run
//! together during an upgrade, so every reader here ignores what it does not know and has a default for what is missing.

pub mod callback;
pub mod cancel;
pub mod dead_letter;
pub mod headers;
pub mod history;
pub mod id;
pub mod keys;
pub mod rate;
pub mod settings;
pub mod subject;

pub use id::{Origin, Stored};
pub use subject::{Kind, Queue, StreamName};
