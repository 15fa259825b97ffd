//! What every bench ends with: a table for people, and the same as JSON for programs.

use serde::Serialize;
use std::{fs, path::Path};

/// One figure, beside what it is judged by. What does not apply is `None`.
#[derive(Debug, Serialize)]
pub struct Metric {
    /// What was measured.
    pub name: String,
    /// In which unit `ours` and `floor` are.
    pub unit: &'static str,
    /// TaskGroup's figure.
    pub ours: f64,
    /// The same work without TaskGroup, in the same run.
    pub floor: Option<f64>,
    /// `ours / floor`.
    pub ratio: Option<f64>,
    /// What it should be, in words.
    pub aim: Option<String>,
    /// Whether it is.
    pub met: Option<bool>,
}

impl Metric {
    /// A figure that nothing is asked of.
    pub fn new(name: impl Into<String>, unit: &'static str, ours: f64) -> Self {
        Self {
            name: name.into(),
            unit,
            ours,
            floor: None,
            ratio: None,
            aim: None,
            met: None,
        }
    }

    /// With the floor that it stands on.
    #[must_use]
    pub fn over(mut self, floor: f64) -> Self {
        self.floor = Some(floor);
        self.ratio = (floor > 0.0).then(|| self.ours / floor);
        self
    }

    /// It should be at most so much.
    #[must_use]
    pub fn at_most(mut self, most: f64) -> Self {
        self.aim = Some(format!("<= {most}"));
        self.met = Some(self.ours <= most);
        self
    }

    /// It should be below this.
    #[must_use]
    pub fn below(mut self, bound: f64) -> Self {
        self.aim = Some(format!("< {bound}"));
        self.met = Some(self.ours < bound);
        self
    }

    /// It should be at least so much.
    #[must_use]
    pub fn at_least(mut self, least: f64) -> Self {
        self.aim = Some(format!(">= {least}"));
        self.met = Some(self.ours >= least);
        self
    }

    /// It should be at least so many times the floor.
    #[must_use]
    pub fn at_least_times_the_floor(mut self, least: f64) -> Self {
        self.aim = Some(format!("ratio >= {least}"));
        self.met = Some(self.ratio.is_some_and(|ratio| ratio >= least));
        self
    }

    /// It should be at most so much more than the floor.
    #[must_use]
    pub fn at_most_above_the_floor(mut self, most: f64) -> Self {
        self.aim = Some(format!("<= floor + {most}"));
        self.met = self.floor.map(|floor| self.ours <= floor + most);
        self
    }

    /// It should be at most so many times the floor.
    #[must_use]
    pub fn at_most_times_the_floor(mut self, most: f64) -> Self {
        self.aim = Some(format!("ratio <= {most}"));
        self.met = Some(self.ratio.is_some_and(|ratio| ratio <= most));
        self
    }
}

/// Prints the table and writes `target/bench/<bench>.json`.
pub fn report(bench: &str, metrics: &[Metric]) {
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
    let header = ["", "unit", "ours", "floor", "ratio", "aim", "met"].map(str::to_owned);
    let rows: Vec<_> = metrics
        .iter()
        .map(|metric| {
            [
                metric.name.clone(),
                metric.unit.to_owned(),
                number(Some(metric.ours)),
                number(metric.floor),
                number(metric.ratio),
                metric.aim.clone().unwrap_or_else(|| "-".into()),
                match metric.met {
                    Some(true) => "yes",
                    Some(false) => "NO",
                    None => "-",
                }
                .to_owned(),
            ]
        })
        .collect();
    let mut widths = [0; 7];
    for row in rows.iter().chain([&header]) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    println!();
    for row in [&header].into_iter().chain(&rows) {
        let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| {
            // Numbers to the right, words to the left.
            if (2..5).contains(&column) {
                format!("{cell:>width$}")
            } else {
                format!("{cell:<width$}")
            }
        });
        println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    println!();

    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/bench/{bench}.json"));
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    let text = serde_json::to_string_pretty(&serde_json::json!({"metrics": metrics})).unwrap();
    fs::write(&file, text + "\n").unwrap();
    println!("written: target/bench/{bench}.json");
    let missed: Vec<_> = metrics.iter().filter(|metric| metric.met == Some(false)).collect();
    for metric in &missed {
        println!(
            "missed: {} ({})",
            metric.name,
            metric.aim.as_deref().unwrap_or_default()
        );
    }
    if missed.is_empty() {
        println!("every aim is met");
    }
}

/// The value in the middle; of an even number, the lower of the two.
pub fn median(values: &[f64]) -> f64 {
    percentile(values, 50)
}

/// The smallest value that so many percent of all do not exceed.
pub fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted[rank - 1]
}
