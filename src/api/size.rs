//! Sizes as Kubernetes quantities: `1Mi`, `500k`, `1048576`.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};
use std::{borrow::Cow, fmt};

/// Whole Kubernetes quantities. Fractions, exponents and milli-units make no sense for bytes.
const PATTERN: &str = "^[0-9]+(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$";

/// A size in bytes as the user wrote it: a whole number, or a quantity such as `512Ki`. Validation parses it, so that an
/// object with an unreadable size can still be listed, judged and deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Size(pub String);

/// A text that is not a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be whole bytes or a whole quantity, such as 1048576, 512Ki or 1Gi")]
pub struct SizeError;

impl Size {
    /// Every unit with its bytes.
    pub const UNITS: [(&str, i64); 11] = [
        ("", 1),
        ("k", 1000),
        ("M", 1000_i64.pow(2)),
        ("G", 1000_i64.pow(3)),
        ("T", 1000_i64.pow(4)),
        ("P", 1000_i64.pow(5)),
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("Pi", 1 << 50),
    ];

    /// Parses the text as a number of bytes.
    ///
    /// # Errors
    /// An unknown unit, a fraction, or a number beyond 2^63-1 bytes.
    pub fn parse(&self) -> Result<i64, SizeError> {
        let digits = self.0.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = self.0.split_at(digits);
        let factor = Self::UNITS.into_iter().find(|(name, _)| *name == unit);
        let number: Option<i64> = number.parse().ok();
        number
            .zip(factor)
            .and_then(|(number, (_, factor))| number.checked_mul(factor))
            .ok_or(SizeError)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum IntOrString {
            Int(i64),
            String(String),
        }
        Ok(match IntOrString::deserialize(deserializer)? {
            IntOrString::Int(number) => Self(number.to_string()),
            IntOrString::String(text) => Self(text),
        })
    }
}

impl JsonSchema for Size {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "pattern": PATTERN,
            "minimum": 0,
            "maxLength": 20
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_kubernetes_writes_them() {
        for (text, bytes) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("1Mi", 1 << 20),
            ("2k", 2000),
            ("3Gi", 3 << 30),
        ] {
            assert_eq!(Size(text.into()).parse(), Ok(bytes), "{text}");
        }
        let number: Size = serde_json::from_str("7").expect("a number is a size");
        assert_eq!(number, Size("7".into()));
    }

    #[test]
    fn a_text_that_is_no_size_is_refused() {
        for text in [
            "",
            "Mi",
            "1.5Gi",
            "-1",
            "1m",
            "1 Mi",
            "1e3",
            "9999Pi",
            "99999999999999999999",
        ] {
            assert_eq!(Size(text.into()).parse(), Err(SizeError), "{text}");
        }
    }
}
