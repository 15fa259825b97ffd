//! The CustomResourceDefinitions as users, kubectl and API servers old and new meet them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::doc_markdown,
    reason = "a test that can't go on panics"
)]

#[path = "../support/mod.rs"]
mod support;

mod cel;
mod current;
mod files;
mod kubectl;
mod schema;
mod server;
mod servers;
