//! Sizes as Kubernetes quantities: `1Mi`, `500k`, `1048576`.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};
use std::{borrow::Cow, fmt};

/// Whole Kubernetes quantities: no fractions, no exponents, no milli-units, as a byte is not divided.
const PATTERN: &str = "^[0-9]+(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$";

/// A size in bytes as the user wrote it: a whole number or a quantity such as `512Ki`. As with
/// [`super::Duration`], reading it is left to validation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Size(pub String);

/// A text that is no size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a size: write whole bytes or a whole quantity, for example 1048576, 512Ki or 1Gi")]
pub struct SizeError(String);

impl Size {
    /// The size in bytes.
    ///
    /// # Errors
    /// An unknown unit, a fraction or a number beyond 2^63-1 bytes.
    pub fn parse(&self) -> Result<i64, SizeError> {
        let digits = self.0.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = self.0.split_at(digits);
        let factor: Option<i64> = match unit {
            "" => Some(1),
            "k" => Some(1000),
            "M" => Some(1000_i64.pow(2)),
            "G" => Some(1000_i64.pow(3)),
            "T" => Some(1000_i64.pow(4)),
            "P" => Some(1000_i64.pow(5)),
            "Ki" => Some(1 << 10),
            "Mi" => Some(1 << 20),
            "Gi" => Some(1 << 30),
            "Ti" => Some(1 << 40),
            "Pi" => Some(1 << 50),
            _ => None,
        };
        let number: Option<i64> = number.parse().ok();
        number
            .zip(factor)
            .and_then(|(number, factor)| number.checked_mul(factor))
            .ok_or_else(|| SizeError(self.0.clone()))
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
    fn what_is_no_size_is_refused_by_its_text() {
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
            let error = Size(text.into()).parse().expect_err(text).to_string();
            assert!(error.starts_with(&format!("{text:?} is not a size")), "{error}");
        }
    }
}
