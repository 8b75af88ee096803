//! `zwirn dev status`: the nodes as their supervisor sees them, and the partitions as the cluster sees them.

use std::collections::BTreeMap;
use std::time::Duration;

use tools::client::{Client, Settings};

use super::control;
use super::place::Place;

struct Node {
    id: i32,
    state: String,
    pid: u32,
    port: u16,
}

pub fn show(place: &Place) -> Result<(), String> {
    let lines = control::query(place, "status")?;
    let (head, rest) = lines.split_first().ok_or("the running cluster said nothing")?;
    let (cluster_id, age) = head.split_once(' ').unwrap_or((head, "0"));
    let nodes: Vec<Node> = rest.iter().filter_map(|line| node(line)).collect();
    println!("Cluster {cluster_id}, up for {age} s, data in {}", place.dir.display());
    let report = report(&nodes);
    for node in &nodes {
        let mut line = format!("  node {}   {:<8} localhost:{}", node.id, node.state, node.port);
        if node.pid > 0 {
            line.push_str(&format!("   pid {}", node.pid));
        }
        if let Ok(report) = &report {
            let leads = report.leads.get(&node.id).copied().unwrap_or(0);
            line.push_str(&format!("   leads {leads} partitions"));
            if report.controller == node.id {
                line.push_str(", active controller");
            }
        }
        println!("{line}");
    }
    match report {
        Ok(report) => println!("{}", report.sentence()),
        Err(message) => println!("The cluster does not answer: {message}"),
    }
    Ok(())
}

fn node(line: &str) -> Option<Node> {
    let mut words = line.split(' ');
    Some(Node {
        id: words.next()?.parse().ok()?,
        state: words.next()?.to_owned(),
        pid: words.next()?.parse().ok()?,
        port: words.next()?.parse().ok()?,
    })
}

struct Report {
    controller: i32,
    leads: BTreeMap<i32, usize>,
    topics: usize,
    partitions: usize,
    leaderless: usize,
    under_replicated: usize,
}

impl Report {
    fn sentence(&self) -> String {
        let health = match (self.leaderless, self.under_replicated) {
            (0, 0) => "all in sync".to_owned(),
            (0, under) => format!("{under} under-replicated"),
            (none, under) => format!("{under} under-replicated, {none} without a leader"),
        };
        format!("{} topics, {} partitions: {health}.", self.topics, self.partitions)
    }
}

/// Asks a node that runs; one that is paused would not answer.
fn report(nodes: &[Node]) -> Result<Report, String> {
    let running: Vec<String> =
        nodes.iter().filter(|node| node.state == "running").map(|node| format!("localhost:{}", node.port)).collect();
    if running.is_empty() {
        return Err("no node runs".to_owned());
    }
    let text = |error: tools::client::ClientError| error.to_string();
    let mut settings = Settings::new(&running.join(","), "zwirn-dev").map_err(text)?;
    settings.connect_timeout = Duration::from_secs(1);
    settings.request_timeout = Duration::from_secs(2);
    settings.api_timeout = Duration::from_secs(3);
    let mut client = Client::new(settings);
    let controller = client.describe_quorum().map_or(-1, |quorum| quorum.leader);
    client.topic_names().map_err(text)?;
    let mut report =
        Report { controller, leads: BTreeMap::new(), topics: 0, partitions: 0, leaderless: 0, under_replicated: 0 };
    for topic in client.metadata.topics.values() {
        report.topics += 1;
        for partition in topic.partitions.values() {
            report.partitions += 1;
            report.leaderless += usize::from(partition.leader < 0);
            report.under_replicated += usize::from(partition.isr.len() < partition.replicas.len());
            *report.leads.entry(partition.leader).or_default() += 1;
        }
    }
    Ok(report)
}
