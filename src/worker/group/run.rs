//! The run of one delivered task, as all steps from its delivery to its outcome see it.

use super::{Group, GroupConfig, InFlightTask, Lease};
use crate::{
    broker::Delivery,
    protocol::{Origin, history::History},
};

/// The run of one delivered task.
#[derive(Clone, Copy)]
pub struct Run<'a> {
    group: &'a Group,
    task: &'a Delivery,
    id: &'a str,
    in_flight: &'a InFlightTask,
    lease: &'a Lease<'a>,
    config: &'a GroupConfig,
    history: &'a History,
}

impl<'a> Run<'a> {
    /// The run of `task`, whose id is `id`.
    pub fn new(
        group: &'a Group,
        (task, id): (&'a Delivery, &'a str),
        in_flight: &'a InFlightTask,
        lease: &'a Lease<'a>,
        config: &'a GroupConfig,
        history: &'a History,
    ) -> Self {
        Self {
            group,
            task,
            id,
            in_flight,
            lease,
            config,
            history,
        }
    }

    /// The same run by another configuration.
    pub fn with<'b>(&self, config: &'b GroupConfig) -> Run<'b>
    where
        'a: 'b,
    {
        Run { config, ..*self }
    }

    pub fn group(&self) -> &'a Group {
        self.group
    }

    pub fn task(&self) -> &'a Delivery {
        self.task
    }

    pub fn id(&self) -> &'a str {
        self.id
    }

    pub fn in_flight(&self) -> &'a InFlightTask {
        self.in_flight
    }

    pub fn lease(&self) -> &'a Lease<'a> {
        self.lease
    }

    pub fn config(&self) -> &'a GroupConfig {
        self.config
    }

    pub fn history(&self) -> &'a History {
        self.history
    }

    /// Number of the attempt that this run is to make, from 1.
    pub fn attempt(&self) -> u32 {
        self.history.attempts.saturating_add(self.task.delivered())
    }

    /// The task's message, told from all others.
    pub fn origin(&self) -> Origin {
        self.task.stored().origin(&self.group.queue().stream())
    }
}
