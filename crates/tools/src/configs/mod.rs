//! `kafka-configs`: shows and changes configurations of topics, brokers, groups and client metrics.

mod options;
mod quotas;

use std::fmt::Write;

use protocol::api::ApiKey;

use crate::client::{Client, ClientError, ConfigDescription, Resource, Settings};
use crate::jopt::{Parsed, Stop};
use crate::props::Props;
use crate::terminal::Terminal;
use options::{Entities, USAGE, check_name, parse_additions};

enum Failure {
    /// Nothing but a message, as for a wrong command line.
    Message(String),
    /// With the command line and the exception.
    Thrown(String),
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        match error {
            ClientError::Unsupported(message) => Failure::Message(message),
            error => Failure::Thrown(error.exception()),
        }
    }
}

pub fn main(args: &[String], terminal: &mut Terminal<'_>) -> u8 {
    let checked = USAGE.parse(args, terminal).and_then(|parsed| options::check(&parsed).map(|found| (parsed, found)));
    let (parsed, entities) = match checked {
        Ok(checked) => checked,
        Err(stop) => return stop.report(&USAGE, terminal),
    };
    match run(&parsed, &entities, terminal) {
        Ok(()) => 0,
        Err(Failure::Message(message)) => {
            terminal.error(message);
            1
        }
        Err(Failure::Thrown(exception)) => {
            terminal.error(format_args!("Error while executing config command with args '{}'", args.join(" ")));
            terminal.error(format_args!("java.util.concurrent.ExecutionException: {exception}"));
            terminal.error(format_args!("Caused by: {exception}"));
            1
        }
    }
}

fn text(stop: Stop) -> Failure {
    match stop {
        Stop::Usage(message) | Stop::Message(message) => Failure::Message(message),
        Stop::Exit(_) => Failure::Message(String::new()),
    }
}

fn run(parsed: &Parsed, entities: &Entities, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
    let mut client = connect(parsed)?;
    let kind = match entities.kinds[0].as_str() {
        "topics" => Resource::TOPIC,
        "brokers" => Resource::BROKER,
        "broker-loggers" => Resource::BROKER_LOGGER,
        "client-metrics" => Resource::CLIENT_METRICS,
        "groups" => Resource::GROUP,
        _ if parsed.has("alter") => return quotas::alter(parsed, entities, &mut client, terminal),
        _ => return quotas::describe(entities, &mut client, terminal),
    };
    if parsed.has("alter") {
        alter(parsed, kind, entities, &mut client, terminal)
    } else {
        describe(parsed.has("all"), kind, entities, &mut client, terminal)
    }
}

fn connect(parsed: &Parsed) -> Result<Client, Failure> {
    let props = match parsed.get("command-config").map_err(text)? {
        Some(path) => Props::load(path).map_err(Failure::Message)?,
        None => Props::default(),
    };
    let controllers = parsed.get("bootstrap-controller").map_err(text)?;
    let bootstrap = controllers.or(parsed.get("bootstrap-server").map_err(text)?).unwrap_or_default();
    let mut settings = Settings::admin(bootstrap, &props).map_err(|error| Failure::Message(error.to_string()))?;
    settings.controllers = controllers.is_some();
    Ok(Client::new(settings))
}

fn alter(
    parsed: &Parsed,
    kind: i8,
    entities: &Entities,
    client: &mut Client,
    terminal: &mut Terminal<'_>,
) -> Result<(), Failure> {
    let mut set = match parsed.get("add-config-file").map_err(text)? {
        Some(path) => {
            let props = Props::load(path).map_err(Failure::Message)?;
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
    let delete: Vec<String> = deletions.map(|key| key.trim().to_owned()).collect();
    let name = &entities.names[0];
    let resource = Resource { kind, name: name.clone() };
    if kind == Resource::BROKER_LOGGER {
        client.describe_configs(&resource)?;
    }
    client.alter_configs(&resource, &delete, &set)?;
    let plural = &entities.kinds[0];
    match name.is_empty() {
        true => terminal.line(format_args!("Completed updating default config for {plural} in the cluster.")),
        false => terminal.line(format_args!("Completed updating config for {} {name}.", singular(plural))),
    }
    Ok(())
}

/// Kafka's way: the last letter goes, so that `client-metrics` becomes `client-metric`.
fn singular(plural: &str) -> &str {
    &plural[..plural.len().saturating_sub(1)]
}

fn describe(
    all: bool,
    kind: i8,
    entities: &Entities,
    client: &mut Client,
    terminal: &mut Terminal<'_>,
) -> Result<(), Failure> {
    let plural = entities.kinds[0].as_str();
    let names = match entities.names.first() {
        Some(name) => {
            if !all && !exists(kind, name, client)? {
                let kind = singular(plural);
                terminal.line(format_args!("The {kind} '{name}' doesn't exist and doesn't have dynamic config."));
                return Ok(());
            }
            vec![name.clone()]
        }
        None => every(kind, client)?,
    };
    for name in names {
        let configs = client.describe_configs(&Resource { kind, name: name.clone() })?;
        let _ = terminal.out.write_all(format(all, kind, plural, &name, configs).as_bytes());
    }
    Ok(())
}

fn exists(kind: i8, name: &str, client: &mut Client) -> Result<bool, Failure> {
    Ok(match kind {
        Resource::BROKER | Resource::BROKER_LOGGER => {
            name.is_empty() || client.learn_nodes()?.iter().any(|id| id.to_string() == name)
        }
        // A group exists by its members or by its configuration; whether a broker that cannot list either knows it,
        // its answer tells.
        Resource::GROUP => {
            client.group_ids()?.iter().any(|id| id == name)
                || !client.supports(ApiKey::ListConfigResources)?
                || client.config_resources(kind)?.iter().any(|id| id == name)
        }
        _ => every(kind, client)?.iter().any(|known| known == name),
    })
}

fn every(kind: i8, client: &mut Client) -> Result<Vec<String>, Failure> {
    Ok(match kind {
        Resource::TOPIC => client.topic_names()?.into_keys().collect(),
        Resource::BROKER | Resource::BROKER_LOGGER => {
            let ids = client.learn_nodes()?;
            ids.iter().map(i32::to_string).chain([String::new()]).collect()
        }
        Resource::GROUP => {
            let mut ids = client.group_ids()?;
            if client.supports(ApiKey::ListConfigResources)? {
                ids.extend(client.config_resources(kind)?);
            }
            ids.sort_unstable();
            ids.dedup();
            ids
        }
        _ => client.config_resources(kind)?,
    })
}

/// The source of what is set on the resource itself.
fn own_source(kind: i8, name: &str) -> Option<i8> {
    match kind {
        Resource::TOPIC => Some(1),
        Resource::BROKER if name.is_empty() => Some(3),
        Resource::BROKER => Some(2),
        Resource::CLIENT_METRICS => Some(7),
        Resource::GROUP => Some(8),
        _ => None,
    }
}

fn source_name(source: i8) -> &'static str {
    match source {
        1 => "DYNAMIC_TOPIC_CONFIG",
        2 => "DYNAMIC_BROKER_CONFIG",
        3 => "DYNAMIC_DEFAULT_BROKER_CONFIG",
        4 => "STATIC_BROKER_CONFIG",
        5 => "DEFAULT_CONFIG",
        6 => "DYNAMIC_BROKER_LOGGER_CONFIG",
        7 => "DYNAMIC_CLIENT_METRICS_CONFIG",
        8 => "DYNAMIC_GROUP_CONFIG",
        _ => "UNKNOWN",
    }
}

fn format(all: bool, kind: i8, plural: &str, name: &str, mut configs: Vec<ConfigDescription>) -> String {
    let mut out = match (name.is_empty(), all) {
        (true, _) => format!("Default configs for {plural} in the cluster are:\n"),
        (false, true) => format!("All configs for {} {name} are:\n", singular(plural)),
        (false, false) => format!("Dynamic configs for {} {name} are:\n", singular(plural)),
    };
    if let (false, Some(own)) = (all, own_source(kind, name)) {
        configs.retain(|config| config.source == own);
    }
    configs.sort_by(|a, b| a.name.cmp(&b.name));
    let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "null".to_owned());
    for config in &configs {
        let one = |(source, name, value): &(i8, String, Option<String>)| {
            format!("{}:{name}={}", source_name(*source), shown(value))
        };
        let synonyms = config.synonyms.iter().map(one).collect::<Vec<_>>().join(", ");
        let value = shown(&config.value);
        let _ = writeln!(out, "  {}={value} sensitive={} synonyms={{{synonyms}}}", config.name, config.sensitive);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(name: &str, value: &str, synonyms: &[(i8, &str, &str)]) -> ConfigDescription {
        let synonyms = synonyms.iter().map(|(s, n, v)| (*s, (*n).to_owned(), Some((*v).to_owned())));
        let synonyms: Vec<_> = synonyms.collect();
        let source = synonyms.first().map_or(5, |s| s.0);
        ConfigDescription { name: name.to_owned(), value: Some(value.to_owned()), source, sensitive: false, synonyms }
    }

    #[test]
    fn as_recorded() {
        let configs = vec![
            config("retention.ms", "3600000", &[(1, "retention.ms", "3600000")]),
            config(
                "max.message.bytes",
                "2000000",
                &[(1, "max.message.bytes", "2000000"), (5, "message.max.bytes", "1048588")],
            ),
            config("flush.ms", "1", &[]),
        ];
        let text = format(false, Resource::TOPIC, "topics", "t-one", configs);
        assert!(include_str!("../../tests/golden/configs-describe-topic.txt").contains(&text), "{text}");
        let metrics = vec![
            config("metrics", "org.apache.kafka.", &[(7, "metrics", "org.apache.kafka.")]),
            config("interval.ms", "10000", &[(7, "interval.ms", "10000")]),
        ];
        let text = format(false, Resource::CLIENT_METRICS, "client-metrics", "sub-1", metrics);
        assert!(include_str!("../../tests/golden/configs-client-metrics-describe.txt").contains(&text), "{text}");
    }

    #[test]
    fn mistakes_as_recorded() {
        let run = |args: &[&str]| {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let args: Vec<String> = args.iter().map(|s| (*s).to_owned()).collect();
            let code = main(&args, &mut Terminal { out: &mut out, err: &mut err });
            assert_eq!(code, 1);
            String::from_utf8(err).unwrap()
        };
        let err = run(&["--bootstrap-server", "127.0.0.1:19291", "--entity-type", "topics"]);
        let golden = include_str!("../../tests/golden/configs-no-action.txt");
        assert!(golden.contains(err.lines().next().unwrap()));
        let err = run(&["--bootstrap-server", "127.0.0.1:19291", "--describe"]);
        assert!(include_str!("../../tests/golden/configs-no-entity-type.txt").contains(&err));
    }
}
