//! W3C Trace Context (<https://www.w3.org/TR/trace-context/>). Every attempt is a step of the trace that the publisher
//! began, or begins one. Pure.

use crate::protocol::headers::{TRACEPARENT, TRACESTATE};
use std::fmt::{self, Write};

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// The place of one attempt in a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    id: Id<16>,
    step: Id<8>,
    flags: u8,
    state: Option<String>,
}

/// An id as its bytes, at most 16; never all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id<const BYTES: usize>([u8; BYTES]);

impl Trace {
    /// The place of a new attempt of a task with these headers.
    pub fn of(headers: &[(&str, &str)]) -> Self {
        Self::with_ids(headers, Id::random(), Id::random())
    }

    /// `begun` is the trace's id where the task brings none, `step` this attempt's.
    fn with_ids(headers: &[(&str, &str)], begun: Id<16>, step: Id<8>) -> Self {
        match parent(headers) {
            Some((id, flags)) => Self {
                id,
                step,
                flags,
                state: state(headers),
            },
            // The flag `sampled` says that somebody recorded a step, and we record none. A state belongs to the
            // parent that it came with.
            None => Self {
                id: begun,
                step,
                flags: 0,
                state: None,
            },
        }
    }

    /// The trace's id, 32 hexadecimal digits.
    pub fn id(&self) -> Id<16> {
        self.id
    }

    /// The value of [`TRACEPARENT`] for the handler.
    pub fn parent(&self) -> String {
        format!("00-{}-{}-{:02x}", self.id, self.step, self.flags)
    }

    /// The value of [`TRACESTATE`] for the handler.
    pub fn state(&self) -> Option<&str> {
        self.state.as_deref()
    }

    /// Whether a header is one of the two.
    pub fn has(name: &str) -> bool {
        name.eq_ignore_ascii_case(TRACEPARENT) || name.eq_ignore_ascii_case(TRACESTATE)
    }
}

impl<const BYTES: usize> Id<BYTES> {
    fn random() -> Self {
        loop {
            let mut bytes = [0; BYTES];
            rand::fill(&mut bytes);
            if bytes != [0; BYTES] {
                return Self(bytes);
            }
        }
    }

    /// Reads `BYTES` pairs of lower-case hexadecimal digits that are not all zero.
    fn read(text: &str) -> Option<Self> {
        let mut bytes = [0; BYTES];
        if text.len() != 2 * BYTES {
            return None;
        }
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = byte_of(digits)?;
        }
        (bytes != [0; BYTES]).then_some(Self(bytes))
    }
}

impl<const BYTES: usize> fmt::Display for Id<BYTES> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A format for each byte would be slow, and an id is written for each attempt.
        let mut text = [0; 32];
        for (digits, byte) in text.chunks_mut(2).zip(self.0) {
            digits[0] = DIGITS[usize::from(byte >> 4)];
            digits[1] = DIGITS[usize::from(byte & 0xf)];
        }
        f.write_str(std::str::from_utf8(&text[..2 * BYTES]).map_err(|_| fmt::Error)?)
    }
}

/// A byte as two hexadecimal digits; capitals are not allowed in the header.
fn byte_of(digits: &[u8]) -> Option<u8> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    match digits {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    }
}

/// Trace and flags of the one valid parent that the headers name.
fn parent(headers: &[(&str, &str)]) -> Option<(Id<16>, u8)> {
    let mut parents = values(headers, TRACEPARENT);
    let (first, None) = (parents.next()?, parents.next()) else {
        return None;
    };
    let mut parts = first.trim().splitn(5, '-');
    let version = byte_of(parts.next()?.as_bytes())?;
    let trace = Id::<16>::read(parts.next()?)?;
    Id::<8>::read(parts.next()?)?;
    let flags = byte_of(parts.next()?.as_bytes())?;
    match version {
        0 if parts.next().is_none() => Some((trace, flags)),
        0 | 0xff => None,
        // A later version begins the same. Of its flags we know only the first, `sampled`.
        _ => Some((trace, flags & 1)),
    }
}

/// Joins all states, as the header may come in several pieces.
fn state(headers: &[(&str, &str)]) -> Option<String> {
    let mut joined = String::new();
    for value in values(headers, TRACESTATE)
        .map(str::trim)
        .filter(|value| !value.is_empty())
    {
        let comma = if joined.is_empty() { "" } else { "," };
        let _ = write!(joined, "{comma}{value}");
    }
    (!joined.is_empty()).then_some(joined)
}

fn values<'a>(headers: &'a [(&str, &'a str)], wanted: &'static str) -> impl Iterator<Item = &'a str> {
    let named = headers
        .iter()
        .filter(move |(name, _)| name.eq_ignore_ascii_case(wanted));
    named.map(|(_, value)| *value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const NEW: &str = "00-000102030405060708090a0b0c0d0e0f-0807060504030201-00";

    fn trace(headers: &[(&str, &str)]) -> Trace {
        let begun = Id(std::array::from_fn(|n| u8::try_from(n).unwrap()));
        Trace::with_ids(headers, begun, Id([8, 7, 6, 5, 4, 3, 2, 1]))
    }

    #[test]
    fn a_valid_parent_is_followed_with_a_step_of_our_own() {
        for (parent, expected) in [
            (PARENT, "00-0af7651916cd43dd8448eb211c80319c-0807060504030201-01"),
            (
                " 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00\t",
                "00-0af7651916cd43dd8448eb211c80319c-0807060504030201-00",
            ),
            (
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03",
                "00-0af7651916cd43dd8448eb211c80319c-0807060504030201-03",
            ),
            (
                "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff",
                "00-0af7651916cd43dd8448eb211c80319c-0807060504030201-01",
            ),
            (
                "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-what-comes",
                "00-0af7651916cd43dd8448eb211c80319c-0807060504030201-00",
            ),
        ] {
            let trace = trace(&[("Traceparent", parent)]);
            assert_eq!(trace.parent(), expected, "{parent:?}");
        }
    }

    #[test]
    fn without_a_valid_parent_a_trace_begins_and_the_state_is_left_out() {
        for parent in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
            "0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-1-2-01",
            "00-ä0f7651916cd43dd8448eb211c8031-b7ad6b7169203331-01",
        ] {
            let trace = trace(&[("traceparent", parent), ("tracestate", "a=1")]);
            assert_eq!((trace.parent().as_str(), trace.state()), (NEW, None), "{parent:?}");
        }
        assert_eq!(trace(&[]).parent(), NEW);
        let twice = [("traceparent", PARENT), ("traceparent", PARENT)];
        assert_eq!(trace(&twice).parent(), NEW, "which of two is meant nobody knows");
    }

    #[test]
    fn the_state_comes_along_in_one_piece() {
        for (states, expected) in [
            (vec![], None),
            (vec![" "], None),
            (vec!["a=1,b=2"], Some("a=1,b=2")),
            (vec!["a=1", "", "b=2"], Some("a=1,b=2")),
        ] {
            let mut headers = vec![("TraceParent", PARENT)];
            headers.extend(states.iter().map(|state| ("TraceState", *state)));
            assert_eq!(trace(&headers).state(), expected, "{states:?}");
        }
    }

    #[test]
    fn no_two_attempts_are_the_same_step() {
        let headers = [("traceparent", PARENT)];
        let (one, other) = (Trace::of(&headers), Trace::of(&headers));
        assert_eq!(one.id(), other.id());
        assert_ne!(one.parent(), other.parent());
        assert_ne!(Trace::of(&[]).id(), Trace::of(&[]).id());
    }
}
