//! Durations as users write them: `90s`, `1h30m`, `500ms`.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize, Serializer};
use std::{borrow::Cow, fmt, time};

/// Whole hours, minutes, seconds and milliseconds, in that order. Go, `duration()` in CEL and jiff read these alike.
const PATTERN: &str = "^([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$";

/// Longest text of a duration. It bounds the cost of the CEL rules that read one.
const MAX_LENGTH: usize = 20;

/// A duration as the user wrote it, with the time that it stands for. Validation refuses an unreadable one, so that an
/// object with such a duration can still be listed, judged and deleted.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub struct Duration {
    text: String,
    /// Parsed once, because a worker needs durations for every task.
    parsed: Result<time::Duration, DurationError>,
}

/// A text that is not a duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a duration such as 500ms, 90s or 1h30m")]
pub struct DurationError;

impl Duration {
    /// A duration of whole seconds.
    pub fn seconds(seconds: u32) -> Self {
        format!("{seconds}s").into()
    }

    /// The time that the text stands for.
    ///
    /// # Errors
    /// A text without a unit, with another unit, or too large.
    pub fn parsed(&self) -> Result<time::Duration, DurationError> {
        self.parsed
    }

    /// The time that the text of a checked object stands for. [`super::bounds`] refuses an unreadable text, which would
    /// be zero here.
    pub fn checked(&self) -> time::Duration {
        self.parsed.unwrap_or_default()
    }
}

fn parse(text: &str) -> Result<time::Duration, DurationError> {
    // jiff reads more ("1 hour ago", ISO 8601) than the schema allows.
    let allowed = |c: char| c.is_ascii_digit() || matches!(c, 'h' | 'm' | 's');
    if text.len() > MAX_LENGTH || !text.chars().all(allowed) {
        return Err(DurationError);
    }
    let parsed: jiff::SignedDuration = text.parse().map_err(|_| DurationError)?;
    parsed.try_into().map_err(|_| DurationError)
}

impl From<String> for Duration {
    fn from(text: String) -> Self {
        let parsed = parse(&text);
        Self { text, parsed }
    }
}

impl From<&str> for Duration {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
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
            let duration = Duration::from(text);
            assert_eq!(duration.parsed(), Ok(time::Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn a_duration_is_written_as_the_user_wrote_it_even_if_it_is_unreadable() {
        for text in [r#""90s""#, r#""1m30s""#, r#""1d""#] {
            let duration: Duration = serde_json::from_str(text).expect("a text");
            assert_eq!(serde_json::to_string(&duration).expect("a text"), text);
        }
    }

    #[test]
    fn a_text_that_is_no_duration_is_refused() {
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
            assert_eq!(Duration::from(text).parsed(), Err(DurationError), "{text}");
        }
    }
}
