//! One attempt of a task: the handler's answer, in the metrics and in the log, and what it means.

use super::{
    callback::{self, End},
    handler::Attempt,
    metrics::AttemptEnd,
    policy::{self, AttemptResult, Verdict},
    run_task::Run,
    trace::Trace,
};
use crate::protocol::{dead_letter::MAX_ERROR, headers::is_ours};
use std::time::Instant;

/// Makes the task's `attempt`th attempt; says what it means, and what its callback is to tell.
pub async fn make(run: &Run<'_>, attempt: u32) -> (Verdict, End) {
    let Run {
        worker,
        task,
        id,
        terms,
        ..
    } = *run;
    let (begun, waited) = (Instant::now(), task.stored().age(worker.now()));
    worker.metrics.queue_wait.observe(waited.as_secs_f64());
    let keep = if callback::is_wanted(task) {
        callback::largest_body(worker)
    } else {
        MAX_ERROR
    };
    let headers: Vec<_> = task.headers().filter(|(name, _)| !is_ours(name)).collect();
    let trace = Trace::of(&headers);
    let trace_id = trace.id();
    let result = worker
        .handler
        .run(&Attempt {
            id,
            number: attempt,
            headers,
            trace,
            payload: task.payload(),
            keep,
            terms,
        })
        .await;
    let duration = begun.elapsed();
    let kind = result.kind();
    worker
        .metrics
        .attempts
        .get_or_create(&AttemptEnd { result: kind })
        .inc();
    worker.metrics.attempt_duration.observe(duration.as_secs_f64());
    if let AttemptResult::NoConnection(why) = &result {
        worker.gate.refused(why);
    }
    let max_attempts = terms.settings.max_attempts;
    let verdict = policy::judge(&result, attempt, max_attempts);
    tracing::info!(
        call_id = id,
        %trace_id,
        group = terms.settings.group,
        attempt,
        max_attempts,
        duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
        result = kind,
        status = result.status(),
        outcome = verdict.as_str(),
        "attempt"
    );
    // What users' code says may hold what nobody else shall read.
    tracing::trace!(target: "taskgroup::bodies", call_id = id, body = result.text(), "the handler's answer");
    let output = result.output();
    let end = End {
        status: result.http_status(),
        duration,
        body: output.bytes,
        truncated: output.truncated,
    };
    (verdict, end)
}
