//! Pure: what a message of the delay stream is, and what comes next for it.

use crate::{
    broker::{CallbackAnswer, HandedOn},
    names::Queue,
    task::history,
};
use std::time::Duration;

/// Pause before a full queue is tried again.
pub const FULL: Duration = Duration::from_secs(5);

/// Pause before it is looked again whether a queue has its stream back. It also seems to have none while
/// NATS is being stopped.
const MISSING: Duration = Duration::from_secs(5);

/// Pause after an answer that says neither yes nor no.
pub const TROUBLE: Duration = Duration::from_secs(5);

/// Tries of one callback, beside the one that the worker made at once.
pub const CALLBACK_TRIES: u32 = 10;

/// Pauses between two tries of a callback: from the first to the longest.
const CALLBACK_PAUSES: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));

/// What a message of the delay stream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due<'a> {
    /// A task whose back-off is over.
    Task(Queue, &'a str),
    /// A callback that is to be tried again.
    Callback(Queue, &'a str),
    /// What kept out late messages, of a worker that died before it removed it.
    Fence,
    /// Nothing that a worker would have put there.
    Stray,
}

impl<'a> Due<'a> {
    /// By the subject it is stored under.
    pub fn read(subject: &'a str) -> Self {
        if let Some((queue, id, _)) = Queue::of_delayed("due", subject) {
            return Self::Task(queue, id);
        }
        match Queue::of_delayed("callback-due", subject) {
            Some((queue, id, _)) => Self::Callback(queue, id),
            None if Queue::is_fence(subject) => Self::Fence,
            None => Self::Stray,
        }
    }
}

/// The headers that go on with a message. What NATS acts on stays behind, that of the schedule as well as
/// what a publisher may have meant for the first time (an expected sequence, a rollup).
pub fn headers_to_keep<'a>(headers: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<(&'a str, &'a str)> {
    headers
        .filter(|(name, _)| {
            !name
                .get(..5)
                .is_some_and(|beginning| beginning.eq_ignore_ascii_case("nats-"))
        })
        .collect()
}

/// The first value of a header.
pub fn header<'a>(headers: &[(&str, &'a str)], wanted: &str) -> Option<&'a str> {
    headers
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
        .map(|(_, value)| *value)
}

/// What a message says it continues.
pub fn origin<'a>(headers: &[(&str, &'a str)]) -> Option<&'a str> {
    header(headers, history::ORIGIN)
}

/// What an earlier delivery of a due task may have done before its relay died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Earlier {
    /// The task is in its queue: only the ack is missing.
    InQueue,
    /// A worker had the task and made it vanish from here: nothing is to be done any more.
    Finished,
    /// Nothing that counts.
    Nothing,
}

/// Judges it by the origins of the last message under each of the task's subjects in its queue, and by
/// whether the due message is still stored.
pub fn earlier(origin: &str, in_queue: [Option<&str>; 2], still_due: bool) -> Earlier {
    if in_queue.contains(&Some(origin)) {
        Earlier::InQueue
    } else if still_due {
        Earlier::Nothing
    } else {
        Earlier::Finished
    }
}

/// Which TaskGroup has a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// One that we see.
    Known,
    /// None that we could see, if there were one: its namespace is not watched.
    Unknown,
    /// None.
    Nobody,
}

/// Why a task can't go back into its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The queue has no room at present.
    Full,
    /// Its stream is missing.
    NoStream,
}

/// What comes next for a due task that was handed to its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is in its queue.
    Done,
    /// The queue takes it under its other name only, as it is drained.
    TryClosed,
    /// Later again.
    Wait(Why, Duration),
    /// It becomes a dead letter: this reason, and this text.
    Dead(&'static str, &'static str),
}

/// By what the queue said under the task's own subject (or, if `closed`, under the one of a queue that is
/// being drained).
pub fn after(handed: HandedOn, closed: bool, owner: Owner) -> Next {
    match (handed, owner) {
        (HandedOn::Stored, _) => Next::Done,
        (HandedOn::Full, _) => Next::Wait(Why::Full, FULL),
        (HandedOn::TooLarge, _) => Next::Dead(
            "TooLarge",
            "its queue does not take it back after a failed attempt: with the headers that count attempts it is larger \
             than spec.storage.maxTaskSize; raise that",
        ),
        (HandedOn::NoStream, _) if !closed => Next::TryClosed,
        (HandedOn::NoStream, Owner::Nobody) => Next::Dead(
            "QueueGone",
            "no TaskGroup has this queue any more: it was deleted while the task was in back-off",
        ),
        (HandedOn::NoStream, _) => Next::Wait(Why::NoStream, MISSING),
    }
}

/// What comes next for a callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterCallback {
    /// It is made.
    Made,
    /// Later again.
    Wait(Duration),
    /// It is dropped: it can't succeed, or was tried often enough.
    Drop,
}

/// By what a worker said at try number `tries`, from 1.
pub fn after_callback(answer: CallbackAnswer, tries: u32) -> AfterCallback {
    match answer {
        CallbackAnswer::Done => AfterCallback::Made,
        CallbackAnswer::GiveUp => AfterCallback::Drop,
        CallbackAnswer::Retry | CallbackAnswer::Silence if tries >= CALLBACK_TRIES => AfterCallback::Drop,
        CallbackAnswer::Retry | CallbackAnswer::Silence => {
            let (first, longest) = CALLBACK_PAUSES;
            let pause = first.saturating_mul(2_u32.saturating_pow(tries.saturating_sub(1)));
            AfterCallback::Wait(pause.min(longest))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_says_what_is_due() {
        let queue = Queue::new("crawl", "acme");
        assert_eq!(Due::read(&queue.due("a.b", 7)), Due::Task(queue.clone(), "a.b"));
        assert_eq!(Due::read(&queue.callback_due("1", 7)), Due::Callback(queue, "1"));
        assert_eq!(Due::read("due.crawl"), Due::Stray);
        let fence = Queue::new("crawl", "acme").fence("due", "a.b", 7);
        assert_eq!(Due::read(&fence), Due::Fence);
    }

    #[test]
    fn what_nats_acts_on_stays_behind_and_the_rest_goes_on() {
        let headers = [
            ("X-Mine", "1"),
            ("Nats-Schedule-Next", "purge"),
            ("nats-expected-last-sequence", "7"),
            (history::ORIGIN, "tg_a_b:1:2"),
            ("é", "short"),
        ];
        let kept = headers_to_keep(headers.into_iter());
        assert_eq!(kept, [("X-Mine", "1"), (history::ORIGIN, "tg_a_b:1:2"), ("é", "short")]);
        assert_eq!(origin(&kept), Some("tg_a_b:1:2"));
    }

    #[test]
    fn a_second_relay_finds_out_what_the_first_one_did() {
        let other = Some("tg_a_b:7:7");
        for (in_queue, still_due, expected) in [
            ([Some("o"), None], true, Earlier::InQueue),
            ([None, Some("o")], true, Earlier::InQueue),
            ([None, None], true, Earlier::Nothing),
            ([other, None], true, Earlier::Nothing),
            ([None, None], false, Earlier::Finished),
            ([other, None], false, Earlier::Finished),
        ] {
            assert_eq!(earlier("o", in_queue, still_due), expected, "{in_queue:?} {still_due}");
        }
    }

    #[test]
    fn a_task_waits_for_its_queue_as_long_as_there_may_be_one() {
        use HandedOn::{Full, NoStream, Stored, TooLarge};
        let word = |next| match next {
            Next::Done => "done",
            Next::TryClosed => "closed?",
            Next::Wait(Why::Full, FULL) => "full",
            Next::Wait(Why::NoStream, MISSING) => "missing",
            Next::Wait(..) => "?",
            Next::Dead(reason, _) => reason,
        };
        for (handed, closed, owner, expected) in [
            (Stored, false, Owner::Known, "done"),
            (Stored, true, Owner::Nobody, "done"),
            (Full, false, Owner::Nobody, "full"),
            (Full, true, Owner::Known, "full"),
            (TooLarge, false, Owner::Known, "TooLarge"),
            (NoStream, false, Owner::Nobody, "closed?"),
            (NoStream, true, Owner::Known, "missing"),
            (NoStream, true, Owner::Unknown, "missing"),
            (NoStream, true, Owner::Nobody, "QueueGone"),
        ] {
            assert_eq!(
                word(after(handed, closed, owner)),
                expected,
                "{handed:?} {closed} {owner:?}"
            );
        }
    }

    #[test]
    fn a_callback_is_tried_ten_times_with_growing_pauses() {
        let pauses: Vec<_> = (1..=11)
            .map(|tries| match after_callback(CallbackAnswer::Silence, tries) {
                AfterCallback::Wait(pause) => pause.as_secs(),
                AfterCallback::Drop => 0,
                AfterCallback::Made => 1,
            })
            .collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 600, 600, 600, 0, 0]);
        assert_eq!(after_callback(CallbackAnswer::Done, 99), AfterCallback::Made);
        assert_eq!(after_callback(CallbackAnswer::GiveUp, 1), AfterCallback::Drop);
    }
}
