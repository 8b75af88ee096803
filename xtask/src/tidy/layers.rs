//! The edges between crates. A new one is a decision, written in ARCHITECTURE.md and here.

use std::fs;
use std::path::Path;

/// What each crate may depend on within the workspace, from the lowest layer up.
const EDGES: &[(&str, &[&str])] = &[
    // L0: bytes.
    ("protocol", &[]),
    // L1: logs behind the trait Disk; the state of the cluster and the controller over it.
    ("storage", &["protocol"]),
    ("metadata", &["protocol"]),
    // L2: the machines; none knows another.
    ("raft", &["protocol", "storage"]),
    ("replication", &["protocol", "storage"]),
    ("coordinator", &["protocol"]),
    // L3: the Node.
    ("broker", &["protocol", "storage", "metadata", "raft", "replication", "coordinator"]),
    // L4: mains, and what only they use.
    ("server", &["protocol", "storage", "metadata", "broker"]),
    ("tools", &["protocol", "storage", "metadata"]),
    ("simulator", &["protocol", "storage", "metadata", "raft", "replication", "broker"]),
    ("zwirn", &["server", "tools"]),
    // Everything that reads bytes of others, handed bytes of no one.
    ("fuzzing", &["protocol", "storage", "metadata", "coordinator", "broker", "tools"]),
    // The codec against Kafka's classes; apart from xtask, which has to build while the codec does not.
    ("oracle", &["protocol", "storage", "raft"]),
    ("xtask", &[]),
];

pub fn check(root: &Path, faults: &mut Vec<String>) -> Result<(), String> {
    let mut manifests = vec![root.join("xtask/Cargo.toml"), root.join("xtask/oracle/Cargo.toml")];
    let crates = root.join("crates");
    let entries = fs::read_dir(&crates).map_err(|e| format!("{}: {e}", crates.display()))?;
    manifests.extend(entries.flatten().map(|entry| entry.path().join("Cargo.toml")));
    for manifest in manifests {
        let dir = manifest.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
        let text = fs::read_to_string(&manifest).map_err(|e| format!("{}: {e}", manifest.display()))?;
        let Some((_, allowed)) = EDGES.iter().find(|(name, _)| *name == dir) else {
            faults.push(format!("crates/{dir}: a new crate has to be given its layer in xtask/src/tidy/layers.rs"));
            continue;
        };
        for dependency in dependencies(&text) {
            let is_member = EDGES.iter().any(|(name, _)| *name == dependency);
            if is_member && !allowed.contains(&dependency) {
                faults.push(format!("crates/{dir}/Cargo.toml: {dir} may not depend on {dependency}"));
            }
            if text.lines().any(|line| line.starts_with(dependency) && line.contains("path =")) {
                faults.push(format!("crates/{dir}/Cargo.toml: {dependency} belongs into the workspace's manifest"));
            }
        }
    }
    Ok(())
}

/// Names in the sections of dependencies; those of tests count like any other.
fn dependencies(manifest: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let mut in_section = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            in_section = line.contains("dependencies]");
        } else if let Some((name, _)) = line.split_once('=').filter(|_| in_section) {
            out.push(name.trim().split('.').next().unwrap_or_default());
        }
    }
    out
}
