//! The operator: the release binary, in a process and a namespace of its own.

use crate::{
    bed::{self, Bed, Namespace},
    servers::{process::Process, scratch::Scratch, tools::free_port},
    support::usage::{Usage, WITH_PID},
};
use futures::{StreamExt, stream};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    time::{Duration, Instant},
};

/// How long the operator may make no progress before the bench gives up.
const PATIENCE: Duration = Duration::from_secs(120);

/// Creates under way at once.
const WIDTH: usize = 32;

/// A running operator and the namespace that it watches.
pub struct Operator<'a> {
    bed: &'a Bed,
    pub namespace: Namespace,
    process: Process,
    /// Its log and process id. Dropped after the process.
    dir: Scratch,
}

impl<'a> Operator<'a> {
    /// Starts it, and returns when it is ready.
    pub async fn start(bed: &'a Bed) -> Self {
        let namespace = bed.namespace().await;
        let dir = Scratch::new();
        let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let args = [
            "-c".to_owned(),
            WITH_PID.into(),
            "sh".into(),
            dir.path().join("pid").display().to_string(),
            "env".into(),
            format!("KUBECONFIG={}", bed.api.kubeconfig().display()),
            env!("CARGO_BIN_EXE_taskgroup").into(),
            "operator".into(),
            format!("--nats-url={}", bed.nats.url()),
            format!("--watch-namespace={}", namespace.name),
            format!("--admin-addr={admin}"),
            "--instance=bench".into(),
            "--log=info".into(),
        ];
        let mut operator = Self {
            process: Process::start(Path::new("sh"), &args, &dir.path().join("log")),
            bed,
            namespace,
            dir,
        };
        let deadline = Instant::now() + PATIENCE;
        while !is_ready(admin) {
            let ended = operator.process.ended().is_some();
            assert!(
                !ended && Instant::now() < deadline,
                "the operator does not become ready: {}",
                operator.process.last_words()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        operator
    }

    /// Applies so many TaskGroups at once. Returns the seconds from the first until all are done.
    pub async fn apply(&self, groups: usize) -> f64 {
        let seen = self.namespace.watch(groups).await;
        let start = Instant::now();
        stream::iter(0..groups)
            .for_each_concurrent(WIDTH, |index| async move {
                self.namespace.make_group(index).await;
            })
            .await;
        let end = seen.all(|| self.process.last_words()).await;
        (end - start).as_secs_f64()
    }

    /// What it asked of both servers so far.
    pub fn requests(&self) -> Requests {
        let mut kubernetes = BTreeMap::new();
        for request in self.bed.api.requests_of(taskgroup::operator::USER_AGENT) {
            let mut what = format!("{} {}", request.verb, request.resource);
            if !request.subresource.is_empty() {
                what = format!("{what}/{}", request.subresource);
            }
            *kubernetes.entry(what).or_insert(0) += 1;
        }
        Requests {
            kubernetes,
            jetstream: self.jetstream_requests(),
        }
    }

    /// Of everybody; but the bench asks nothing between the two looks whose difference counts.
    fn jetstream_requests(&self) -> u64 {
        let answer = self.bed.nats.monitor("/jsz").unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let statistics: Value = serde_json::from_str(body).unwrap();
        statistics["api"]["total"].as_u64().unwrap()
    }

    /// Waits until it has looked at the backlog, which it does every 10 s: that counts, too.
    pub async fn until_backlog_was_swept(&self) {
        let (before, deadline) = (self.jetstream_requests(), Instant::now() + PATIENCE);
        while self.jetstream_requests() == before {
            assert!(Instant::now() < deadline, "the operator never looks at the backlog");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // What it finds may make it write.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    /// Memory and processor time of the operator's process.
    pub fn usage(&self) -> Usage {
        Usage::of(&self.dir.path().join("pid"))
    }

    /// Deletes all groups, and waits until they are gone with all their objects.
    pub async fn delete_all(self) -> Deletion {
        let groups = self.namespace.groups();
        let (start, usage) = (Instant::now(), self.usage());
        let cpu = usage.cpu();
        bed::delete_each(&groups).await;
        let (mut deadline, mut before) = (Instant::now() + PATIENCE, usize::MAX);
        loop {
            let left = bed::count(&groups).await;
            if left == 0 {
                break;
            }
            if left < before {
                (deadline, before) = (Instant::now() + PATIENCE, left);
            }
            assert!(
                Instant::now() < deadline,
                "{left} groups stay: {}",
                self.process.last_words()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let deletion = Deletion {
            seconds: start.elapsed().as_secs_f64(),
            cpu: usage.cpu() - cpu,
        };
        self.namespace.verify(0, &self.bed.broker).await;
        deletion
    }
}

/// How long it took to delete all groups.
pub struct Deletion {
    pub seconds: f64,
    /// Processor time of the operator, in seconds.
    pub cpu: f64,
}

/// Requests of the operator.
pub struct Requests {
    kubernetes: BTreeMap<String, u64>,
    pub jetstream: u64,
}

impl Requests {
    /// Those since `before`.
    pub fn since(mut self, before: &Self) -> Self {
        for (what, count) in &mut self.kubernetes {
            *count -= before.kubernetes.get(what).unwrap_or(&0);
        }
        self.jetstream -= before.jetstream;
        self
    }

    /// All to Kubernetes but the lists and watches, which are a handful for all groups together.
    pub fn kubernetes(&self) -> u64 {
        let each = self.kubernetes.iter().filter(|(what, _)| !is_watch(what));
        each.map(|(_, count)| count).sum()
    }

    /// Status patches of TaskGroups.
    pub fn status_patches(&self) -> u64 {
        self.kubernetes.get("patch taskgroups/status").copied().unwrap_or(0)
    }

    pub fn print(&self) {
        for (what, count) in self.kubernetes.iter().filter(|(_, count)| **count > 0) {
            let note = if is_watch(what) { " (not counted)" } else { "" };
            println!("    Kubernetes: {count} {what}{note}");
        }
        println!("    JetStream: {} requests", self.jetstream);
    }
}

fn is_watch(what: &str) -> bool {
    what.starts_with("list ") || what.starts_with("watch ")
}

fn is_ready(admin: SocketAddr) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(admin)?;
        write!(stream, "GET /readyz HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    ask().is_ok_and(|text| text.contains(" 200 "))
}
