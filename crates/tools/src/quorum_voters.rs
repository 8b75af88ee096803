//! `kafka-metadata-quorum add-controller` and `remove-controller`: the voters of a quorum that is written in its log.

use std::net::Ipv6Addr;
use std::path::Path;

use protocol::wire::Uuid;
use storage::MetaProperties;
use storage::real::RealDisk;

use crate::argparse::Parsed;
use crate::client::{Client, NewVoter, VoterListener};
use crate::terminal::Terminal;

/// The new controller's own properties file says who it is and where it listens, its directory which one it has.
pub fn add(client: &mut Client, parsed: &Parsed, terminal: &mut Terminal<'_>) -> Result<(), String> {
    let path = parsed
        .get("command-config")
        .ok_or("You must supply the configuration file of the controller you are adding when using add-controller.")?;
    let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let config = crate::storage::parse(&text, path)?;
    if !config.roles.controller {
        return Err(format!(
            "process.roles did not contain 'controller' in configuration file. Is this a valid controller configuration \
             file? ({path})"
        ));
    }
    let listeners: Vec<VoterListener> = config
        .controller_advertised
        .iter()
        .map(|listener| VoterListener {
            name: listener.name.clone(),
            host: if listener.host.is_empty() { "localhost".to_owned() } else { listener.host.clone() },
            port: listener.port,
        })
        .collect();
    let voter = NewVoter { id: config.node_id, directory_id: directory_id(&config.metadata_log_dir)?, listeners };
    let dry_run = parsed.has("dry-run");
    if !dry_run {
        client.add_raft_voter(&voter).map_err(|error| error.exception())?;
    }
    let shown: Vec<String> = voter.listeners.iter().map(endpoint).collect();
    terminal.line(format_args!(
        "{} controller {} with directory id {} and endpoints: {}",
        if dry_run { "DRY RUN of adding" } else { "Added" },
        voter.id,
        voter.directory_id,
        shown.join(", ")
    ));
    Ok(())
}

fn endpoint(listener: &VoterListener) -> String {
    match listener.host.parse::<Ipv6Addr>() {
        Ok(_) => format!("{}://[{}]:{}", listener.name, listener.host, listener.port),
        Err(_) => format!("{}://{}:{}", listener.name, listener.host, listener.port),
    }
}

fn directory_id(dir: &Path) -> Result<Uuid, String> {
    let shown = dir.display();
    match MetaProperties::read(&RealDisk, dir) {
        Ok(Some(meta)) => meta.directory_id.ok_or_else(|| format!("No directory id found in {shown}")),
        Ok(None) => Err(format!("Unable to read meta.properties from {shown}")),
        Err(error) => Err(format!("Unable to read meta.properties from {shown}: {error}")),
    }
}

pub fn remove(client: &mut Client, parsed: &Parsed, terminal: &mut Terminal<'_>) -> Result<(), String> {
    let id: i32 = parsed.number("controller-id")?.unwrap_or(-1);
    if id < 0 {
        return Err(format!("Invalid negative --controller-id: {id}"));
    }
    let text = parsed.get("controller-directory-id").unwrap_or_default();
    let directory_id = Uuid::parse(text).ok_or_else(|| format!("Failed to parse --controller-directory-id: {text}"))?;
    let dry_run = parsed.has("dry-run");
    if !dry_run {
        client.remove_raft_voter(id, directory_id).map_err(|error| error.exception())?;
    }
    // With Kafka's second blank, for scripts that look for it.
    let what = if dry_run { "DRY RUN of removing" } else { "Removed" };
    terminal.line(format_args!("{what}  KRaft controller {id} with directory id {directory_id}"));
    Ok(())
}
