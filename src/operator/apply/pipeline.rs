//! I/O: changes of a group's stream and consumer.

use super::PartOutcome;
use crate::{
    broker::{BrokerError, StreamConfig, fingerprint},
    operator::{
        Context,
        plan::{ConsumerStep, Edit, Step},
        validate::ValidGroup,
    },
};

/// Changes the stream. Returns what came of it, and the fingerprint of a stream that was created or changed.
pub async fn stream(
    ctx: &Context,
    group: &ValidGroup,
    step: Step<StreamConfig, Edit>,
    purge: bool,
) -> (PartOutcome, Option<u64>) {
    let name = group.queue.stream();
    let (result, what) = match step {
        Step::Create(config) => (ctx.broker.create_stream(&config).await, format!("stream {name} made")),
        Step::Update(edit) => (
            ctx.broker.update_stream(&name, &edit.config).await,
            format!("stream {name} changed ({})", list(&edit)),
        ),
        Step::Delete(()) => return (delete(ctx, group, purge).await, None),
        Step::Keep => return (PartOutcome::Unchanged, None),
        Step::Leave => return (PartOutcome::Left, None),
        Step::Wait => return (PartOutcome::Waits, None),
        Step::Refuse(refusal) => return (PartOutcome::Refused(refusal), None),
        Step::Unknown(error) => return (PartOutcome::Unknown(error), None),
    };
    match result {
        Ok(info) => (PartOutcome::Changed(what), Some(fingerprint(&info.config))),
        Err(error) => (PartOutcome::Failed(error.into()), None),
    }
}

async fn delete(ctx: &Context, group: &ValidGroup, purge: bool) -> PartOutcome {
    let name = group.queue.stream();
    let deleted = async {
        // First what could return to the stream, and once more what came while it went.
        if purge {
            ctx.broker.purge_queue(&group.queue).await?;
        }
        ctx.broker.delete_stream(&name).await?;
        if purge {
            ctx.broker.purge_queue(&group.queue).await?;
        }
        Ok::<_, BrokerError>(())
    };
    match deleted.await {
        Ok(()) => PartOutcome::Changed(format!("stream {name} deleted")),
        Err(error) => PartOutcome::Failed(error.into()),
    }
}

/// Changes the consumer, and tells the workers.
pub async fn consumer(ctx: &Context, group: &ValidGroup, step: ConsumerStep) -> PartOutcome {
    match try_consumer(ctx, group, step).await {
        Ok(outcome) => outcome,
        Err(error) => PartOutcome::Failed(error.into()),
    }
}

async fn try_consumer(ctx: &Context, group: &ValidGroup, step: ConsumerStep) -> Result<PartOutcome, BrokerError> {
    let stream = group.queue.stream();
    let mut done = Vec::new();
    match step.config {
        Step::Create(config) => {
            ctx.broker.create_consumer(&stream, &config).await?;
            done.push("consumer made".to_owned());
        }
        Step::Update(edit) => {
            ctx.broker.update_consumer(&stream, &edit.config).await?;
            done.push(format!("consumer changed ({})", list(&edit)));
        }
        Step::Keep => {}
        // A consumer goes with its stream.
        Step::Leave | Step::Delete(()) => return Ok(PartOutcome::Left),
        Step::Wait => return Ok(PartOutcome::Waits),
        Step::Refuse(refusal) => return Ok(PartOutcome::Refused(refusal)),
        Step::Unknown(error) => return Ok(PartOutcome::Unknown(error)),
    }
    if let Some(pause) = step.pause {
        ctx.broker.pause_consumer(&stream, pause).await?;
        let what = if pause {
            "deliveries held back"
        } else {
            "deliveries go on"
        };
        done.push(what.to_owned());
    }
    if done.is_empty() {
        return Ok(PartOutcome::Unchanged);
    }
    ctx.broker.notify_settings(&group.queue).await?;
    Ok(PartOutcome::Changed(done.join(", ")))
}

fn list(edit: &Edit) -> String {
    let differences: Vec<_> = edit.differences.iter().map(ToString::to_string).collect();
    differences.join("; ")
}
