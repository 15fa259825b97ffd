//! Pure: what the user wrote, checked and typed. The schema and its CEL rules say most of this
//! already; an old API server drops the rules, so all of it is checked again here.

mod group;
mod handler;

pub use group::{ValidGroup, ValidRetry, ValidStorage, group, queue, share_a_queue};
pub use handler::{Ca, Run, ValidHandler, handler};

use crate::api::{Duration, Size};
use std::{fmt, time};

/// Everything that is wrong with a spec. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Invalid(pub Vec<Problem>);

/// One thing that is wrong: the field, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Path of the field, for example `spec.timeouts.task`.
    pub field: String,
    /// The value and the fix.
    pub message: String,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problems: Vec<_> = self
            .0
            .iter()
            .map(|problem| format!("{}: {}", problem.field, problem.message))
            .collect();
        f.write_str(&problems.join("; "))
    }
}

#[derive(Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, field: &str, message: impl Into<String>) {
        self.0.push(Problem {
            field: field.to_owned(),
            message: message.into(),
        });
    }

    fn range(&mut self, field: &str, value: i64, (low, high): (i64, i64)) -> i64 {
        if value < low || value > high {
            self.add(field, format!("{value} is out of range: write {low} to {high}"));
        }
        value
    }

    fn duration(
        &mut self,
        field: &str,
        value: &Duration,
        (low, high): (time::Duration, time::Duration),
        bounds: &str,
    ) -> time::Duration {
        match value.parse() {
            Ok(duration) if duration < low || duration > high => {
                self.add(field, format!("{value} is out of range: write {bounds}"));
                low
            }
            Ok(duration) => duration,
            Err(error) => {
                self.add(field, error.to_string());
                low
            }
        }
    }

    /// A size with 0 for none, as JetStream's limit with -1 for none.
    fn limit(&mut self, field: &str, value: &Size) -> i64 {
        match value.parse() {
            Ok(0) => -1,
            Ok(bytes) => bytes,
            Err(error) => {
                self.add(field, error.to_string());
                -1
            }
        }
    }

    fn done<T>(self, valid: T) -> Result<T, Invalid> {
        if self.0.is_empty() {
            Ok(valid)
        } else {
            Err(Invalid(self.0))
        }
    }
}

/// Checks what only shows in a group and its handler together.
///
/// # Errors
/// A group that asks of its handler what that can't do.
pub fn fits(group: &ValidGroup, handler: &ValidHandler) -> Result<(), Invalid> {
    let mut problems = Problems::default();
    if matches!(handler.run, Run::Upstream { .. }) && !group.env.is_empty() {
        problems.add(
            "spec.env",
            format!(
                "can't reach the handler: TaskHandler {} is an upstream and has no container here; remove spec.env, or \
                 use a TaskHandler with http",
                handler.name
            ),
        );
    }
    // What the worker would see to, and the broker can't.
    if matches!(handler.run, Run::Native) {
        let mut needs_worker = |field: &str, what: &str| {
            problems.add(
                field,
                format!(
                    "can't be kept: TaskHandler {} is native, so there is no worker that {what}; remove {field}, or use a \
                     TaskHandler with http, exec or upstream",
                    handler.name
                ),
            );
        };
        if group.rate.is_some() {
            needs_worker("spec.rateLimit", "counts the starts");
        }
        if !group.expire.is_zero() {
            needs_worker("spec.timeouts.expire", "looks how long a task waited");
        }
    }
    problems.done(())
}
