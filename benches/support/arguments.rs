//! The arguments of a bench: environment variables, as `make` and `cargo bench` pass them on.

use std::{env, ops::RangeInclusive};

/// A whole number in `range`; `default` without the variable or with an empty one.
pub fn number(key: &str, default: usize, range: RangeInclusive<usize>) -> Result<usize, String> {
    let text = env::var(key).unwrap_or_default();
    if text.is_empty() {
        return Ok(default);
    }
    text.parse()
        .ok()
        .filter(|number| range.contains(number))
        .ok_or_else(|| {
            format!(
                "{key}={text:?}: write a number from {} to {}",
                range.start(),
                range.end()
            )
        })
}

/// The parts that `ONLY` names, separated by commas; all `default` ones without it.
pub fn parts(default: &[&str], more: &[&str]) -> Result<Vec<String>, String> {
    let only = env::var("ONLY").unwrap_or_default();
    if only.is_empty() {
        return Ok(default.iter().map(|part| (*part).to_owned()).collect());
    }
    let known = |part: &str| default.contains(&part) || more.contains(&part);
    match only.split(',').find(|part| !known(part)) {
        Some(unknown) => Err(format!("ONLY={unknown}: there is no such part")),
        None => Ok(only.split(',').map(str::to_owned).collect()),
    }
}
