//! The cluster as a user sees it. Everything goes through kubectl, and the demo prints each command as a user would type it.

use anyhow::{Context, bail};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// The pause between two checks of a condition.
const POLL: Duration = Duration::from_millis(250);

/// The cluster that `make cluster-up` created.
pub struct Cluster {
    kubectl: PathBuf,
    pub kubeconfig: PathBuf,
}

impl Cluster {
    /// Returns the cluster of this checkout, if it is up.
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

    /// Prints and runs a kubectl command.
    pub fn run(&self, command: &str) -> anyhow::Result<String> {
        println!("$ kubectl {command}");
        self.quietly(command)
    }

    /// Prints and runs a kubectl command, and prints its output.
    pub fn show(&self, command: &str) -> anyhow::Result<()> {
        let printed = self.run(command)?;
        println!("{}\n", printed.trim_end());
        Ok(())
    }

    /// Runs kubectl without printing the command.
    pub fn quietly(&self, command: &str) -> anyhow::Result<String> {
        let output = self.output(command)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        bail!("kubectl {command}: {}", String::from_utf8_lossy(&output.stderr).trim())
    }

    pub fn is_gone(&self, object: &str) -> anyhow::Result<bool> {
        Ok(self
            .quietly(&format!("get {object} --ignore-not-found -o name"))?
            .is_empty())
    }

    /// Returns the minor version of the API server, such as 33 for 1.33. A server built by hand may have none, which is 0.
    pub fn minor_version(&self) -> anyhow::Result<u32> {
        let version: Value = serde_json::from_str(&self.quietly("get --raw /version")?)?;
        let minor = version["minor"].as_str().unwrap_or_default();
        let digits: String = minor.chars().take_while(char::is_ascii_digit).collect();
        Ok(digits.parse().unwrap_or(0))
    }

    /// Forwards a local port to the NATS in the cluster until the result is dropped.
    pub fn forward_nats(&self) -> anyhow::Result<Forward> {
        let command = "-n taskgroup-system port-forward service/nats :4222";
        println!("$ kubectl {command} &");
        let mut child = self.command(command).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            let mut stdout = BufReader::new(stdout);
            stdout.read_line(&mut line)?;
            // kubectl prints a line per connection and blocks when nobody reads them.
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

/// A forwarded port. Dropping it ends the forwarding.
pub struct Forward {
    child: Child,
    port: u16,
}

impl Forward {
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        // Both fail if the process already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Polls `look` until it returns a value, for at most `limit`. The error names `what` and the last failure of `look`.
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

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
