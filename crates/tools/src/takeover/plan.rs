//! Which node goes when, and with which commands there and back.

use super::running::Seen;
use crate::terminal::Terminal;

/// Voters that follow first, the active controller last among them, brokers alone at the end: so the quorum changes its
/// leader once, and whoever leads it at any moment has seen the others at work.
pub fn of_cluster(seen: &Seen, terminal: &mut Terminal<'_>) {
    let mut voters: Vec<i32> = seen.voters.clone();
    voters.sort_by_key(|id| (*id == seen.leader, *id));
    let brokers = seen.brokers.iter().filter(|id| !seen.voters.contains(id));
    let order: Vec<i32> = voters.iter().chain(brokers).copied().collect();
    terminal.line("The order, one node at a time:");
    for (i, id) in order.iter().enumerate() {
        let role = match (*id == seen.leader, seen.voters.contains(id), seen.brokers.contains(id)) {
            (true, _, _) => "active controller, therefore the last of the controllers",
            (_, true, true) => "controller and broker",
            (_, true, false) => "controller",
            _ => "broker",
        };
        terminal.line(format_args!("  {}. node {id}: {role}", i + 1));
    }
    terminal.line("For each of them:");
    steps("SERVER.PROPERTIES", terminal);
    terminal.line("Before the next one:");
    terminal.line(
        "  zwirn topics --bootstrap-server HOST:PORT --describe --under-replicated-partitions   (prints nothing)",
    );
    terminal.line("  zwirn metadata-quorum --bootstrap-server HOST:PORT describe --replication            (no lag)");
    terminal.line("");
}

pub fn of_node(properties: &str, terminal: &mut Terminal<'_>) {
    terminal.line("The way there and back:");
    steps(properties, terminal);
    terminal.line("");
}

fn steps(properties: &str, terminal: &mut Terminal<'_>) {
    terminal.line("  stop     SIGTERM to Apache Kafka (kafka-server-stop.sh), and wait until its process is gone");
    terminal.line(format_args!("  check    zwirn takeover check --config {properties}"));
    terminal.line(format_args!("  start    zwirn server {properties}"));
    terminal.line(format_args!("  back     SIGTERM to zwirn, wait, then kafka-server-start.sh {properties}"));
}
