//! The options of `kafka-topics` and which of them go together.

use crate::jopt::{Parsed, Stop, Usage, flag, value};
use crate::terminal::Terminal;

pub const USAGE: Usage = Usage {
    about: "Creates, lists, describes, alters and deletes topics.",
    examples: &[
        "zwirn topics --bootstrap-server localhost:9092 --create --topic orders --partitions 3 --replication-factor 3",
        "zwirn topics --bootstrap-server localhost:9092 --describe --topic orders",
        "zwirn topics --bootstrap-server localhost:9092 --describe --under-replicated-partitions",
    ],
    options: &[
        value("bootstrap-server", "Brokers to start from, host:port separated by commas. Required."),
        flag("create", "Create the topic."),
        flag("list", "List topics, one name per line."),
        flag("describe", "Show partitions, leaders, replicas and configuration."),
        flag("alter", "Add partitions (--partitions is the new total)."),
        flag("delete", "Delete the matching topics, with their records."),
        value("topic", "With --create the name; otherwise a regular expression for whole names."),
        value("topic-id", "With --describe: the topic's id, instead of its name."),
        value("partitions", "How many partitions; with --create the broker's num.partitions if left out."),
        value("replication-factor", "Replicas of each partition; the broker's default if left out."),
        value(
            "replica-assignment",
            "Brokers of each partition, e.g. 1:2,2:3; the first of each is preferred as leader.",
        ),
        value("config", "name=value for the new topic; may be repeated."),
        value("delete-config", "No longer does anything; configs are changed with kafka-configs."),
        flag("if-not-exists", "With --create: be content if the topic exists."),
        flag("if-exists", "With --alter, --delete, --describe: be content if there is no such topic."),
        flag("under-replicated-partitions", "With --describe: only partitions with a replica that is not in sync."),
        flag(
            "under-min-isr-partitions",
            "With --describe: only partitions with fewer in-sync replicas than min.insync.replicas.",
        ),
        flag("at-min-isr-partitions", "With --describe: only partitions with just min.insync.replicas in sync."),
        flag("unavailable-partitions", "With --describe: only partitions without a leader."),
        flag(
            "topics-with-overrides",
            "With --describe: only topics with configuration of their own, without partitions.",
        ),
        flag("exclude-internal", "With --list and --describe: leave out Kafka's own topics."),
        value("partition-size-limit-per-response", "With --describe: partitions per answer of the broker (2000)."),
        value("command-config", "Properties file for the client."),
        value("zookeeper", "Gone since Kafka 3.0; use --bootstrap-server."),
    ],
};

const ACTIONS: &[&str] = &["create", "list", "alter", "describe", "delete"];
const REPORTS: &[&str] =
    &["under-replicated-partitions", "under-min-isr-partitions", "at-min-isr-partitions", "unavailable-partitions"];

pub fn check(parsed: &Parsed, terminal: &mut Terminal<'_>) -> Result<(), Stop> {
    if parsed.has("zookeeper") {
        return Err(Stop::Message(
            "zookeeper is not a recognized option: it went with Kafka 3.0; use --bootstrap-server, for example \
             --bootstrap-server localhost:9092"
                .to_owned(),
        ));
    }
    if ACTIONS.iter().filter(|action| parsed.has(action)).count() != 1 {
        return Err(Stop::Usage(
            "Command must include exactly one action: --list, --describe, --create, --alter or --delete".to_owned(),
        ));
    }
    if parsed.has("delete-config") {
        terminal.error("--delete-config does nothing since Kafka 4.0; configs are changed with kafka-configs.");
    }
    required(parsed, terminal)?;
    combinations(parsed)
}

fn required(parsed: &Parsed, terminal: &mut Terminal<'_>) -> Result<(), Stop> {
    if !parsed.has("bootstrap-server") {
        return Err(Stop::Message("--bootstrap-server must be specified".to_owned()));
    }
    if parsed.has("describe") && parsed.has("if-exists") && !parsed.has("topic") && !parsed.has("topic-id") {
        return Err(Stop::Usage("--topic or --topic-id is required to describe a topic".to_owned()));
    }
    if parsed.has("describe") && parsed.has("topic") && parsed.has("topic-id") {
        terminal.line("--topic-id is given, so --topic is not looked at.");
    }
    if !parsed.has("list") && !parsed.has("describe") {
        parsed.require(&["topic"])?;
    }
    if parsed.has("alter") {
        if parsed.has("config") {
            return Err(Stop::Usage(
                "Option combination \"[bootstrap-server],[config]\" can't be used with option \"[alter]\" (the \
                 kafka-configs CLI supports altering topic configs with a --bootstrap-server option)"
                    .to_owned(),
            ));
        }
        parsed.require(&["partitions"])?;
    }
    Ok(())
}

/// Each option with the actions it goes with; reports also exclude each other.
fn combinations(parsed: &Parsed) -> Result<(), Stop> {
    let only_with = |option: &str, allowed: &[&str]| {
        let others: Vec<&str> = ACTIONS.iter().copied().filter(|action| !allowed.contains(action)).collect();
        parsed.exclude(option, &others)
    };
    only_with("config", &["alter", "create"])?;
    only_with("partitions", &["alter", "create"])?;
    only_with("replication-factor", &["create"])?;
    only_with("replica-assignment", &["alter", "create"])?;
    if parsed.has("create") {
        parsed.exclude("replica-assignment", &["partitions", "replication-factor"])?;
    }
    for report in REPORTS {
        only_with(report, &["describe"])?;
        let others: Vec<&str> = REPORTS.iter().copied().filter(|other| other != report).collect();
        parsed.exclude(report, &others)?;
        parsed.exclude(report, &["topics-with-overrides"])?;
    }
    only_with("topics-with-overrides", &["describe"])?;
    only_with("if-exists", &["alter", "delete", "describe"])?;
    only_with("if-not-exists", &["create"])?;
    only_with("exclude-internal", &["list", "describe"])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stop(args: &[&str]) -> Option<Stop> {
        let args: Vec<String> = args.iter().map(|s| (*s).to_owned()).collect();
        let mut terminal = Terminal { out: &mut Vec::new(), err: &mut Vec::new() };
        USAGE.parse(&args, &mut terminal).and_then(|parsed| check(&parsed, &mut terminal)).err()
    }

    #[test]
    fn what_does_not_go_together() {
        assert!(stop(&["--bootstrap-server", "h:1", "--list"]).is_none());
        assert!(matches!(stop(&["--list"]), Some(Stop::Message(m)) if m == "--bootstrap-server must be specified"));
        let mixed =
            ["--bootstrap-server", "h:1", "--create", "--topic", "t", "--partitions", "1", "--replica-assignment", "1"];
        let message = "Option \"[replica-assignment]\" can't be used with option \"[partitions]\"";
        assert_eq!(stop(&mixed), Some(Stop::Usage(message.to_owned())));
        assert!(matches!(stop(&["--zookeeper", "h:2181", "--list"]), Some(Stop::Message(_))));
    }
}
