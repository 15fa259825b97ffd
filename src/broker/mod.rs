//! JetStream: the only place that knows the NATS client library.
//!
//! `config` and `drift` are pure (what a stream or consumer should be, and where one differs),
//! `api` asks the server, `events` hears what others change, `pull`, `publish` and `rate` are
//! the worker's side, `relay` and `cancel` the operator's.

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
    ConsumerConfig, ConsumerInfo, Discard, LONGEST_CLOSING, Pause, Position, Retention, SharedStream, Storage,
    StreamConfig, StreamInfo, StreamState, dead_letters, delays, rates,
};
pub use connection::{Broker, Link};
pub use drift::{Difference, differences, fingerprint, hash, overlay};
pub use error::{BrokerError, code};
pub use events::{BrokerEvent, Termination, events, terminations};
pub use message::StoredMessage;
pub use publish::Receipt;
pub use pull::{Acker, Arrival, Delivery, PullEnd, PullInbox};
pub use puller::{PullOptions, Pulled, Puller};
pub use question::Question;
pub use relay::Publication;
pub use shared::SharedStreams;
