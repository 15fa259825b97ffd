//! What can go wrong while a change is made, as the reason and message of a condition.

use crate::{
    api::Reason,
    broker::{BrokerError, code},
};

/// A change that failed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// In the broker.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// In Kubernetes.
    #[error("{doing}: {}", plain(.source))]
    Kube {
        /// What we were doing, for example `apply Deployment crawl/acme-workers`.
        doing: String,
        /// What the API server said.
        source: Box<kube::Error>,
        /// Whether what was sent was made of a user's pod template: then a refusal is about that.
        of_template: bool,
    },
}

impl ApplyError {
    /// A failed request to the API server.
    pub fn kube(doing: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Kube {
            doing,
            source: Box::new(source),
            of_template: false,
        }
    }

    /// A failed request to the API server with an object made of a user's pod template.
    pub fn template(doing: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Kube {
            doing,
            source: Box::new(source),
            of_template: true,
        }
    }

    /// For a condition's `reason`.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Broker(error) => broker_reason(error),
            Self::Kube {
                source, of_template, ..
            } => match kube_reason(source) {
                Reason::InvalidTemplate if !of_template => Reason::KubernetesError,
                reason => reason,
            },
        }
    }

    /// The obstacle and its remedy, for a condition's `message`.
    pub fn advice(&self) -> String {
        let fix = match self.reason() {
            Reason::InvalidTemplate => "correct spec.template of the TaskHandler",
            Reason::Forbidden => {
                "the operator's role lacks this: install the roles anew with `kubectl apply -k deploy/`"
            }
            Reason::QuotaExceeded => "raise the namespace's ResourceQuota or remove something from it",
            Reason::NamespaceTerminating => "the namespace is being deleted, and nothing new can be made in it",
            Reason::OutOfSpace => {
                "free space, raise JetStream's limits, or lower spec.storage.maxBytes; the operator tries again by itself"
            }
            Reason::ReplicasNotSupported => "lower spec.storage.replicas, or run as many NATS servers",
            Reason::SubjectsTaken => "another stream listens to these subjects: delete it or change its subjects",
            Reason::JetStreamRefused if self.is_about_another_consumer() => {
                "the stream has a consumer that is not TaskGroup's, and a work queue has room for one: delete it with \
                 `nats consumer rm`"
            }
            Reason::KubernetesUnreachable | Reason::KubernetesError | Reason::Conflict => {
                "the operator tries again by itself"
            }
            _ => return self.to_string(),
        };
        format!("{self}; {fix}")
    }

    fn is_about_another_consumer(&self) -> bool {
        let codes = [code::CONSUMER_NOT_ALONE, code::CONSUMER_NOT_UNIQUE];
        matches!(self, Self::Broker(error) if codes.into_iter().any(|code| error.is(code)))
    }

    /// Whether only somebody's change helps, so that the group counts as stalled.
    pub fn is_stalled(&self) -> bool {
        matches!(
            self.reason(),
            Reason::InvalidTemplate | Reason::ReplicasNotSupported | Reason::SubjectsTaken | Reason::JetStreamRefused
        )
    }
}

/// The reason for an error of the broker.
pub fn broker_reason(error: &BrokerError) -> Reason {
    match error {
        BrokerError::Unreachable { .. } => Reason::NatsUnreachable,
        BrokerError::NoJetStream { .. } => Reason::NoJetStream,
        BrokerError::TooOld { .. } => Reason::NatsTooOld,
        BrokerError::Unreadable { .. } => Reason::JetStreamUnreadable,
        error if error.is_out_of_space() => Reason::OutOfSpace,
        error if error.is(code::REPLICAS_NOT_SUPPORTED) || error.is(code::NO_PEERS) => Reason::ReplicasNotSupported,
        error if error.is(code::SUBJECT_OVERLAP) => Reason::SubjectsTaken,
        BrokerError::Refused { .. } => Reason::JetStreamRefused,
    }
}

/// What the API server said, without the dump that kube's own text adds.
pub fn plain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

fn kube_reason(error: &kube::Error) -> Reason {
    let kube::Error::Api(status) = error else {
        return Reason::KubernetesUnreachable;
    };
    let says = |text: &str| status.message.contains(text);
    match status.code {
        403 if says("because it is being terminated") => Reason::NamespaceTerminating,
        403 if says("exceeded quota") => Reason::QuotaExceeded,
        401 | 403 => Reason::Forbidden,
        409 => Reason::Conflict,
        400 | 422 => Reason::InvalidTemplate,
        // How server-side apply of Kubernetes 1.20 calls a field that does not exist or has the wrong type.
        500 if says("failed to create typed patch object") => Reason::InvalidTemplate,
        _ => Reason::KubernetesError,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;

    fn api(code: u16, message: &str) -> ApplyError {
        let status = Status::failure(message, "").with_code(code);
        ApplyError::template("apply Deployment a/b")(kube::Error::Api(Box::new(status)))
    }

    #[test]
    fn an_error_has_a_reason_and_says_what_to_do() {
        for (error, reason, fix) in [
            (
                api(422, "spec.template.spec.containers[0].image: Required value"),
                Reason::InvalidTemplate,
                "correct spec.template",
            ),
            (
                api(500, "failed to create typed patch object: .spec.foo"),
                Reason::InvalidTemplate,
                "correct spec.template",
            ),
            (
                api(403, "deployments.apps is forbidden"),
                Reason::Forbidden,
                "kubectl apply -k deploy/",
            ),
            (api(403, "exceeded quota: q"), Reason::QuotaExceeded, "ResourceQuota"),
            (
                api(403, "unable to create new content because it is being terminated"),
                Reason::NamespaceTerminating,
                "deleted",
            ),
            (api(503, "try later"), Reason::KubernetesError, "tries again by itself"),
        ] {
            assert_eq!(error.reason(), reason);
            let advice = error.advice();
            assert!(
                advice.starts_with("apply Deployment a/b: ") && advice.contains(fix),
                "{advice}"
            );
        }
    }

    #[test]
    fn only_what_was_made_of_a_template_is_blamed_on_it() {
        let status = Status::failure("status.conditions: Invalid value", "").with_code(422);
        let error = ApplyError::kube("write the status of TaskGroup a/b")(kube::Error::Api(Box::new(status)));
        assert_eq!((error.reason(), error.is_stalled()), (Reason::KubernetesError, false));
    }
}
