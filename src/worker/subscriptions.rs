//! What others ask a worker process over plain NATS: notices of changed settings, questions about cancelled tasks, and
//! requests to make a callback. Each message goes to the group that its subject names.
//!
//! A process holds one subscription of each kind, however many groups it runs. With one group in a namespace it is to the
//! subject of that group, so that a worker of one group is not woken by the notices of 4,000 others. With several groups
//! it is to all subjects of the namespace. Such a process drops the notices for groups that it does not run. That costs a
//! look into a table for each change of settings in the namespace, and no subscription for each group.
//!
//! The namespace is the widest scope. It is the boundary of trust, so a process may hear of all its groups, and have them
//! granted by one wildcard.

use super::{
    group::Group,
    outcome::{answer_callback, answer_cancel},
    runtime::Runtime,
};
use crate::{
    broker::{BrokerError, Question},
    protocol::{Kind, Queue, subject::queue_of},
};
use futures::{
    StreamExt,
    stream::{BoxStream, SelectAll, select_all},
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// The name that stands for all queues of a namespace in a subject.
const ALL: &str = "*";

/// Callback requests go to one of the subscribers of this name.
const CALLBACK_MAKERS: &str = "workers";

/// The kinds of messages.
const KINDS: [Kind; 3] = [Kind::Settings, Kind::WorkerCancel, Kind::WorkerCallback];

/// The subscriptions of one process.
pub struct Subscriptions {
    runtime: Arc<Runtime>,
    groups: HashMap<Queue, Arc<Group>>,
    messages: SelectAll<BoxStream<'static, Question>>,
}

impl Subscriptions {
    /// Subscribes to what is said to `groups`. From then on no notice is missed.
    ///
    /// # Errors
    /// A client that is closed.
    pub async fn open(
        runtime: Arc<Runtime>,
        groups: impl IntoIterator<Item = Arc<Group>>,
    ) -> Result<Self, BrokerError> {
        let groups: HashMap<_, _> = groups.into_iter().map(|group| (group.queue().clone(), group)).collect();
        let mut messages = Vec::new();
        for scope in scopes(groups.keys()) {
            for kind in KINDS {
                let shared_by = (kind == Kind::WorkerCallback).then_some(CALLBACK_MAKERS);
                let questions = runtime.broker().questions(scope.of(kind), shared_by).await?;
                messages.push(questions.boxed());
            }
        }
        Ok(Self {
            runtime,
            groups,
            messages: select_all(messages),
        })
    }

    /// Takes each message to its group. Ends only when the client is closed.
    pub async fn serve(mut self) {
        while let Some(question) = self.messages.next().await {
            self.dispatch(question);
        }
    }

    fn dispatch(&self, question: Question) {
        let Some((kind, queue)) = queue_of(question.subject()) else {
            return;
        };
        let group = self.groups.get(&queue).cloned();
        match kind {
            Kind::Settings => {
                if let Some(group) = group {
                    group.state().notice();
                }
            }
            Kind::WorkerCancel => {
                // The operator waits for as many answers as the group has workers. This process is none of them where it
                // does not run the group, and its answer would take the place of another's.
                if let Some(group) = group {
                    tokio::spawn(async move { answer_cancel(&group, &question).await });
                }
            }
            Kind::WorkerCallback => {
                let runtime = self.runtime.clone();
                tokio::spawn(async move { answer_callback(&runtime, group.as_deref(), queue, question).await });
            }
            // Nothing else is subscribed to.
            _ => {}
        }
    }
}

/// The queues to subscribe for: that of the only group in a namespace, or all queues of the namespace.
fn scopes<'a>(queues: impl Iterator<Item = &'a Queue>) -> Vec<Queue> {
    let mut namespaces: BTreeMap<&str, Vec<&Queue>> = BTreeMap::new();
    for queue in queues {
        namespaces.entry(&queue.namespace).or_default().push(queue);
    }
    namespaces
        .into_iter()
        .map(|(namespace, queues)| match queues.as_slice() {
            [only] => (*only).clone(),
            _ => Queue::new(namespace, ALL),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_subscriptions_do_not_grow_with_the_number_of_groups_in_a_namespace() {
        let queue = |text: &str| {
            let (namespace, name) = text.split_once('/').expect("a namespace and a name");
            Queue::new(namespace, name)
        };
        for (groups, expected) in [
            (vec![], vec![]),
            (vec!["crawl/acme"], vec!["crawl/acme"]),
            (vec!["crawl/acme", "crawl/initech"], vec!["crawl/*"]),
            (vec!["crawl/a", "crawl/b", "crawl/c"], vec!["crawl/*"]),
            (vec!["mail/a", "crawl/a", "crawl/b"], vec!["crawl/*", "mail/a"]),
        ] {
            let queues: Vec<_> = groups.iter().map(|text| queue(text)).collect();
            let expected: Vec<_> = expected.into_iter().map(queue).collect();
            assert_eq!(scopes(queues.iter()), expected, "{groups:?}");
        }
    }
}
