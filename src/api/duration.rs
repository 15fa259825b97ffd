//! Durations as users write them: `90s`, `1h30m`, `500ms`.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, fmt, time};

/// What a duration looks like: whole hours, minutes, seconds and milliseconds, in that order. A
/// subset of what Go, CEL's `duration()` and jiff read alike.
const PATTERN: &str = "^([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$";

/// Longest text of a duration; bounds the cost of the CEL rules that read one.
const MAX_LENGTH: usize = 20;

/// A duration as the user wrote it. Reading it is left to validation, so that an object with a
/// bad one can still be listed, judged and deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Duration(pub String);

/// A text that is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration: write for example 500ms, 90s or 1h30m")]
pub struct DurationError(String);

impl Duration {
    /// A duration of whole seconds.
    pub fn seconds(seconds: u32) -> Self {
        Self(format!("{seconds}s"))
    }

    /// The duration it stands for.
    ///
    /// # Errors
    /// A text without a unit, with another unit or too large.
    pub fn parse(&self) -> Result<time::Duration, DurationError> {
        let error = || DurationError(self.0.clone());
        // jiff reads more ("1 hour ago", ISO 8601) than the schema allows.
        let allowed = |c: char| c.is_ascii_digit() || matches!(c, 'h' | 'm' | 's');
        if self.0.len() > MAX_LENGTH || !self.0.chars().all(allowed) {
            return Err(error());
        }
        let parsed: jiff::SignedDuration = self.0.parse().map_err(|_| error())?;
        parsed.try_into().map_err(|_| error())
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": PATTERN, "minLength": 2, "maxLength": MAX_LENGTH})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_users_write_them() {
        for (text, millis) in [
            ("0s", 0),
            ("500ms", 500),
            ("90s", 90_000),
            ("1h30m", 5_400_000),
            ("1m1s1ms", 61_001),
        ] {
            let duration = Duration(text.into());
            assert_eq!(duration.parse(), Ok(time::Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_by_its_text() {
        for text in [
            "",
            "5",
            "s",
            "1d",
            "-5s",
            "PT5S",
            "5 s",
            "1.5h",
            "99999999999999999h",
            "30s1h",
        ] {
            let error = Duration(text.into()).parse().expect_err(text).to_string();
            assert!(error.starts_with(&format!("{text:?} is not a duration")), "{error}");
        }
    }
}
