//! Faults at random, one after another, of which several may go on at once.

use crate::{bed::Bed, plan::ACK_WAIT};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep},
};

#[derive(Clone, Copy, Debug)]
enum Fault {
    Kill,
    Terminate,
    Freeze(Duration),
    Cut(Duration),
    Stall(Duration),
    RestartNats { kill: bool, away: Duration },
    RestartOperator { kill: bool },
    Limits,
}

impl Fault {
    fn any(random: &mut impl Rng) -> Self {
        let mut ms = |range: std::ops::Range<u64>| Duration::from_millis(random.random_range(range));
        // Half of them are over before the lease is.
        let short_or_long = [ms(100..1500), ACK_WAIT + ms(500..3000)];
        let away = ms(0..1500);
        let time = short_or_long[random.random_range(0..2)];
        match random.random_range(0..100) {
            0..35 => Self::Limits,
            35..50 => Self::Kill,
            50..62 => Self::Terminate,
            62..74 => Self::Freeze(time),
            74..84 => Self::Cut(time),
            84..90 => Self::Stall(time),
            90..93 => Self::RestartNats { kill: false, away },
            93..95 => Self::RestartNats { kill: true, away },
            95..98 => Self::RestartOperator { kill: false },
            _ => Self::RestartOperator { kill: true },
        }
    }
}

/// Injects a fault about every so often, and kills the workers that a task wants killed, until `end`.
/// Returns when all are over.
pub async fn inject(bed: Arc<Bed>, every: Duration, end: Instant, seed: u64, mut kill: mpsc::UnboundedReceiver<u32>) {
    let mut random = StdRng::seed_from_u64(seed ^ 0x0066_6c74);
    let mut faults = JoinSet::new();
    loop {
        let pause = every.mul_f64(random.random_range(0.0..2.0));
        tokio::select! {
            Some(worker) = kill.recv() => {
                faults.spawn(kill_number(bed.clone(), worker));
            }
            () = sleep(pause) => {
                if Instant::now() > end {
                    break;
                }
                let fault = Fault::any(&mut random);
                let (worker, group) = (
                    random.random_range(0..bed.workers.len()),
                    random.random_range(0..bed.groups.len()),
                );
                let limits = bed.groups[group].other_limits(&mut random);
                let back = Duration::from_millis(random.random_range(0..3000));
                let bed = bed.clone();
                faults.spawn(async move {
                    match fault {
                        Fault::Limits => bed.change(group, limits).await,
                        Fault::RestartNats { kill, away } => bed.restart_nats(kill, away).await,
                        Fault::RestartOperator { kill } => {
                            bed.record.count(if kill { "operator killed" } else { "operator restarted" });
                            bed.restart_operator(kill).await;
                        }
                        fault => to_worker(&bed, worker, fault, back).await,
                    }
                });
            }
        }
    }
    faults.join_all().await;
    // Tasks may still want to kill.
    tokio::spawn(async move {
        while let Some(worker) = kill.recv().await {
            kill_number(bed.clone(), worker).await;
        }
    });
}

async fn to_worker(bed: &Bed, worker: usize, fault: Fault, back: Duration) {
    let mut worker = bed.workers[worker].lock().await;
    match fault {
        Fault::Kill => {
            worker.kill();
            sleep(back).await;
            worker.run();
        }
        Fault::Terminate => {
            bed.record.count("worker terminated");
            worker.terminate().await;
            worker.run();
        }
        Fault::Freeze(time) => worker.freeze(time).await,
        Fault::Cut(time) => worker.cut(time).await,
        Fault::Stall(time) => worker.stall(time).await,
        Fault::RestartNats { .. } | Fault::RestartOperator { .. } | Fault::Limits => {}
    }
}

/// Kills the worker with this number, if it is still there.
async fn kill_number(bed: Arc<Bed>, number: u32) {
    for worker in &bed.workers {
        let mut worker = worker.lock().await;
        if worker.number == number {
            worker.kill();
            worker.run();
            return;
        }
    }
}
