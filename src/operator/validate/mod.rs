//! Pure: checks and types what the user wrote. The schema and its CEL rules say most of this already. An old API server
//! drops the rules, so the operator checks all of it again.

mod group;
mod handler;
pub mod unreadable;

pub use group::{ValidGroup, ValidRetry, ValidStorage, group, queue};
pub use handler::{Ca, Run, ValidHandler, handler};

use super::{Handler, subject::Subject};
use crate::api::{DeletionPolicy, Duration, Size, TaskGroup, TaskGroupSpec};
use std::{fmt, time};

/// What a TaskGroup and its TaskHandler amount to.
pub struct Checked {
    /// The group. Of one with a `problem`, only what a deletion needs; `None` where even that can't be told.
    pub group: Option<ValidGroup>,
    /// Why the group can't be built.
    pub problem: Option<Invalid>,
    /// Its handler.
    pub handler: HandlerCheck,
}

/// What a group's handler amounts to.
#[derive(Clone, Debug, PartialEq)]
pub enum HandlerCheck {
    /// The group can use it.
    Usable(Box<ValidHandler>),
    /// There is none of that name.
    Missing,
    /// It is there, but can't be used, or not by this group.
    Invalid(Invalid),
}

/// Checks a TaskGroup together with its TaskHandler.
pub fn check(subject: &Subject, handler: Option<&Handler>) -> Checked {
    let valid = match &subject.unreadable {
        Some(problem) => Err(problem.clone()),
        None => group(&subject.group),
    };
    match valid {
        Ok(valid) => Checked {
            handler: check_handler(&valid, handler),
            group: Some(valid),
            problem: None,
        },
        Err(problem) => Checked {
            handler: HandlerCheck::Missing,
            group: for_deletion(subject),
            problem: Some(problem),
        },
    }
}

fn check_handler(group: &ValidGroup, found: Option<&Handler>) -> HandlerCheck {
    let checked = match found.map(|found| &found.0) {
        None => return HandlerCheck::Missing,
        Some(Err(unreadable)) => Err(Invalid(vec![Problem {
            field: "the TaskHandler".to_owned(),
            message: format!("can't be read: {}", unreadable.error),
        }])),
        Some(Ok(found)) => handler(found).and_then(|handler| fits(group, &handler).map(|()| handler)),
    };
    match checked {
        Ok(handler) => HandlerCheck::Usable(Box::new(handler)),
        Err(invalid) => HandlerCheck::Invalid(invalid),
    }
}

/// What the deletion of a group needs that can't be built: its queue, and its policy. No worker can run its tasks any more,
/// so `Drain` waits as `DeleteIfEmpty` does.
fn for_deletion(subject: &Subject) -> Option<ValidGroup> {
    let mut usable = TaskGroup::clone(&subject.group);
    usable.spec = TaskGroupSpec {
        queue: Some(subject.queue().name),
        deletion_policy: match subject.group.spec.deletion_policy {
            DeletionPolicy::Drain => DeletionPolicy::DeleteIfEmpty,
            policy => policy,
        },
        ..TaskGroupSpec::new(1)
    };
    // A group with a name or queue that can't be used never had a stream.
    group(&usable).ok()
}

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
