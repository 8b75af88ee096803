//! Quotas of users, clients and addresses: not configurations to the cluster, but set and shown by the same tool.

use crate::client::Client;
use crate::client::quotas::{Filter, Quota, QuotaEntry};
use crate::java::hash_order;
use crate::jopt::Parsed;
use crate::terminal::Terminal;

use super::options::{Entities, check_name, parse_additions};
use super::{Failure, text};

const OF_CLIENTS: &[&str] =
    &["producer_byte_rate", "consumer_byte_rate", "request_percentage", "controller_mutation_rate"];
const OF_ADDRESSES: &[&str] = &["connection_creation_rate"];

/// How the protocol calls an entity type of the command line.
fn kind(plural: &str) -> &'static str {
    match plural {
        "users" => "user",
        "clients" => "client-id",
        _ => "ip",
    }
}

/// What the command line names; types without a name stand for all of their entities.
fn filter(entities: &Entities) -> Result<Vec<Filter>, Failure> {
    if entities.names.len() > entities.kinds.len() {
        return Err(Failure::Message("More entity names specified than entity types".to_owned()));
    }
    let named = |(i, plural): (usize, &String)| match entities.names.get(i) {
        None => Filter::any(kind(plural)),
        Some(name) => Filter::one(kind(plural), Some(name.clone()).filter(|name| !name.is_empty())),
    };
    Ok(entities.kinds.iter().enumerate().map(named).collect())
}

pub fn describe(entities: &Entities, client: &mut Client, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
    for entry in client.describe_quotas(&filter(entities)?)? {
        terminal.line(line(entry));
    }
    Ok(())
}

fn line(mut entry: QuotaEntry) -> String {
    let part = |kind: &str, shown: &str| {
        let (_, name) = entry.entity.iter().find(|(k, _)| k == kind)?;
        Some(name.as_ref().map_or_else(|| format!("the default {shown}"), |name| format!("{shown} '{name}'")))
    };
    let parts = [("user", "user-principal"), ("client-id", "client-id"), ("ip", "ip")];
    let parts: Vec<String> = parts.iter().filter_map(|(kind, shown)| part(kind, shown)).collect();
    hash_order(&mut entry.values, |(key, _)| key, true);
    let value = |(key, value): &(String, f64)| format!("{key}={}", metadata::config::double_to_string(*value));
    let values: Vec<String> = entry.values.iter().map(value).collect();
    format!("Quota configs for {} are {}", parts.join(", "), values.join(", "))
}

pub fn alter(
    parsed: &Parsed,
    entities: &Entities,
    client: &mut Client,
    terminal: &mut Terminal<'_>,
) -> Result<(), Failure> {
    let wrong = |message: String| Err(Failure::Message(message));
    let (set, delete) = changes(parsed)?;
    let plural = &entities.kinds[0];
    let (known, about) = match plural.as_str() {
        "ips" => (OF_ADDRESSES, "Only connection quota configs"),
        "users" if entities.kinds.len() == 1 => (OF_CLIENTS, "Only quota and SCRAM credential configs"),
        _ => (OF_CLIENTS, "Only quota configs"),
    };
    let of = if entities.kinds.len() > 1 { "clients" } else { plural };
    let is_unknown = |key: &&String| !known.contains(&key.as_str());
    for (verb, unknown) in [
        ("added", set.iter().map(|(key, _)| key).filter(is_unknown).cloned().collect::<Vec<_>>()),
        ("deleted", delete.iter().filter(is_unknown).cloned().collect()),
    ] {
        if !unknown.is_empty() {
            return wrong(format!(
                "{about} can be {verb} for '{of}' using --bootstrap-server. Unexpected config names: Set({})",
                unknown.join(", ")
            ));
        }
    }
    if entities.kinds.len() != entities.names.len() {
        return wrong("Exactly one entity name must be specified for every entity type".to_owned());
    }
    let old = client.describe_quotas(&filter(entities)?)?.into_iter().next().map(|entry| entry.values);
    let is_set = |key: &&String| old.iter().flatten().any(|(old, _)| old == *key);
    let missing: Vec<String> = delete.iter().filter(|key| !is_set(key)).cloned().collect();
    if !missing.is_empty() {
        return wrong(format!("Invalid config(s): {}", missing.join(",")));
    }
    let mut quotas = Vec::new();
    for (key, value) in set {
        let Ok(number) = value.trim().parse::<f64>() else {
            return wrong(format!("Cannot parse quota configuration value for {key}: {value}"));
        };
        quotas.push(Quota { key, value: Some(number) });
    }
    quotas.extend(delete.into_iter().map(|key| Quota { key, value: None }));
    let named = entities.kinds.iter().zip(&entities.names);
    let entity = named.map(|(plural, name)| (kind(plural).to_owned(), Some(name.clone()).filter(|n| !n.is_empty())));
    client.alter_quotas(&entity.collect::<Vec<_>>(), &quotas)?;
    match entities.names[0].as_str() {
        "" => terminal.line(format_args!("Completed updating default config for {plural} in the cluster.")),
        name => terminal.line(format_args!("Completed updating config for {} {name}.", super::singular(plural))),
    }
    Ok(())
}

/// Keys to set, with their values, and keys to delete.
type Changes = (Vec<(String, String)>, Vec<String>);

fn changes(parsed: &Parsed) -> Result<Changes, Failure> {
    let mut set: Vec<(String, String)> = match parsed.get("add-config-file").map_err(text)? {
        Some(path) => {
            let props = crate::props::Props::load(path).map_err(Failure::Message)?;
            props.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
        }
        None => Vec::new(),
    };
    for (key, _) in &set {
        check_name(key).map_err(Failure::Message)?;
    }
    if let Some(additions) = parsed.get("add-config").map_err(text)? {
        set.extend(parse_additions(additions).map_err(Failure::Message)?);
    }
    let deletions = parsed.all("delete-config").iter().flat_map(|keys| keys.split(','));
    Ok((set, deletions.map(|key| key.trim().to_owned()).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(entity: &[(&str, Option<&str>)], values: &[(&str, f64)]) -> QuotaEntry {
        QuotaEntry {
            entity: entity.iter().map(|(kind, name)| ((*kind).to_owned(), name.map(str::to_owned))).collect(),
            values: values.iter().map(|(key, value)| ((*key).to_owned(), *value)).collect(),
        }
    }

    #[test]
    fn as_recorded() {
        let line_of = |golden: &str, entry: QuotaEntry| {
            let line = line(entry);
            assert!(golden.lines().any(|recorded| recorded == line), "{line}");
        };
        let clients = include_str!("../../tests/golden/configs-describe-clients.txt");
        line_of(clients, entry(&[("client-id", None)], &[("producer_byte_rate", 10_485_760.0)]));
        let users = include_str!("../../tests/golden/configs-describe-users.txt");
        line_of(users, entry(&[("user", Some("alice"))], &[("producer_byte_rate", 1_048_576.0)]));
        let ips = include_str!("../../tests/golden/configs-describe-ips.txt");
        line_of(ips, entry(&[("ip", Some("127.0.0.9"))], &[("connection_creation_rate", 100.0)]));
    }
}
