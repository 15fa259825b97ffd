//! Files of a readable length.

use crate::source::Source;

/// Lines without tests from which on a file should be split by idea. That is printed.
const SPLIT: usize = 400;

/// Lines from which on it must be split.
const MOST: usize = 450;

#[test]
fn no_file_is_too_long_to_read() {
    let mut long: Vec<_> = Source::of_this_crate()
        .files
        .iter()
        .filter(|file| file.lines > SPLIT)
        .map(|file| (file.lines, file.path.display().to_string()))
        .collect();
    long.sort();
    for (lines, path) in &long {
        println!("{path}: {lines} lines without tests; split it by idea");
    }
    long.retain(|(lines, _)| *lines > MOST);
    assert!(long.is_empty(), "more than {MOST} lines without tests: {long:#?}");
}
