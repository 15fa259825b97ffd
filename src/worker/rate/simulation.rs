//! Workers that share a rate, in simulated time, with slow networks, late timers, wrong clocks, and pods that come and go.
//! Afterwards the starts in every window of `per` are counted.

use super::pace::{Pace, Rate, When};
use crate::protocol::rate::SharedRate as Shared;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::{cmp::Reverse, collections::BinaryHeap};

const MS: u64 = 1_000_000;
const BEGIN: u64 = 1_790_000_000_000 * MS;

/// The world that the workers run in.
#[derive(Clone, Copy, Debug)]
struct World {
    pods: usize,
    /// The longest time that a message takes between worker and server.
    way: u64,
    /// The delay from reservation to start that reservations reckon with.
    delay: u64,
    /// The largest error of a pod's clock. Each pod knows that its clock may be wrong by so much.
    off: u64,
    /// The lateness of tasks, as a share of what is allowed.
    late: f64,
    /// Pods die and are replaced, and tasks are sometimes missing.
    unrest: bool,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A task comes to a pod.
    Task,
    /// The pod reserves.
    Reserve,
    /// The reservation arrives at the server.
    Write {
        expected: u64,
        slots: Vec<u64>,
        next: u64,
        free: Vec<u64>,
    },
    /// The server's answer arrives, with the slots if the reservation was accepted.
    Answer(Option<Vec<u64>>),
    /// The task with this slot wakes up.
    Wake(u64),
    /// The pod is killed, or ends in good order.
    End { killed: bool },
}

#[derive(Default)]
struct Pod {
    off: i64,
    knows: Option<Shared>,
    number: u64,
    wanting: u32,
    reserving: bool,
    slots: Vec<u64>,
    gone: bool,
}

struct Simulation {
    rng: StdRng,
    world: World,
    pace: Pace,
    /// The lateness that is allowed.
    allowed: u64,
    now: u64,
    events: BinaryHeap<Reverse<(u64, u64, usize, Event)>>,
    events_made: u64,
    pods: Vec<Pod>,
    number: u64,
    shared: Option<Shared>,
    starts: Vec<u64>,
    missed: usize,
    /// Timers are late at present. Machines have moods.
    held_up: bool,
}

impl Simulation {
    fn new(seed: u64, world: World, rate: Rate) -> Self {
        let mut simulation = Self {
            rng: StdRng::seed_from_u64(seed),
            world,
            pace: Pace::of(rate),
            allowed: allowed(&Pace::of(rate), world.off),
            now: BEGIN,
            events: BinaryHeap::new(),
            events_made: 0,
            pods: Vec::new(),
            number: 0,
            shared: None,
            starts: Vec::new(),
            missed: 0,
            held_up: false,
        };
        for _ in 0..world.pods {
            simulation.pod_comes();
        }
        simulation
    }

    fn run(mut self, starts: usize) -> Self {
        while self.starts.len() < starts {
            assert!(self.events_made < starts as u64 * 1000, "they get nowhere");
            let Reverse((at, _, pod, event)) = self.events.pop().expect("there is always a task");
            self.now = at;
            if !self.pods[pod].gone {
                self.happens(pod, event);
            }
        }
        self
    }

    fn after(&mut self, pause: u64, pod: usize, event: Event) {
        self.events_made += 1;
        self.events
            .push(Reverse((self.now + pause, self.events_made, pod, event)));
    }

    fn way(&mut self) -> u64 {
        self.rng.random_range(self.world.way / 5..=self.world.way)
    }

    fn clock(&self, pod: usize) -> u64 {
        self.now.saturating_add_signed(self.pods[pod].off)
    }

    fn pod_comes(&mut self) {
        let off = i64::try_from(self.world.off).expect("small");
        self.pods.push(Pod {
            off: self.rng.random_range(-off..=off),
            ..Pod::default()
        });
        let pod = self.pods.len() - 1;
        for _ in 0..self.pace.ahead {
            let way = self.way();
            self.after(way, pod, Event::Task);
        }
        if self.world.unrest {
            let life = self
                .rng
                .random_range(0..self.pace.interval * u64::from(self.pace.ahead) * 20);
            let killed = self.rng.random_bool(0.5);
            self.after(life, pod, Event::End { killed });
        }
    }

    fn happens(&mut self, pod: usize, event: Event) {
        match event {
            Event::Task => {
                self.pods[pod].wanting += 1;
                self.wake_reserver(pod);
            }
            Event::Reserve => {
                let wanting = self.pods[pod].wanting.clamp(1, self.pace.ahead);
                let at = self.clock(pod) + self.world.delay;
                let (slots, next) = self.pace.reserve(self.pods[pod].knows.as_ref(), at, wanting);
                let expected = self.pods[pod].number;
                let way = self.way();
                let (next, free) = (next.next, next.free);
                self.after(
                    way,
                    pod,
                    Event::Write {
                        expected,
                        slots,
                        next,
                        free,
                    },
                );
            }
            Event::Write {
                expected,
                slots,
                next,
                free,
            } => {
                let taken = expected == self.number;
                if taken {
                    self.number += 1;
                    let interval = self.pace.interval;
                    self.shared = Some(Shared { next, interval, free });
                }
                let way = if taken { self.way() } else { self.way() * 3 };
                self.after(way, pod, Event::Answer(taken.then_some(slots)));
            }
            Event::Answer(answer) => {
                let read = self.shared.clone();
                let number = self.number;
                let it = &mut self.pods[pod];
                // With a refusal it reads anew, and by then another may have come before again.
                it.knows = Shared::latest(it.knows.take(), read);
                it.number = number;
                it.reserving = false;
                for slot in answer.unwrap_or_default() {
                    let it = &mut self.pods[pod];
                    it.wanting = it.wanting.saturating_sub(1);
                    it.slots.push(slot);
                    self.happens(pod, Event::Wake(slot));
                }
                self.wake_reserver(pod);
            }
            Event::Wake(slot) => match self.pace.when(slot, self.clock(pod), self.world.off) {
                When::In(pause) => {
                    let late = self.late();
                    self.after(pause + late, pod, Event::Wake(slot));
                }
                When::Now => {
                    self.pods[pod].slots.retain(|other| *other != slot);
                    self.starts.push(self.now);
                    let unrest = self.world.unrest;
                    let idle = unrest && self.rng.random_bool(0.01);
                    let longest = self.pace.interval * 50;
                    let pause = if idle {
                        self.rng.random_range(0..longest)
                    } else {
                        self.way()
                    };
                    self.after(pause, pod, Event::Task);
                }
                When::Never => {
                    self.missed += 1;
                    self.pods[pod].slots.retain(|other| *other != slot);
                    self.pods[pod].wanting += 1;
                    self.wake_reserver(pod);
                }
            },
            Event::End { killed } => {
                if !killed {
                    let slots = std::mem::take(&mut self.pods[pod].slots);
                    let shared = self.pace.give_back(self.shared.as_ref(), self.clock(pod), &slots);
                    self.shared = Some(shared);
                    self.number += 1;
                }
                self.pods[pod].gone = true;
                self.pod_comes();
            }
        }
    }

    fn wake_reserver(&mut self, pod: usize) {
        let it = &mut self.pods[pod];
        if it.wanting > 0 && !it.reserving {
            it.reserving = true;
            let at = it.knows.as_ref().map_or(0, |shared| self.pace.reserve_at(shared));
            let pause = at.saturating_sub(self.clock(pod));
            self.after(pause, pod, Event::Reserve);
        }
    }

    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a random time"
    )]
    fn late(&mut self) -> u64 {
        self.held_up ^= self.rng.random_bool(0.02);
        let allowed = (self.allowed as f64 * self.world.late) as u64;
        if self.held_up {
            // Nearly too late, or a little beyond.
            self.rng.random_range(allowed * 95 / 100..=allowed * 101 / 100)
        } else {
            self.rng.random_range(0..=(allowed / 20).min(MS))
        }
    }
}

/// How late a task may wake up that slept until it could start for certain: found by asking.
fn allowed(pace: &Pace, error: u64) -> u64 {
    let (mut early, mut late) = (0, 1 << 60);
    while early + 1 < late {
        let middle = u64::midpoint(early, late);
        if pace.when(BEGIN, BEGIN + middle, error) == When::Never {
            late = middle;
        } else {
            early = middle;
        }
    }
    early - error
}

/// The most starts in any window of `per`, both ends included.
fn most(starts: &[u64], per: u64) -> u64 {
    let mut first = 0;
    let mut most = 0;
    for (last, at) in starts.iter().enumerate() {
        while at - starts[first] > per {
            first += 1;
        }
        most = most.max(last - first + 1);
    }
    most as u64
}

const RATES: [(u64, u64, u64); 10] = [
    (1, 1000, 1),
    (1, 60_000, 1),
    (1, 60_000, 4),
    (2, 1000, 1),
    (20, 1000, 1),
    (20, 1000, 10),
    (100, 60_000, 1),
    (300, 7000, 3),
    (1000, 1000, 1),
    (1000, 1000, 50),
];

fn rate((tasks, per_ms, burst): (u64, u64, u64)) -> Rate {
    Rate { tasks, per_ms, burst }
}

#[test]
fn no_window_holds_more_starts_than_tasks_and_burst() {
    let first: u64 = rand::random();
    let mut reached = 0;
    for run in 0..300 {
        let seed = first.wrapping_add(run);
        let mut rng = StdRng::seed_from_u64(seed);
        let limit = rate(RATES[rng.random_range(0..RATES.len())]);
        let world = World {
            pods: rng.random_range(1..6),
            way: rng.random_range(MS / 5..3 * MS),
            delay: rng.random_range(0..20 * MS),
            off: rng.random_range(0..=MS),
            late: 1.0,
            unrest: rng.random_bool(0.5),
        };
        let starts = usize::try_from(limit.tasks * 4 + 100).expect("small");
        let simulation = Simulation::new(seed, world, limit).run(starts);
        let most = most(&simulation.starts, limit.per_ms * MS);
        assert!(
            most <= limit.tasks + limit.burst,
            "seed {seed}: {most} starts of {limit:?} in a window, in {world:?}"
        );
        reached += usize::from(most == limit.tasks + limit.burst);
    }
    assert!(
        reached > 10,
        "seed {first}: the bound is reached, so that a little more would be seen: {reached}"
    );
}

#[test]
fn with_a_backlog_at_least_99_percent_of_the_rate_are_used() {
    let first: u64 = rand::random();
    for (run, limit) in RATES.iter().cycle().take(40).enumerate() {
        let seed = first.wrapping_add(run as u64);
        let limit = rate(*limit);
        let mut rng = StdRng::seed_from_u64(seed);
        let world = World {
            pods: rng.random_range(1..6),
            way: MS / 2,
            delay: MS,
            off: MS / 5,
            late: 0.5,
            unrest: false,
        };
        let starts = usize::try_from(limit.tasks * 4 + limit.burst + 400).expect("small");
        let simulation = Simulation::new(seed, world, limit).run(starts);
        // Without those that were saved up at first.
        let starts = &simulation.starts[usize::try_from(limit.burst).expect("small") - 1..];
        // And what is late at the end is late, not lost.
        let span = starts[starts.len() - 1] - starts[0] - simulation.allowed / 2;
        let ideal = u128::from(span) * u128::from(limit.tasks) / u128::from(limit.per_ms * MS);
        assert!(
            (starts.len() as u128 - 1) * 100 >= ideal * 99,
            "seed {seed}: {} starts of {ideal} at {limit:?} in {world:?}, {} missed",
            starts.len(),
            simulation.missed
        );
    }
}
