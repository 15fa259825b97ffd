//! Installs the operator and NATS in the cluster, and publishes tasks from outside.

use super::cluster::{Cluster, Forward, until};
use std::time::Duration;
use taskgroup::{
    broker::{Broker, NatsArgs},
    protocol::Queue,
};

/// API servers know CEL rules from this minor version on. An older one drops them, so kubectl refuses to send them
/// there.
const KNOWS_CEL: u32 = 25;

/// Installs or renews the CRDs, the operator and NATS, and waits until they are ready.
///
/// # Errors
/// Whatever kubectl says, or why a pod does not start.
pub fn operator(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.show(&format!("apply {} -k crds", validation(cluster)?))?;
    cluster.run(
        "wait --for=condition=Established --timeout=60s crd/taskgroups.taskgroup.io crd/taskhandlers.taskgroup.io",
    )?;

    let was_there = !cluster.is_gone("-n taskgroup-system deployment/taskgroup-operator")?;
    cluster.show("apply -k deploy/local")?;
    if was_there {
        // A new build keeps the name of the image.
        cluster.run("-n taskgroup-system rollout restart deployment/taskgroup-operator")?;
    }
    for workload in ["statefulset/nats", "deployment/taskgroup-operator"] {
        cluster.wait("taskgroup-system", &format!("rollout status {workload} --timeout=300s"))?;
    }
    println!();
    Ok(())
}

/// Removes whatever an earlier run left in a namespace. The namespace stays, because Kubernetes takes minutes to delete
/// one whose pods may take minutes to stop.
///
/// # Errors
/// Whatever kubectl says, or pods that do not end.
pub async fn clear(cluster: &Cluster, namespace: &str) -> anyhow::Result<()> {
    if cluster.is_gone(&format!("namespace/{namespace}"))? {
        return Ok(());
    }
    println!("# An earlier run's groups are still here.");
    cluster.run(&format!("-n {namespace} delete taskgroups --all --timeout=120s"))?;
    cluster.run(&format!("-n {namespace} delete deployment recorder --ignore-not-found"))?;
    let pods = format!("-n {namespace} pods");
    until("the earlier run's pods gone", Duration::from_secs(120), async || {
        Ok(cluster.is_gone(&pods)?.then_some(()))
    })
    .await
}

/// The option that `kubectl apply` of the CRDs needs, if any.
///
/// # Errors
/// A server that does not answer.
pub fn validation(cluster: &Cluster) -> anyhow::Result<&'static str> {
    if cluster.minor_version()? >= KNOWS_CEL {
        return Ok("--validate=true");
    }
    println!(
        "# An API server before 1.{KNOWS_CEL} does not know the CEL rules of the CRDs, and kubectl would refuse them."
    );
    Ok("--validate=false")
}

/// Connects to the NATS in the cluster. The connection lives as long as the forwarded port.
///
/// # Errors
/// A port that can't be forwarded, or a NATS that does not answer.
pub async fn connect(cluster: &Cluster) -> anyhow::Result<(Broker, Forward)> {
    let forward = cluster.forward_nats()?;
    let args = NatsArgs {
        nats_url: vec![forward.url()],
        nats_creds: None,
    };
    let broker = Broker::connect(&args, "demo").await?;
    until("a connection to NATS", Duration::from_secs(30), async || {
        Ok(broker.link().borrow().up.then_some(()))
    })
    .await?;
    Ok((broker, forward))
}

/// Publishes a task, and returns when the queue has stored it.
///
/// # Errors
/// A queue that does not take it.
pub async fn publish(broker: &Broker, namespace: &str, queue: &str, id: &str) -> anyhow::Result<()> {
    let subject = Queue::new(namespace, queue).task(id);
    let headers = [("Nats-Msg-Id".to_owned(), id.to_owned())];
    let _stored = broker.store(&subject, &headers, "a task of one second".into()).await?;
    Ok(())
}
