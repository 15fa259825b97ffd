//! Pure: the kind of a due message, and what the relay does with it next.

use crate::{
    broker::Publication,
    protocol::{Kind, Queue, callback::Reply, dead_letter::Reason, headers, subject},
};
use std::time::Duration;

/// Pause before a full queue is tried again.
pub const FULL: Duration = Duration::from_secs(5);

/// Pause before the relay looks again whether a queue has its stream back. A queue also seems to have none while NATS is
/// being stopped.
const MISSING: Duration = Duration::from_secs(5);

/// Pause after an error.
pub const TROUBLE: Duration = Duration::from_secs(5);

/// Tries of one callback, beside the first one, which the worker made at once.
pub const CALLBACK_TRIES: u32 = 10;

/// Pauses between two tries of a callback, from the first to the longest.
const CALLBACK_PAUSES: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));

/// A due message of the delay stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due<'a> {
    /// A task whose back-off is over.
    Task(Queue, &'a str),
    /// A callback that is to be tried again.
    Callback(Queue, &'a str),
    /// A tombstone whose worker died before it removed it.
    Tombstone,
    /// A message that no worker put there.
    Stray,
}

impl<'a> Due<'a> {
    /// Reads the subject that the message is stored under.
    pub fn read(subject: &'a str) -> Self {
        match subject::parse(subject) {
            Some((Kind::Due, queue, id)) => Self::Task(queue, id),
            Some((Kind::CallbackDue, queue, id)) => Self::Callback(queue, id),
            Some((Kind::DueTombstone, ..)) => Self::Tombstone,
            _ => Self::Stray,
        }
    }
}

/// The headers that go on with a message. Headers that NATS acts on stay behind: those of the schedule, and those that a
/// publisher meant for the first publication (an expected sequence, a rollup).
pub fn headers_to_keep<'a>(headers: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<(&'a str, &'a str)> {
    headers.filter(|(name, _)| !headers::is_nats(name)).collect()
}

/// What an earlier relay did with a due task before it died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Earlier {
    /// The relay put the task into its queue. Only the ack is missing.
    InQueue,
    /// A worker got the task and removed the due message. Nothing is left to do.
    Finished,
    /// The relay did nothing that counts.
    Nothing,
}

/// Judges that by the origin of the last requeued message of the task in its queue, and by whether the due message is
/// still stored.
pub fn earlier(origin: &str, queued: Option<&str>, still_due: bool) -> Earlier {
    if queued == Some(origin) {
        Earlier::InQueue
    } else if still_due {
        Earlier::Nothing
    } else {
        Earlier::Finished
    }
}

/// Who owns a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A TaskGroup that the operator watches.
    Known,
    /// Perhaps a TaskGroup in a namespace that the operator does not watch.
    Unknown,
    /// No TaskGroup.
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

/// What the relay does next with a due task that it published to its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Acknowledges it: the task is in its queue.
    Done,
    /// Tries again later.
    Wait(Why, Duration),
    /// Stores a dead letter with this reason and error.
    Dead(Reason, &'static str),
}

/// Decides that by what became of the publication, and by the owner of the queue.
pub fn after(published: Publication, owner: impl FnOnce() -> Owner) -> Next {
    match published {
        Publication::Stored => Next::Done,
        Publication::Full => Next::Wait(Why::Full, FULL),
        Publication::TooLarge => Next::Dead(
            Reason::TooLarge,
            "the queue does not take the task back after a failed attempt: with the headers that count its attempts, the \
             task is larger than spec.storage.maxTaskSize; raise that",
        ),
        Publication::NoStream if owner() == Owner::Nobody => Next::Dead(
            Reason::QueueGone,
            "no TaskGroup has this queue any more: it was deleted while the task was in back-off",
        ),
        Publication::NoStream => Next::Wait(Why::NoStream, MISSING),
    }
}

/// What the relay does next with a callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterCallback {
    /// Acknowledges it: a worker made it.
    Made,
    /// Tries again later.
    Wait(Duration),
    /// Drops it: it can't succeed, or was tried often enough.
    Drop,
}

/// Decides that by the worker's reply (`None`: no worker replied) to try number `tries`, from 1.
pub fn after_callback(reply: Option<Reply>, tries: u32) -> AfterCallback {
    match reply {
        Some(Reply::Made) => AfterCallback::Made,
        Some(Reply::GiveUp) => AfterCallback::Drop,
        Some(Reply::Retry) | None if tries >= CALLBACK_TRIES => AfterCallback::Drop,
        Some(Reply::Retry) | None => {
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
        let subject = |kind, id| queue.of_message(kind, id, 7);
        assert_eq!(Due::read(&subject(Kind::Due, "a.b")), Due::Task(queue.clone(), "a.b"));
        assert_eq!(
            Due::read(&subject(Kind::CallbackDue, "1")),
            Due::Callback(queue.clone(), "1")
        );
        assert_eq!(Due::read(&subject(Kind::DueTombstone, "a.b")), Due::Tombstone);
        assert_eq!(Due::read("due.crawl"), Due::Stray);
        assert_eq!(Due::read(&subject(Kind::Delay, "a.b")), Due::Stray);
    }

    #[test]
    fn what_nats_acts_on_stays_behind_and_the_rest_goes_on() {
        let headers = [
            ("X-Mine", "1"),
            ("Nats-Schedule-Next", "purge"),
            ("nats-expected-last-sequence", "7"),
            ("Taskgroup-Origin", "tg_a_b:1:2"),
            ("é", "short"),
        ];
        let kept = headers_to_keep(headers.into_iter());
        assert_eq!(
            kept,
            [("X-Mine", "1"), ("Taskgroup-Origin", "tg_a_b:1:2"), ("é", "short")]
        );
    }

    #[test]
    fn a_second_relay_finds_out_what_the_first_one_did() {
        let other = Some("tg_a_b:7:7");
        for (queued, still_due, expected) in [
            (Some("o"), true, Earlier::InQueue),
            (Some("o"), false, Earlier::InQueue),
            (None, true, Earlier::Nothing),
            (other, true, Earlier::Nothing),
            (None, false, Earlier::Finished),
            (other, false, Earlier::Finished),
        ] {
            assert_eq!(earlier("o", queued, still_due), expected, "{queued:?} {still_due}");
        }
    }

    #[test]
    fn a_task_waits_for_its_queue_as_long_as_there_may_be_one() {
        use Publication::{Full, NoStream, Stored, TooLarge};
        let word = |next| match next {
            Next::Done => "done",
            Next::Wait(Why::Full, FULL) => "full",
            Next::Wait(Why::NoStream, MISSING) => "missing",
            Next::Wait(..) => "?",
            Next::Dead(reason, _) => reason.as_str(),
        };
        for (published, owner, expected) in [
            (Stored, Owner::Known, "done"),
            (Stored, Owner::Nobody, "done"),
            (Full, Owner::Nobody, "full"),
            (TooLarge, Owner::Known, "TooLarge"),
            (NoStream, Owner::Known, "missing"),
            (NoStream, Owner::Unknown, "missing"),
            (NoStream, Owner::Nobody, "QueueGone"),
        ] {
            assert_eq!(word(after(published, || owner)), expected, "{published:?} {owner:?}");
        }
    }

    #[test]
    fn a_callback_is_tried_ten_times_with_growing_pauses() {
        let pauses: Vec<_> = (1..=11)
            .map(|tries| match after_callback(None, tries) {
                AfterCallback::Wait(pause) => pause.as_secs(),
                AfterCallback::Drop => 0,
                AfterCallback::Made => 1,
            })
            .collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 600, 600, 600, 0, 0]);
        assert_eq!(after_callback(Some(Reply::Made), 99), AfterCallback::Made);
        assert_eq!(after_callback(Some(Reply::GiveUp), 1), AfterCallback::Drop);
    }
}
