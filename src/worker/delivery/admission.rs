//! Admission: whether a delivered task may start, and when. A task waits here for its start by the group's rate.

use crate::worker::{
    group::{Group, GroupConfig, GroupSnapshot, Run, history::has_expired},
    outcome::{self, Verdict},
    rate::Turn,
};
use jiff::Timestamp;
use std::sync::Arc;
use tokio::select;

/// Returns when the attempt starts, with the configuration that it starts by if that is another than the run's. A task
/// that may not start gets its verdict.
pub async fn admit(run: &Run<'_>, turn: Option<Turn>) -> Result<Option<Arc<GroupConfig>>, Verdict> {
    if !run.lease().is_held() {
        return Err(Verdict::Lost);
    }
    let changed = may_start(run, turn).await?;
    if !run.in_flight().start() {
        // The run hears of the abort by itself.
        return std::future::pending().await;
    }
    Ok(changed)
}

async fn may_start(run: &Run<'_>, turn: Option<Turn>) -> Result<Option<Arc<GroupConfig>>, Verdict> {
    let group = run.group();
    if run.in_flight().was_cancelled() {
        return Err(Verdict::Cancelled);
    }
    let max_attempts = run.config().settings().retry.max_attempts();
    if let Some(death) = outcome::already_dead(run.history().attempts, run.attempt(), max_attempts) {
        return Err(Verdict::Dead(death));
    }
    {
        let now = group.state().snapshot();
        let changed = in_time(run, &now)?;
        if let Some(until) = now.pause_at(group.now()) {
            return Err(paused(group, until));
        }
        if now.rate().is_none() {
            return Ok(changed);
        }
    }
    let wait = async {
        let turn = turn.unwrap_or_else(|| group.rate().line_up());
        select! {
            biased;
            until = group.paused() => Err(paused(group, until)),
            () = turn.start() => in_time(run, &group.state().snapshot()),
            () = group.runtime().stopping().cancelled() => Err(Verdict::Stopped),
        }
    };
    Box::pin(wait).await
}

/// Checks that the task has not expired by what is known now. Returns the configuration if it changed.
fn in_time(run: &Run<'_>, now: &GroupSnapshot) -> Result<Option<Arc<GroupConfig>>, Verdict> {
    let changed = now
        .config()
        .filter(|config| !std::ptr::eq(Arc::as_ptr(config), run.config()));
    let settings = changed.map_or(run.config(), Arc::as_ref).settings();
    if settings.timeouts.expire().is_some() && has_expired(run.history(), settings, run.group().now()) {
        return Err(Verdict::Dead(outcome::expired(
            run.attempt(),
            settings.timeouts.expire(),
        )));
    }
    Ok(changed.cloned())
}

fn paused(group: &Group, until: Timestamp) -> Verdict {
    // The broker delivers nothing during a pause, so perhaps it is over.
    group.state().suspect();
    Verdict::Requeue(until)
}
