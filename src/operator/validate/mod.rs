//! Pure: checks and types what the user wrote. The schema and its CEL rules state most of this already, but an old
//! API server drops the rules, so the operator checks the same [`bounds`] again.

mod group;
mod handler;
pub mod unreadable;

pub use crate::api::bounds::Problem;
pub use group::{ValidGroup, ValidStorage, group, queue};
pub use handler::{Ca, Run, ValidHandler, handler};

use super::{Handler, subject::Subject};
use crate::api::{DeletionPolicy, TaskGroup, TaskGroupSpec};
use std::fmt;

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
            field: String::new(),
            message: format!("the TaskHandler can't be read: {}", unreadable.error),
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

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Problem { field, message }) in self.0.iter().enumerate() {
            let comma = if index > 0 { "; " } else { "" };
            let colon = if field.is_empty() { "" } else { ": " };
            write!(f, "{comma}{field}{colon}{message}")?;
        }
        Ok(())
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

    fn done(self) -> Result<(), Invalid> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Invalid(self.0))
        }
    }
}

/// Checks a group and its handler together.
///
/// # Errors
/// A group that asks for what its handler can't do.
pub fn fits(group: &ValidGroup, handler: &ValidHandler) -> Result<(), Invalid> {
    let mut problems = Problems::default();
    let name = &handler.name;
    if matches!(handler.run, Run::Upstream { .. }) && !group.env.is_empty() {
        problems.add(
            "spec.env",
            format!(
                "can't reach the handler, because TaskHandler {name} is an upstream without a container: remove spec.env, or use \
                 a TaskHandler with http or exec"
            ),
        );
    }
    // The worker enforces these, not the broker.
    if matches!(handler.run, Run::Native) {
        let mut needs_worker = |field: &str, work: &str| {
            problems.add(
                field,
                format!(
                    "can't be enforced, because TaskHandler {name} is native and has no worker that {work}: remove {field}, or \
                     use a TaskHandler with http, exec or upstream"
                ),
            );
        };
        if group.rate.is_some() {
            needs_worker("spec.rateLimit", "paces the starts");
        }
        if !group.expire.is_zero() {
            needs_worker("spec.timeouts.expire", "expires tasks");
        }
    }
    problems.done()
}
