//! `taskgroup reference`: writes the pages of `docs/reference/` from the code.
//!
//! This module knows the shapes of its sources (a CRD, a clap command, a metrics registry), not their content.
//! `main.rs` passes the sources in, so a new field, flag or metric appears in the reference without a change here.

mod arguments;
mod crd;
mod markdown;
mod metrics;

use anyhow::Context;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use prometheus_client::registry::Registry;
use std::{fs, path::PathBuf};

/// Arguments of `taskgroup reference`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Directory to write the pages to.
    #[arg(long, value_name = "DIR", default_value = "docs/reference")]
    pub dir: PathBuf,
}

/// What the reference describes.
pub struct Sources {
    /// The kinds of the API.
    pub crds: Vec<CustomResourceDefinition>,
    /// The programs of the image, the complete one first.
    pub programs: Vec<clap::Command>,
    /// The metrics of each component.
    pub metrics: Vec<Component>,
}

/// One component with its metrics.
pub struct Component {
    /// The component's name, which is a heading of the page.
    pub name: &'static str,
    /// A registry that holds one series of every label value.
    pub registry: Registry,
}

/// Writes every page.
pub fn write(args: &Args, sources: &Sources) -> anyhow::Result<()> {
    fs::create_dir_all(&args.dir).with_context(|| format!("--dir: can't create {}", args.dir.display()))?;
    for (name, text) in pages(sources)? {
        let path = args.dir.join(name);
        fs::write(&path, text).with_context(|| format!("--dir: can't write {}", path.display()))?;
    }
    Ok(())
}

/// Returns the file name and text of every page.
pub fn pages(sources: &Sources) -> anyhow::Result<Vec<(String, String)>> {
    let mut pages = Vec::new();
    for definition in &sources.crds {
        let name = format!("{}.md", definition.spec.names.kind.to_lowercase());
        pages.push((name, crd::page(definition)?));
    }
    pages.push(("arguments.md".to_owned(), arguments::page(&sources.programs)));
    pages.push(("metrics.md".to_owned(), metrics::page(&sources.metrics)?));
    Ok(pages)
}
