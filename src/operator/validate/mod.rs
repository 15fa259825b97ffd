//! Pure: checks and types what the user wrote. The schema and its CEL rules state most of this already, but an old
//! API server drops the rules, so the operator checks the same [`bounds`] again.

mod group;
mod handler;

pub use crate::api::bounds::Problem;
pub use group::{ValidGroup, ValidStorage, group, queue, share_a_queue};
pub use handler::{Ca, Run, ValidHandler, handler};

use std::fmt;

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
