//! The bounds of the fields that users write. Each bound is stated once, in a table.
//!
//! Two readers share the tables. [`Bounds::write`] turns them into the schema bounds, the CEL rules and the
//! descriptions of a CustomResourceDefinition. [`Bounds::check`] judges an object in the operator, because an
//! old API server drops CEL rules. A field is therefore judged alike, and in the same words, by both.

mod check;
mod limit;
mod schema;
mod task_group;
mod task_handler;
#[cfg(test)]
mod tests;

pub use check::Problem;
pub use limit::Limit;
pub use schema::describe;
pub use task_group::{QUEUE_IS_FIXED, TASK_GROUP};
pub use task_handler::TASK_HANDLER;

use serde_json::Value;

/// The bounds of one kind.
pub struct Bounds {
    /// Bounds that concern one field.
    pub fields: &'static [Field],
    /// Bounds between fields.
    pub rules: &'static [Rule],
}

/// The bound of one field.
pub struct Field {
    /// Path of the field from the root of the object. `[]` stands for every item of a list.
    pub path: &'static str,
    /// Values that the field may have.
    pub limit: Limit,
}

/// A bound that a single [`Limit`] can't express.
pub struct Rule {
    /// Path of the node that the rule is about. The empty path is the root of the object.
    pub scope: &'static str,
    /// The rule as API servers evaluate it, with the node as `self`.
    pub cel: &'static str,
    /// What is wrong and how to fix it. Users read it after the path of the node.
    pub message: &'static str,
    /// The rule as the operator evaluates it. `None` for a rule about a change: the operator compares with what
    /// it finds in NATS instead.
    pub holds: Option<fn(&Value) -> bool>,
}

const fn field(path: &'static str, limit: Limit) -> Field {
    Field { path, limit }
}

/// Whether a node has a field, as `has()` in CEL.
fn has(node: &Value, field: &str) -> bool {
    !node[field].is_null()
}

/// How many of these fields a node has.
fn count(node: &Value, fields: &[&str]) -> usize {
    fields.iter().filter(|field| has(node, field)).count()
}
