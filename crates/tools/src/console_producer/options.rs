//! The options of `kafka-console-producer`, and what they make of the producer's configuration.

use std::time::Duration;

use protocol::records::Compression;

use crate::client::Settings;
use crate::client::producer::Config;
use crate::jopt::{Parsed, Stop, Usage, flag, key_values, optional, value};
use crate::props::Props;
use crate::terminal::Terminal;

pub const USAGE: Usage = Usage {
    about: "Sends each line of the standard input as a record.",
    examples: &[
        "echo 'hello' | zwirn console-producer --bootstrap-server localhost:9092 --topic greetings",
        "zwirn console-producer --bootstrap-server localhost:9092 --topic t --reader-property parse.key=true \\\n      \
         --reader-property key.separator=:",
    ],
    options: &[
        value("topic", "Topic to send to. Required."),
        value("bootstrap-server", "Brokers to start from, host:port separated by commas. Required."),
        flag("sync", "Wait for each record's acknowledgement before the next is sent."),
        optional("compression-codec", "none, gzip, snappy, lz4 or zstd; gzip if no value is given."),
        value("batch-size", "Bytes of a batch (16384)."),
        value("message-send-max-retries", "How often a batch is sent again (3)."),
        value("retry-backoff-ms", "Wait before a batch is sent again (100)."),
        value("timeout", "How long a record may wait for company in its batch, in ms (1000)."),
        value("request-required-acks", "0: none, 1: the leader, all or -1: all in-sync replicas (-1)."),
        value("request-timeout-ms", "How long to wait for an acknowledgement (1500)."),
        value("metadata-expiry-ms", "How long to trust what is known of the cluster (300000)."),
        value("max-block-ms", "How long to wait for the topic to be known (60000)."),
        value("max-memory-bytes", "Bytes of records waiting to be sent (33554432)."),
        value("max-partition-memory-bytes", "Old name of --batch-size."),
        value("socket-buffer-size", "Accepted; the operating system sizes its buffers itself."),
        value("line-reader", "Accepted for Kafka's own reader of lines; other classes need a JVM."),
        value(
            "reader-property",
            "How to read a line: parse.key, parse.headers, key.separator, headers.delimiter,\n                                    headers.separator, headers.key.separator, ignore.error, null.marker.",
        ),
        value("reader-config", "Properties file with the same."),
        value("property", "Old name of --reader-property."),
        value("command-property", "Producer configuration, key=value."),
        value("command-config", "Producer configuration, properties file."),
        value("producer-property", "Old name of --command-property."),
        value("producer.config", "Old name of --command-config."),
    ],
};

/// Flags that become keys of the producer's configuration, with the tool's own defaults.
const FLAGS: &[(&str, &str, &str)] = &[
    ("timeout", "linger.ms", "1000"),
    ("request-required-acks", "acks", "-1"),
    ("request-timeout-ms", "request.timeout.ms", "1500"),
    ("message-send-max-retries", "retries", "3"),
    ("retry-backoff-ms", "retry.backoff.ms", "100"),
    ("max-memory-bytes", "buffer.memory", "33554432"),
    ("batch-size", "batch.size", "16384"),
    ("max-partition-memory-bytes", "batch.size", "16384"),
    ("metadata-expiry-ms", "metadata.max.age.ms", "300000"),
    ("max-block-ms", "max.block.ms", "60000"),
];

const LINE_READERS: &[&str] =
    &["org.apache.kafka.tools.LineMessageReader", "kafka.tools.ConsoleProducer$LineMessageReader"];

#[derive(Debug)]
pub struct Options {
    pub topic: String,
    pub sync: bool,
    pub reader: Props,
    bootstrap: String,
    producer: Props,
}

impl Options {
    pub fn of(parsed: &Parsed, terminal: &mut Terminal<'_>) -> Result<Options, Stop> {
        parsed.require(&["topic"])?;
        let both = |a: &str, b: &str| {
            let text = format!("Options --{a} and --{b} cannot be specified together.");
            if parsed.has(a) && parsed.has(b) { Err(Stop::Usage(text)) } else { Ok(()) }
        };
        both("command-config", "producer.config")?;
        both("command-property", "producer-property")?;
        both("reader-property", "property")?;
        for (old, new, when) in [
            ("producer-property", "command-property", "a future version"),
            ("producer.config", "command-config", "a future version"),
            ("property", "reader-property", "a future version"),
            ("max-partition-memory-bytes", "batch-size", "Apache Kafka 5.0"),
        ] {
            if parsed.has(old) {
                terminal.line(format_args!(
                    "Warning: --{old} is deprecated and will be removed in {when}. Use --{new} instead."
                ));
            }
        }
        let bootstrap = parsed.get("bootstrap-server")?.unwrap_or_default().to_owned();
        if bootstrap.is_empty() {
            return Err(Stop::Usage("Error while validating the bootstrap address\n".to_owned()));
        }
        crate::client::parse_bootstrap(&bootstrap)
            .map_err(|_| Stop::Usage("Please provide valid host:port like host1:9091,host2:9092\n".to_owned()))?;
        if let Some(class) = parsed.get("line-reader")?.filter(|class| !LINE_READERS.contains(class)) {
            return Err(Stop::Message(format!("--line-reader {class}: a class of one's own needs a JVM")));
        }
        Ok(Options {
            topic: parsed.get("topic")?.unwrap_or_default().to_owned(),
            sync: parsed.has("sync"),
            reader: reader_props(parsed)?,
            bootstrap,
            producer: producer_props(parsed)?,
        })
    }

    pub fn producer(&self) -> Result<(Settings, Config), String> {
        let bad = |text: String| format!("org.apache.kafka.common.config.ConfigException: {text}");
        let props = &self.producer;
        let client_id = props.get("client.id").unwrap_or("console-producer");
        let mut settings = Settings::new(&self.bootstrap, client_id).map_err(|error| error.exception())?;
        settings.warn_as = Some(format!("Producer clientId={client_id}"));
        props.check_supported().map_err(bad)?;
        settings.apply(props).map_err(|error| error.exception())?;
        Ok((settings, producer_config(props).map_err(bad)?))
    }
}

/// The producer's configuration from properties, as Kafka's producer reads them.
pub fn producer_config(props: &Props) -> Result<Config, String> {
    let mut config = Config::default();
    let ms = |key: &str, field: &mut Duration| -> Result<(), String> {
        if let Some(value) = props.number::<u64>(key, "LONG")? {
            *field = Duration::from_millis(value);
        }
        Ok(())
    };
    ms("linger.ms", &mut config.linger)?;
    ms("request.timeout.ms", &mut config.request_timeout)?;
    ms("retry.backoff.ms", &mut config.retry_backoff)?;
    ms("delivery.timeout.ms", &mut config.delivery_timeout)?;
    ms("max.block.ms", &mut config.block_max)?;
    let size = |key: &str, field: &mut usize| -> Result<(), String> {
        if let Some(value) = props.number(key, "INT")? {
            *field = value;
        }
        Ok(())
    };
    size("batch.size", &mut config.batch_bytes_max)?;
    size("buffer.memory", &mut config.buffer_bytes_max)?;
    size("max.request.size", &mut config.request_bytes_max)?;
    size("max.in.flight.requests.per.connection", &mut config.in_flight_max)?;
    if let Some(retries) = props.number("retries", "INT")? {
        config.retries = retries;
    }
    config.acks = match props.get("acks").unwrap_or("all") {
        "all" | "-1" => -1,
        "0" => 0,
        "1" => 1,
        other => {
            return Err(format!("Invalid value {other} for configuration acks: String must be one of: all, -1, 0, 1"));
        }
    };
    let codec = props.get("compression.type").unwrap_or("none");
    config.compression = Compression::parse(codec).ok_or_else(|| {
        format!(
            "Invalid value {codec} for configuration compression.type: String must be one of: none, gzip, snappy, lz4, zstd"
        )
    })?;
    // As in Kafka's producer: on, unless another setting speaks against it.
    let possible = config.acks == -1 && config.retries > 0 && config.in_flight_max <= 5;
    config.idempotence = props.bool("enable.idempotence", true) && possible;
    config.in_flight_max = config.in_flight_max.max(1);
    ms("transaction.timeout.ms", &mut config.transaction_timeout)?;
    config.transactional_id = props.get("transactional.id").map(str::to_owned);
    if config.transactional_id.is_some() && !config.idempotence {
        return Err("Cannot set a transactional.id without also enabling idempotence.".to_owned());
    }
    Ok(config)
}

fn reader_props(parsed: &Parsed) -> Result<Props, Stop> {
    let mut props = match parsed.get("reader-config")? {
        Some(path) => Props::load(path).map_err(Stop::Message)?,
        None => Props::default(),
    };
    for name in ["property", "reader-property"] {
        for (key, value) in key_values(parsed.all(name)) {
            props.set(&key, value);
        }
    }
    Ok(props)
}

fn producer_props(parsed: &Parsed) -> Result<Props, Stop> {
    let file = parsed.get("command-config")?.or(parsed.get("producer.config")?);
    let mut props = match file {
        Some(path) => Props::load(path).map_err(Stop::Message)?,
        None => Props::default(),
    };
    for name in ["producer-property", "command-property"] {
        for (key, value) in key_values(parsed.all(name)) {
            props.set(&key, value);
        }
    }
    let codec = match parsed.has("compression-codec") {
        true => parsed.get("compression-codec")?.filter(|codec| !codec.is_empty()).unwrap_or("gzip"),
        false => "none",
    };
    props.set("compression.type", codec);
    for (flag, key, default) in FLAGS {
        // A flag wins over a property, a property over the flag's default.
        match parsed.get(flag)? {
            Some(given) => {
                let number = *key == "acks" || given.parse::<i64>().is_ok();
                if !number {
                    return Err(Stop::Message(format!("Cannot parse argument '{given}' of option {flag}")));
                }
                props.set(key, given);
            }
            None if props.get(key).is_none() => props.set(key, *default),
            None => {}
        }
    }
    Ok(props)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(args: &[&str]) -> (Result<Options, Stop>, String) {
        let mut out = Vec::new();
        let all = ["--bootstrap-server", "127.0.0.1:1", "--topic", "t"].iter().chain(args);
        let args: Vec<String> = all.map(|s| (*s).to_owned()).collect();
        let mut terminal = Terminal { out: &mut out, err: &mut Vec::new() };
        let options = USAGE.parse(&args, &mut terminal).and_then(|parsed| Options::of(&parsed, &mut terminal));
        (options, String::from_utf8(out).unwrap())
    }

    #[test]
    fn flag_over_property_over_default() {
        let (options_, _) = options(&["--command-property", "linger.ms=0", "--request-required-acks", "1"]);
        let (_, config) = options_.unwrap().producer().unwrap();
        assert_eq!((config.linger, config.acks, config.idempotence), (Duration::ZERO, 1, false));
        let (_, config) = options(&[]).0.unwrap().producer().unwrap();
        assert_eq!((config.linger.as_millis(), config.retries, config.idempotence), (1000, 3, true));
        let (_, config) = options(&["--compression-codec"]).0.unwrap().producer().unwrap();
        assert_eq!(config.compression, Compression::Gzip);
    }

    #[test]
    fn mistakes_in_the_words_of_kafka() {
        let error = options(&["--compression-codec", "nope"]).0.unwrap().producer().unwrap_err();
        let golden = include_str!("../../tests/golden/console-producer-bad-codec.txt");
        assert!(golden.contains(&error), "{error}");
        let (_, out) = options(&["--property", "parse.key=true"]);
        assert!(include_str!("../../tests/golden/console-producer-property-deprecated.txt").contains(&out));
    }
}
