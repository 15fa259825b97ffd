//! The demo's own output, next to kubectl's.

use super::{cluster::Cluster, records::Tally};

/// The last line of a successful demo.
pub const GOODBYE: &str = "
Every limit held and was reached, and every task was done.

Look around:
  export KUBECONFIG=$PWD/target/cluster/kubeconfig
  kubectl get taskgroups -A
  kubectl -n demo describe taskgroup a
  kubectl -n taskgroup-system logs deployment/taskgroup-operator
  kubectl -n taskgroup-system port-forward service/nats 4222 &      # then: nats stream ls -a
No kubectl of your own? It is at KUBECTL in target/cluster/tools.env.

Clean up:
  make demo-down";

/// What is known of a group before the demo.
#[derive(Clone, Copy)]
pub struct Group {
    pub name: &'static str,
    pub limit: usize,
    /// The most tasks at once if all groups shared one queue.
    pub shared: usize,
    pub published: usize,
}

impl Group {
    /// The shortest time for the group's tasks of one second each, in seconds.
    pub fn ideal_seconds(&self) -> usize {
        self.published.div_ceil(self.limit)
    }

    /// The share of the ideal throughput, where 1.0 is all of it.
    pub fn share(&self, tally: &Tally) -> f64 {
        seconds(self.ideal_seconds()) / tally.time().as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

pub fn title(text: &str) {
    println!("\n=== {text} ===\n");
}

pub fn progress(second: u64, groups: &[(Group, Tally)]) {
    let columns: Vec<_> = groups
        .iter()
        .map(|(group, tally)| {
            let (done, running) = (tally.done.len(), tally.running);
            let waiting = group.published.saturating_sub(done + running);
            format!("{}: {done:2} done {running} running {waiting:2} waiting", group.name)
        })
        .collect();
    println!("{second:3} s   {}", columns.join("   "));
}

/// Prints the table of results.
pub fn table(groups: &[(Group, Tally)]) {
    println!(
        "\n  group   limit   most at once   done     tasks/s   ideal   reached   (on one shared queue: most at once)"
    );
    for (group, tally) in groups {
        println!(
            "  {:5} {:7} {:14}   {:>2} of {:<2} {:9.2} {:7.2} {:8.0}%   {:>19}{}",
            group.name,
            group.limit,
            tally.most,
            tally.done.len(),
            group.published,
            seconds(tally.done.len()) / tally.time().as_secs_f64().max(f64::MIN_POSITIVE),
            seconds(group.published) / seconds(group.ideal_seconds()),
            group.share(tally) * 100.0,
            group.shared,
            if group.shared > group.limit {
                "  over the limit"
            } else {
                ""
            },
        );
    }
    println!();
}

/// Prints what helps to find out why something went wrong.
pub fn groups_and_logs(cluster: &Cluster, namespace: &str) {
    for command in [
        format!("-n {namespace} describe taskgroups"),
        format!("-n {namespace} get pods,deployments -o wide"),
        format!("-n {namespace} get events --sort-by=.lastTimestamp"),
        "-n taskgroup-system get pods -o wide".to_owned(),
        "-n taskgroup-system logs deployment/taskgroup-operator --tail=60".to_owned(),
    ] {
        if let Err(error) = cluster.show(&command) {
            println!("{error:#}");
        }
    }
}

fn seconds(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from)
}
