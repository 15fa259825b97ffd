//! Tasks as processes: what they are told, how they end, and that nothing of them outlives its time.

use crate::{
    bed::{Bed, Group, until},
    process::Worker,
};
use serde_json::json;
use std::{
    fs,
    path::{Path, PathBuf},
};
use taskgroup::protocol::subject::DEAD_STREAM;

/// A directory for what the tasks leave for the test to see, and a worker that runs `sh -c SCRIPT` with it
/// as `$1`.
struct Shell {
    bed: Bed,
    dir: tempfile::TempDir,
}

impl Shell {
    async fn with(group: &Group) -> Self {
        Self {
            bed: Bed::with_relay(group).await,
            dir: tempfile::tempdir().expect("a directory"),
        }
    }

    async fn worker(&self, script: &str) -> Worker {
        let worker = self
            .worker_with(&json!(["sh", "-c", script, "sh", self.dir.path()]), &[])
            .await;
        worker.ready().await;
        worker
    }

    async fn worker_with(&self, command: &serde_json::Value, env: &[(&str, &str)]) -> Worker {
        let args = ["--handler-exec", &command.to_string()];
        Worker::start_with(&self.bed.nats.url(), &self.bed.queue, &args, env).await
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap_or_default()
    }

    /// Waits until a task has written a number there, and returns it.
    async fn number(&self, name: &str) -> u32 {
        until(&format!("{name} holds a number"), async || {
            self.text(name).ends_with('\n')
        })
        .await;
        self.text(name).trim().parse().expect("a number")
    }
}

/// Whether a process runs (and has not merely ended without being asked how).
fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// A script that leaves its number, its child's, and that of a daemon in a session of its own, and stays.
const FAMILY: &str = r"
echo $$ > $1/parent
sleep 1000 & echo $! > $1/child
setsid sh -c 'echo $$ > '$1'/daemon; exec sleep 1000' &
wait
";

/// Waits for the three of [`FAMILY`].
async fn family(shell: &Shell) -> [u32; 3] {
    [
        shell.number("parent").await,
        shell.number("child").await,
        shell.number("daemon").await,
    ]
}

#[tokio::test]
async fn a_task_comes_on_standard_input_and_is_described_by_the_environment() {
    let shell = Shell::with(&Group::default()).await;
    let script = "cat > $1/payload; env > $1/env; pwd > $1/cwd";
    let _worker = shell.worker(script).await;
    let headers = [
        ("Content-Type", "text/plain"),
        ("PATH", "/evil"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("tracestate", "a=1"),
        ("Nats-Msg-Id", "once"),
    ];
    shell.bed.publish_with("orders.42", &headers, "one\ntwo").await;
    shell.bed.empty_queue().await;

    assert_eq!(shell.text("payload"), "one\ntwo");
    let env = shell.text("env");
    let variable = |name: &str| {
        let line = env.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.map(ToOwned::to_owned)
    };
    for (name, value) in [
        ("X_CALL_ID", "orders.42"),
        ("X_TASK_GROUP", "acme"),
        ("X_ATTEMPT", "1"),
        ("X_MAX_ATTEMPTS", "5"),
        ("TRACESTATE", "a=1"),
        ("HEADER_CONTENT_TYPE", "text/plain"),
        ("HEADER_PATH", "/evil"),
        ("PATH", &std::env::var("PATH").expect("a PATH")),
    ] {
        assert_eq!(variable(name).as_deref(), Some(value), "{name}");
    }
    let trace = variable("TRACEPARENT").expect("a trace");
    assert!(
        trace.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && trace.ends_with("-01"),
        "{trace}"
    );
    assert!(!trace.contains("b7ad6b7169203331"), "a step of its own: {trace}");
    assert_eq!(variable("HEADER_NATS_MSG_ID"), None);
    let deadline: jiff::Timestamp = variable("X_DEADLINE").expect("a time").parse().expect("RFC 3339");
    assert!(deadline > jiff::Timestamp::now());
}

#[tokio::test]
async fn a_large_task_reaches_a_program_that_writes_as_much_meanwhile() {
    let shell = Shell::with(&Group::default()).await;
    // Both outputs are far larger than a pipe, and written before the first byte of the task is read.
    let script = "head -c 1000000 /dev/zero; head -c 1000000 /dev/zero | tr '\\0' x >&2; wc -c > $1/size";
    let worker = shell.worker(script).await;
    let payload = "x".repeat(1_000_000);
    shell.bed.publish("large", &payload).await;
    // One that does not look at its task at all is done, too.
    shell.bed.empty_queue().await;
    assert_eq!(shell.text("size").trim(), "1000000");
    assert_eq!(
        worker.metric(r#"taskgroup_worker_tasks_total{outcome="done"}"#).await,
        1.0
    );
}

#[tokio::test]
async fn the_exit_code_says_how_a_task_ended() {
    let shell = Shell::with(&Group::default().max_attempts(2)).await;
    let worker = shell.worker(r#"echo "$X_CALL_ID" >> $1/runs; eval "$(cat)""#).await;
    for (id, script) in [
        ("done", "exit 0"),
        ("bad-data", "echo no good >&2; exit 65"),
        ("fails", "echo first >&2; echo last words >&2; exit 3"),
        ("crashes", "kill -SEGV $$"),
        ("second-time", "test $X_ATTEMPT = 2"),
    ] {
        shell.bed.publish(id, script).await;
    }
    let mut dead = shell.bed.dead_letters(3).await;
    shell.bed.empty_queue().await;
    dead.sort_by(|a, b| a.subject.cmp(&b.subject));
    let found: Vec<_> = dead
        .iter()
        .map(|dead| {
            let header = |name: &str| dead.headers[name].as_str();
            let id = dead.subject.trim_start_matches("dead.crawl.acme.");
            (
                id,
                header("x-dead-reason"),
                header("x-dead-attempts"),
                header("x-dead-error"),
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            ("bad-data", "Permanent", "1", "exit code 65: no good"),
            ("crashes", "MaxAttempts", "2", "exit code 139"),
            ("fails", "MaxAttempts", "2", "exit code 3: first last words"),
        ]
    );
    let runs = shell.text("runs");
    let times = |id: &str| runs.lines().filter(|line| *line == id).count();
    assert_eq!(["done", "bad-data", "fails", "second-time"].map(times), [1, 1, 2, 2]);
    assert_eq!(
        worker.metric(r#"taskgroup_worker_tasks_total{outcome="done"}"#).await,
        2.0
    );
}

#[tokio::test]
async fn standard_error_is_logged_by_lines_with_the_call_and_standard_output_is_not() {
    let shell = Shell::with(&Group::default()).await;
    let worker = shell
        .worker("printf 'one\\ntw'; printf 'one\\ntw' >&2; printf 'o' >&2")
        .await;
    shell.bed.publish("talks", "").await;
    shell.bed.empty_queue().await;
    let lines: Vec<_> = worker
        .log_entries()
        .into_iter()
        .filter(|entry| entry["target"] == "taskgroup::worker::handler::exec")
        .map(|entry| {
            let fields = ["message", "call_id", "group", "attempt"];
            fields.map(|field| entry[field].clone())
        })
        .collect();
    let line = |text: &str| [json!(text), json!("talks"), json!("acme"), json!(1)];
    assert_eq!(lines, [line("handler: one"), line("handler: two")]);
}

#[tokio::test]
async fn a_task_over_its_time_is_killed_with_all_that_it_started() {
    let mut group = Group::default().concurrency(1).max_attempts(1);
    group.settings.timeouts.task = "1500ms".into();
    let shell = Shell::with(&group).await;
    let _worker = shell.worker(&format!("trap '' TERM HUP INT; {FAMILY}")).await;
    shell.bed.publish("slow", "").await;
    let family = family(&shell).await;
    let dead = shell.bed.dead_letters(1).await;
    // Not a moment later: the slot is free only when nothing runs.
    assert_eq!(family.map(runs), [false; 3]);
    assert_eq!(dead[0].headers["x-dead-error"], "no answer within timeouts.task");
}

#[tokio::test]
async fn what_a_task_leaves_behind_is_killed_when_it_ends_and_holds_nothing_up() {
    let shell = Shell::with(&Group::default().concurrency(1)).await;
    // Both keep its standard output and standard error open.
    let script = "sleep 1000 & echo $! > $1/child; setsid sh -c 'echo $$ > '$1'/daemon; exec sleep 1000' & \
                  while ! test -s $1/daemon; do :; done";
    let _worker = shell.worker(script).await;
    shell.bed.publish("leaves", "").await;
    shell.bed.empty_queue().await;
    let left = [shell.number("child").await, shell.number("daemon").await];
    assert_eq!(left.map(runs), [false; 2]);
    assert_eq!(shell.bed.nats.messages(DEAD_STREAM).await, 0);
}

#[tokio::test]
async fn a_task_does_not_outlive_its_worker() {
    let shell = Shell::with(&Group::default().concurrency(1)).await;
    let mut worker = shell.worker(FAMILY).await;
    shell.bed.publish("orphan", "").await;
    let family = family(&shell).await;
    assert_eq!(family.map(runs), [true; 3]);
    worker.kill();
    until("all of it is dead", async || family.map(runs) == [false; 3]).await;
}

#[tokio::test]
async fn a_task_of_a_frozen_worker_ends_before_another_worker_gets_it() {
    let shell = Shell::with(&Group::default().concurrency(1).ack_wait(4)).await;
    let script = format!(
        "if test $X_ATTEMPT = 2; then kill -0 $(cat $1/child) && echo both > $1/overlap; echo $$ > $1/second; exit; fi
         {FAMILY}"
    );
    let frozen = shell.worker(&script).await;
    shell.bed.publish("a", "").await;
    let family = family(&shell).await;
    let _other = shell.worker(&script).await;
    frozen.freeze();
    shell.bed.empty_queue().await;
    shell.number("second").await;
    assert_eq!(family.map(runs), [false; 3]);
    assert_eq!(shell.text("overlap"), "", "two ran at once, and the limit is one");
    frozen.thaw();
}

#[tokio::test]
async fn a_task_whose_keeper_is_killed_dies_too() {
    let shell = Shell::with(&Group::default().concurrency(1).max_attempts(1)).await;
    let _worker = shell
        .worker("echo $PPID > $1/keeper; sleep 1000 & echo $! > $1/child; wait")
        .await;
    shell.bed.publish("a", "").await;
    let (keeper, child) = (shell.number("keeper").await, shell.number("child").await);
    let killed = std::process::Command::new("kill")
        .args(["-KILL", &keeper.to_string()])
        .status();
    assert!(killed.expect("kill can be run").success());
    let dead = shell.bed.dead_letters(1).await;
    assert_eq!(dead[0].headers["x-dead-error"], "exit code 137");
    until("its child is dead", async || !runs(child)).await;
}

#[tokio::test]
async fn an_aborted_task_is_killed() {
    let shell = Shell::with(&Group::default().concurrency(1).ack_wait(3)).await;
    let worker = shell.worker(FAMILY).await;
    shell.bed.publish("cut", "").await;
    let family = family(&shell).await;
    shell.bed.nats.stop();
    until("all of it is dead", async || family.map(runs) == [false; 3]).await;
    until("the lease was lost", async || {
        worker.metric("taskgroup_worker_leases_lost_total").await == 1.0
    })
    .await;
}

#[tokio::test]
async fn a_worker_that_is_asked_to_stop_lets_its_processes_finish() {
    let shell = Shell::with(&Group::default()).await;
    let mut worker = shell
        .worker("echo $$ > $1/parent; while ! test -e $1/go; do sleep 0.02; done; echo finished > $1/end")
        .await;
    shell.bed.publish("slow", "").await;
    shell.number("parent").await;
    worker.terminate();
    worker.not_ready("shutting down").await;
    fs::write(shell.file("go"), "").expect("the directory takes a file");
    assert!(worker.exit().await.success());
    assert_eq!(shell.text("end"), "finished\n");
    assert_eq!(shell.bed.nats.messages(shell.bed.stream().as_str()).await, 0);
}

#[tokio::test]
async fn a_program_that_is_missing_is_named_and_costs_no_attempt() {
    let shell = Shell::with(&Group::default()).await;
    let program = shell.file("run");
    shell.bed.publish_many(5).await;
    let worker = shell.worker_with(&json!([program, shell.dir.path()]), &[]).await;
    worker
        .not_ready(&format!(
            "the handler's program {p} can't be started ({p}: No such file or directory (os error 2)): look at \
             spec.exec.command of the TaskHandler",
            p = program.display()
        ))
        .await;
    install_script(&program, "#!/bin/sh\necho $X_ATTEMPT >> $1/attempts\n");
    worker.ready().await;
    shell.bed.empty_queue().await;
    assert_eq!(shell.text("attempts"), "1\n".repeat(5));
}

#[tokio::test]
async fn a_program_that_can_not_be_started_is_no_connection() {
    let shell = Shell::with(&Group::default().max_attempts(1)).await;
    let program = shell.file("run");
    install_script(&program, "#!/no/such/interpreter\n");
    let worker = shell.worker_with(&json!([program]), &[]).await;
    worker.ready().await;
    shell.bed.publish("a", "").await;
    let dead = shell.bed.dead_letters(1).await;
    assert_eq!(
        dead[0].headers["x-dead-error"],
        format!(
            "no connection to the handler: {}: No such file or directory (os error 2)",
            program.display()
        )
    );
    assert_eq!(
        worker
            .metric(r#"taskgroup_worker_attempts_total{result="no_connection"}"#)
            .await,
        1.0
    );
}

#[tokio::test]
async fn the_environment_is_the_programs_alone_where_the_operator_says_so() {
    let shell = Shell::with(&Group::default()).await;
    let env = [
        ("NATS_URL", "nats://the-programs-own:4222"),
        ("NATS_CREDS", "/no/such/file"),
        ("HANDLER_URL", "http://elsewhere/"),
        ("TASKGROUP_QUEUE", "other"),
    ];
    let command = json!(["sh", "-c", "env > $1/env", "sh", shell.dir.path()]).to_string();
    let args = ["--no-env", "--handler-exec", &command];
    let worker = Worker::start_with(&shell.bed.nats.url(), &shell.bed.queue, &args, &env).await;
    worker.ready().await;
    shell.bed.publish("a", "").await;
    shell.bed.empty_queue().await;
    for (name, value) in env {
        assert!(shell.text("env").contains(&format!("{name}={value}\n")), "{name}");
    }
}

fn install_script(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    // By another name first: a file that is still written to can't be run.
    let new = path.with_extension("new");
    fs::write(&new, text).expect("the directory takes a file");
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).expect("it is ours");
    fs::rename(&new, path).expect("it is ours");
}
