//! The page about metrics, read from what `/metrics` prints.

use super::{
    Component,
    markdown::{code, page as markdown_page, table},
};
use prometheus_client::{encoding::text, registry::Registry};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

const INTRODUCTION: &str = "\
The operator and every worker serve these metrics in the OpenMetrics format at `/metrics`, by default on port 9797. \
Counters end in `_total`. Histograms end in `_bucket`, `_sum` and `_count`.\n\n";

/// Describes the metrics of each component.
pub fn page(components: &[Component]) -> anyhow::Result<String> {
    let mut body = INTRODUCTION.to_owned();
    for component in components {
        let families = families(&component.registry)?;
        let rows: Vec<_> = families.iter().map(Family::row).collect();
        write!(
            body,
            "## {}\n\n{}",
            component.name,
            table(&["metric", "type", "labels", "description"], &rows)
        )?;
    }
    Ok(markdown_page("Metrics", &body))
}

/// One metric with everything that the exposition tells about it.
struct Family {
    name: String,
    kind: String,
    help: String,
    /// Labels with their values. A family has no order of its own, so both are sorted.
    labels: BTreeMap<String, BTreeSet<String>>,
}

impl Family {
    fn row(&self) -> Vec<String> {
        let suffix = if self.kind == "counter" { "_total" } else { "" };
        let labels = self.labels.iter().map(|(label, values)| {
            let values: Vec<_> = values.iter().map(|value| code(value)).collect();
            format!("{}: {}", code(label), values.join(", "))
        });
        vec![
            code(&format!("{}{suffix}", self.name)),
            self.kind.clone(),
            labels.collect::<Vec<_>>().join("; "),
            self.help.clone(),
        ]
    }
}

/// Parses the exposition of a registry.
///
/// A family without a series is missing from an exposition. That would leave it out of the reference, so it is an error.
fn families(registry: &Registry) -> anyhow::Result<Vec<Family>> {
    let mut exposition = String::new();
    text::encode(&mut exposition, registry)?;
    let mut families: Vec<Family> = Vec::new();
    for line in exposition.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|line| line.split_once(' ')) {
            families.push(Family {
                name: name.to_owned(),
                kind: String::new(),
                help: help.to_owned(),
                labels: BTreeMap::new(),
            });
        } else if let Some(family) = families.last_mut() {
            if let Some((_, kind)) = line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' ')) {
                kind.clone_into(&mut family.kind);
            } else if let Some((_, labels)) = line.split_once('{') {
                let labels = labels.rsplit_once('}').map_or(labels, |(labels, _)| labels);
                for (label, value) in labels.split(',').filter_map(|label| label.split_once('=')) {
                    // Buckets are part of every histogram.
                    if label != "le" {
                        let values = family.labels.entry(label.to_owned()).or_default();
                        values.insert(value.trim_matches('"').to_owned());
                    }
                }
            }
        }
    }
    let registered = registered(registry);
    anyhow::ensure!(
        families.len() == registered.len(),
        "a metric has no series, so its type and labels are unknown: create one series per label value of {:?}",
        registered
            .iter()
            .filter(|name| !families.iter().any(|family| family.name.contains(name.as_str())))
            .collect::<Vec<_>>()
    );
    families.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(families)
}

/// Returns the names of all metrics of a registry, also of those without a series. Its `Debug` output is the only place
/// that shows them.
fn registered(registry: &Registry) -> Vec<String> {
    let debug = format!("{registry:?}");
    debug
        .split("Descriptor { name: \"")
        .skip(1)
        .filter_map(|rest| rest.split_once('"'))
        .map(|(name, _)| name.to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::{counter::Counter, family, gauge::Gauge, histogram::Histogram};
    use prometheus_client::registry::Unit;

    type Tasks = family::Family<[(&'static str, &'static str); 1], Counter>;

    fn registry(tasks: &Tasks) -> Registry {
        let mut registry = Registry::default();
        let part = registry.sub_registry_with_prefix("it");
        part.register("tasks", "Tasks by outcome", tasks.clone());
        part.register("slots", "Free slots", Gauge::<i64>::default());
        part.register_with_unit("wait", "Waiting time", Unit::Seconds, Histogram::new([0.5]));
        registry
    }

    #[test]
    fn metrics_come_with_their_type_labels_and_help() {
        let tasks = Tasks::default();
        for outcome in ["done", "failed"] {
            tasks.get_or_create(&[("outcome", outcome)]).inc();
        }
        let rows: Vec<_> = families(&registry(&tasks))
            .unwrap()
            .iter()
            .map(|family| family.row().join(" / "))
            .collect();
        assert_eq!(
            rows,
            [
                "`it_slots` / gauge /  / Free slots.",
                "`it_tasks_total` / counter / `outcome`: `done`, `failed` / Tasks by outcome.",
                "`it_wait_seconds` / histogram /  / Waiting time.",
            ]
        );
    }

    #[test]
    fn a_metric_that_the_exposition_leaves_out_is_an_error() {
        let error = families(&registry(&Tasks::default())).err().unwrap().to_string();
        assert!(error.contains("\"tasks\""), "{error}");
    }
}
