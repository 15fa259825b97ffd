//! `handler recorder` collects the reports of all handlers.
//!
//! `POST /events` takes one event as JSON. `GET /events` returns all events in the order of their arrival, one per line.

pub mod client;

use axum::{Router, extract::State, http::StatusCode, routing::get};
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Clone, Default)]
struct Events(Arc<Mutex<String>>);

/// Serves both routes.
pub fn app() -> Router {
    Router::new()
        .route("/events", get(all).post(add))
        .with_state(Events::default())
}

async fn all(State(events): State<Events>) -> String {
    events.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

async fn add(State(events): State<Events>, event: String) -> (StatusCode, String) {
    // Parsing and printing puts the event on one line, whatever its layout was.
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
