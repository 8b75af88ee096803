//! `kafka-transactions`: transactional ids, producers of a partition, transactions that hang, and ways to end them.

use std::collections::BTreeMap;

use crate::argparse::{Command, Parsed, Program, required, value};
use crate::client::consumer::TopicPartition;
use crate::client::transactions::{AbortSpec, ProducerState, TransactionFilter};
use crate::client::{Client, ClientError, Topics};
use crate::quorum::{connect, table};
use crate::terminal::{Terminal, wall_ms};

/// Partitions in one request, and topics: more would be a giant answer.
const BATCH_MAX: usize = 500;

const PROGRAM: Program = Program {
    name: "kafka-transactions.sh",
    about: "Shows transactions and the producers that write them, finds those that hang, and ends them.",
    examples: &[
        "zwirn transactions --bootstrap-server localhost:9092 list",
        "zwirn transactions --bootstrap-server localhost:9092 find-hanging --broker-id 1",
        "zwirn transactions --bootstrap-server localhost:9092 abort --topic orders --partition 0 --start-offset 42",
    ],
    options: &[
        required("bootstrap-server", "", "Brokers to start from, host:port separated by commas."),
        value("command-config", "", "Properties file for the client."),
    ],
    commands: &[
        Command {
            name: "list",
            about: "List transactional ids and their states.",
            options: &[
                value("duration-filter", "", "Only transactions that run for more milliseconds than that."),
                value("transactional-id-pattern", "", "Only ids that match this regular expression."),
            ],
            exclusive: &[],
        },
        Command {
            name: "describe",
            about: "Show one transactional id and its transaction.",
            options: &[required("transactional-id", "", "The transactional id.")],
            exclusive: &[],
        },
        Command {
            name: "describe-producers",
            about: "Show the producers that have written to a partition.",
            options: &[
                value("broker-id", "", "Ask this replica rather than the leader."),
                required("topic", "", "The topic."),
                required("partition", "", "The partition's number."),
            ],
            exclusive: &[],
        },
        Command {
            name: "abort",
            about: "Abort a transaction that hangs on one partition.",
            options: &[
                required("topic", "", "The topic."),
                required("partition", "", "The partition's number."),
                value("start-offset", "", "Where the transaction begins; enough for brokers from 3.0 on."),
                value("producer-id", "", "For older brokers, with the two below."),
                value("producer-epoch", "", "The producer's epoch."),
                value("coordinator-epoch", "", "The epoch of the coordinator's partition."),
            ],
            exclusive: &[],
        },
        Command {
            name: "find-hanging",
            about: "Find transactions that nobody will end.",
            options: &[
                value("broker-id", "", "Search the partitions of this broker."),
                value("max-transaction-timeout", "", "In minutes: what is younger does not hang (15)."),
                value("topic", "", "Search this topic only."),
                value("partition", "", "Search this partition of --topic only."),
            ],
            exclusive: &[],
        },
        Command {
            name: "forceTerminateTransaction",
            about: "Fence the producer of a transactional id, which aborts its transaction.",
            options: &[required("transactionalId", "", "The transactional id.")],
            exclusive: &[],
        },
    ],
};

pub fn main(args: &[String], terminal: &mut Terminal<'_>) -> u8 {
    let parsed = match PROGRAM.parse(args, terminal) {
        Ok(parsed) => parsed,
        Err(code) => return code,
    };
    for name in [
        "partition",
        "broker-id",
        "max-transaction-timeout",
        "coordinator-epoch",
        "duration-filter",
        "start-offset",
        "producer-id",
        "producer-epoch",
    ] {
        if let Err(message) = parsed.number::<i64>(name) {
            return PROGRAM.refuse(args, &message, terminal);
        }
    }
    match run(&parsed, terminal) {
        Ok(()) => 0,
        Err(message) => {
            terminal.error(message);
            1
        }
    }
}

/// What could not be done, and why, in the words of Kafka's tool.
fn failed(what: impl std::fmt::Display) -> impl Fn(ClientError) -> String {
    move |error| format!("{what}: {error}. Enable debug logging for additional detail.")
}

fn run(parsed: &Parsed, terminal: &mut Terminal<'_>) -> Result<(), String> {
    let mut client = connect(parsed)?;
    match parsed.command {
        "list" => list(parsed, &mut client, terminal),
        "describe" => describe(parsed.get("transactional-id").unwrap_or_default(), &mut client, terminal),
        "describe-producers" => describe_producers(parsed, &mut client, terminal),
        "abort" => abort(parsed, &mut client),
        "find-hanging" => find_hanging(parsed, &mut client, terminal),
        _ => {
            let id = parsed.get("transactionalId").unwrap_or_default();
            client.fence_producer(id).map_err(failed(format_args!("Failed to force terminate transactionalId `{id}`")))
        }
    }
}

fn print(headers: &[&str], rows: &[Vec<String>], terminal: &mut Terminal<'_>) {
    let _ = terminal.out.write_all(table(headers, rows).as_bytes());
}

fn list(parsed: &Parsed, client: &mut Client, terminal: &mut Terminal<'_>) -> Result<(), String> {
    let filter = TransactionFilter {
        producer_ids: vec![],
        duration_ms: parsed.number("duration-filter")?.unwrap_or(-1),
        pattern: parsed.get("transactional-id-pattern").filter(|text| !text.is_empty()).map(str::to_owned),
    };
    let listings = client.list_transactions(&filter).map_err(failed("Failed to list transactions"))?;
    let rows: Vec<Vec<String>> = listings
        .into_iter()
        .map(|t| vec![t.transactional_id, t.coordinator.to_string(), t.producer_id.to_string(), t.state])
        .collect();
    print(&["TransactionalId", "Coordinator", "ProducerId", "TransactionState"], &rows, terminal);
    Ok(())
}

fn describe(id: &str, client: &mut Client, terminal: &mut Terminal<'_>) -> Result<(), String> {
    let what = format!("Failed to describe transaction state of transactional-id `{id}`");
    let found = client.describe_transaction(id).map_err(failed(what))?;
    let none = || "None".to_owned();
    let partitions: Vec<String> =
        found.partitions.iter().map(|(topic, partition)| format!("{topic}-{partition}")).collect();
    let row = vec![
        found.coordinator.to_string(),
        id.to_owned(),
        found.producer_id.to_string(),
        found.producer_epoch.to_string(),
        found.state,
        found.timeout_ms.to_string(),
        found.start_ms.map_or_else(none, |ms| ms.to_string()),
        found.start_ms.map_or_else(none, |ms| (wall_ms() - ms).to_string()),
        partitions.join(","),
    ];
    let headers = [
        "CoordinatorId",
        "TransactionalId",
        "ProducerId",
        "ProducerEpoch",
        "TransactionState",
        "TransactionTimeoutMs",
        "CurrentTransactionStartTimeMs",
        "TransactionDurationMs",
        "TopicPartitions",
    ];
    print(&headers, &[row], terminal);
    Ok(())
}

fn partition_of(parsed: &Parsed) -> Result<TopicPartition, String> {
    let partition = parsed.number("partition")?.ok_or("argument --partition is required")?;
    Ok((parsed.get("topic").unwrap_or_default().to_owned(), partition))
}

fn describe_producers(parsed: &Parsed, client: &mut Client, terminal: &mut Terminal<'_>) -> Result<(), String> {
    let key = partition_of(parsed)?;
    let broker: Option<i32> = parsed.number("broker-id")?;
    let on = broker.map_or_else(|| "leader".to_owned(), |id| format!("broker {id}"));
    let what = format!("Failed to describe producers for partition {}-{} on {on}", key.0, key.1);
    let found = client.describe_producers(std::slice::from_ref(&key), broker).map_err(failed(what))?;
    let rows: Vec<Vec<String>> = found
        .into_values()
        .flatten()
        .map(|state| {
            vec![
                state.producer_id.to_string(),
                state.producer_epoch.to_string(),
                state.coordinator_epoch.unwrap_or(-1).to_string(),
                state.last_sequence.to_string(),
                state.last_timestamp.to_string(),
                state.transaction_start.map_or_else(|| "None".to_owned(), |offset| offset.to_string()),
            ]
        })
        .collect();
    let headers = [
        "ProducerId",
        "ProducerEpoch",
        "LatestCoordinatorEpoch",
        "LastSequence",
        "LastTimestamp",
        "CurrentTransactionStartOffset",
    ];
    print(&headers, &rows, terminal);
    Ok(())
}

fn abort(parsed: &Parsed, client: &mut Client) -> Result<(), String> {
    let key = partition_of(parsed)?;
    let start: Option<i64> = parsed.number("start-offset")?;
    let spec = match (start, parsed.number::<i64>("producer-id")?) {
        (None, None) => {
            return Err("The transaction to abort must be identified either with --start-offset (for brokers on 3.0 \
                        or above) or with --producer-id, --producer-epoch, and --coordinator-epoch (for older brokers)"
                .to_owned());
        }
        (Some(start), _) => producer_at(key, start, client)?,
        (None, Some(producer_id)) => {
            let missing = |name: &str| format!("Missing required argument --{name}");
            let producer_epoch = parsed.number("producer-epoch")?.ok_or_else(|| missing("producer-epoch"))?;
            let epoch: i32 = parsed.number("coordinator-epoch")?.ok_or_else(|| missing("coordinator-epoch"))?;
            // −1 stands for a producer that no coordinator has written for; every coordinator's epoch is at least 0.
            AbortSpec { partition: key, producer_id, producer_epoch, coordinator_epoch: epoch.max(0) }
        }
    };
    client.abort_transaction(&spec).map_err(failed(format_args!("Failed to abort transaction {spec}")))
}

/// The producer whose open transaction begins there.
fn producer_at(key: TopicPartition, start: i64, client: &mut Client) -> Result<AbortSpec, String> {
    let (topic, partition) = (&key.0, key.1);
    let what = format!("Failed to validate producer state for partition {topic}-{partition}");
    let found = client.describe_producers(std::slice::from_ref(&key), None).map_err(failed(what))?;
    let state = found.into_values().flatten().find(|state| state.transaction_start == Some(start));
    let Some(state) = state else {
        return Err(format!(
            "Could not find any open transactions starting at offset {start} on partition {topic}-{partition}"
        ));
    };
    Ok(AbortSpec {
        partition: key,
        producer_id: state.producer_id,
        producer_epoch: state.producer_epoch as i16,
        coordinator_epoch: state.coordinator_epoch.unwrap_or(0),
    })
}

fn find_hanging(parsed: &Parsed, client: &mut Client, terminal: &mut Terminal<'_>) -> Result<(), String> {
    let (topic, broker) = (parsed.get("topic"), parsed.number::<i32>("broker-id")?);
    if topic.is_none() && broker.is_none() {
        return Err(
            "The `find-hanging` command requires either --topic or --broker-id to limit the scope of the search"
                .to_owned(),
        );
    }
    if parsed.has("partition") && topic.is_none() {
        return Err("The --partition argument requires --topic to be provided".to_owned());
    }
    let minutes: i64 = parsed.number("max-transaction-timeout")?.unwrap_or(15);
    let partitions = searched(parsed, topic, broker, client)?;
    let mut open: Vec<(TopicPartition, ProducerState)> = Vec::new();
    for some in partitions.chunks(BATCH_MAX) {
        let on = broker.map_or_else(|| "Optional.empty".to_owned(), |id| format!("Optional[{id}]"));
        let what = format!("Failed to describe producers for {} partitions on broker {on}", some.len());
        let found = client.describe_producers(some, broker).map_err(failed(what))?;
        let now = wall_ms();
        for (key, states) in found {
            let old = states.into_iter().filter(|state| {
                state.transaction_start.is_some() && now - state.last_timestamp > minutes.saturating_mul(60_000)
            });
            open.extend(old.map(|state| (key.clone(), state)));
        }
    }
    let hanging = hanging(open, client)?;
    let now = wall_ms();
    let rows: Vec<Vec<String>> = hanging
        .into_iter()
        .map(|((topic, partition), state)| {
            vec![
                topic,
                partition.to_string(),
                state.producer_id.to_string(),
                state.producer_epoch.to_string(),
                state.coordinator_epoch.unwrap_or(-1).to_string(),
                state.transaction_start.unwrap_or(-1).to_string(),
                state.last_timestamp.to_string(),
                ((now - state.last_timestamp) / 60_000).to_string(),
            ]
        })
        .collect();
    let headers = [
        "Topic",
        "Partition",
        "ProducerId",
        "ProducerEpoch",
        "CoordinatorEpoch",
        "StartOffset",
        "LastTimestamp",
        "Duration(min)",
    ];
    print(&headers, &rows, terminal);
    Ok(())
}

/// The partitions to look at.
fn searched(
    parsed: &Parsed,
    topic: Option<&str>,
    broker: Option<i32>,
    client: &mut Client,
) -> Result<Vec<TopicPartition>, String> {
    if let (Some(topic), Some(partition)) = (topic, parsed.number("partition")?) {
        return Ok(vec![(topic.to_owned(), partition)]);
    }
    let names: Vec<String> = match topic {
        Some(topic) => vec![topic.to_owned()],
        None => client.topic_names().map_err(failed("Failed to list topics"))?.into_keys().collect(),
    };
    let mut out = Vec::new();
    for some in names.chunks(BATCH_MAX) {
        let what = format!("Failed to describe {} topics", some.len());
        let names: Vec<&str> = some.iter().map(String::as_str).collect();
        client.refresh("describeTopics", Topics::Named(&names), false).map_err(failed(&what))?;
        for name in names {
            let found =
                client.metadata.topics.get(name).filter(|found| found.error == protocol::error::ErrorCode::None);
            let Some(found) = found else {
                let code = protocol::error::ErrorCode::UnknownTopicOrPartition;
                return Err(failed(&what)(ClientError::server(code, None)));
            };
            let here = found.partitions.iter().filter(|(_, p)| broker.is_none_or(|id| p.replicas.contains(&id)));
            out.extend(here.map(|(id, _)| (name.to_owned(), *id)));
        }
    }
    Ok(out)
}

/// Of open transactions those whose coordinator does not know them, and so will never end them.
fn hanging(
    open: Vec<(TopicPartition, ProducerState)>,
    client: &mut Client,
) -> Result<Vec<(TopicPartition, ProducerState)>, String> {
    let mut producer_ids: Vec<i64> = open.iter().map(|(_, state)| state.producer_id).collect();
    producer_ids.sort_unstable();
    producer_ids.dedup();
    if producer_ids.is_empty() {
        return Ok(vec![]);
    }
    let what = format!("Failed to list transactions for {} producers", producer_ids.len());
    let filter = TransactionFilter { producer_ids, ..Default::default() };
    let listings = client.list_transactions(&filter).map_err(failed(what))?;
    let mut known: BTreeMap<i64, Vec<TopicPartition>> = BTreeMap::new();
    for listing in &listings {
        match client.describe_transaction(&listing.transactional_id) {
            Ok(found) => {
                known.insert(listing.producer_id, found.partitions);
            }
            Err(error) if error.code() == Some(protocol::error::ErrorCode::TransactionalIdNotFound) => {}
            Err(error) => {
                let what = format!("Failed to describe {} transactions", listings.len());
                return Err(failed(what)(error));
            }
        }
    }
    let is_known = |(key, state): &(TopicPartition, ProducerState)| {
        known.get(&state.producer_id).is_some_and(|partitions| partitions.contains(key))
    };
    Ok(open.into_iter().filter(|open| !is_known(open)).collect())
}
