//! Apache Kafka's command-line tools, native: the same flags, results, error lines and exit codes as 4.3.1, without a
//! JVM. Each tool is one file; [`find`] knows them by every name they are called by.

mod api_versions;
mod argparse;
pub mod client;
mod client_metrics;
mod cluster;
mod config;
mod configs;
mod console_consumer;
mod console_producer;
mod consumer_groups;
mod consumer_perf;
mod dates;
mod delete_records;
pub mod dump_log;
mod e2e_latency;
mod features;
mod get_offsets;
mod groups;
mod java;
mod jopt;
mod leader_election;
mod links;
mod log_dirs;
mod producer_perf;
pub mod props;
mod quorum;
mod quorum_voters;
pub mod random;
mod reassign;
pub mod storage;
mod stored_records;
mod takeover;
pub mod terminal;
mod topics;
mod transactions;
mod verifiable_consumer;
mod verifiable_producer;

pub use jopt::KAFKA_VERSION;
use terminal::Terminal;

pub struct Tool {
    /// As a sub-command of the binary.
    pub name: &'static str,
    /// As a script of Kafka, without `.sh`; empty if it has none.
    pub script: &'static str,
    pub about: &'static str,
    pub main: fn(&[String], &mut Terminal<'_>) -> u8,
}

const fn tool(
    name: &'static str,
    script: &'static str,
    about: &'static str,
    main: fn(&[String], &mut Terminal<'_>) -> u8,
) -> Tool {
    Tool { name, script, about, main }
}

pub const TOOLS: &[Tool] = &[
    tool("topics", "kafka-topics", "create, list, describe, alter and delete topics", topics::main),
    tool("storage", "kafka-storage", "format a node's directories, show what is in them", storage::main),
    tool("console-producer", "kafka-console-producer", "send lines as records", console_producer::main),
    tool("console-consumer", "kafka-console-consumer", "print records", console_consumer::main),
    tool("consumer-groups", "kafka-consumer-groups", "show groups of consumers, their lag", consumer_groups::main),
    tool("groups", "kafka-groups", "list groups of every type", groups::main),
    tool("get-offsets", "kafka-get-offsets", "show offsets of partitions", get_offsets::main),
    tool("metadata-quorum", "kafka-metadata-quorum", "show the quorum of controllers", quorum::main),
    tool("cluster", "kafka-cluster", "show the cluster's id and nodes", cluster::main),
    tool("broker-api-versions", "kafka-broker-api-versions", "show what brokers can do", api_versions::main),
    tool("producer-perf-test", "kafka-producer-perf-test", "send records, measure", producer_perf::main),
    tool("consumer-perf-test", "kafka-consumer-perf-test", "read records, measure", consumer_perf::main),
    tool("e2e-latency", "kafka-e2e-latency", "how long records take from end to end", e2e_latency::main),
    tool(
        "verifiable-producer",
        "kafka-verifiable-producer",
        "send numbers, tell what became of each",
        verifiable_producer::main,
    ),
    tool("verifiable-consumer", "kafka-verifiable-consumer", "read, tell what was read", verifiable_consumer::main),
    tool("dump-log", "kafka-dump-log", "show the files of a partition", dump_log::main),
    tool("configs", "kafka-configs", "show and change configurations", configs::main),
    tool("features", "kafka-features", "show and change feature levels", features::main),
    tool("log-dirs", "kafka-log-dirs", "show what lies in brokers' directories", log_dirs::main),
    tool("delete-records", "kafka-delete-records", "delete the oldest records of partitions", delete_records::main),
    tool(
        "leader-election",
        "kafka-leader-election",
        "let partitions choose their leaders again",
        leader_election::main,
    ),
    tool("transactions", "kafka-transactions", "show transactions, find and end those that hang", transactions::main),
    tool("client-metrics", "kafka-client-metrics", "which metrics clients push to brokers", client_metrics::main),
    tool(
        "reassign-partitions",
        "kafka-reassign-partitions",
        "move partitions to other brokers and directories",
        reassign::main,
    ),
    tool("config", "", "explain configuration keys, and what a properties file makes of them", config::main),
    tool("takeover", "", "say whether nodes of Apache Kafka can be replaced in place", takeover::main),
    tool("links", "", "make links named as Kafka's scripts", links::main),
];

/// By sub-command (`topics`) or by the name of Kafka's script (`kafka-topics`, `kafka-topics.sh`).
pub fn find(name: &str) -> Option<&'static Tool> {
    let bare = name.strip_suffix(".sh").unwrap_or(name);
    TOOLS.iter().find(|tool| tool.name == bare || (!tool.script.is_empty() && tool.script == bare))
}
