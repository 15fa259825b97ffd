//! Examples of everything that one program writes and another one reads. Those of this version are compared with what the
//! code writes. Those of every version are read: as they are, with fields that this version does not know, and without each
//! of their fields.

use crate::{compare, folder};
use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeMap,
    fmt::Debug,
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};
use taskgroup::{
    api::{TaskGroup, TaskHandler},
    protocol::{
        Kind, Origin, Queue, Stored, callback,
        cancel::{self, WorkerReply, WorkerState},
        dead_letter::{self, Death, Letter, Reason},
        headers::{self, schedule},
        history::{self, History},
        id::MSG_ID,
        rate::SharedRate,
        settings::WorkerSettings,
        subject,
    },
};

type Headers = Vec<(String, String)>;

/// Headers of the publisher, which are passed on unchanged.
const PUBLISHERS: [(&str, &str); 2] = [("Content-Type", "text/plain"), ("X-Mine", "1")];

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn queue() -> Queue {
    Queue::new("crawl", "acme")
}

fn origin() -> Origin {
    Stored {
        sequence: 7,
        at: 1_795_600_800_000_000_009,
    }
    .origin(&queue().stream())
}

fn past() -> History {
    History {
        attempts: 2,
        published: time("2026-11-25T10:00:00Z"),
        first_failure: Some(time("2026-11-25T10:00:01Z")),
        last_failure: Some(time("2026-11-25T10:00:04Z")),
        origin: Some(origin()),
    }
}

/// Every example by its file name, as this version writes it.
fn written() -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut add = |name: &str, text: String| {
        all.insert(name.to_owned(), text);
    };
    add("settings.json", pretty(&settings()));
    add(
        "cancel-question.json",
        pretty(&cancel::Question {
            id: "a.b".into(),
            up_to: 7,
        }),
    );
    for state in WorkerState::ALL {
        let name = format!("cancel-reply-{}.json", format!("{state:?}").to_lowercase());
        add(&name, pretty(&WorkerReply { state }));
    }
    let rate = SharedRate {
        next: 1_795_600_800_000_000_009,
        interval: 500_000_000,
        free: vec![1_795_600_799_000_000_009],
    };
    add("rate.json", pretty(&rate));
    add("taskgroup.json", pretty(&group()));
    add("taskhandler.json", pretty(&handler()));

    let due = queue().of_message(Kind::Due, "a.b", 7);
    let delay = queue().of_message(Kind::Delay, "a.b", 7);
    let continued = past().continued(PUBLISHERS.into_iter(), 3, &origin(), "acme");
    let scheduled = schedule(time("2026-11-25T10:00:09Z"), due, origin().transfer(3)).into();
    add(
        "delayed-task.headers",
        message(&delay, &[continued.clone(), scheduled].concat()),
    );
    let requeued = vec![(MSG_ID.to_owned(), origin().requeue())];
    add(
        "requeued-task.headers",
        message(&queue().requeue("a.b"), &[continued, requeued].concat()),
    );

    add(
        "dead-letter-of-worker.headers",
        message(&queue().dead("a.b"), &letter(Reason::MaxAttempts, true)),
    );
    add(
        "dead-letter-of-relay.headers",
        message(&queue().dead("a.b"), &letter(Reason::QueueGone, false)),
    );

    let report = callback::Report {
        call_id: "a.b",
        url: "https://hooks.example.com/done?task=a.b",
        group: "acme",
        status: 200,
        duration: Duration::from_micros(1_234_567),
        truncated: true,
    };
    add(
        "callback.headers",
        message(&queue().of_message(Kind::Callback, "a.b", 7), &report.headers()),
    );
    all
}

fn settings() -> WorkerSettings {
    WorkerSettings {
        max_inflight: 10,
        callback_allow: vec!["*.acme.svc".into(), "10.1.0.0/16".into()],
        ..WorkerSettings::of("acme", &group().spec)
    }
}

fn letter(reason: Reason, of_worker: bool) -> Headers {
    let history = past();
    let death = Death {
        reason,
        error: "status 500: it broke".into(),
        status: of_worker.then_some(500),
        attempts: 3,
        failed_now: of_worker,
    };
    let letter = Letter {
        origin: &origin(),
        msg_id: if of_worker {
            origin().transfer(3)
        } else {
            origin().relay_dead_letter()
        },
        group: "acme",
        history: &history,
        death: &death,
        now: time("2026-11-25T10:00:09Z"),
    };
    letter.headers(PUBLISHERS.into_iter(), 1 << 20)
}

fn group() -> TaskGroup {
    let condition = json!({
        "type": "Ready", "status": "True", "observedGeneration": 3, "lastTransitionTime": "2026-11-25T10:00:00Z",
        "reason": "Ready", "message": "2 workers are ready",
    });
    serde_json::from_value(json!({
        "apiVersion": "taskgroup.io/v1alpha1",
        "kind": "TaskGroup",
        "metadata": {"name": "acme", "namespace": "crawl"},
        "spec": {
            "queue": "acme", "concurrency": 20, "rateLimit": {"tasks": 5, "per": "2s", "burst": 3}, "suspend": true,
            "timeouts": {"task": "1m", "ackWait": "20s", "expire": "10m"},
            "retry": {
                "maxAttempts": 3, "initialDelay": "500ms", "maxDelay": "10s", "multiplier": 1.5, "maxRetryAfter": "1m",
            },
            "deadLetter": {"enabled": false},
            "env": [{"name": "A", "value": "b"}, {"name": "C", "valueFrom": {"secretKeyRef": {"name": "d", "key": "e"}}}],
            "handlerRef": {"name": "fetch"}, "workers": {"maxInflightPerPod": 10},
            "storage": {
                "type": "Memory", "replicas": 3, "maxTasks": 1000, "maxBytes": "1Gi", "maxTaskSize": "64Ki",
                "duplicateWindow": "1m",
            },
            "deletionPolicy": "Drain",
        },
        "status": {
            "observedGeneration": 3, "conditions": [condition], "queue": "acme", "stream": "tg_crawl_acme",
            "concurrency": 20, "rate": "5/2s", "replicas": 2, "workers": "2/2",
            "selector": "taskgroup.io/group=acme", "maxInflight": 10, "pending": 4, "inFlight": 3, "delayed": 2,
            "deadLettered": 1,
        },
    }))
    .unwrap()
}

fn handler() -> TaskHandler {
    serde_json::from_value(json!({
        "apiVersion": "taskgroup.io/v1alpha1",
        "kind": "TaskHandler",
        "metadata": {"name": "fetch", "namespace": "crawl"},
        "spec": {
            "http": {"port": 8081, "path": "/run", "http2": true},
            "template": {
                "metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "handler", "image": "example.com/fetch:1"}]},
            },
        },
    }))
    .unwrap()
}

fn pretty(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap() + "\n"
}

/// A message without its body: the subject, and a header in each line that follows.
fn message(subject: &str, headers: &[(String, String)]) -> String {
    let headers = headers.iter().map(|(name, value)| format!("{name}: {value}\n"));
    format!("{subject}\n{}", headers.collect::<Vec<_>>().concat())
}

/// Reads what [`message`] wrote.
fn read_message(text: &str) -> (String, Headers) {
    let mut lines = text.lines();
    let subject = lines.next().unwrap().to_owned();
    let headers = lines.map(|line| line.split_once(": ").unwrap());
    (
        subject,
        headers
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
    )
}

/// What differs between the examples of this version and what its code writes. Read or written once, as tests run at
/// the same time.
fn differences() -> &'static str {
    static DIFFERENCES: OnceLock<String> = OnceLock::new();
    DIFFERENCES.get_or_init(|| {
        let compared = written()
            .into_iter()
            .map(|(name, text)| compare(&of_this_version().join(name), &text));
        compared.filter_map(Result::err).collect::<Vec<_>>().join("\n")
    })
}

fn of_this_version() -> PathBuf {
    folder().join("examples").join(env!("CARGO_PKG_VERSION"))
}

#[test]
fn this_version_writes_its_examples() {
    assert!(differences().is_empty(), "{}", differences());
    assert_eq!(
        files_of(&of_this_version()).len(),
        written().len(),
        "no other files in {}",
        of_this_version().display()
    );
}

#[test]
fn the_examples_of_every_version_are_read() {
    differences();
    let mut versions: Vec<_> = fs::read_dir(folder().join("examples"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    versions.sort();
    for version in &versions {
        for file in files_of(version) {
            let text = fs::read_to_string(&file).unwrap();
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            println!("{}", file.display());
            match name.split_once('.').unwrap() {
                ("settings", _) => {
                    is_tolerant::<WorkerSettings>(&text);
                    let read = WorkerSettings::from_json(&text).unwrap();
                    assert_eq!(WorkerSettings::from_json(&read.to_json()).unwrap(), read);
                }
                ("cancel-question", _) => is_tolerant::<cancel::Question>(&text),
                (name, "json") if name.starts_with("cancel-reply-") => is_tolerant::<WorkerReply>(&text),
                ("rate", _) => is_tolerant::<SharedRate>(&text),
                ("taskgroup", _) => is_kept::<TaskGroup>(&text),
                ("taskhandler", _) => is_kept::<TaskHandler>(&text),
                ("delayed-task", _) => a_delayed_task_is_read(&text, Kind::Delay),
                ("requeued-task", _) => a_delayed_task_is_read(&text, Kind::Requeue),
                ("callback", _) => a_callback_is_read(&text),
                (name, "headers") if name.starts_with("dead-letter-of-") => a_dead_letter_is_read(&text),
                _ => panic!("no test reads {}", file.display()),
            }
        }
    }
}

fn files_of(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Everything that an example says is understood, also beside fields of a later version: written again, it is still there.
fn is_kept<T: Serialize + DeserializeOwned>(text: &str) {
    let example: Value = serde_json::from_str(text).unwrap();
    let mut extended = example.clone();
    extend(&mut extended);
    for value in [example.clone(), extended] {
        let read: T = serde_json::from_value(value).unwrap();
        let again = serde_json::to_value(&read).unwrap();
        assert!(contains(&again, &example), "lost of {example:#}: {again:#}");
    }
}

/// The same, and a field that is missing does no harm.
fn is_tolerant<T: Serialize + DeserializeOwned + Debug + PartialEq>(text: &str) {
    is_kept::<T>(text);
    let example: Value = serde_json::from_str(text).unwrap();
    let read: T = serde_json::from_value(example.clone()).unwrap();
    let mut extended = example.clone();
    extend(&mut extended);
    assert_eq!(
        serde_json::from_value::<T>(extended).unwrap(),
        read,
        "with unknown fields"
    );
    for without in all_without_one(&example) {
        let result = serde_json::from_value::<T>(without.clone());
        result.unwrap_or_else(|error| panic!("{error}: {without:#}"));
    }
    assert!(serde_json::from_str::<T>("{}").is_ok(), "without any field");
}

/// Whether everything in `part` is in `whole`.
fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => part
            .iter()
            .all(|(name, value)| whole.get(name).is_some_and(|found| contains(found, value))),
        (Value::Array(whole), Value::Array(part)) => {
            whole.len() == part.len() && whole.iter().zip(part).all(|(whole, part)| contains(whole, part))
        }
        _ => whole == part,
    }
}

/// Adds a field of a later version to every object.
fn extend(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(extend);
            fields.insert("ofALaterVersion".into(), json!({"some": ["thing"]}));
        }
        Value::Array(items) => items.iter_mut().for_each(extend),
        _ => {}
    }
}

/// The object without each of its fields in turn, and the same for the objects in it.
fn all_without_one(value: &Value) -> Vec<Value> {
    let Value::Object(fields) = value else {
        return Vec::new();
    };
    let mut all = Vec::new();
    for (name, inner) in fields {
        let with = |replacement: Option<Value>| {
            let mut fields: Map<_, _> = fields.clone();
            match replacement {
                Some(value) => fields.insert(name.clone(), value),
                None => fields.remove(name),
            };
            Value::Object(fields)
        };
        all.push(with(None));
        all.extend(all_without_one(inner).into_iter().map(|inner| with(Some(inner))));
    }
    all
}

fn a_delayed_task_is_read(text: &str, kind: Kind) {
    let (subject, headers) = read_message(text);
    let (read, of, id) = subject::parse(&subject).unwrap();
    assert_eq!((read, of, id), (kind, queue(), "a.b"));
    let read = |headers: &Headers| {
        let pairs: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        History::read(|name| headers::first(&pairs, name), 5)
    };
    let history = read(&headers);
    let past = past();
    assert_eq!((history.attempts, history.published), (3, past.published));
    assert_eq!(
        (history.first_failure, history.last_failure),
        (past.first_failure, past.last_failure)
    );
    assert_eq!(history.origin, Some(origin()));

    let mut extended = headers.clone();
    extended.push(("Taskgroup-Of-A-Later-Version".into(), "x".into()));
    assert_eq!(read(&extended), history);
    // The publisher's own headers are passed on, and those of a later version are not.
    let pairs = extended.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let passed_on: Vec<_> = pairs.filter(|(name, _)| !headers::is_ours(name)).collect();
    assert_eq!(passed_on, PUBLISHERS);
    for index in 0..headers.len() {
        let mut fewer = headers.clone();
        let (name, _) = fewer.remove(index);
        let changed = read(&fewer) != history;
        // The name of the group is read by the relay alone, for a dead letter.
        let matters = history::ALL.contains(&name.as_str()) && name != history::GROUP;
        assert_eq!(changed, matters, "without {name}");
    }
}

fn a_callback_is_read(text: &str) {
    let (subject, headers) = read_message(text);
    assert!(
        matches!(subject::parse(&subject), Some((Kind::Callback, _, "a.b"))),
        "{subject}"
    );
    let pairs: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    for name in callback::ALL {
        assert!(headers::first(&pairs, name).is_some(), "{name}");
    }
    assert!(
        headers.iter().all(|(name, _)| !headers::is_ours(name)),
        "all of them are sent"
    );
}

fn a_dead_letter_is_read(text: &str) {
    let (subject, headers) = read_message(text);
    assert_eq!(subject::parse(&subject), Some((Kind::Dead, queue(), "a.b")));
    let pairs: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let header = |name| headers::first(&pairs, name);
    let reason = header(dead_letter::REASON).unwrap();
    assert!(Reason::ALL.iter().any(|known| known.as_str() == reason), "{reason}");
    assert_eq!(header(dead_letter::GROUP), Some("acme"));
    assert_eq!(header(dead_letter::ORIGIN).unwrap().parse(), Ok(origin()));
    assert_eq!(header(dead_letter::ATTEMPTS).unwrap().parse(), Ok(3));
    assert!(header(dead_letter::STATUS).is_none_or(|status| status.parse::<i32>().is_ok()));
    assert!(header(dead_letter::ERROR).is_some());
    for name in [dead_letter::FIRST_FAILURE, dead_letter::LAST_FAILURE, dead_letter::AT] {
        assert!(header(name).unwrap().parse::<Timestamp>().is_ok(), "{name}");
    }
    for (name, value) in PUBLISHERS {
        assert_eq!(header(name), Some(value));
    }
}

#[test]
fn replies_of_later_versions_are_read_as_something_that_loses_nothing() {
    let reply: WorkerReply = serde_json::from_str(r#"{"state":"of-a-later-version"}"#).unwrap();
    assert_eq!(reply.state, WorkerState::None);
    assert_eq!(callback::Reply::read(b"of-a-later-version"), callback::Reply::Retry);
    for reply in callback::Reply::ALL {
        assert_eq!(callback::Reply::read(reply.as_str().as_bytes()), reply);
    }
}
