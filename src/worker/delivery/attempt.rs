//! One attempt of a task: the handler's answer, in the metrics and in the log, and the verdict on it.

use crate::{
    protocol::{dead_letter::MAX_ERROR, headers::is_ours},
    worker::{
        group::Run,
        handler::{Attempt, AttemptResult, Handler, Trace},
        outcome::{self, TaskReport, Verdict},
    },
};
use futures::FutureExt;
use std::{any::Any, panic::AssertUnwindSafe, time::Instant};

/// Makes the attempt of a run.
pub async fn make(run: &Run<'_>) -> (Verdict, TaskReport) {
    let (group, settings) = (run.group(), run.config().settings());
    let begun = Instant::now();
    group.metrics().attempt_begins(run.task().stored().age(group.now()));
    let attempt = prepare(run);
    let result = contained(group.runtime().handler(), &attempt).await;
    let duration = begun.elapsed();
    let kind = result.kind();
    group.metrics().attempt_ended(kind, duration);
    if let AttemptResult::NoConnection(why) = &result {
        group.runtime().gate().refused(why);
    }
    let verdict = outcome::judge(&result, attempt.number, settings.retry.max_attempts());
    tracing::info!(
        call_id = run.id(),
        trace_id = %attempt.trace.id(),
        group = settings.group,
        attempt = attempt.number,
        max_attempts = settings.retry.max_attempts,
        duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
        result = kind,
        status = result.status(),
        outcome = verdict.as_str(),
        "attempt"
    );
    // A user's code may say what nobody else shall read.
    tracing::trace!(target: "taskgroup::bodies", call_id = run.id(), body = result.text(), "the handler's answer");
    let output = result.output();
    let report = TaskReport {
        status: result.http_status(),
        duration,
        body: output.bytes,
        truncated: output.truncated,
    };
    if run.lease().is_held() {
        (verdict, report)
    } else {
        (Verdict::Lost, report)
    }
}

/// The attempt as the handler gets it. Not a part of `make`, whose future would keep room for each piece of it.
fn prepare<'a>(run: &Run<'a>) -> Attempt<'a> {
    let (task, config) = (run.task(), run.config());
    let headers: Vec<_> = task.headers().filter(|(name, _)| !is_ours(name)).collect();
    Attempt {
        id: run.id(),
        number: run.attempt(),
        trace: Trace::of(&headers),
        headers,
        payload: task.payload(),
        keep: if outcome::wants_callback(task) {
            outcome::largest_body(run.group().broker())
        } else {
            MAX_ERROR
        },
        settings: config.settings(),
        ack_wait: config.ack_wait(),
    }
}

/// Has the handler make the attempt. A panic fails this attempt, and nothing else.
async fn contained(handler: &Handler, attempt: &Attempt<'_>) -> AttemptResult {
    // A panic leaves nothing half done but the attempt's own state, which is dropped with it.
    let result = AssertUnwindSafe(handler.run(attempt)).catch_unwind().await;
    result.unwrap_or_else(|panic| {
        let message = message(panic.as_ref());
        tracing::error!(
            call_id = attempt.id,
            message,
            "the attempt panicked: it counts as failed"
        );
        AttemptResult::Panicked(message)
    })
}

/// The message of a panic, which is text unless the code chose something else.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}
