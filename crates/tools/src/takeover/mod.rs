//! `takeover check`: whether nodes of Apache Kafka can be replaced where they stand, before anybody tries. Of one node by
//! its properties file and what lies in its directories, or of a running cluster by what it says of itself. Changes
//! nothing.

mod plan;
mod running;

use crate::argparse::{Command, Parsed, Program, value};
use crate::client::{Client, Settings};
use crate::props::Props;
use crate::storage::check::{self, Report, Verdict};
use crate::storage::directories;
use crate::terminal::Terminal;

const PROGRAM: Program = Program {
    name: "takeover",
    about: "Says whether nodes of Apache Kafka can be replaced where they stand, and in which order.",
    examples: &[
        "zwirn takeover check --bootstrap-server localhost:9092",
        "zwirn takeover check --config /etc/kafka/server.properties",
    ],
    options: &[],
    commands: &[Command {
        name: "check",
        about: "Look at a running cluster, or at the files of a stopped node.",
        options: &[
            value("bootstrap-server", "", "Brokers of the cluster to look at."),
            value("command-config", "", "Properties file for the client."),
            value("config", "-c", "A node's server.properties: its keys and its directories are looked at."),
        ],
        exclusive: &[],
    }],
};

pub fn main(args: &[String], terminal: &mut Terminal<'_>) -> u8 {
    let parsed = match PROGRAM.parse(args, terminal) {
        Ok(parsed) => parsed,
        Err(code) => return code,
    };
    let result = match (parsed.get("bootstrap-server"), parsed.get("config")) {
        (Some(servers), None) => cluster(servers, &parsed, terminal),
        (None, Some(path)) => node(path, terminal),
        _ => return PROGRAM.refuse(args, "give either --bootstrap-server or --config", terminal),
    };
    result.unwrap_or_else(|message| {
        terminal.error(message);
        1
    })
}

fn cluster(servers: &str, parsed: &Parsed, terminal: &mut Terminal<'_>) -> Result<u8, String> {
    let props = match parsed.get("command-config") {
        Some(path) => Props::load(path)?,
        None => Props::default(),
    };
    let settings = Settings::admin(servers, &props).map_err(|error| error.to_string())?;
    let mut report = Report::default();
    let seen = running::look(&mut Client::new(settings), &mut report).map_err(|error| error.exception())?;
    check::print(&format!("cluster {}", seen.id), &report, terminal);
    let worst = report.worst();
    if worst != Verdict::Refused {
        plan::of_cluster(&seen, terminal);
    }
    Ok(check::conclude(worst, terminal))
}

fn node(path: &str, terminal: &mut Terminal<'_>) -> Result<u8, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let mut report = Report::default();
    let config = match crate::storage::read(&text, path) {
        Ok((config, warnings)) => {
            report.ok("keys", "a node would start with them");
            for warning in warnings {
                report.note(warning.0.key.clone(), warning.to_string());
            }
            Some(config)
        }
        Err(errors) => {
            for error in errors {
                report.refuse(error.key.clone(), error.to_string());
            }
            None
        }
    };
    check::print(path, &report, terminal);
    let mut worst = report.worst();
    if let Some(config) = &config {
        worst = worst.max(check::look(&directories(config), terminal));
    }
    if worst != Verdict::Refused {
        plan::of_node(path, terminal);
    }
    Ok(check::conclude(worst, terminal))
}
