//! What is measured inside a handler of this process: how many tasks it got, and how much of the time
//! it had something to do.

use crate::floor::Work;
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// What a handler did up to a moment.
#[derive(Clone, Copy)]
pub struct Reading {
    pub at: Instant,
    /// Tasks that ended.
    pub tasks: u64,
    /// Time that slots were busy, in seconds, all slots together.
    pub busy: f64,
    /// Most tasks that ever ran at once.
    pub peak: u32,
}

/// Counts what a handler does.
#[derive(Clone)]
pub struct Meter(Arc<Mutex<State>>);

struct State {
    running: u32,
    last: Reading,
}

impl State {
    fn up_to_now(&mut self) -> &mut Self {
        let now = Instant::now();
        self.last.busy += f64::from(self.running) * (now - self.last.at).as_secs_f64();
        self.last.at = now;
        self
    }
}

impl Meter {
    pub fn new() -> Self {
        let last = Reading {
            at: Instant::now(),
            tasks: 0,
            busy: 0.0,
            peak: 0,
        };
        Self(Arc::new(Mutex::new(State { running: 0, last })))
    }

    /// Work of this length, counted; none at all where it is zero.
    pub fn work(&self, length: Duration) -> Work {
        let meter = self.clone();
        Arc::new(move |_| {
            let meter = meter.clone();
            Box::pin(async move {
                meter.begin();
                if !length.is_zero() {
                    tokio::time::sleep(length).await;
                }
                meter.end();
            })
        })
    }

    fn begin(&self) {
        let mut state = self.0.lock().unwrap();
        let state = state.up_to_now();
        state.running += 1;
        state.last.peak = state.last.peak.max(state.running);
    }

    fn end(&self) {
        let mut state = self.0.lock().unwrap();
        let state = state.up_to_now();
        state.running -= 1;
        state.last.tasks += 1;
    }

    pub fn read(&self) -> Reading {
        self.0.lock().unwrap().up_to_now().last
    }
}
