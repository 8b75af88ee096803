//! `kafka-cluster`: the cluster's id, its nodes, and the end of a broker's membership.

use crate::argparse::{Command, Option_, Parsed, Program, flag, value};
use crate::client::{Client, ClientError};
use crate::quorum::connect;
use crate::terminal::Terminal;

const BOOTSTRAP: Option_ = value("bootstrap-server", "-b", "Brokers to start from.");
const CONTROLLER: Option_ = value("bootstrap-controller", "-C", "Controllers to start from, instead of brokers.");
const CONFIG: Option_ = value("command-config", "-c", "Properties file for the client.");
const OLD_CONFIG: Option_ = value("config", "", "Old name of --command-config.");

const PROGRAM: Program = Program {
    name: "cluster",
    about: "Shows the cluster's id and nodes, and unregisters brokers.",
    examples: &[
        "zwirn cluster cluster-id --bootstrap-server localhost:9092",
        "zwirn cluster list-endpoints --bootstrap-server localhost:9092",
    ],
    options: &[],
    commands: &[
        Command {
            name: "cluster-id",
            about: "Show the cluster's id.",
            options: &[BOOTSTRAP, CONTROLLER, CONFIG, OLD_CONFIG],
            exclusive: &[&["bootstrap-server", "bootstrap-controller"]],
        },
        Command {
            name: "unregister",
            about: "Forget a broker that will not come back.",
            options: &[
                BOOTSTRAP,
                CONTROLLER,
                CONFIG,
                OLD_CONFIG,
                Option_ { required: true, ..value("id", "-i", "The broker's id.") },
            ],
            exclusive: &[&["bootstrap-server", "bootstrap-controller"]],
        },
        Command {
            name: "list-endpoints",
            about: "Show the addresses of brokers, or of controllers.",
            options: &[
                BOOTSTRAP,
                CONTROLLER,
                CONFIG,
                OLD_CONFIG,
                flag("include-fenced-brokers", "", "Also brokers that do not serve at the moment."),
            ],
            exclusive: &[&["bootstrap-server", "bootstrap-controller"]],
        },
    ],
};

pub fn main(args: &[String], terminal: &mut Terminal<'_>) -> u8 {
    let parsed = match PROGRAM.parse(args, terminal) {
        Ok(parsed) => parsed,
        Err(code) => return code,
    };
    if !parsed.has("bootstrap-server") && !parsed.has("bootstrap-controller") {
        let message = "one of the arguments --bootstrap-server/-b --bootstrap-controller/-C is required";
        return PROGRAM.refuse(args, message, terminal);
    }
    if parsed.has("config") {
        if parsed.has("command-config") {
            return PROGRAM.refuse(args, "--config and --command-config cannot be specified together.", terminal);
        }
        terminal.line(
            "Option --config has been deprecated and will be removed in a future version. Use --command-config instead.",
        );
    }
    match run(&parsed, terminal) {
        Ok(()) => 0,
        Err(message) => {
            terminal.error(message);
            1
        }
    }
}

fn run(parsed: &Parsed, terminal: &mut Terminal<'_>) -> Result<(), String> {
    let mut client = connect(parsed)?;
    let text = |error: ClientError| error.exception();
    match parsed.command {
        "unregister" => {
            let id: i32 = parsed.number("id")?.unwrap_or(-1);
            client.unregister_broker(id).map_err(text)?;
            terminal.line(format_args!("Broker {id} is no longer registered."));
        }
        "list-endpoints" => {
            let fenced = parsed.has("include-fenced-brokers");
            if fenced && client.settings.controllers {
                return Err(
                    "The option --include-fenced-brokers is only supported with --bootstrap-server option".to_owned()
                );
            }
            let _ = terminal.out.write_all(endpoints(&mut client, fenced).map_err(text)?.as_bytes());
        }
        _ => {
            let id = client.describe_cluster(false).map_err(text)?.id;
            terminal.line(format_args!("Cluster ID: {id}"));
        }
    }
    Ok(())
}

fn endpoints(client: &mut Client, include_fenced: bool) -> Result<String, ClientError> {
    let controllers = client.settings.controllers;
    let mut nodes = client.describe_cluster(include_fenced)?.nodes;
    nodes.sort_by_key(|node| node.id);
    let host_width = nodes.iter().map(|node| node.host.len()).max().unwrap_or(0);
    let rack = |rack: &Option<String>| rack.clone().unwrap_or_else(|| "null".to_owned());
    // Kafka gives controllers, which have no racks, a wider column.
    let rack_width = nodes.iter().map(|node| node.rack.as_ref().map_or(10, String::len)).max().unwrap_or(10);
    let mut out = String::new();
    let mut row = |id: &str, host: &str, port: &str, rack: &str, state: Option<&str>, kind: &str| {
        let state = state.map_or_else(String::new, |state| format!("{state:<10} "));
        out.push_str(&format!("{id:<10} {host:<host_width$} {port:<10} {rack:<rack_width$} {state}{kind:<15}\n"));
    };
    let has_state = |state| (!controllers).then_some(state);
    row("ID", "HOST", "PORT", "RACK", has_state("STATE"), "ENDPOINT_TYPE");
    for node in &nodes {
        let state = if node.fenced { "fenced" } else { "unfenced" };
        let kind = if controllers { "controller" } else { "broker" };
        row(&node.id.to_string(), &node.host, &node.port.to_string(), &rack(&node.rack), has_state(state), kind);
    }
    Ok(out)
}
