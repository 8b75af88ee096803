//! The options of `kafka-configs`, and what they say together.

use crate::jopt::{Parsed, Stop, Usage, flag, value};

pub const USAGE: Usage = Usage {
    about: "Shows and changes the configuration of topics, brokers, groups and client metrics.",
    examples: &[
        "zwirn configs --bootstrap-server localhost:9092 --describe --topic orders",
        "zwirn configs --bootstrap-server localhost:9092 --alter --topic orders --add-config retention.ms=3600000",
        "zwirn configs --bootstrap-server localhost:9092 --alter --broker-defaults --delete-config log.retention.ms",
    ],
    options: &[
        value("bootstrap-server", "Brokers to start from, host:port separated by commas."),
        value("bootstrap-controller", "Controllers to start from, instead of brokers."),
        value("command-config", "Properties file for the client."),
        flag("describe", "Show what is set."),
        flag("all", "With --describe: everything that holds, defaults too."),
        flag("alter", "Set or delete keys."),
        value("add-config", "key=value pairs, separated by commas; key=[a,b] where a value has commas."),
        value("add-config-file", "A properties file with keys to set."),
        value("delete-config", "Keys to delete, separated by commas."),
        value("entity-type", "topics, brokers, groups, client-metrics, users, clients, ips or broker-loggers."),
        value("entity-name", "Name of the topic, id of the broker, and so on."),
        flag("entity-default", "The default of all brokers, users, clients or addresses."),
        value("topic", "Short for --entity-type topics --entity-name."),
        value("client", "A client's id."),
        flag("client-defaults", "The default of all clients."),
        value("user", "A user's name."),
        flag("user-defaults", "The default of all users."),
        value("broker", "A broker's id."),
        flag("broker-defaults", "The default of all brokers."),
        value("broker-logger", "A broker's id, for its loggers."),
        value("ip", "An address."),
        flag("ip-defaults", "The default of all addresses."),
        value("client-metrics", "A subscription of client metrics."),
        value("group", "A group's id."),
    ],
};

const NAMED: &[(&str, &str)] = &[
    ("topic", "topics"),
    ("client", "clients"),
    ("user", "users"),
    ("broker", "brokers"),
    ("broker-logger", "broker-loggers"),
    ("ip", "ips"),
    ("client-metrics", "client-metrics"),
    ("group", "groups"),
];

const DEFAULTS: &[(&str, &str)] = &[
    ("client-defaults", "clients"),
    ("user-defaults", "users"),
    ("broker-defaults", "brokers"),
    ("ip-defaults", "ips"),
];

const KINDS: &[&str] = &["topics", "clients", "users", "brokers", "ips", "client-metrics", "groups", "broker-loggers"];

/// What has a default of its own.
const WITH_DEFAULT: &[&str] = &["users", "clients", "brokers", "ips"];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entities {
    pub kinds: Vec<String>,
    /// An empty name is the default.
    pub names: Vec<String>,
}

pub fn entities(parsed: &Parsed) -> Result<Entities, Stop> {
    let mut kinds: Vec<String> = parsed.all("entity-type").to_vec();
    let mut names: Vec<String> = parsed.all("entity-name").to_vec();
    if parsed.has("entity-default") {
        names.push(String::new());
    }
    for (option, kind) in NAMED {
        if let Some(name) = parsed.get(option)? {
            kinds.push((*kind).to_owned());
            names.push(name.to_owned());
        }
    }
    for (_, kind) in DEFAULTS.iter().filter(|(option, _)| parsed.has(option)) {
        kinds.push((*kind).to_owned());
        names.push(String::new());
    }
    Ok(Entities { kinds, names })
}

/// In the order in which Kafka's tool looks at them, so that the same mistake is named first.
pub fn check(parsed: &Parsed) -> Result<Entities, Stop> {
    let wrong = |message: &str| Err(Stop::Message(message.to_owned()));
    if parsed.has("alter") == parsed.has("describe") {
        return Err(Stop::Usage("Command must include exactly one action: --describe, --alter".to_owned()));
    }
    parsed.exclude("describe", &["add-config", "delete-config"])?;
    let entities = entities(parsed)?;
    let kinds = &entities.kinds;
    if let Some((_, twice)) = kinds.iter().enumerate().find(|(i, kind)| kinds[..*i].contains(kind)) {
        return wrong(&format!("Duplicate entity type(s) specified: {twice}"));
    }
    if !parsed.has("bootstrap-server") && !parsed.has("bootstrap-controller") {
        return wrong("Either --bootstrap-server or --bootstrap-controller must be specified.");
    }
    if let Some(unknown) = kinds.iter().find(|kind| !KINDS.contains(&kind.as_str())) {
        return wrong(&format!("Invalid entity type {unknown}, the entity type must be one of {}", KINDS.join(", ")));
    }
    let both = |a: &str, b: &str| kinds.iter().any(|kind| kind == a) && kinds.iter().any(|kind| kind == b);
    match kinds.len() {
        0 => return wrong("At least one entity type must be specified"),
        1 => {}
        2 if both("users", "clients") => {}
        _ => return wrong("Only 'users' and 'clients' entity types may be specified together"),
    }
    let generic = ["entity-name", "entity-type", "entity-default"].iter().any(|option| parsed.has(option));
    if generic && NAMED.iter().chain(DEFAULTS).any(|(option, _)| parsed.has(option)) {
        return wrong("--entity-{type,name,default} should not be used in conjunction with specific entity flags");
    }
    if parsed.has("bootstrap-server") && parsed.has("bootstrap-controller") {
        return wrong("Only one of --bootstrap-server or --bootstrap-controller can be specified");
    }
    let kind = kinds[0].as_str();
    if ["brokers", "broker-loggers"].contains(&kind) {
        if let Some(name) = entities.names.iter().find(|name| !name.is_empty() && name.parse::<i32>().is_err()) {
            return wrong(&format!("The entity name for {kind} must be a valid integer broker id, but it is: {name}"));
        }
    }
    if kind == "ips" {
        if let Some(name) = entities.names.iter().find(|n| !n.is_empty() && n.parse::<std::net::IpAddr>().is_err()) {
            return wrong(&format!(
                "The entity name for {kind} must be a valid IP or resolvable host, but it is: {name}"
            ));
        }
    }
    check_action(parsed, &entities)?;
    Ok(entities)
}

fn check_action(parsed: &Parsed, entities: &Entities) -> Result<(), Stop> {
    let wrong = |message: &str| Err(Stop::Message(message.to_owned()));
    let kinds = entities.kinds.join(",");
    let has_default = entities.kinds.iter().any(|kind| WITH_DEFAULT.contains(&kind.as_str()));
    let is_named = entities.names.iter().any(|name| !name.is_empty());
    if parsed.has("describe") {
        if !has_default && parsed.has("entity-default") {
            return wrong(&format!("--entity-default must not be specified with --describe of {kinds}"));
        }
        if kinds == "broker-loggers" && !is_named {
            return wrong(&format!("An entity name must be specified with --describe of {kinds}"));
        }
        return Ok(());
    }
    if has_default && entities.names.is_empty() {
        return wrong(
            "An entity-name or default entity must be specified with --alter of users, clients, brokers or ips",
        );
    }
    if !has_default && !is_named {
        return wrong(&format!("An entity name must be specified with --alter of {kinds}"));
    }
    if parsed.has("add-config") && parsed.has("add-config-file") {
        return wrong("Only one of --add-config or --add-config-file must be specified");
    }
    if !["add-config", "add-config-file", "delete-config"].iter().any(|option| parsed.has(option)) {
        return wrong(
            "At least one of --add-config, --add-config-file, or --delete-config must be specified with --alter",
        );
    }
    if entities.kinds.len() != entities.names.len() {
        return wrong("An entity name must be specified for every entity type");
    }
    Ok(())
}

/// `k1=v1,k2=[v2,v3]`: commas and equals signs inside of brackets belong to the value.
pub fn parse_additions(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut pairs = split(text, ',');
    while pairs.last().is_some_and(|pair| pair.is_empty()) {
        pairs.pop();
    }
    let mut out = Vec::new();
    for pair in pairs {
        let parts = split(pair, '=');
        let [key, value] = parts.as_slice() else {
            return Err(format!(
                "Invalid entity config {pair:?}: write key=value, or key=[a,b] for values with commas"
            ));
        };
        let key = key.trim();
        check_name(key)?;
        let value: String = value.chars().filter(|c| !matches!(c, '[' | ']')).collect();
        out.push((key.to_owned(), value.trim().to_owned()));
    }
    Ok(out)
}

pub fn check_name(key: &str) -> Result<(), String> {
    let is_valid = |c: char| c.is_ascii_alphanumeric() || "$._-".contains(c);
    match key.chars().all(is_valid) {
        true => Ok(()),
        false => Err(format!("Invalid character found for config key: {key}")),
    }
}

/// At separators outside of brackets.
fn split(text: &str, separator: char) -> Vec<&str> {
    let mut out = Vec::new();
    let (mut from, mut inside) = (0, false);
    for (at, c) in text.char_indices() {
        match c {
            '[' => inside = true,
            ']' => inside = false,
            c if c == separator && !inside => {
                out.push(&text[from..at]);
                from = at + c.len_utf8();
            }
            _ => {}
        }
    }
    out.push(&text[from..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn additions() {
        let parsed = parse_additions("a=1, b = [x=1,y],c=").unwrap();
        let pairs: Vec<(&str, &str)> = parsed.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(pairs, [("a", "1"), ("b", "x=1,y"), ("c", "")]);
        assert!(
            parse_additions("a").is_err() && parse_additions("a=b=c").is_err() && parse_additions("a b=1").is_err()
        );
    }
}
