//! The list of names, made of the code.

use crate::{compare, definitions, folder};
use clap::CommandFactory;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{JSONSchemaProps, JSONSchemaPropsOrArray};
use serde::Serialize;
use serde_json::Value;
use std::fmt::Write;
use taskgroup::{
    api::{self, RateLimit},
    cli::{Cli, WorkerCli},
    protocol::{
        Kind, Queue, Stored, callback, cancel, dead_letter, headers, history, id, keys,
        rate::SharedRate,
        settings::WorkerSettings,
        subject::{DEAD_KINDS, DEAD_STREAM, DELAY_KINDS, DELAY_STREAM, DUE_KINDS, RATE_STREAM, RELAY, Tail},
    },
};

const HEADER: &str = "\
# Every name that users, publishers and other versions of TaskGroup rely on. A test compares this list with the code.
# To write it anew: BLESS=1 cargo test --test contract
";

/// One section of the list.
type Section = (&'static str, Vec<String>);

fn sections() -> Vec<Section> {
    vec![
        ("Subjects", subjects()),
        ("Streams with their subjects, and consumers", streams()),
        ("Message ids (Nats-Msg-Id)", message_ids()),
        ("Headers", all_headers()),
        ("Words in headers and replies", words()),
        ("JSON between programs", json()),
        ("Names in Kubernetes, and keys of JetStream metadata", names()),
        ("Fields of custom resources", fields()),
        ("Conditions and their reasons", conditions()),
        ("Metrics", lines("metric", definitions::metrics())),
        ("Flags, with their environment variables", flags()),
    ]
}

fn lines<T: std::fmt::Display>(kind: &str, names: impl IntoIterator<Item = T>) -> Vec<String> {
    names.into_iter().map(|name| format!("{kind} {name}")).collect()
}

fn queue() -> Queue {
    Queue::new("<namespace>", "<queue>")
}

fn subjects() -> Vec<String> {
    let subject = |kind: Kind| match kind.tail() {
        Tail::Queue => queue().of(kind),
        Tail::Task => queue().of_task(kind, "<task-id>"),
        // The sequence number is the last token.
        Tail::Message => queue().of_message(kind, "<task-id>", 7).replace(".7", ".<sequence>"),
    };
    lines("subject", Kind::ALL.map(subject))
}

fn streams() -> Vec<String> {
    let mut all = vec![
        format!("stream {} {}", queue().stream(), queue().subjects().join(" ")),
        format!(
            "stream {} while it drains {}",
            queue().stream(),
            queue().draining_subjects().join(" ")
        ),
        format!("consumer {} {}", queue().stream(), queue().consumer()),
    ];
    let shared: [(&str, &[Kind]); 3] = [
        (DEAD_STREAM, &DEAD_KINDS),
        (DELAY_STREAM, &DELAY_KINDS),
        (RATE_STREAM, &[Kind::Rate]),
    ];
    for (stream, kinds) in shared {
        let subjects: Vec<_> = kinds.iter().map(|kind| kind.all()).collect();
        all.push(format!("stream {stream} {}", subjects.join(" ")));
    }
    let due: Vec<_> = DUE_KINDS.iter().map(|kind| kind.all()).collect();
    all.push(format!("consumer {DELAY_STREAM} {RELAY} {}", due.join(" ")));
    all
}

fn message_ids() -> Vec<String> {
    // Both programs that meet in an id find the message it names by these numbers.
    let origin = Stored { sequence: 7, at: 9 }.origin(&queue().stream());
    let ids = [
        ("origin", origin.to_string()),
        ("transfer", origin.transfer(3)),
        ("requeue", origin.requeue()),
        ("dead letter of the relay", origin.relay_dead_letter()),
        ("callback", origin.callback()),
    ];
    let named = |text: String| {
        text.replace(":7:9", ":<sequence>:<nanoseconds>")
            .replace(":3", ":<delivery>")
    };
    ids.into_iter()
        .map(|(what, text)| format!("id {what} {}", named(text)))
        .collect()
}

fn all_headers() -> Vec<String> {
    let of = |whose: &str, names: &[&str]| lines(&format!("header {whose}"), names.iter().copied());
    let mut all = of("of every message that is stored once", &[id::MSG_ID]);
    all.extend(of("of a request", &headers::ALL));
    all.extend(lines("variable of a process", headers::ALL.map(headers::variable)));
    all.push(format!("variable of a process {}<NAME>", headers::PUBLISHERS_VARIABLE));
    all.extend(of("of a requeued task", &history::ALL));
    all.extend(of("of a callback", &callback::ALL));
    all.extend(of("of a dead letter", &dead_letter::ALL));
    let schedule = headers::schedule(jiff::Timestamp::UNIX_EPOCH, String::new(), String::new());
    let names: Vec<_> = schedule.iter().map(|(name, _)| name.as_str()).collect();
    all.extend(of("of a scheduled message", &names));
    all
}

fn words() -> Vec<String> {
    let mut all = lines("reason of a dead letter", dead_letter::Reason::ALL);
    all.extend(lines(
        "answer to cancel",
        cancel::Cancelled::ALL.map(cancel::Cancelled::as_str),
    ));
    all.push(format!("answer to cancel {}", cancel::failed("<what>")));
    let state = |state| serde_json::to_value(state).unwrap().as_str().unwrap().to_owned();
    all.extend(lines("state of a cancelled task", cancel::WorkerState::ALL.map(state)));
    all.push(format!("reason of a removed task {}", cancel::TERM_REASON));
    all.extend(lines(
        "reply to callback",
        callback::Reply::ALL.map(callback::Reply::as_str),
    ));
    all
}

fn json() -> Vec<String> {
    // With every field that may be left out.
    let settings = WorkerSettings {
        rate_limit: Some(RateLimit {
            tasks: 1,
            per: "1s".into(),
            burst: 1,
        }),
        callback_allow: vec!["*.acme.svc".into()],
        ..WorkerSettings::default()
    };
    let rate = SharedRate {
        free: vec![1],
        ..SharedRate::default()
    };
    let mut all = Vec::new();
    add_json("settings", &settings, &mut all);
    add_json("cancel-question", &cancel::Question::default(), &mut all);
    add_json("cancel-reply", &cancel::WorkerReply::default(), &mut all);
    add_json("rate", &rate, &mut all);
    all
}

fn add_json(name: &str, value: &impl Serialize, all: &mut Vec<String>) {
    add_value(name, &serde_json::to_value(value).unwrap(), all);
}

fn add_value(path: &str, value: &Value, all: &mut Vec<String>) {
    let type_ = match value {
        Value::Object(fields) => {
            fields
                .iter()
                .for_each(|(name, value)| add_value(&format!("{path}.{name}"), value, all));
            return;
        }
        Value::Array(items) => return add_value(&format!("{path}[]"), &items[0], all),
        Value::Null => panic!("{path} is not set, so it has no type"),
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
    };
    all.push(format!("json {path} {type_}"));
}

fn names() -> Vec<String> {
    let mut all = lines("key", keys::ALL);
    all.push(format!("deployment {}", keys::deployment("<taskgroup>")));
    all
}

fn fields() -> Vec<String> {
    let mut all = Vec::new();
    for (_, crd) in api::crds() {
        for version in &crd.spec.versions {
            let schema = version.schema.as_ref().unwrap().open_api_v3_schema.as_ref().unwrap();
            let kind = format!("{}/{}", crd.spec.names.kind, version.name);
            add_fields(&kind, "", schema, &mut all);
        }
    }
    all
}

fn add_fields(kind: &str, path: &str, schema: &JSONSchemaProps, all: &mut Vec<String>) {
    for (name, field) in schema.properties.iter().flatten() {
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        let mut line = format!("field {kind} {path} {}", field.type_.as_deref().unwrap_or("any"));
        for value in field.enum_.iter().flatten() {
            let _ = write!(line, " {}", value.0.as_str().unwrap_or_default());
        }
        all.push(line);
        add_fields(kind, &path, field, all);
        if let Some(JSONSchemaPropsOrArray::Schema(items)) = &field.items {
            add_fields(kind, &format!("{path}[]"), items, all);
        }
    }
}

fn conditions() -> Vec<String> {
    let mut all = lines("condition", definitions::variants("api", "ConditionType"));
    all.extend(lines("reason", definitions::reasons()));
    all
}

fn flags() -> Vec<String> {
    let mut all = Vec::new();
    for program in [Cli::command(), WorkerCli::command()] {
        add_flags(program.get_name().to_owned().as_str(), &program, &mut all);
    }
    all
}

fn add_flags(path: &str, command: &clap::Command, all: &mut Vec<String>) {
    for argument in command.get_arguments().filter(|argument| argument.get_id() != "help") {
        let mut line = format!("flag {path}");
        match argument.get_long() {
            Some(long) => {
                let _ = write!(line, " --{long}");
            }
            None => {
                let _ = write!(line, " [{}]", argument.get_id());
            }
        }
        if let Some(variable) = argument.get_env() {
            let _ = write!(line, " {}", variable.to_string_lossy());
        }
        all.push(line);
    }
    for inner in command
        .get_subcommands()
        .filter(|command| !command.is_hide_set() && command.get_name() != "help")
    {
        let path = format!("{path} {}", inner.get_name());
        all.push(format!("command {path}"));
        add_flags(&path, inner, all);
    }
}

#[test]
fn the_code_keeps_to_the_list_of_names() {
    let mut text = HEADER.to_owned();
    for (title, lines) in sections() {
        assert!(!lines.is_empty(), "{title}");
        let _ = write!(text, "\n# {title}\n{}\n", lines.join("\n"));
    }
    if let Err(difference) = compare(&folder().join("wire.txt"), &text) {
        panic!("{difference}");
    }
}
