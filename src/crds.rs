//! `taskgroup crds`: the CustomResourceDefinitions as YAML.

use crate::api;
use anyhow::Context;
use std::{fmt::Write, path::PathBuf};

/// Arguments of `taskgroup crds`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Write one file per kind into this directory, instead of all to standard output.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// Writes the definitions to standard output, or one file each into a directory.
///
/// # Errors
/// A directory or file that can't be written.
pub fn write(args: &Args) -> anyhow::Result<()> {
    let Some(dir) = &args.dir else {
        let mut all = String::new();
        for (_, text) in yaml()? {
            write!(all, "---\n{text}")?;
        }
        print!("{all}");
        return Ok(());
    };
    std::fs::create_dir_all(dir).with_context(|| format!("--dir: can't make {}", dir.display()))?;
    for (name, text) in yaml()? {
        let path = dir.join(name);
        std::fs::write(&path, text).with_context(|| format!("--dir: can't write {}", path.display()))?;
    }
    Ok(())
}

/// File name and text of every definition.
///
/// # Errors
/// None in practice: the definitions are made of what YAML can hold.
pub fn yaml() -> anyhow::Result<Vec<(&'static str, String)>> {
    api::crds()
        .into_iter()
        .map(|(name, crd)| Ok((name, serde_yaml::to_string(&crd)?)))
        .collect()
}
