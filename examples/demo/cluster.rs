//! The cluster as users see it. Every request goes through kubectl, and is shown as one would type it.

use super::pods::{Pods, Stuck, stuck};
use anyhow::{Context, bail};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// The time between two looks at a condition.
const POLL: Duration = Duration::from_millis(250);

/// The time between two looks at the pods that kubectl waits for.
const POD_POLL: Duration = Duration::from_secs(1);

/// The lines of a container's log that are shown when it ended.
const LOG_LINES: u32 = 20;

/// The cluster that `make cluster-up` brought up.
pub struct Cluster {
    kubectl: PathBuf,
    /// The path of the kubeconfig.
    pub kubeconfig: PathBuf,
}

impl Cluster {
    /// The cluster of this checkout. `None` if none is up.
    pub fn find() -> Option<Self> {
        let state = root().join("target/cluster");
        let kubeconfig = state.join("kubeconfig");
        let tools = std::fs::read_to_string(state.join("tools.env")).unwrap_or_default();
        let kubectl = tools.lines().find_map(|line| line.strip_prefix("KUBECTL="));
        kubeconfig.is_file().then(|| Self {
            kubectl: kubectl.unwrap_or("kubectl").into(),
            kubeconfig,
        })
    }

    /// Runs kubectl and shows the command. Blanks separate its words.
    ///
    /// # Errors
    /// What kubectl says, if it fails.
    pub fn run(&self, command: &str) -> anyhow::Result<String> {
        println!("$ kubectl {command}");
        self.quietly(command)
    }

    /// Runs kubectl, and shows the command and what it prints.
    ///
    /// # Errors
    /// What kubectl says, if it fails.
    pub fn show(&self, command: &str) -> anyhow::Result<()> {
        let printed = self.run(command)?;
        println!("{}\n", printed.trim_end());
        Ok(())
    }

    /// Runs kubectl without showing the command.
    ///
    /// # Errors
    /// What kubectl says, if it fails.
    pub fn quietly(&self, command: &str) -> anyhow::Result<String> {
        let output = self.output(command)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        bail!("kubectl {command}: {}", String::from_utf8_lossy(&output.stderr).trim())
    }

    /// Runs a kubectl that waits until the pods of a namespace have started, and shows the command.
    ///
    /// # Errors
    /// What kubectl says, or at once why a pod does not start.
    pub fn wait(&self, namespace: &str, command: &str) -> anyhow::Result<()> {
        println!("$ kubectl -n {namespace} {command}");
        let mut child = self
            .command(&format!("-n {namespace} {command}"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut stuck_before = None;
        let mut looked = Instant::now();
        while child.try_wait()?.is_none() {
            std::thread::sleep(POLL);
            if looked.elapsed() < POD_POLL {
                continue;
            }
            looked = Instant::now();
            // An API server that does not answer is for the waiting kubectl to report.
            let stuck = self.stuck_pod(namespace).unwrap_or_default();
            // Seen twice: an update may just not have made its new pod yet.
            if let Some(stuck) = stuck.as_ref().filter(|stuck| stuck_before.as_ref() == Some(&stuck.pod)) {
                // This fails where kubectl has just ended.
                let _ = child.kill();
                let _ = child.wait();
                bail!("{stuck}{}", self.last_log_lines(namespace, stuck));
            }
            stuck_before = stuck.map(|stuck| stuck.pod);
        }
        let output = child.wait_with_output()?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("kubectl -n {namespace} {command}: {}", said.trim())
    }

    fn stuck_pod(&self, namespace: &str) -> anyhow::Result<Option<Stuck>> {
        let pods: Pods = serde_json::from_str(&self.quietly(&format!("-n {namespace} get pods -o json"))?)?;
        Ok(stuck(&pods))
    }

    /// The last log lines of a container that ran before.
    fn last_log_lines(&self, namespace: &str, stuck: &Stuck) -> String {
        let Stuck { pod, container, .. } = stuck;
        let logs = format!("-n {namespace} logs {pod} -c {container} --tail={LOG_LINES}");
        let written = if stuck.ran {
            self.quietly(&format!("{logs} --previous"))
                .or_else(|_| self.quietly(&logs))
                .unwrap_or_default()
        } else {
            String::new()
        };
        match written.trim_end() {
            "" => String::new(),
            lines => format!("\n  the end of its log:\n{lines}"),
        }
    }

    /// Whether the object no longer exists.
    ///
    /// # Errors
    /// Anything else that kubectl says.
    pub fn is_gone(&self, object: &str) -> anyhow::Result<bool> {
        Ok(self
            .quietly(&format!("get {object} --ignore-not-found -o name"))?
            .is_empty())
    }

    /// The minor version of the API server, for example 33 for 1.33, and 0 for a server that was built without one.
    ///
    /// # Errors
    /// A server that does not answer.
    pub fn minor_version(&self) -> anyhow::Result<u32> {
        let version: Value = serde_json::from_str(&self.quietly("get --raw /version")?)?;
        let minor = version["minor"].as_str().unwrap_or_default();
        let digits: String = minor.chars().take_while(char::is_ascii_digit).collect();
        Ok(digits.parse().unwrap_or(0))
    }

    /// Forwards a local port to the NATS in the cluster until the result is dropped.
    ///
    /// # Errors
    /// What kubectl says instead of a port.
    pub fn forward_nats(&self) -> anyhow::Result<Forward> {
        let command = "-n taskgroup-system port-forward service/nats :4222";
        println!("$ kubectl {command} &");
        let mut child = self.command(command).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            let mut stdout = BufReader::new(stdout);
            stdout.read_line(&mut line)?;
            // kubectl prints a line for every connection, and blocks where nobody reads it.
            std::thread::spawn(move || stdout.lines().map_while(Result::ok).for_each(drop));
        }
        let mut forward = Forward { child, port: 0 };
        forward.port = line
            .split_once("127.0.0.1:")
            .and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok())
            .with_context(|| format!("kubectl {command} says {line:?} instead of a port"))?;
        Ok(forward)
    }

    fn output(&self, command: &str) -> anyhow::Result<Output> {
        self.command(command)
            .output()
            .with_context(|| format!("{} can't be run: run `make tools`", self.kubectl.display()))
    }

    fn command(&self, command: &str) -> Command {
        let mut kubectl = Command::new(&self.kubectl);
        kubectl
            .args(command.split_whitespace().map(|word| word.trim_matches('\'')))
            .env("KUBECONFIG", &self.kubeconfig)
            .env("KUBECACHEDIR", root().join("target/cluster/kubectl-cache"))
            .current_dir(root())
            .stdin(Stdio::null());
        kubectl
    }
}

/// A forwarded port, until this is dropped.
pub struct Forward {
    child: Child,
    port: u16,
}

impl Forward {
    /// The URL of the NATS behind the port.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        // These fail where kubectl has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Calls `look` until it returns something, at most for `limit`.
///
/// # Errors
/// `what` did not happen in time. The error holds the last failure of `look`.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        let seen = look().await;
        if let Ok(Some(seen)) = seen {
            return Ok(seen);
        }
        if start.elapsed() > limit {
            let error = format!("{what}: not within {} s", limit.as_secs());
            return Err(match seen {
                Err(cause) => cause.context(error),
                Ok(_) => anyhow::anyhow!(error),
            });
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The directory of the checkout.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
