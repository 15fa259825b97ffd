//! What one field may be.

use crate::api::{Duration, Size};
use serde_json::Value;
use std::fmt::{self, Display};

/// Values that a field may have. Its text is the message that users read: `must be 1 to 100`.
///
/// Durations and sizes are written as users write them, so that schema, message and check show the same text.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// A whole number.
    Integer {
        /// Least value.
        min: i32,
        /// Greatest value, if there is one.
        max: Option<i32>,
    },
    /// A number.
    Number {
        /// Least value.
        min: f64,
        /// Greatest value.
        max: f64,
    },
    /// A [`Duration`].
    Duration {
        /// Shortest duration.
        min: &'static str,
        /// Longest duration.
        max: &'static str,
        /// Meaning of `0s`, where it is allowed below `min`.
        zero: Option<&'static str>,
    },
    /// A [`Size`].
    Size {
        /// Largest size, if it is less than what a number of bytes can hold.
        max: Option<&'static str>,
        /// Meaning of `0`.
        zero: &'static str,
    },
    /// A text.
    Text {
        /// Fewest characters.
        min: u32,
        /// Most characters.
        max: u32,
    },
    /// A text of a certain form.
    Pattern {
        /// Fewest characters.
        min: u32,
        /// Most characters.
        max: u32,
        /// Regular expression for the entire text, in the syntax that Go and Rust share.
        pattern: &'static str,
        /// The form in words.
        form: &'static str,
    },
    /// A list.
    List {
        /// Fewest items.
        min: u32,
        /// Most items.
        max: u32,
        /// Field that identifies an item and is unique in the list. `None` for a list of plain values.
        key: Option<&'static str>,
    },
}

impl Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Integer { min, max: Some(max) } => write!(f, "must be {min} to {max}"),
            Self::Integer { min, max: None } => write!(f, "must be at least {min}"),
            Self::Number { min, max } => write!(f, "must be {min} to {max}"),
            Self::Duration { min, max, zero: None } => write!(f, "must be {min} to {max}"),
            Self::Duration {
                min,
                max,
                zero: Some(zero),
            } => write!(f, "must be {min} to {max}, or 0s for {zero}"),
            Self::Size { max: Some(max), zero } => write!(f, "must be at most {max}, or 0 for {zero}"),
            Self::Size { max: None, zero } => write!(f, "must be a size such as 512Ki or 1Gi, or 0 for {zero}"),
            Self::Text { min: 0, max } => write!(f, "must have at most {max} characters"),
            Self::Text { min, max } => write!(f, "must have {min} to {max} characters"),
            Self::Pattern { min, max, form, .. } => write!(f, "must be {min} to {max} characters: {form}"),
            Self::List { min: 0, max, .. } => write!(f, "must have at most {max} items"),
            Self::List { min, max, .. } => write!(f, "must have {min} to {max} items"),
        }
    }
}

impl Limit {
    /// Says how a value breaks the limit. A value of another type is left to the schema.
    pub fn refuse(&self, value: &Value) -> Option<String> {
        let invalid = |message: &dyn Display| invalid(value, message);
        match *self {
            Self::Integer { min, max } => {
                let number = value.as_i64()?;
                let fits = number >= i64::from(min) && max.is_none_or(|max| number <= i64::from(max));
                (!fits).then(|| invalid(self))
            }
            Self::Number { min, max } => {
                let number = value.as_f64()?;
                let fits = (min..=max).contains(&number);
                (!fits).then(|| format!("Invalid value: {number}: {self}"))
            }
            Self::Duration { min, max, zero } => match Duration::from(value.as_str()?).parsed() {
                Ok(duration) => {
                    let bound = |text: &str| Duration::from(text).parsed();
                    let within =
                        bound(min).is_ok_and(|min| duration >= min) && bound(max).is_ok_and(|max| duration <= max);
                    (!(within || duration.is_zero() && zero.is_some())).then(|| invalid(self))
                }
                Err(error) => Some(invalid(&error)),
            },
            Self::Size { max, .. } => match Size(value.as_str()?.into()).parse() {
                Ok(bytes) => {
                    let fits = max.is_none_or(|max| Size(max.into()).parse().is_ok_and(|max| bytes <= max));
                    (!fits).then(|| invalid(self))
                }
                Err(error) => Some(invalid(&error)),
            },
            // The length is enough to see what is wrong, and a value may be a secret.
            Self::Text { min, max } => self.refuse_length(value.as_str()?.chars().count(), min, max),
            Self::List { min, max, .. } => self.refuse_length(value.as_array()?.len(), min, max),
            Self::Pattern { min, max, pattern, .. } => {
                let text = value.as_str()?;
                let fits = (min..=max).contains(&length(text.chars().count())) && super::check::matches(pattern, text);
                (!fits).then(|| invalid(self))
            }
        }
    }

    fn refuse_length(&self, count: usize, min: u32, max: u32) -> Option<String> {
        (!(min..=max).contains(&length(count))).then(|| format!("{self}, not {count}"))
    }
}

fn length(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Says what is wrong with a value, as an API server says it.
pub(super) fn invalid(value: &Value, message: &dyn Display) -> String {
    const MOST: usize = 100;
    let shown = value.to_string();
    match shown.char_indices().nth(MOST) {
        Some((end, _)) => format!("Invalid value: {}…: {message}", &shown[..end]),
        None => format!("Invalid value: {shown}: {message}"),
    }
}
