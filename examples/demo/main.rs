//! The two queues problem, live: three groups with limits of their own, one mixed list of tasks, real pods.
//!
//! `make demo` builds the images, brings up a cluster and runs this. Exit code 0: everything was as
//! the README says.

mod cluster;
mod install;
mod pods;
mod records;
mod report;
mod steps;
#[cfg(test)]
mod tests;

use cluster::Cluster;
use std::process::ExitCode;

const NAMESPACE: &str = "demo";

fn main() -> ExitCode {
    if std::env::args().len() > 1 {
        println!(
            "The two queues problem, live, in the cluster of `make cluster-up`. Takes no arguments.\n\nExample:\n  make demo"
        );
        return ExitCode::SUCCESS;
    }
    let Some(cluster) = Cluster::find() else {
        eprintln!("error: no cluster is up\n  Run: make demo");
        return ExitCode::FAILURE;
    };
    match run(&cluster) {
        Ok(off) if off.is_empty() => {
            println!("{}", report::GOODBYE);
            ExitCode::SUCCESS
        }
        Ok(off) => {
            println!("\nNot as it should be:");
            for off in off {
                println!("  - {off}");
            }
            report::groups_and_logs(&cluster, NAMESPACE);
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("\nThe demo could not go on: {error:#}");
            report::groups_and_logs(&cluster, NAMESPACE);
            ExitCode::FAILURE
        }
    }
}

/// Returns what was off.
#[tokio::main]
async fn run(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    report::title("1. Install the operator and NATS");
    install::operator(cluster)?;

    report::title("2. Three groups, each with a limit of its own");
    steps::apply_samples(cluster).await?;
    let (broker, _forward) = install::connect(cluster).await?;

    report::title("3. One mixed list of tasks");
    let mut off = steps::run_mixed_list(cluster, &broker).await?;

    report::title("4. Another limit, while it runs");
    off.extend(steps::raise_a_limit(cluster, &broker).await?);

    report::title("5. A group is deleted");
    off.extend(steps::delete_a_group(cluster, &broker).await?);
    Ok(off)
}
