//! JetStream: the only module that knows the NATS client library.
//!
//! `config` and `drift` are pure: the desired configuration, and the differences to the observed one. `api` sends
//! requests, and `events` observes the changes of others. `puller` (with `pulls` and `pull`), `publish`, and `rate`
//! serve workers and the relay; `relay`, `shared`, and `cancel` serve the operator.

mod api;
mod args;
mod cancel;
mod config;
mod connection;
mod drift;
mod error;
mod events;
mod message;
mod publish;
mod pull;
mod puller;
mod pulls;
mod question;
mod rate;
mod relay;
mod shared;

pub use args::NatsArgs;
pub use config::{
    ConsumerConfig, ConsumerInfo, Discard, LONGEST_THROTTLE, Pause, Position, Retention, SharedStream, Storage,
    StreamConfig, StreamInfo, StreamState, dead_letters, delays, rates,
};
pub use connection::{Broker, Link};
pub use drift::{Difference, differences, fingerprint, overlay};
pub use error::{BrokerError, code};
pub use events::{BrokerEvent, Termination, events, terminations};
pub use message::StoredMessage;
pub use publish::Receipt;
pub use pull::{Acker, Arrival, Delivery, PullEnd, PullInbox};
pub use puller::{PullOptions, Pulled, Puller};
pub use question::Question;
pub use relay::Publication;
pub use shared::SharedStreams;
