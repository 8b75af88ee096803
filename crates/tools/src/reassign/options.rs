//! The options of `kafka-reassign-partitions`, and which go with which action.

use crate::jopt::{Parsed, Stop, Usage, flag, optional, value};

pub const USAGE: Usage = Usage {
    about: "Moves partitions to other brokers, and replicas to other directories of a broker.",
    examples: &[
        "zwirn reassign-partitions --bootstrap-server localhost:9092 --generate --topics-to-move-json-file topics.json --broker-list 1,2,3",
        "zwirn reassign-partitions --bootstrap-server localhost:9092 --execute --reassignment-json-file plan.json --throttle 10000000",
        "zwirn reassign-partitions --bootstrap-server localhost:9092 --verify --reassignment-json-file plan.json",
    ],
    options: &[
        flag("generate", "Propose where the partitions of some topics could go."),
        flag("execute", "Begin the moves of a plan."),
        flag("verify", "Show how far a plan has come; when it is done, remove its throttles."),
        flag("cancel", "Take back the moves of a plan that are still under way."),
        flag("list", "Show every partition that moves."),
        optional("bootstrap-server", "Brokers to start from, host:port separated by commas."),
        optional("bootstrap-controller", "Controllers to start from; for --cancel and --list."),
        value("command-config", "Properties file for the client."),
        value(
            "reassignment-json-file",
            "The plan: {\"version\":1,\"partitions\":[{\"topic\":\"t\",\"partition\":0,\"replicas\":[1,2]}]}; log_dirs may name a directory, or any, for each replica.",
        ),
        value("topics-to-move-json-file", "For --generate: {\"version\":1,\"topics\":[{\"topic\":\"t\"}]}."),
        value("broker-list", "For --generate: the brokers that may have the partitions, separated by commas."),
        flag("disable-rack-aware", "For --generate: do not look at racks."),
        value("throttle", "For --execute: bytes per second that the moves may take between brokers."),
        value("replica-alter-log-dirs-throttle", "For --execute: the same between directories of a broker."),
        value("timeout", "Milliseconds to wait until moves between directories have begun, 10000 by default."),
        flag("additional", "For --execute: beside moves that are under way; also changes their throttle."),
        flag("preserve-throttles", "For --verify and --cancel: leave throttles as they are."),
        flag("disallow-replication-factor-change", "For --execute: refuse a plan with more or fewer replicas."),
    ],
};

const ACTIONS: [&str; 5] = ["generate", "execute", "verify", "cancel", "list"];

/// What an action needs, and what else may come with it.
fn arguments(action: &str) -> (&'static [&'static str], &'static [&'static str]) {
    match action {
        "verify" => (&["reassignment-json-file"], &["bootstrap-server", "command-config", "preserve-throttles"]),
        "generate" => (
            &["topics-to-move-json-file", "broker-list"],
            &["bootstrap-server", "command-config", "disable-rack-aware"],
        ),
        "execute" => (
            &["reassignment-json-file"],
            &[
                "additional",
                "bootstrap-server",
                "command-config",
                "throttle",
                "replica-alter-log-dirs-throttle",
                "timeout",
                "disallow-replication-factor-change",
            ],
        ),
        "cancel" => (
            &["reassignment-json-file"],
            &["bootstrap-server", "bootstrap-controller", "command-config", "preserve-throttles", "timeout"],
        ),
        _ => (&[], &["bootstrap-server", "bootstrap-controller", "command-config"]),
    }
}

/// The one action, everything else in order.
pub fn check(parsed: &Parsed) -> Result<&'static str, Stop> {
    let wrong = |message: String| Err(Stop::Usage(message));
    let given: Vec<&'static str> = ACTIONS.into_iter().filter(|action| parsed.has(action)).collect();
    let [action] = given[..] else {
        let all = ACTIONS.map(|action| format!("--{action}")).join(", ");
        return wrong(format!("Command must include exactly one action: {all}"));
    };
    match (parsed.has("bootstrap-server"), parsed.has("bootstrap-controller")) {
        (true, true) => {
            return wrong("Please don't specify both --bootstrap-server and --bootstrap-controller".to_owned());
        }
        (false, false) => {
            return wrong("Please specify either --bootstrap-server or --bootstrap-controller".to_owned());
        }
        _ => {}
    }
    let (required, permitted) = arguments(action);
    parsed.require(required)?;
    let fits = |name: &str| name == action || required.contains(&name) || permitted.contains(&name);
    match USAGE.options.iter().find(|option| parsed.has(option.name) && !fits(option.name)) {
        Some(odd) => wrong(format!("Option \"[{}]\" can't be used with action \"[{action}]\"", odd.name)),
        None => Ok(action),
    }
}
