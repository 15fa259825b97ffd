//! Code that the benches share.
#![allow(dead_code, reason = "each bench uses a part of this")]

pub mod arguments;
pub mod report;
pub mod usage;
