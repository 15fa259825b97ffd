//! The demand for tasks: how many may be pulled, which is never more than there are free slots. Pure.

/// The demand of one group in this process.
#[derive(Debug, Default)]
pub struct Demand {
    capacity: u32,
    running: u32,
}

impl Demand {
    /// Sets the most tasks at once. When more are running, nothing is pulled until enough of them are finished.
    pub fn set_capacity(&mut self, capacity: u32) {
        self.capacity = capacity;
    }

    /// Tasks that run.
    pub fn running(&self) -> u32 {
        self.running
    }

    /// A task came and takes a slot.
    pub fn started(&mut self) {
        self.running += 1;
    }

    /// So many tasks ended and gave their slots back.
    pub fn finished(&mut self, tasks: u32) {
        self.running = self.running.saturating_sub(tasks);
    }

    /// How many more tasks to pull, where `outstanding` were asked for already, and only `room` may come at present.
    pub fn batch(&self, outstanding: u32, room: u32) -> u32 {
        let free = self.capacity.saturating_sub(self.running + outstanding);
        free.min(room.saturating_sub(outstanding))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_pulls_as_many_tasks_as_there_are_free_slots_and_no_more() {
        for (case, capacity, running, outstanding, room, batch) in [
            ("nothing before the limit is known", 0, 0, 0, u32::MAX, 0),
            ("all at first", 4, 0, 0, u32::MAX, 4),
            ("nothing that is asked for already", 4, 0, 4, u32::MAX, 0),
            ("the slots that were freed", 4, 3, 0, u32::MAX, 1),
            ("the slots that are not expected to be taken", 8, 4, 1, u32::MAX, 3),
            ("nothing after the limit fell below what runs", 2, 4, 0, u32::MAX, 0),
            ("more after it rose", 5, 0, 2, u32::MAX, 3),
            ("as there is room for", 100, 0, 0, 5, 5),
            ("the room, with what is asked for already", 100, 3, 2, 4, 2),
            ("nothing without room", 100, 5, 2, 2, 0),
        ] {
            let mut demand = Demand::default();
            demand.set_capacity(capacity);
            (0..running).for_each(|_| demand.started());
            assert_eq!(demand.batch(outstanding, room), batch, "{case}");
        }
    }

    #[test]
    fn tasks_that_end_free_their_slots() {
        let mut demand = Demand::default();
        demand.set_capacity(2);
        demand.started();
        demand.started();
        demand.finished(1);
        assert_eq!((demand.running(), demand.batch(0, u32::MAX)), (1, 1));
    }
}
