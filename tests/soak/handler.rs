//! The handler of all groups, in the test process: does what each task says, and writes down what it saw.

use crate::{
    checker::{Event, How, Task},
    plan::{Act, Group},
    record::Record,
};
use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, Response, StatusCode},
};
use bytes::Bytes;
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};

/// Id of a task, as it is published.
pub fn id(task: Task) -> String {
    format!("{}-{}", task.group, task.number)
}

/// The task of an id.
pub fn task(id: &str) -> Option<Task> {
    let (group, number) = id.split_once('-')?;
    Some(Task {
        group: group.parse().ok()?,
        number: number.parse().ok()?,
    })
}

struct Shared {
    record: Arc<Record>,
    groups: Vec<Group>,
    seed: u64,
    last_run: AtomicU64,
    runs: Mutex<HashMap<Task, u32>>,
    /// Workers that a task wants killed.
    kill: mpsc::UnboundedSender<u32>,
}

/// Serves until it is dropped.
pub struct Handler {
    addr: SocketAddr,
    server: JoinHandle<()>,
}

impl Handler {
    pub async fn start(record: Arc<Record>, groups: Vec<Group>, seed: u64, kill: mpsc::UnboundedSender<u32>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            record,
            groups,
            seed,
            last_run: AtomicU64::new(0),
            runs: Mutex::default(),
            kill,
        });
        let app = Router::new()
            .route("/{worker}", axum::routing::post(take))
            .with_state(shared);
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { addr, server }
    }

    /// Where this worker POSTs its tasks to: so it is known whose they are.
    pub fn url(&self, worker: u32) -> String {
        format!("http://{}/{worker}", self.addr)
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn take(
    State(shared): State<Arc<Shared>>,
    Path(worker): Path<u32>,
    headers: HeaderMap,
    _payload: Bytes,
) -> Response<Body> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
    let (Some(task), Ok(attempt)) = (task(header("X-Call-Id")), header("X-Attempt").parse()) else {
        shared
            .record
            .problem(format!("a request that is no task's: {headers:?}"));
        return answer(StatusCode::BAD_REQUEST);
    };
    let mut run = Run::begin(&shared, task, worker, attempt);
    let times = {
        let mut runs = shared.runs.lock().unwrap();
        let times = runs.entry(task).or_default();
        *times += 1;
        *times
    };
    match Act::of(shared.seed, &shared.groups[task.group], task) {
        Act::Ok(time) => {
            tokio::time::sleep(time).await;
            run.end(How::Ok);
            answer(StatusCode::OK)
        }
        Act::Fail(often) if times <= often => {
            run.end(How::Failed);
            answer(StatusCode::INTERNAL_SERVER_ERROR)
        }
        Act::Permanent => {
            run.end(How::Permanent);
            answer(StatusCode::UNPROCESSABLE_ENTITY)
        }
        Act::Hang if times == 1 => std::future::pending().await,
        Act::Close(time) if times == 1 => {
            // Whole seconds: as many as fit.
            let seconds = time.as_secs();
            run.end(How::Closed(std::time::Duration::from_secs(seconds)));
            let mut answer = answer(StatusCode::SERVICE_UNAVAILABLE);
            answer.headers_mut().insert("retry-after", seconds.into());
            answer
        }
        Act::Die if times == 1 => {
            run.end(How::Failed);
            let broken = futures::stream::iter([Err::<Bytes, _>(std::io::Error::other("died"))]);
            Response::new(Body::from_stream(broken))
        }
        Act::Kill if times == 1 => {
            let _ = shared.kill.send(worker);
            std::future::pending().await
        }
        Act::Fail(_) | Act::Hang | Act::Close(_) | Act::Die | Act::Kill => {
            run.end(How::Ok);
            answer(StatusCode::OK)
        }
    }
}

fn answer(status: StatusCode) -> Response<Body> {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = status;
    answer
}

/// Noted as cut off when it is dropped before its end: the worker closed the connection.
struct Run<'a> {
    record: &'a Record,
    id: u64,
    ended: bool,
}

impl<'a> Run<'a> {
    fn begin(shared: &'a Shared, task: Task, worker: u32, attempt: u32) -> Self {
        let id = shared.last_run.fetch_add(1, Ordering::Relaxed);
        let run = id;
        shared.record.note(Event::Started {
            run,
            task,
            worker,
            attempt,
        });
        Self {
            record: &shared.record,
            id,
            ended: false,
        }
    }

    fn end(&mut self, how: How) {
        self.ended = true;
        self.record.note(Event::Ended { run: self.id, how });
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.end(How::CutOff);
        }
    }
}
