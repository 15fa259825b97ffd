//! Tests of the counting, because a broken limit must not go unnoticed.

use super::records::{Event, Kind, Tally, most_on_a_shared_queue};

/// Events of group a, one every 10 µs: `(kind, task, attempt)`.
fn events(happened: &[(Kind, &str, u32)]) -> Vec<Event> {
    let mut at = 0;
    happened
        .iter()
        .map(|(kind, task, attempt)| {
            at += 10;
            Event {
                at,
                kind: *kind,
                group: "a".into(),
                task: (*task).into(),
                attempt: *attempt,
                pod: "pod".into(),
            }
        })
        .collect()
}

#[test]
fn the_most_at_once_is_counted_from_starts_and_ends() {
    use Kind::{End, Start};
    let events = events(&[
        (Start, "1", 1),
        (Start, "2", 1),
        (End, "1", 1),
        (Start, "3", 1),
        (End, "3", 1),
        (End, "2", 1),
    ]);
    let tally = Tally::of(&events, "a");
    assert_eq!((tally.most, tally.running, tally.done.len()), (2, 0, 3));
    assert_eq!(tally.time().as_micros(), 50);
    assert_eq!(Tally::of(&events, "b").most, 0);
}

#[test]
fn a_task_run_twice_at_once_counts_twice() {
    use Kind::{Cut, End, Start};
    let tally = Tally::of(&events(&[(Start, "1", 1), (Start, "1", 2), (End, "1", 2)]), "a");
    assert_eq!((tally.most, tally.running, tally.done.len()), (2, 1, 1));
    let tally = Tally::of(&events(&[(Start, "1", 1), (Cut, "1", 1), (Start, "1", 2)]), "a");
    assert_eq!((tally.most, tally.running, tally.done.len()), (1, 1, 0));
}

#[test]
fn a_shared_queue_runs_what_comes_next() {
    let list = ["a", "b", "c", "c", "c", "c", "a", "a", "b"];
    let most = ["a", "b", "c"].map(|group| most_on_a_shared_queue(&list, 4, group));
    assert_eq!(most, [2, 1, 2]);
    assert_eq!(most_on_a_shared_queue(&list, 5, "c"), 3);
}
