//! Notices when the machine stands still: with more to do than it can, it may give a process no time for
//! as long as a lease lasts. That is as good as a frozen worker, and no fault of ours; so it is written
//! down as a fault of all, and counted.

use crate::{checker::Event, record::Record};
use std::{
    sync::{Arc, Weak},
    thread,
    time::{Duration, Instant},
};

/// How often it is looked, and what is too late.
const LOOK: Duration = Duration::from_millis(20);
const LATE: Duration = Duration::from_millis(400);

/// Looks from a thread of its own, for as long as somebody has the record.
pub fn watch(record: &Arc<Record>) {
    let record: Weak<Record> = Arc::downgrade(record);
    thread::spawn(move || {
        let mut last = Instant::now();
        loop {
            thread::sleep(LOOK);
            let Some(record) = record.upgrade() else { return };
            let away = last.elapsed();
            last = Instant::now();
            if away > LATE {
                let from = record.now().saturating_sub(away);
                let (worker, kind) = (None, "standstill of the machine");
                record.note(Event::Fault { worker, kind, from });
            }
        }
    });
}
