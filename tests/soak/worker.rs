//! A worker in the place of a pod: a process that is started again whenever it ended, behind a proxy.

use crate::{
    checker::Event,
    handler::Handler,
    record::Record,
    support::{proxy::Proxy, worker},
};
use std::{
    fs::File,
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{Child, Command, ExitStatus},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

/// How long one may take to end after SIGTERM: longer than a task, with what follows it.
const LAST_TASKS: Duration = Duration::from_secs(30);

pub struct Worker {
    pub queue: String,
    namespace: String,
    handler: Arc<Handler>,
    record: Arc<Record>,
    logs: PathBuf,
    pub proxy: Proxy,
    /// Number of the present process; a new one has a new number.
    pub number: u32,
    process: Option<Child>,
}

impl Worker {
    pub async fn start(
        nats_url: &str,
        namespace: &str,
        queue: &str,
        handler: Arc<Handler>,
        record: Arc<Record>,
        logs: PathBuf,
    ) -> Self {
        let mut worker = Self {
            queue: queue.into(),
            namespace: namespace.into(),
            handler,
            record,
            logs,
            proxy: Proxy::start(nats_url).await,
            number: 0,
            process: None,
        };
        worker.run();
        worker
    }

    /// Starts a new process.
    pub fn run(&mut self) {
        static LAST: AtomicU32 = AtomicU32::new(0);
        self.number = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        let log = File::create(self.logs.join(format!("{}-worker-{}.log", self.queue, self.number))).unwrap();
        let handler = self.handler.url(self.number);
        let args = ["--handler-url", handler.as_str()];
        let process = worker::command(&args, &self.proxy.url(), &self.namespace, &self.queue)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect(worker::NEEDS);
        self.process = Some(process);
    }

    fn signal(&self, name: &str) {
        if let Some(process) = &self.process {
            let sent = Command::new("kill")
                .args(["-s", name, &process.id().to_string()])
                .status();
            assert!(sent.expect("kill can be run").success(), "the worker is gone");
        }
    }

    /// Ends it with SIGKILL.
    pub fn kill(&mut self) {
        let from = self.record.now();
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
        self.fault("kill", from);
    }

    /// Ends it as Kubernetes does, after what it runs.
    pub async fn terminate(&mut self) {
        self.signal("TERM");
        let ended = tokio::time::timeout(LAST_TASKS, async {
            loop {
                match self.ended() {
                    Some(status) => break status,
                    None => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        });
        match ended.await {
            // By the signal itself: it had not come so far as to heed it, nor to anything else.
            Ok(status) if status.success() || status.signal() == Some(15) => {}
            Ok(status) => {
                let number = self.number;
                self.record
                    .problem(format!("worker {number} ended with {status} on SIGTERM"));
            }
            Err(_) => {
                let number = self.number;
                self.record.problem(format!("worker {number} did not end on SIGTERM"));
                self.kill();
            }
        }
        self.process = None;
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.as_mut()?.try_wait().unwrap()
    }

    /// Stops it where it is, for so long.
    pub async fn freeze(&mut self, time: Duration) {
        let (worker, from) = (self.number, self.record.now());
        self.signal("STOP");
        self.record.note(Event::Frozen { worker });
        tokio::time::sleep(time).await;
        self.record.note(Event::Thawed { worker });
        self.signal("CONT");
        self.fault("freeze", from);
    }

    /// Cuts it off from NATS, for so long.
    pub async fn cut(&mut self, time: Duration) {
        let from = self.record.now();
        self.proxy.cut();
        tokio::time::sleep(time).await;
        self.proxy.restore();
        self.fault("cut", from);
    }

    /// Lets nothing pass between it and NATS, for so long.
    pub async fn stall(&mut self, time: Duration) {
        let from = self.record.now();
        self.proxy.freeze();
        tokio::time::sleep(time).await;
        self.proxy.thaw();
        self.fault("stall", from);
    }

    fn fault(&self, kind: &'static str, from: Duration) {
        let worker = Some(self.number);
        self.record.note(Event::Fault { worker, kind, from });
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
