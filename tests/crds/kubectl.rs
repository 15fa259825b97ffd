//! What users of kubectl see.

use super::{
    server::object,
    support::{self, apiserver::ApiServer},
};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use taskgroup::api::TaskGroup;

/// What kubectl prints when it succeeds.
fn kubectl(server: &ApiServer, args: &[&str], input: &str) -> String {
    support::kubectl::kubectl(server, args, input).unwrap_or_else(|error| panic!("kubectl {args:?}: {error}"))
}

/// A namespace with the TaskGroup `acme` in it.
async fn with_acme(server: &ApiServer) -> String {
    let namespace = server.namespace().await;
    let acme = object("TaskGroup", "acme", &json!({"concurrency": 2})).to_string();
    kubectl(server, &["apply", "-n", &namespace, "-f", "-"], &acme);
    namespace
}

#[tokio::test]
async fn get_shows_the_columns_of_the_design() {
    let server = ApiServer::shared_with_crds().await;
    let namespace = with_acme(server).await;
    let columns = |args: &[&str]| {
        let table = kubectl(server, args, "");
        let header: Vec<String> = table
            .lines()
            .next()
            .unwrap()
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        header.join(" ")
    };
    let narrow = "NAME QUEUE CONCURRENCY INFLIGHT PENDING DEAD WORKERS READY AGE";
    assert_eq!(columns(&["get", "tg", "-n", &namespace]), narrow);
    assert_eq!(
        columns(&["get", "taskgroups", "-n", &namespace, "-o", "wide"]),
        format!("{narrow} RATE HANDLER STREAM REASON")
    );
}

#[tokio::test]
async fn get_shows_what_the_operator_found() {
    let server = ApiServer::shared_with_crds().await;
    let namespace = with_acme(server).await;
    let time = "2026-01-01T00:00:00Z";
    let status = json!({
        "queue": "acme", "concurrency": 2, "inFlight": 2, "pending": 7, "deadLettered": 1, "workers": "1/1",
        "stream": "tg_crawl_acme", "rate": "2/1s",
        "conditions": [{
            "type": "Ready", "status": "True", "reason": "AsDesired", "message": "", "lastTransitionTime": time,
        }],
    });
    let patch = Patch::Merge(json!({"status": status}));
    let api: Api<TaskGroup> = Api::namespaced(server.client(), &namespace);
    api.patch_status("acme", &PatchParams::default(), &patch).await.unwrap();

    let table = kubectl(
        server,
        &["get", "tg", "-n", &namespace, "-o", "wide", "--no-headers"],
        "",
    );
    let row: Vec<&str> = table.split_whitespace().collect();
    assert_eq!(row[..8], ["acme", "acme", "2", "2", "7", "1", "1/1", "True"], "{table}");
    assert_eq!(row[9..], ["2/1s", "default", "tg_crawl_acme", "AsDesired"], "{table}");
}

#[tokio::test]
async fn scale_sets_the_concurrency() {
    let server = ApiServer::shared_with_crds().await;
    let namespace = with_acme(server).await;
    kubectl(server, &["scale", "-n", &namespace, "tg/acme", "--replicas=8"], "");
    let concurrency = kubectl(
        server,
        &["get", "tg/acme", "-n", &namespace, "-o", "jsonpath={.spec.concurrency}"],
        "",
    );
    assert_eq!(concurrency, "8");
}

#[tokio::test]
async fn each_kind_has_names_of_its_own() {
    let server = ApiServer::shared_with_crds().await;
    let namespace = with_acme(server).await;
    let handler = object(
        "TaskHandler",
        "default",
        &json!({"upstream": {"url": "http://example.com/"}}),
    );
    kubectl(server, &["apply", "-n", &namespace, "-f", "-"], &handler.to_string());
    for (kind, object) in [
        ("tg", "taskgroup.taskgroup.io/acme"),
        ("taskgroup", "taskgroup.taskgroup.io/acme"),
        ("taskgroups", "taskgroup.taskgroup.io/acme"),
        ("th", "taskhandler.taskgroup.io/default"),
        ("taskhandler", "taskhandler.taskgroup.io/default"),
    ] {
        let found = kubectl(server, &["get", kind, "-n", &namespace, "-o", "name"], "");
        assert_eq!(found.trim(), object, "kubectl get {kind}");
    }
}

#[tokio::test]
async fn get_shows_how_a_handler_runs_its_tasks() {
    let server = ApiServer::shared_with_crds().await;
    let namespace = server.namespace().await;
    support::kubectl::knows_our_kinds(server).await;
    let template = json!({"spec": {"containers": [{"name": "handler", "image": "example"}]}});
    for (name, spec) in [
        ("by-http", json!({"http": {"port": 8080}, "template": template})),
        (
            "by-exec",
            json!({"exec": {"command": ["/app/run", "-x"]}, "template": template}),
        ),
        ("by-upstream", json!({"upstream": {"url": "http://example.com/"}})),
        ("native", json!({"native": {}, "template": template})),
    ] {
        let handler = object("TaskHandler", name, &spec);
        kubectl(server, &["apply", "-n", &namespace, "-f", "-"], &handler.to_string());
    }
    let table = kubectl(server, &["get", "th", "-n", &namespace], "");
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["NAME", "HTTP", "EXEC", "UPSTREAM", "AGE"], "{table}");
    let shown: Vec<_> = rows[1..].iter().map(|row| row[..row.len() - 1].join(" ")).collect();
    assert_eq!(
        shown,
        [
            "by-exec /app/run",
            "by-http 8080",
            "by-upstream http://example.com/",
            "native"
        ],
        "{table}"
    );
}

#[tokio::test]
async fn explain_tells_what_a_field_means_and_its_unit() {
    let server = ApiServer::shared_with_crds().await;
    support::kubectl::knows_our_kinds(server).await;
    for (field, says) in [
        ("taskgroup.spec.concurrency", "in flight at once"),
        ("tg.spec.timeouts.ackWait", "2s to 1h"),
        ("tg.spec.storage.maxBytes", "in bytes or as a quantity"),
        ("tg.spec.rateLimit.burst", "1 to 100000"),
        ("taskhandler.spec.http.port", "1 to 65535"),
        ("taskhandler.spec.exec.command", "No shell reads them"),
        ("taskhandler.spec.upstream.caFrom", "as PEM"),
    ] {
        let text = kubectl(server, &["explain", field], "");
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(says), "kubectl explain {field}:\n{text}");
    }
}
