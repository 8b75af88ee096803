//! Is a value one that its key allows? The messages are those that Kafka's clients show to their users.

use std::collections::{BTreeMap, BTreeSet};

use super::keys::{ConfigKey, ConfigType, Update, Valid, broker_key, broker_keys, topic_key};
use super::topic::TopicConfig;
use super::{DynamicConfigs, NodeConfig, synonyms};

/// One configuration of a topic: is the name known, and is the value one that it allows?
pub fn validate_topic_config(name: &str, value: &str) -> Result<(), String> {
    let key = topic_key(name).ok_or_else(|| format!("Unknown topic config name: {name}"))?;
    check(key, value)
}

/// All configurations of a topic together, over what the brokers' own settings say (LogConfig.validate).
pub fn validate_topic_configs(
    overrides: &BTreeMap<String, String>,
    dynamic: DynamicConfigs<'_>,
    node: &NodeConfig,
) -> Result<(), String> {
    if let Some(name) = overrides.keys().find(|name| topic_key(name).is_none()) {
        return Err(format!("Unknown topic config name: {name}"));
    }
    for (name, value) in overrides {
        validate_topic_config(name, value)?;
    }
    let config = TopicConfig::resolve(Some(overrides), dynamic, node);
    if config.min_compaction_lag_ms > config.max_compaction_lag_ms {
        return Err(format!(
            "conflict topic config setting min.compaction.lag.ms ({}) > max.compaction.lag.ms ({})",
            config.min_compaction_lag_ms, config.max_compaction_lag_ms
        ));
    }
    // The broker never runs tiered storage (`node` refuses the key that would switch it on).
    if config.remote_storage_enable {
        return Err("Tiered Storage functionality is disabled in the broker. \
                    Topic cannot be configured with remote log storage."
            .to_owned());
    }
    Ok(())
}

/// One dynamic configuration of brokers. Unknown names pass: they may belong to a plugin (DynamicConfig.Broker).
pub fn validate_broker_config(name: &str, value: &str) -> Result<(), String> {
    let name = synonyms::without_listener(name).unwrap_or(name);
    broker_key(name).map_or(Ok(()), |key| check(key, value))
}

/// DynamicBrokerConfig.DYNAMIC_SECURITY_CONFIGS.
const PER_LISTENER_ONLY: &[&str] = &[
    "ssl.key.password",
    "ssl.keystore.certificate.chain",
    "ssl.keystore.key",
    "ssl.keystore.location",
    "ssl.keystore.password",
    "ssl.keystore.type",
    "ssl.truststore.certificates",
    "ssl.truststore.location",
    "ssl.truststore.password",
    "ssl.truststore.type",
];

/// All dynamic configurations of one broker, or, without `per_broker`, of the default of all brokers.
pub fn validate_broker_configs(configs: &BTreeMap<String, String>, per_broker: bool) -> Result<(), String> {
    let update_of = |name: &str| broker_key(name).map(|key| key.update);
    let named = |wanted: &dyn Fn(&str) -> bool, message: &str| {
        let names: Vec<&str> = configs.keys().map(String::as_str).filter(|name| wanted(name)).collect();
        if names.is_empty() { Ok(()) } else { Err(format!("{message}: [{}]", names.join(", "))) }
    };
    named(&|name| update_of(name) == Some(Update::ReadOnly), "Cannot update these configs dynamically")?;
    named(
        &|name| PER_LISTENER_ONLY.contains(&name),
        "These security configs can be dynamically updated only per-listener using the listener prefix",
    )?;
    for (name, value) in configs {
        validate_broker_config(name, value)?;
    }
    if per_broker {
        return Ok(());
    }
    named(
        &|name| match synonyms::without_listener(name) {
            Some(base) => !["max.connections", "max.connection.creation.rate", "num.network.threads"].contains(&base),
            None => update_of(name) == Some(Update::PerBroker),
        },
        "Cannot update these configs at default cluster level, broker id must be specified",
    )
}

/// Every key of the file: what is wrong with its value, in Kafka's words.
pub(super) fn check_file(values: &BTreeMap<&str, &str>) -> Vec<(&'static str, String)> {
    broker_keys()
        .iter()
        .filter_map(|key| values.get(key.name).and_then(|value| check(key, value).err()).map(|why| (key.name, why)))
        .collect()
}

/// The value in the form that Kafka shows it: trimmed, lists without blanks, numbers and booleans in their one spelling.
pub(super) fn canonical(key: &ConfigKey, value: &str) -> String {
    let value = value.trim();
    match key.config_type {
        ConfigType::Boolean => value.to_ascii_lowercase(),
        ConfigType::Int | ConfigType::Long | ConfigType::Short => {
            value.parse::<i64>().map_or_else(|_| value.to_owned(), |number| number.to_string())
        }
        ConfigType::Double => parse_double(value).map_or_else(|| value.to_owned(), double_to_string),
        ConfigType::List => {
            let items = list(value);
            // ConfigDef drops what is there twice, except from lists without a list validator.
            let mut seen = BTreeSet::new();
            let distinct = matches!(key.valid, Valid::ListOf(..));
            let kept: Vec<&str> = items.into_iter().filter(|item| !distinct || seen.insert(*item)).collect();
            kept.join(",")
        }
        ConfigType::Str | ConfigType::Class | ConfigType::Password => value.to_owned(),
    }
}

pub(super) fn list(value: &str) -> Vec<&str> {
    let value = value.trim();
    if value.is_empty() { Vec::new() } else { value.split(',').map(str::trim).collect() }
}

/// `value` as its key's type, within its key's valid values.
pub(super) fn check(key: &ConfigKey, value: &str) -> Result<(), String> {
    let trimmed = value.trim();
    let not_a_number = || {
        Err(format!(
            "Invalid value {value} for configuration {}: Not a number of type {}",
            key.name,
            key.config_type.name()
        ))
    };
    match key.config_type {
        ConfigType::Boolean if !trimmed.eq_ignore_ascii_case("true") && !trimmed.eq_ignore_ascii_case("false") => Err(
            format!("Invalid value {value} for configuration {}: Expected value to be either true or false", key.name),
        ),
        ConfigType::Int => match trimmed.parse::<i32>() {
            Ok(number) => check_number(key, f64::from(number), &number.to_string()),
            Err(_) => not_a_number(),
        },
        ConfigType::Short => match trimmed.parse::<i16>() {
            Ok(number) => check_number(key, f64::from(number), &number.to_string()),
            Err(_) => not_a_number(),
        },
        // Range compares as doubles, so does Kafka's.
        ConfigType::Long => match trimmed.parse::<i64>() {
            Ok(number) => check_number(key, number as f64, &number.to_string()),
            Err(_) => not_a_number(),
        },
        ConfigType::Double => match parse_double(trimmed) {
            Some(number) => check_number(key, number, &double_to_string(number)),
            None => not_a_number(),
        },
        ConfigType::Boolean => Ok(()),
        ConfigType::List => check_list(key, &list(trimmed)),
        ConfigType::Str | ConfigType::Class | ConfigType::Password => check_string(key, trimmed),
    }
}

fn check_number(key: &ConfigKey, number: f64, shown: &str) -> Result<(), String> {
    let (least, most) = match key.valid {
        Valid::AtLeast(least) => (least, None),
        Valid::Between(least, most) => (least, Some(most)),
        Valid::GzipLevel if number != -1.0 && !(1.0..=9.0).contains(&number) => {
            return invalid(key, shown, "Value must be between 1 and 9 or equal to -1");
        }
        _ => return Ok(()),
    };
    match most {
        _ if number < least as f64 => invalid(key, shown, &format!("Value must be at least {least}")),
        Some(most) if number > most as f64 => invalid(key, shown, &format!("Value must be no more than {most}")),
        _ => Ok(()),
    }
}

fn check_string(key: &ConfigKey, value: &str) -> Result<(), String> {
    match key.valid {
        Valid::OneOf(values) if !values.contains(&value) => {
            invalid(key, value, &format!("String must be one of: {}", values.join(", ")))
        }
        Valid::OneOfAnyCase(values) if !values.iter().any(|one| one.eq_ignore_ascii_case(value)) => {
            invalid(key, value, &format!("String must be one of (case insensitive): {}", values.join(", ")))
        }
        Valid::NonEmpty if value.is_empty() => invalid(key, value, "String must be non-empty"),
        _ => Ok(()),
    }
}

fn check_list(key: &ConfigKey, items: &[&str]) -> Result<(), String> {
    match key.valid {
        Valid::ListOf(values, may_be_empty) => {
            if items.is_empty() && !may_be_empty {
                let names = match values.is_empty() {
                    true => "any non-empty value".to_owned(),
                    false => format!("[{}]", values.join(", ")),
                };
                return Err(format!("Configuration '{}' must not be empty. Valid values include: {names}", key.name));
            }
            if items.iter().any(|item| item.is_empty()) {
                return Err(format!("Configuration '{}' values must not be empty.", key.name));
            }
            match items.iter().find(|item| !values.is_empty() && !values.contains(item)) {
                Some(item) => invalid(key, item, &format!("String must be one of: {}", values.join(", "))),
                None => Ok(()),
            }
        }
        Valid::ThrottledReplicas => {
            // Java's split drops empty parts at the end, so "0:1," passes as it does in Kafka.
            let meant: Vec<&str> = items.iter().copied().filter(|item| !item.is_empty()).collect();
            let is_pair = |item: &&str| {
                let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
                item.split_once(':').is_some_and(|(partition, broker)| digits(partition) && digits(broker))
            };
            if meant == ["*"] || meant.iter().all(is_pair) {
                return Ok(());
            }
            let shown = format!("[{}]", items.join(", "));
            let form = "[partitionId]:[brokerId],[partitionId]:[brokerId],...";
            let name = key.name;
            let why = format!("{name} must be the literal '*' or a list of replicas in the following format: {form}");
            invalid(key, &shown, &why)
        }
        // The addresses themselves are read, and refused with a remedy, where they are used: see `listeners`.
        _ => Ok(()),
    }
}

fn invalid(key: &ConfigKey, shown: &str, why: &str) -> Result<(), String> {
    Err(format!("Invalid value {shown} for configuration {}: {why}", key.name))
}

/// What Double.parseDouble reads, hexadecimal floating point apart.
pub(super) fn parse_double(text: &str) -> Option<f64> {
    match text {
        "NaN" | "+NaN" | "-NaN" => return Some(f64::NAN),
        "Infinity" | "+Infinity" => return Some(f64::INFINITY),
        "-Infinity" => return Some(f64::NEG_INFINITY),
        _ => {}
    }
    let digits = text.strip_suffix(['d', 'D', 'f', 'F']).unwrap_or(text);
    // Rust also reads "inf" and "nan", Java does not.
    let is_number = digits.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E'));
    if is_number { digits.parse().ok() } else { None }
}

/// As Double.toString prints it: plain from 10⁻³ up to 10⁷, else with an exponent, and always with a decimal.
pub fn double_to_string(number: f64) -> String {
    let size = number.abs();
    if number.is_nan() {
        "NaN".to_owned()
    } else if number.is_infinite() {
        if number > 0.0 { "Infinity".to_owned() } else { "-Infinity".to_owned() }
    } else if size == 0.0 || (1e-3..1e7).contains(&size) {
        format!("{number:?}")
    } else {
        let shown = format!("{number:E}");
        match shown.split_once('E') {
            Some((digits, exponent)) if !digits.contains('.') => format!("{digits}.0E{exponent}"),
            _ => shown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The right-hand sides were printed by Kafka 4.3.1's LogConfig.validate.
    #[test]
    fn wrong_values_are_refused_in_kafkas_words() {
        let throttled = "Invalid value [0:1, *] for configuration leader.replication.throttled.replicas: \
             leader.replication.throttled.replicas must be the literal '*' or a list of replicas in the following \
             format: [partitionId]:[brokerId],[partitionId]:[brokerId],...";
        let cases = [
            ("no.such", "1", "Unknown topic config name: no.such"),
            ("retention.ms", "x", "Invalid value x for configuration retention.ms: Not a number of type LONG"),
            ("retention.ms", "-2", "Invalid value -2 for configuration retention.ms: Value must be at least -1"),
            ("flush.ms", " ", "Invalid value   for configuration flush.ms: Not a number of type LONG"),
            (
                "segment.bytes",
                "1024",
                "Invalid value 1024 for configuration segment.bytes: Value must be at least 1048576",
            ),
            (
                "compression.gzip.level",
                "0",
                "Invalid value 0 for configuration compression.gzip.level: Value must be between 1 and 9 or equal to -1",
            ),
            (
                "compression.lz4.level",
                "18",
                "Invalid value 18 for configuration compression.lz4.level: Value must be no more than 17",
            ),
            (
                "min.cleanable.dirty.ratio",
                "2",
                "Invalid value 2.0 for configuration min.cleanable.dirty.ratio: Value must be no more than 1",
            ),
            (
                "cleanup.policy",
                "Delete",
                "Invalid value Delete for configuration cleanup.policy: String must be one of: compact, delete",
            ),
            ("cleanup.policy", "compact,,delete", "Configuration 'cleanup.policy' values must not be empty."),
            (
                "preallocate",
                "yes",
                "Invalid value yes for configuration preallocate: Expected value to be either true or false",
            ),
            ("leader.replication.throttled.replicas", "0:1,*", throttled),
        ];
        for (name, value, message) in cases {
            assert_eq!(validate_topic_config(name, value), Err(message.to_owned()), "{name}={value}");
        }
        let accepted = [
            ("cleanup.policy", ""),
            ("cleanup.policy", " compact , delete"),
            ("segment.bytes", " +1048576 "),
            ("min.cleanable.dirty.ratio", ".5"),
            ("min.cleanable.dirty.ratio", "0.5f"),
            ("preallocate", " TRUE "),
            ("follower.replication.throttled.replicas", "0:1,"),
            ("leader.replication.throttled.replicas", "*"),
        ];
        for (name, value) in accepted {
            assert_eq!(validate_topic_config(name, value), Ok(()), "{name}={value}");
        }
    }

    #[test]
    fn only_dynamic_broker_configs_may_change() {
        let one = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
        let refused = validate_broker_configs(&one("node.id", "9"), true);
        assert_eq!(refused, Err("Cannot update these configs dynamically: [node.id]".to_owned()));
        assert_eq!(validate_broker_configs(&one("log.cleaner.threads", "2"), true), Ok(()));
        assert!(validate_broker_configs(&one("listeners", "PLAINTEXT://:1"), false).is_err());
        assert!(validate_broker_configs(&one("log.retention.ms", "soon"), false).is_err());
    }

    #[test]
    fn doubles_look_as_java_prints_them() {
        for (number, shown) in
            [(0.5, "0.5"), (2.0, "2.0"), (1e-4, "1.0E-4"), (1.25e10, "1.25E10"), (f64::MAX, "1.7976931348623157E308")]
        {
            assert_eq!(double_to_string(number), shown);
        }
    }
}
