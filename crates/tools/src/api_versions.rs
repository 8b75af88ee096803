//! `kafka-broker-api-versions`: what each broker can do, and in which versions.

use protocol::api::ApiKey;

use crate::client::{Client, ClientError, Settings, Topics, Versions};
use crate::jopt::{Parsed, Stop, Usage, value};
use crate::props::Props;
use crate::terminal::Terminal;

const USAGE: Usage = Usage {
    about: "Shows the APIs of each broker with their versions, and which of them this client would use.",
    examples: &["zwirn broker-api-versions --bootstrap-server localhost:9092"],
    options: &[
        value("bootstrap-server", "Brokers to start from, host:port separated by commas. Required."),
        value("command-config", "Properties file for the client."),
    ],
};

pub fn main(args: &[String], terminal: &mut Terminal<'_>) -> u8 {
    let parsed = USAGE.parse(args, terminal).and_then(|p| p.require(&["bootstrap-server"]).map(|()| p));
    match parsed.and_then(|parsed| run(&parsed, terminal)) {
        Ok(()) => 0,
        Err(stop) => stop.report(&USAGE, terminal),
    }
}

fn run(parsed: &Parsed, terminal: &mut Terminal<'_>) -> Result<(), Stop> {
    let failed = |error: ClientError| Stop::Message(error.to_string());
    let props = match parsed.get("command-config")? {
        Some(path) => Props::load(path).map_err(Stop::Message)?,
        None => Props::default(),
    };
    let bootstrap = parsed.get("bootstrap-server")?.unwrap_or_default();
    let mut client = Client::new(Settings::admin(bootstrap, &props).map_err(failed)?);
    client.refresh("describeCluster", Topics::None, false).map_err(failed)?;
    let brokers = client.metadata.brokers.clone();
    for (id, broker) in brokers {
        let rack = broker.rack.as_deref().unwrap_or("null");
        let name = format!("{} (id: {id} rack: {rack} isFenced: false)", broker.address);
        match client.versions(id) {
            Ok(versions) => terminal.line(format_args!("{name} -> {}", text(&versions))),
            Err(error) => terminal.line(format_args!("{name} -> ERROR: {error}")),
        }
    }
    Ok(())
}

/// Every API that clients know, in the order of the keys, then those of the broker that nobody here knows.
fn text(versions: &Versions) -> String {
    let offered: std::collections::BTreeMap<i16, (i16, i16)> = versions.iter().collect();
    let mut lines = Vec::new();
    for key in (0..=i16::MAX).take(256).filter_map(|key| ApiKey::try_from(key).ok()).filter(|key| key.on_broker()) {
        let name = format!("\t{}({})", key.name(), key as i16);
        lines.push(match offered.get(&(key as i16)) {
            None => format!("{name}: UNSUPPORTED"),
            Some((min, max)) => match versions.common(key) {
                Ok(usable) => format!("{name}: {} [usable: {usable}]", range(*min, *max)),
                Err(_) => format!("{name}: {} [unusable: {}]", range(*min, *max), too(key, *max)),
            },
        });
    }
    for (key, (min, max)) in offered.iter().filter(|(key, _)| ApiKey::try_from(**key).is_err()) {
        lines.push(format!("\tUNKNOWN({key}): {}", range(*min, *max)));
    }
    format!("(\n{}\n)", lines.join(",\n"))
}

fn range(min: i16, max: i16) -> String {
    if min == max { min.to_string() } else { format!("{min} to {max}") }
}

fn too(key: ApiKey, max: i16) -> &'static str {
    if max < *key.versions().start() { "node too old" } else { "node too new" }
}
