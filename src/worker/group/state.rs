//! The state of a group as this process knows it. Only this file writes it. Each method is for one who has something to
//! tell: the watch of the consumer, a handler that throttles, the operator's notice, the pull loop.

use super::config::{GroupConfig, Observed};
use crate::worker::rate::Rate;
use jiff::Timestamp;
use std::{sync::Arc, time::Duration};
use tokio::sync::{
    Notify,
    watch::{Receiver, Ref, Sender},
};

/// A throttling that ends so little later than the one in force is the same. All tasks that run when a handler begins to
/// refuse them say so within moments.
const SAME: Duration = Duration::from_millis(500);

/// The state of a group at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupSnapshot {
    /// The configuration last read. Tasks in flight go on by it even while the consumer is away.
    config: Option<Arc<GroupConfig>>,
    missing: Option<String>,
    paused_until: Option<Timestamp>,
}

/// The state of a group, which changes can be awaited of.
pub struct GroupState {
    now: Sender<GroupSnapshot>,
    /// The rate by itself, so that those who wait by it are woken by nothing else.
    rate: Sender<Option<Rate>>,
    noticed: Notify,
    suspected: Notify,
}

/// What came of the wish to throttle a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Throttled {
    /// The group is throttled from now on.
    Begun,
    /// The group was throttled or suspended already, until then.
    InForce(Timestamp),
}

impl GroupSnapshot {
    /// The configuration, once it was read.
    pub fn config(&self) -> Option<&Arc<GroupConfig>> {
        self.config.as_ref()
    }

    /// Why the group's tasks can't be pulled at present; `None` when they can.
    pub fn missing(&self) -> Option<&str> {
        self.missing.as_deref()
    }

    /// The rate that tasks start at, if the group has one.
    pub fn rate(&self) -> Option<Rate> {
        self.config.as_ref()?.rate()
    }

    /// Until when nothing new may start, where the group is throttled or suspended at `now`.
    pub fn pause_at(&self, now: Timestamp) -> Option<Timestamp> {
        self.paused_until.filter(|until| now < *until)
    }
}

impl GroupState {
    /// The state of a group before its configuration was read.
    pub fn unread(missing: String) -> Self {
        Self {
            now: Sender::new(GroupSnapshot {
                config: None,
                missing: Some(missing),
                paused_until: None,
            }),
            rate: Sender::new(None),
            noticed: Notify::new(),
            suspected: Notify::new(),
        }
    }

    pub fn snapshot(&self) -> Ref<'_, GroupSnapshot> {
        self.now.borrow()
    }

    /// The state, whose changes can be awaited.
    pub fn subscribe(&self) -> Receiver<GroupSnapshot> {
        self.now.subscribe()
    }

    /// The group's rate, whose changes can be awaited.
    pub fn rate(&self) -> Receiver<Option<Rate>> {
        self.rate.subscribe()
    }

    /// The configuration, once it was read.
    pub fn config(&self) -> Option<Arc<GroupConfig>> {
        self.now.borrow().config.clone()
    }

    /// A look at the consumer showed this, or what is missing.
    pub fn observed(&self, observed: Result<Observed, String>) {
        if let Ok(Observed { config, .. }) = &observed {
            // Before the configuration: a task that sees a new rate there finds it here, too.
            self.rate.send_if_modified(|rate| {
                let now = config.rate();
                std::mem::replace(rate, now) != now
            });
        }
        self.now.send_if_modified(|state| match observed {
            Ok(Observed { config, paused_until }) => {
                let mut changed = state.missing.take().is_some();
                changed |= std::mem::replace(&mut state.paused_until, paused_until) != paused_until;
                if state.config.as_deref() != Some(&config) {
                    config.log(state.config.as_deref());
                    state.config = Some(Arc::new(config));
                    changed = true;
                }
                changed
            }
            Err(missing) => {
                let missing = Some(missing);
                let changed = state.missing != missing;
                state.missing = missing;
                changed
            }
        });
    }

    /// A handler wants no tasks until `until`. A longer throttling or a suspension that is in force stays.
    pub fn throttle(&self, until: Timestamp) -> Throttled {
        let mut throttled = Throttled::Begun;
        self.now.send_if_modified(|state| match state.paused_until {
            Some(in_force) if in_force + SAME >= until => {
                throttled = Throttled::InForce(in_force);
                false
            }
            _ => {
                state.paused_until = Some(until);
                true
            }
        });
        throttled
    }

    /// The operator says that the consumer changed.
    pub fn notice(&self) {
        self.noticed.notify_one();
    }

    /// Returns after a notice.
    pub async fn noticed(&self) {
        self.noticed.notified().await;
    }

    /// Something suggests that the consumer is gone, or not as it was read.
    pub fn suspect(&self) {
        self.suspected.notify_one();
    }

    /// Returns after a suspicion.
    pub async fn suspected(&self) {
        self.suspected.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    #[test]
    fn a_throttling_is_extended_and_never_cut_short() {
        let state = GroupState::unread("nothing was read".into());
        assert_eq!(state.throttle(at(10)), Throttled::Begun);
        assert_eq!(state.throttle(at(9)), Throttled::InForce(at(10)));
        assert_eq!(
            state.throttle(at(10) + Duration::from_millis(400)),
            Throttled::InForce(at(10)),
            "the same one"
        );
        assert_eq!(state.throttle(at(20)), Throttled::Begun);
        let snapshot = state.snapshot();
        assert_eq!(
            (snapshot.pause_at(at(19)), snapshot.pause_at(at(20))),
            (Some(at(20)), None)
        );
    }

    #[test]
    fn what_is_missing_is_no_reason_to_forget_what_was_read() {
        let state = GroupState::unread("nothing was read".into());
        let mut changes = state.subscribe();
        state.observed(Err("no stream".into()));
        assert!(changes.has_changed().expect("a sender"));
        changes.mark_unchanged();
        state.observed(Err("no stream".into()));
        assert!(!changes.has_changed().expect("a sender"), "the same again");
        assert_eq!(state.snapshot().missing(), Some("no stream"));
    }
}
