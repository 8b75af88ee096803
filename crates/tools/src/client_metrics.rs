//! `kafka-client-metrics`: which metrics clients shall push to the brokers (KIP-714).

use crate::client::{Client, ClientError, Resource};
use crate::groups::connect;
use crate::jopt::{Parsed, Stop, Usage, flag, value};
use crate::random;
use crate::terminal::Terminal;

const CLASS: &str = "org.apache.kafka.tools.ClientMetricsCommand";
const ACTIONS: &[&str] = &["alter", "delete", "describe", "list"];
const SETTINGS: &[&str] = &["generate-name", "interval", "match", "metrics"];

const USAGE: Usage = Usage {
    about: "Shows and changes which metrics clients push to the brokers.",
    examples: &[
        "zwirn client-metrics --bootstrap-server localhost:9092 --list",
        "zwirn client-metrics --bootstrap-server localhost:9092 --alter --name all --metrics org.apache.kafka. \
         --interval 10000",
    ],
    options: &[
        value("bootstrap-server", "Brokers to start from, host:port separated by commas. Required."),
        value("command-config", "Properties file for the client."),
        flag("list", "List the subscriptions."),
        flag("describe", "Show the settings of --name, or of all."),
        flag("alter", "Set what --interval, --match and --metrics say; an empty value takes a setting back."),
        flag("delete", "Take back all settings of --name."),
        value("name", "The subscription."),
        flag("generate-name", "With --alter: a new subscription with a name of its own."),
        value("interval", "Milliseconds between two pushes."),
        value(
            "match",
            "Only clients of which all that is given matches, as k1=v1,k2=v2: client_id, client_instance_id,\n                                    client_software_name, client_software_version, client_source_address,\n                                    client_source_port.",
        ),
        value("metrics", "Prefixes of names of metrics, separated by commas."),
    ],
};

pub fn main(args: &[String], terminal: &mut Terminal<'_>) -> u8 {
    let parsed = match USAGE.parse_with_help(args, terminal).and_then(|parsed| check(&parsed).map(|()| parsed)) {
        Ok(parsed) => parsed,
        Err(stop) => return stop.report(&USAGE, terminal),
    };
    let mut client = match connect(&parsed) {
        Ok(client) => client,
        Err(stop) => return stop.report(&USAGE, terminal),
    };
    let result = match () {
        () if parsed.has("alter") => alter(&parsed, &mut client, terminal),
        () if parsed.has("delete") => delete(&name(&parsed), &mut client, terminal),
        () if parsed.has("describe") => describe(&parsed, &mut client, terminal),
        () => list(&mut client, terminal),
    };
    match result {
        Ok(()) => 0,
        Err(error) => {
            terminal.line(format_args!("Error while executing client metrics command : {error}"));
            terminal.log_exception(&error.exception(), CLASS);
            1
        }
    }
}

/// Kafka's tool ends with an exception here.
fn illegal(text: &str) -> Stop {
    Stop::Message(format!("{text}\njava.lang.IllegalArgumentException: {text}"))
}

fn check(parsed: &Parsed) -> Result<(), Stop> {
    if ACTIONS.iter().filter(|action| parsed.has(action)).count() != 1 {
        let text = "Command must include exactly one action: --alter, --delete, --describe or --list.";
        return Err(Stop::Usage(text.to_owned()));
    }
    if !parsed.has("bootstrap-server") {
        return Err(illegal("--bootstrap-server must be specified."));
    }
    parsed.exclude("delete", SETTINGS)?;
    parsed.exclude("describe", SETTINGS)?;
    parsed.exclude("list", &["name", "generate-name", "interval", "match", "metrics"])?;
    for option in ["name", "interval", "match", "metrics"] {
        parsed.get(option)?;
    }
    if parsed.has("alter") && parsed.has("name") == parsed.has("generate-name") {
        return Err(illegal("One of --name or --generate-name must be specified with --alter."));
    }
    let interval = parsed.all("interval").first().filter(|text| parsed.has("alter") && !text.is_empty());
    if interval.is_some_and(|text| text.parse::<i32>().is_err()) {
        return Err(illegal("Invalid interval value. Enter an integer, or leave empty to reset."));
    }
    if parsed.has("delete") && !parsed.has("name") {
        return Err(illegal("A client metrics resource name must be specified with --delete."));
    }
    Ok(())
}

fn name(parsed: &Parsed) -> String {
    parsed.all("name").first().cloned().unwrap_or_default()
}

fn resource(name: &str) -> Resource {
    Resource { kind: Resource::CLIENT_METRICS, name: name.to_owned() }
}

fn alter(parsed: &Parsed, client: &mut Client, terminal: &mut Terminal<'_>) -> Result<(), ClientError> {
    let name = if parsed.has("generate-name") { random::random_uuid().to_string() } else { name(parsed) };
    let settings = [("interval", "interval.ms"), ("metrics", "metrics"), ("match", "match")];
    let given: Vec<(String, String)> = settings
        .iter()
        .filter_map(|(option, key)| Some(((*key).to_owned(), parsed.all(option).first()?.clone())))
        .collect();
    let (unset, set): (Vec<_>, Vec<_>) = given.into_iter().partition(|(_, value)| value.is_empty());
    let unset: Vec<String> = unset.into_iter().map(|(key, _)| key).collect();
    client.alter_configs(&resource(&name), &unset, &set)?;
    terminal.line(format_args!("Altered client metrics config for {name}."));
    Ok(())
}

fn delete(name: &str, client: &mut Client, terminal: &mut Terminal<'_>) -> Result<(), ClientError> {
    let all: Vec<String> = client.describe_configs(&resource(name))?.into_iter().map(|entry| entry.name).collect();
    client.alter_configs(&resource(name), &all, &[])?;
    terminal.line(format_args!("Deleted client metrics config for {name}."));
    Ok(())
}

fn describe(parsed: &Parsed, client: &mut Client, terminal: &mut Terminal<'_>) -> Result<(), ClientError> {
    let mut names = client.config_resources(Resource::CLIENT_METRICS)?;
    if parsed.has("name") {
        let name = name(parsed);
        if !names.contains(&name) {
            terminal
                .line(format_args!("The client metric resource {name} doesn't exist and doesn't have dynamic config."));
            return Ok(());
        }
        names = vec![name];
    }
    for name in names {
        terminal.line(format_args!("Client metrics configs for {name} are:"));
        for entry in client.describe_configs(&resource(&name))? {
            terminal.line(format_args!("  {}={}", entry.name, entry.value.as_deref().unwrap_or("null")));
        }
    }
    Ok(())
}

fn list(client: &mut Client, terminal: &mut Terminal<'_>) -> Result<(), ClientError> {
    terminal.line(client.config_resources(Resource::CLIENT_METRICS)?.join("\n"));
    Ok(())
}
