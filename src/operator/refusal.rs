//! Why the operator leaves something as it is.

use crate::api::Reason;

/// Why something is left as it is: a reason for machines, and a message that names the obstacle and the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// One word for machines.
    pub reason: Reason,
    /// The obstacle and the remedy.
    pub message: String,
    /// Whether only somebody's change helps.
    pub stalled: bool,
}

impl Refusal {
    /// Only somebody's change helps.
    pub fn stalled(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            stalled: true,
        }
    }

    /// The obstacle passes by itself.
    pub fn waits(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            stalled: false,
        }
    }
}
