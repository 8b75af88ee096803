//! `zwirn config explain`: what a key means, what holds for it, and where it can be changed. The same tables, as a
//! page, are docs/configuration.md.

use std::fmt::Write;

use metadata::config::{
    ConfigEntry, ConfigKey, ConfigSource, DefaultValue, DynamicConfigs, Update, Valid, about_key, broker_key,
    broker_key_synonyms, broker_keys, describe_broker_configs, describe_topic_configs, group_key, group_keys,
    nearest_broker_key, topic_key, topic_key_synonyms, topic_keys,
};

use crate::terminal::Terminal;

const USAGE: &str = "\
config: explains configuration keys.

  zwirn config explain [KEY] [-c FILE]   what a key means and where it can be changed; with a properties file,
                                         what holds with it; without a key, everything that the file sets
  zwirn config reference                 every key, as the Markdown page docs/configuration.md
";

pub fn main(args: &[String], terminal: &mut Terminal<'_>) -> u8 {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args.as_slice() {
        ["reference"] => Ok(reference()),
        ["explain", rest @ ..] => explain(rest),
        ["--help" | "-h" | "help"] => Ok(USAGE.to_owned()),
        _ => Err(USAGE.to_owned()),
    };
    let (text, out, code) = match result {
        Ok(text) => (text, &mut terminal.out, 0),
        Err(text) => (text, &mut terminal.err, 1),
    };
    let _ = writeln!(out, "{}", text.trim_end());
    code
}

/// Where a key belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Broker,
    Topic,
    Group,
}

fn explain(args: &[&str]) -> Result<String, String> {
    let (mut key, mut file) = (None, None);
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        match *arg {
            "-c" | "--config" => file = Some(*rest.next().ok_or_else(|| format!("{arg} needs a file\n\n{USAGE}"))?),
            "-h" | "--help" => return Ok(USAGE.to_owned()),
            name if name.starts_with('-') || key.is_some() => return Err(format!("{name}: what is it?\n\n{USAGE}")),
            name => key = Some(name),
        }
    }
    let node = match file {
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
            Some(crate::storage::parse(&text, path)?)
        }
        None => None,
    };
    let none = DynamicConfigs::default();
    let brokers = node.as_ref().map(|node| describe_broker_configs(none, node)).unwrap_or_default();
    let topics = node.as_ref().map(|node| describe_topic_configs(None, none, node)).unwrap_or_default();
    match key {
        Some(name) => explain_key(name, &brokers, &topics),
        None => Ok(overview(&brokers)),
    }
}

fn explain_key(name: &str, brokers: &[ConfigEntry], topics: &[ConfigEntry]) -> Result<String, String> {
    let kinds = [(Kind::Broker, broker_key(name)), (Kind::Topic, topic_key(name)), (Kind::Group, group_key(name))];
    let mut out = String::new();
    for (kind, key) in kinds.into_iter().filter_map(|(kind, key)| Some((kind, key?))) {
        if !out.is_empty() {
            out.push('\n');
        }
        let entries = match kind {
            Kind::Broker => brokers,
            Kind::Topic => topics,
            Kind::Group => &[],
        };
        out.push_str(&card(kind, key, entries.iter().find(|entry| entry.name == name)));
    }
    if !out.is_empty() {
        return Ok(out);
    }
    // The key may be one of a listener, or of a plugin, that only the file knows.
    if let Some(entry) = brokers.iter().find(|entry| entry.name == name) {
        let value = entry.value.as_deref().unwrap_or("(not shown: it may be a secret)");
        return Ok(format!("{name}\n  Value       {value}\n  Source      {}\n", source(entry.source)));
    }
    let nearest = nearest_broker_key(name).map(|nearest| format!("; did you mean {nearest}?"));
    Err(format!("{name} is no key of Kafka's{}", nearest.unwrap_or_default()))
}

fn card(kind: Kind, key: &ConfigKey, entry: Option<&ConfigEntry>) -> String {
    let of = match kind {
        Kind::Broker => "node",
        Kind::Topic => "topic",
        Kind::Group => "group",
    };
    let mut out = format!("{} ({of})\n", key.name);
    let mut row = |name: &str, value: &str| {
        let _ = writeln!(out, "  {name:<12}{value}");
    };
    if let Some(about) = about_key(key.name) {
        row("Meaning", about);
    }
    if let Some(entry) = entry {
        row("Value", entry.value.as_deref().unwrap_or(if entry.is_sensitive { "(a secret)" } else { "none" }));
        row("Source", source(entry.source));
        for synonym in entry.synonyms.iter().filter(|synonym| synonym.name != key.name) {
            row("", &format!("{}={}", synonym.name, synonym.value.as_deref().unwrap_or("none")));
        }
    }
    row("Type", &key.config_type.name().to_ascii_lowercase());
    row("Default", &default(key));
    row("Valid", &valid(key.valid));
    let synonyms = synonyms(kind, key.name);
    if !synonyms.is_empty() {
        row(if kind == Kind::Topic { "Falls back" } else { "Also set by" }, &synonyms.join(", "));
    }
    let topic_defaults = topic_keys().iter().filter(|topic| topic_key_synonyms(topic.name).contains(&key.name));
    let topic_defaults: Vec<&str> = topic_defaults.map(|topic| topic.name).collect();
    if kind == Kind::Broker && !topic_defaults.is_empty() {
        row("Default of", &format!("the topic key {}", topic_defaults.join(", ")));
    }
    row("Changes", changes(kind, key));
    out
}

fn synonyms(kind: Kind, name: &str) -> Vec<&str> {
    match kind {
        Kind::Broker => broker_key_synonyms(name),
        Kind::Topic => topic_key_synonyms(name),
        Kind::Group => Vec::new(),
    }
}

fn source(source: ConfigSource) -> &'static str {
    match source {
        ConfigSource::DefaultConfig => "Kafka's default",
        ConfigSource::StaticBrokerConfig => "the properties file",
        ConfigSource::DynamicBrokerConfig => "set at run time for this broker",
        ConfigSource::DynamicDefaultBrokerConfig => "set at run time for all brokers",
        ConfigSource::DynamicTopicConfig => "set for the topic",
        ConfigSource::DynamicClientMetricsConfig | ConfigSource::DynamicGroupConfig => "set at run time",
    }
}

fn default(key: &ConfigKey) -> String {
    match key.default {
        DefaultValue::Required => "none; must be set".to_owned(),
        DefaultValue::Null => "none".to_owned(),
        DefaultValue::Is("") => "empty".to_owned(),
        DefaultValue::Is(value) => value.to_owned(),
    }
}

fn valid(valid: Valid) -> String {
    match valid {
        Valid::Any => "any".to_owned(),
        Valid::AtLeast(min) => format!("{min} or more"),
        Valid::Between(min, max) => format!("{min} to {max}"),
        Valid::OneOf(values) | Valid::OneOfAnyCase(values) => values.join(", "),
        Valid::ListOf(&[], true) => "a list".to_owned(),
        Valid::ListOf(&[], false) => "a list, not empty".to_owned(),
        Valid::ListOf(values, true) => format!("a list of {}", values.join(", ")),
        Valid::ListOf(values, false) => format!("a list of {}, not empty", values.join(", ")),
        Valid::NonEmpty => "not empty".to_owned(),
        Valid::GzipLevel => "1 to 9, or -1".to_owned(),
        Valid::ThrottledReplicas => "partition:broker pairs, or *".to_owned(),
        Valid::Voters => "id@host:port, separated by commas".to_owned(),
        Valid::BootstrapServers => "host:port, separated by commas".to_owned(),
    }
}

fn changes(kind: Kind, key: &ConfigKey) -> &'static str {
    match (kind, key.update) {
        (Kind::Topic, _) => "at run time: zwirn configs --alter --topic <name>",
        (Kind::Group, _) => "at run time: zwirn configs --alter --group <id>",
        (Kind::Broker, Update::ReadOnly) => "in the properties file, with a restart",
        (Kind::Broker, Update::PerBroker) => {
            "in the file; at run time for one broker: zwirn configs --alter --broker <id>"
        }
        (Kind::Broker, Update::ClusterWide) => {
            "in the file; at run time for one broker or all: zwirn configs --alter --broker <id> | --broker-defaults"
        }
    }
}

/// What is not a default, or, without a file, every name.
fn overview(brokers: &[ConfigEntry]) -> String {
    let mut out = String::new();
    if brokers.is_empty() {
        let names = |keys: &'static [ConfigKey]| keys.iter().filter(|key| !key.internal).map(|key| key.name);
        for name in names(broker_keys()) {
            let _ = writeln!(out, "{name:<60} {}", about_key(name).unwrap_or_default());
        }
        return out.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    }
    for entry in brokers.iter().filter(|entry| entry.source != ConfigSource::DefaultConfig) {
        let value = entry.value.as_deref().unwrap_or("(not shown: it may be a secret)");
        let _ = writeln!(out, "{}={value}", entry.name);
    }
    out
}

/// docs/configuration.md.
fn reference() -> String {
    let mut out = String::from(
        "# Configuration\n\n\
         Every key of Apache Kafka 4.3.1, as this node knows it. Written by `zwirn config reference`; a test holds the\n\
         page to the tables in the code. `zwirn config explain KEY -c server.properties` says the same of one key, with\n\
         its value. Keys of parts that do not exist here (TLS, SASL, tiered storage, JVM plugins) are known, so that a\n\
         file with them is understood; those that would change what the node does are refused at start.\n",
    );
    let parts = [
        ("Nodes (server.properties)", Kind::Broker, broker_keys()),
        ("Topics", Kind::Topic, topic_keys()),
        ("Groups", Kind::Group, group_keys()),
    ];
    for (title, kind, keys) in parts {
        let _ = write!(
            out,
            "\n## {title}\n\n| Key | Type | Default | Valid | Changes | Meaning |\n|---|---|---|---|---|---|\n"
        );
        for key in keys.iter().filter(|key| !key.internal) {
            let changes = match (kind, key.update) {
                (Kind::Broker, Update::ReadOnly) => "restart",
                (Kind::Broker, Update::PerBroker) => "broker",
                (Kind::Broker, Update::ClusterWide) => "broker, cluster",
                _ => "run time",
            };
            let mut meaning = about_key(key.name).unwrap_or_default().to_owned();
            let synonyms = synonyms(kind, key.name);
            if !synonyms.is_empty() {
                let how = if kind == Kind::Topic { "Default:" } else { "Also:" };
                meaning = format!("{meaning} {how} `{}`.", synonyms.join("`, `"));
            }
            let cells = [
                format!("`{}`", key.name),
                key.config_type.name().to_ascii_lowercase(),
                default(key),
                valid(key.valid),
                changes.to_owned(),
                meaning.trim().to_owned(),
            ];
            let _ = writeln!(out, "| {} |", cells.map(|cell| cell.replace('|', "\\|")).join(" | "));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_current() {
        let page = include_str!("../../../docs/configuration.md");
        assert!(page == reference(), "run: zwirn config reference > docs/configuration.md");
    }

    #[test]
    fn a_key_with_its_value() {
        let text = "process.roles=broker\nnode.id=1\ncontroller.quorum.voters=2@h:9093\ncontroller.listener.names=C\n\
                    listeners=PLAINTEXT://:9092\nlisteners.x=1\nlog.retention.hours=2\nlog.dirs=/d\n\
                    listener.security.protocol.map=C:PLAINTEXT,PLAINTEXT:PLAINTEXT\n";
        let node = crate::storage::parse(text, "f").expect("valid");
        let none = DynamicConfigs::default();
        let (brokers, topics) = (describe_broker_configs(none, &node), describe_topic_configs(None, none, &node));
        let text = explain_key("retention.ms", &brokers, &topics).unwrap();
        assert!(text.contains("Value       7200000") && text.contains("log.retention.hours"), "{text}");
        let text = explain_key("log.retention.hours", &brokers, &topics).unwrap();
        assert!(text.contains("the properties file") && text.contains("with a restart"), "{text}");
        assert!(explain_key("node.idd", &[], &[]).unwrap_err().ends_with("did you mean node.id?"));
        assert!(overview(&brokers).contains("node.id=1\n") && !overview(&brokers).contains("num.partitions"));
    }
}
