//! The documentation: its links lead somewhere, what it names exists, its manifests work, and the generated pages are
//! current.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test panics where it can't go on"
)]

mod architecture;
mod links;
mod manifests;
mod names;
mod page;
mod reference;
