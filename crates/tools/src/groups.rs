//! `kafka-groups`: lists groups of every type.

use crate::client::groups::GroupListing;
use crate::client::{Client, ClientError, Settings};
use crate::java::hash_order;
use crate::jopt::{Parsed, Stop, Usage, flag, value};
use crate::props::Props;
use crate::terminal::Terminal;

const CLASS: &str = "org.apache.kafka.tools.GroupsCommand";
const TYPES: &[&str] = &["classic", "consumer", "share", "streams"];

const USAGE: Usage = Usage {
    about: "Lists groups of every type.",
    examples: &["zwirn groups --bootstrap-server localhost:9092 --list"],
    options: &[
        value("bootstrap-server", "Brokers to start from, host:port separated by commas. Required."),
        value("command-config", "Properties file for the client."),
        flag("list", "List the groups with their type and protocol."),
        value("group-type", "Only groups of this type: classic, consumer, share or streams."),
        value("protocol", "Only groups of this protocol."),
        flag("consumer", "Only groups of consumers, of either protocol."),
        flag("share", "Only share groups."),
        flag("streams", "Only streams groups."),
    ],
};

pub fn main(args: &[String], terminal: &mut Terminal<'_>) -> u8 {
    let parsed = match USAGE.parse_with_help(args, terminal).and_then(|parsed| check(&parsed).map(|()| parsed)) {
        Ok(parsed) => parsed,
        Err(stop) => return stop.report(&USAGE, terminal),
    };
    let client = match connect(&parsed) {
        Ok(client) => client,
        Err(stop) => return stop.report(&USAGE, terminal),
    };
    match list(&parsed, client) {
        Ok(groups) => {
            print(&groups, terminal);
            0
        }
        Err(error) => {
            terminal.line(format_args!("Error while executing groups command : {error}"));
            terminal.log_exception(&error.exception(), CLASS);
            1
        }
    }
}

fn check(parsed: &Parsed) -> Result<(), Stop> {
    parsed.require(&["bootstrap-server"])?;
    if !parsed.has("list") {
        return Err(Stop::Usage("Command must include exactly one action: --list.".to_owned()));
    }
    if parsed.get("group-type")?.is_some_and(|kind| !TYPES.contains(&kind.to_lowercase().as_str())) {
        let text = "--group-type must be a valid group type.";
        return Err(Stop::Message(format!("{text}\njava.lang.IllegalArgumentException: {text}")));
    }
    parsed.exclude("consumer", &["group-type", "protocol", "share", "streams"])?;
    parsed.exclude("share", &["consumer", "group-type", "protocol", "streams"])?;
    parsed.exclude("streams", &["consumer", "group-type", "protocol", "share"])
}

/// An admin client, as the tools about groups make it.
pub fn connect(parsed: &Parsed) -> Result<Client, Stop> {
    let props = match parsed.get("command-config")? {
        Some(path) => Props::load(path).map_err(Stop::Message)?,
        None => Props::default(),
    };
    let bootstrap = parsed.get("bootstrap-server")?.unwrap_or_default();
    let settings = Settings::admin(bootstrap, &props).map_err(|error| Stop::Message(error.to_string()))?;
    Ok(Client::new(settings))
}

fn list(parsed: &Parsed, mut client: Client) -> Result<Vec<GroupListing>, ClientError> {
    let mut groups = client.list_groups(&[], &[])?;
    let wanted = |name: &str| parsed.all(name).first();
    let is = |group: &GroupListing, kind: &str| group.kind.eq_ignore_ascii_case(kind);
    groups.retain(|group| {
        let protocol = wanted("protocol").is_none_or(|protocol| *protocol == group.protocol_type);
        if let Some(kind) = wanted("group-type") {
            return is(group, kind) && protocol;
        }
        match () {
            () if parsed.has("consumer") => {
                matches!(group.protocol_type.as_str(), "consumer" | "") || is(group, "consumer")
            }
            () if parsed.has("share") => is(group, "share"),
            () if parsed.has("streams") => is(group, "streams"),
            () => protocol,
        }
    });
    hash_order(&mut groups, |group| &group.group_id, false);
    Ok(groups)
}

/// Brokers and older versions write types in their own case; the tools show them with a capital.
pub fn capital(kind: &str) -> String {
    let mut chars = kind.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

fn print(groups: &[GroupListing], terminal: &mut Terminal<'_>) {
    let longest = groups.iter().flat_map(|group| [group.group_id.len(), group.protocol_type.len()]).max();
    let width = longest.unwrap_or_default().max(20);
    terminal.line(format_args!("{:width$} {:width$} {:width$}", "GROUP", "TYPE", "PROTOCOL"));
    for group in groups {
        let kind = capital(&group.kind);
        terminal.line(format_args!("{:width$} {kind:width$} {:width$} ", group.group_id, group.protocol_type));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_mistake() {
        let args = ["--bootstrap-server", "h:1"].map(str::to_owned);
        let mut terminal = Terminal { out: &mut Vec::new(), err: &mut Vec::new() };
        let parsed = USAGE.parse(&args, &mut terminal).unwrap();
        let Err(Stop::Usage(text)) = check(&parsed) else { panic!("must be refused") };
        assert!(include_str!("../tests/golden/groups-no-action.txt").contains(&text));
    }
}
