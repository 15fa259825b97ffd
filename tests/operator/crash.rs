//! The operator is killed in the middle of its work and started again: nothing missing, nothing double.

use crate::{
    bed::{Bed, http_handler, workers},
    support::nats::NatsServer,
};
use futures::{StreamExt, stream};
use kube::{ResourceExt, api::ListParams};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use std::{collections::BTreeSet, sync::Mutex};

const GROUPS: usize = 100;
const KILLS: usize = 4;

async fn groups_in_step(bed: &Bed) -> usize {
    let groups = bed.groups().list(&ListParams::default()).await.unwrap();
    let in_step = groups.iter().filter(|group| {
        let is_true = |type_: &str| {
            let status = group.status.as_ref().unwrap();
            status.conditions.iter().any(|condition| {
                condition.type_ == type_
                    && condition.status == "True"
                    && condition.observed_generation == group.metadata.generation
            })
        };
        group
            .status
            .as_ref()
            .is_some_and(|status| status.observed_generation == group.metadata.generation)
            && is_true("StreamReady")
            && is_true("ConsumerReady")
            && is_true("HandlerFound")
    });
    in_step.count()
}

/// Resource versions of all groups and Deployments: they tell any write.
async fn versions(bed: &Bed) -> BTreeSet<(String, Option<String>)> {
    let groups = bed.groups().list(&ListParams::default()).await.unwrap();
    let deployments = bed.deployments().list(&ListParams::default()).await.unwrap();
    let groups = groups.iter().map(|group| (group.name_any(), group.resource_version()));
    let deployments = deployments
        .iter()
        .map(|deployment| (deployment.name_any(), deployment.resource_version()));
    groups.chain(deployments).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_moments_of_100_creates_it_leaves_nothing_missing_and_nothing_double() {
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(rand::random::<u64>);
    println!("SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let bed = Bed::without_operator(NatsServer::start().await).await;
    bed.make_handler("default", http_handler()).await;
    let names: BTreeSet<String> = (0..GROUPS).map(|number| format!("group-{number:03}")).collect();
    let creates = stream::iter(&names).for_each_concurrent(4, |name| async {
        bed.make(name, json!({"concurrency": 1})).await;
    });

    let kills = async {
        for _ in 0..KILLS {
            let mut operator = bed.start_binary();
            let before = bed.nats.streams().await.len();
            let more = random.random_range(3..=20);
            bed.until("some streams more", || async {
                (bed.nats.streams().await.len() >= (before + more).min(GROUPS)).then_some(())
            })
            .await;
            operator.kill();
        }
    };
    futures::join!(creates, kills);
    let made = bed.nats.streams().await.len();
    println!("{made} streams when it was killed for the last time");

    let mut operator = bed.start_binary();
    bed.until("all groups are in step", || async {
        (groups_in_step(&bed).await == GROUPS).then_some(())
    })
    .await;
    let expected: BTreeSet<String> = names.iter().map(|name| workers(name)).collect();
    let deployments = bed
        .until("all Deployments", || async {
            let all = bed.deployments().list(&ListParams::default()).await.unwrap().items;
            (all.len() >= GROUPS).then_some(all)
        })
        .await;
    let found: Vec<String> = deployments.iter().map(ResourceExt::name_any).collect();
    assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
    for name in &names {
        let group = bed.groups().get(name).await.unwrap();
        assert_eq!(group.finalizers().len(), 1, "{name}");
        let deployment = deployments
            .iter()
            .find(|deployment| deployment.name_any() == workers(name))
            .unwrap();
        assert_eq!(deployment.owner_references()[0].uid, group.metadata.uid.unwrap());
    }
    let streams = bed.group_streams().await;
    assert_eq!(streams, names.iter().map(|name| bed.stream(name)).collect::<Vec<_>>());
    for stream in &streams {
        let consumers = bed.nats.api(&format!("CONSUMER.NAMES.{stream}"), json!({})).await;
        assert_eq!(consumers["consumers"], json!([bed.consumer()]), "{stream}");
    }

    // Started once more, it finds all in step: it writes nothing, not even for a moment.
    operator.kill();
    let before = versions(&bed).await;
    let audit = bed.nats.audit().await;
    let mut operator = bed.start_binary();
    bed.until("it has looked at every group", || async {
        bed.admin("/livez")?;
        let looked = bed
            .metrics()
            .get("taskgroup_operator_reconciles_total{result=\"success\"}")
            .copied();
        (looked? >= f64::from(u32::try_from(GROUPS).unwrap())).then_some(())
    })
    .await;
    bed.until_admin("/readyz", 200).await;
    assert_eq!(versions(&bed).await, before, "writes to Kubernetes");
    assert_eq!(audit.writes().await, Vec::<String>::new(), "writes to NATS");

    operator.terminate();
    let operator = Mutex::new(operator);
    let ended = bed
        .until("it stops when asked to", || async { operator.lock().unwrap().ended() })
        .await;
    assert!(ended.success(), "{ended}");
}
