//! What a program writes to standard error, line by line, and the end of it. Pure.

use crate::protocol::dead_letter::MAX_ERROR;
use std::collections::VecDeque;

/// A line that is longer is taken for several.
const LONGEST: usize = 8 * 1024;

/// Takes what is written in pieces of any size.
#[derive(Debug, Default)]
pub struct Lines {
    begun: Vec<u8>,
    last: VecDeque<u8>,
}

impl Lines {
    /// Takes the next piece, and hands on each line that is complete with it, without its end and without
    /// empty ones. An empty piece is the end: what was begun is then a line, too.
    pub fn push(&mut self, piece: &[u8], mut line: impl FnMut(&str)) {
        self.last.extend(piece);
        let too_many = self.last.len().saturating_sub(MAX_ERROR);
        self.last.drain(..too_many);

        let mut rest = piece;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.begun.extend_from_slice(&rest[..end]);
            rest = &rest[end + 1..];
            self.hand_on(&mut line);
        }
        self.begun.extend_from_slice(rest);
        if piece.is_empty() || self.begun.len() >= LONGEST {
            self.hand_on(&mut line);
        }
    }

    fn hand_on(&mut self, line: &mut impl FnMut(&str)) {
        let text = String::from_utf8_lossy(&self.begun);
        let text = text.trim_end();
        if !text.is_empty() {
            line(text);
        }
        self.begun.clear();
    }

    /// The last [`MAX_ERROR`] bytes as text.
    pub fn last(&self) -> String {
        let bytes: Vec<u8> = self.last.iter().copied().collect();
        // The first character may have lost its beginning.
        let text = String::from_utf8_lossy(&bytes);
        text.trim_start_matches('\u{fffd}').trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_complete_whatever_the_pieces() {
        let text = "one\n\ntwo ä\r\nthree";
        for size in 1..text.len() {
            let (mut lines, mut found) = (Lines::default(), Vec::new());
            for piece in text.as_bytes().chunks(size).chain([&[][..]]) {
                lines.push(piece, |line| found.push(line.to_owned()));
            }
            assert_eq!(found, ["one", "two ä", "three"], "in pieces of {size}");
            assert_eq!(lines.last(), text);
        }
    }

    #[test]
    fn a_line_without_an_end_does_not_fill_the_memory() {
        let (mut lines, mut longest) = (Lines::default(), 0);
        for _ in 0..100 {
            lines.push(&[b'x'; 1000], |line| longest = longest.max(line.len()));
        }
        assert!((LONGEST..LONGEST + 1000).contains(&longest), "{longest}");
        assert_eq!(lines.last(), "x".repeat(MAX_ERROR));
    }

    #[test]
    fn the_end_begins_with_a_whole_character() {
        let mut lines = Lines::default();
        lines.push("ä".repeat(MAX_ERROR).as_bytes(), |_| {});
        lines.push(b"!", |_| {});
        assert_eq!(lines.last(), format!("{}!", "ä".repeat(MAX_ERROR / 2 - 1)));
    }
}
