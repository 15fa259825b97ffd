//! What API servers say when they refuse an object.

/// A message without the values in it: `spec.a: Invalid value: 0: must be 1` is `spec.a: must be 1`. For a CEL rule,
/// older servers name the type in the place of the value.
pub fn without_values(message: &str) -> String {
    let mut parts = message.split("Invalid value: ");
    let mut left = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let text = part.strip_prefix('"').and_then(|text| text.split_once("\": "));
        let number = part
            .split_once(": ")
            .filter(|(number, _)| number.parse::<f64>().is_ok());
        left.push_str(text.or(number).map_or(part, |(_, rest)| rest));
    }
    left
}

#[test]
fn a_message_is_found_without_its_values() {
    for (said, short) in [
        ("spec.a: Invalid value: \"string\": must be 1", "spec.a: must be 1"),
        ("spec.a: Invalid value: 97: must be 1", "spec.a: must be 1"),
        (
            "spec: Invalid value: a must be 1: lower it",
            "spec: a must be 1: lower it",
        ),
        (
            "[a: Invalid value: \"0s\": must be 1s, b: Invalid value: 0: must be 1, c: Required value]",
            "[a: must be 1s, b: must be 1, c: Required value]",
        ),
    ] {
        assert_eq!(without_values(said), short);
    }
}
