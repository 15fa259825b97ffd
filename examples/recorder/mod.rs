//! `handler recorder`: hears from all handlers when they begin and end an attempt, and tells it on.
//!
//! `POST /events` takes one event as JSON; `GET /events` gives all of them, a line each, in the order
//! they came in.

pub mod client;

use axum::{Router, extract::State, http::StatusCode, routing::get};
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Clone, Default)]
struct Events(Arc<Mutex<String>>);

/// The two pages.
pub fn app() -> Router {
    Router::new()
        .route("/events", get(all).post(add))
        .with_state(Events::default())
}

async fn all(State(events): State<Events>) -> String {
    events.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

async fn add(State(events): State<Events>, event: String) -> (StatusCode, String) {
    // Read and written anew: one line, whatever its layout was.
    match serde_json::from_str::<serde_json::Value>(&event) {
        Ok(event) => {
            let mut events = events.0.lock().unwrap_or_else(PoisonError::into_inner);
            events.push_str(&event.to_string());
            events.push('\n');
            (StatusCode::OK, "recorded\n".to_owned())
        }
        Err(error) => (StatusCode::BAD_REQUEST, format!("not JSON: {error}\n")),
    }
}
