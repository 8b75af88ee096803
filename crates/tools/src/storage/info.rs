//! `storage info`: what the directories hold, and what is wrong with them.

use metadata::config::NodeConfig;
use storage::MetaProperties;
use storage::real::RealDisk;

use super::format::directories;
use crate::terminal::Terminal;

pub fn run(config: &NodeConfig, terminal: &mut Terminal<'_>) -> u8 {
    let mut problems: Vec<String> = Vec::new();
    let mut found: Vec<String> = Vec::new();
    let mut first: Option<MetaProperties> = None;
    for dir in directories(config) {
        let shown = dir.display().to_string();
        if !dir.is_dir() {
            let what = if dir.exists() { "is not a directory" } else { "does not exist" };
            problems.push(format!("{shown} {what}"));
            continue;
        }
        found.push(shown.clone());
        let meta = match MetaProperties::read(&RealDisk, &dir) {
            Ok(Some(meta)) => meta,
            Ok(None) => {
                problems.push(format!("{shown} is not formatted."));
                continue;
            }
            Err(error) => {
                problems.push(format!("Error loading {shown}/meta.properties: {error}"));
                continue;
            }
        };
        match &first {
            None => first = Some(meta),
            Some(first) if first.cluster_id != meta.cluster_id => {
                problems.push("Mismatched cluster IDs between storage directories.".to_owned());
            }
            Some(first) if first.node_id != meta.node_id => {
                problems.push("Mismatched node IDs between storage directories.".to_owned());
            }
            Some(_) => {}
        }
    }
    if first.as_ref().is_some_and(|meta| meta.version == 0) {
        problems.push(
            "The kafka configuration file appears to be for a cluster in KRaft mode, but the directories are formatted \
             for legacy mode."
                .to_owned(),
        );
    }
    report(&found, first.as_ref(), &problems, terminal);
    u8::from(!problems.is_empty())
}

fn report(found: &[String], meta: Option<&MetaProperties>, problems: &[String], terminal: &mut Terminal<'_>) {
    if !found.is_empty() {
        terminal.line(if found.len() == 1 { "Found log directory:" } else { "Found log directories:" });
        for dir in found {
            terminal.line(format_args!("  {dir}"));
        }
        terminal.line("");
    }
    if let Some(meta) = meta {
        let node_key = if meta.version == 0 { "broker.id" } else { "node.id" };
        let mut pairs = Vec::new();
        pairs.extend(meta.cluster_id.as_ref().map(|id| format!("cluster.id={id}")));
        pairs.extend(meta.directory_id.map(|id| format!("directory.id={id}")));
        pairs.extend(meta.node_id.map(|id| format!("{node_key}={id}")));
        pairs.push(format!("version={}", meta.version));
        pairs.sort();
        terminal.line(format_args!("Found metadata: {{{}}}", pairs.join(", ")));
        terminal.line("");
    }
    if !problems.is_empty() {
        terminal.line(if problems.len() == 1 { "Found problem:" } else { "Found problems:" });
        for problem in problems {
            terminal.line(format_args!("  {problem}"));
        }
        terminal.line("");
    }
}
