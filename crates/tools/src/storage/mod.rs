//! `kafka-storage`: formats the directories of a node before its first start, and says what is in them.

pub(crate) mod check;
mod checkpoint;
pub(crate) mod features;
mod format;
mod info;

use std::path::PathBuf;

use metadata::config::{ConfigError, NodeConfig, Outside, Warning};

use crate::argparse::{Command, Program, append, flag, required, value};
use crate::random::random_uuid;
use crate::terminal::Terminal;

pub(crate) use format::directories;
use format::{Formatting, format};

const CONFIG: crate::argparse::Option_ = required("config", "-c", "The node's server.properties.");

const PROGRAM: Program = Program {
    name: "storage",
    about: "Formats the directories of a node before its first start, and says what is in them.",
    examples: &[
        "zwirn storage random-uuid",
        "zwirn storage format -t M0_d6kXpTzqjJ1XHWxU1jA -c server-1.properties",
        "zwirn storage info -c server-1.properties",
        "zwirn storage check /var/lib/kafka/data-1 /var/lib/kafka/data-2",
    ],
    options: &[],
    commands: &[
        Command {
            name: "info",
            about: "Show the directories and whom they belong to.",
            options: &[CONFIG],
            exclusive: &[],
        },
        Command {
            name: "check",
            about: "Say whether directories, of Apache Kafka perhaps, can be taken over as they are: check DIR…",
            options: &[value("config", "-c", "Take the directories from this server.properties.")],
            exclusive: &[],
        },
        Command {
            name: "format",
            about: "Write the cluster's id and first metadata into the node's directories.",
            options: &[
                CONFIG,
                required("cluster-id", "-t", "The cluster's id, the same on all nodes (see random-uuid)."),
                append("add-scram", "-S", "First SCRAM credentials; not offered so far."),
                flag("ignore-formatted", "-g", "Leave directories alone that are formatted already."),
                value("release-version", "-r", "Format as this release would, e.g. 4.0; 4.3-IV0 if left out."),
                append("feature", "-f", "A feature's level, e.g. group.version=1; may be repeated."),
                flag("standalone", "-s", "This controller is the whole first quorum."),
                flag("no-initial-controllers", "-N", "The quorum exists, or is formatted elsewhere."),
                value("initial-controllers", "-I", "The first quorum: id@host:port:directory-id, separated by commas."),
            ],
            exclusive: &[&["standalone", "no-initial-controllers", "initial-controllers"]],
        },
        Command {
            name: "version-mapping",
            about: "Show the feature levels of a release.",
            options: &[value("release-version", "-r", "The release; 4.3-IV0 if left out.")],
            exclusive: &[],
        },
        Command {
            name: "feature-dependencies",
            about: "Show what levels of features need.",
            options: &[append("feature", "-f", "feature=level; may be repeated.")],
            exclusive: &[],
        },
        Command { name: "random-uuid", about: "Print a new random id.", options: &[], exclusive: &[] },
    ],
};

pub fn main(args: &[String], terminal: &mut Terminal<'_>) -> u8 {
    // Directories stand by themselves; everything else is a matter of options.
    let is_check = args.first().is_some_and(|command| command == "check");
    if is_check && args.len() > 1 && args.iter().all(|arg| !arg.starts_with('-')) {
        let dirs: Vec<PathBuf> = args.iter().skip(1).map(PathBuf::from).collect();
        return check::run(&dirs, terminal);
    }
    let parsed = match PROGRAM.parse(args, terminal) {
        Ok(parsed) => parsed,
        Err(code) => return code,
    };
    let config = match parsed.get("config").map(load).transpose() {
        Ok(config) => config,
        Err(message) => {
            terminal.error(message);
            return 1;
        }
    };
    let result = match (parsed.command, &config) {
        ("info", Some(config)) => return info::run(config, terminal),
        ("check", Some(config)) => return check::run(&format::directories(config), terminal),
        ("check", None) => return PROGRAM.refuse(args, "name directories, or give --config", terminal),
        ("format", Some(config)) => {
            Formatting::of(&parsed, config).and_then(|formatting| format(&formatting, terminal))
        }
        ("version-mapping", _) => features::version_mapping(parsed.get("release-version"), terminal),
        ("feature-dependencies", _) if !parsed.has("feature") => {
            return PROGRAM.refuse(args, "argument --feature/-f is required", terminal);
        }
        ("feature-dependencies", _) => features::dependencies(parsed.all("feature"), terminal),
        _ => {
            terminal.line(random_uuid());
            Ok(())
        }
    };
    match result {
        Ok(()) => 0,
        Err(message) => {
            terminal.error(message);
            1
        }
    }
}

/// Formats what is not formatted yet of a node whose configuration is at hand, and says nothing about it.
pub fn format_new(properties: &str, origin: &str, cluster_id: &str) -> Result<(), String> {
    let mut formatting = Formatting::new(&parse(properties, origin)?, cluster_id);
    formatting.ignore_formatted = true;
    format(&formatting, &mut Terminal { out: &mut Vec::new(), err: &mut Vec::new() })
}

fn load(path: &str) -> Result<NodeConfig, String> {
    let text = std::fs::read_to_string(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            format!("Exception in thread \"main\" java.nio.file.NoSuchFileException: {path}")
        }
        _ => format!("{path}: {error}"),
    })?;
    parse(&text, path)
}

/// With the variables and files that the text refers to.
pub(crate) fn read(text: &str, origin: &str) -> Result<(NodeConfig, Vec<Warning>), Vec<ConfigError>> {
    let outside = Outside { env: &|name| std::env::var(name).ok(), file: &|path| std::fs::read_to_string(path) };
    NodeConfig::from_text_and(text, origin, &[], Some(&outside))
}

pub(crate) fn parse(text: &str, origin: &str) -> Result<NodeConfig, String> {
    let (config, _) =
        read(text, origin).map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(args: &[&str]) -> (u8, String, String) {
        let args: Vec<String> = args.iter().map(|s| (*s).to_owned()).collect();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = main(&args, &mut Terminal { out: &mut out, err: &mut err });
        (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn recorded_answers() {
        let golden = include_str!("../../tests/golden/storage-version-mapping.txt");
        let (code, out, _) = run(&["version-mapping", "-r", "4.3-IV0"]);
        assert!(code == 0 && golden.contains(&out), "{out}");
        let golden = include_str!("../../tests/golden/storage-feature-dependencies.txt");
        let (code, out, _) = run(&["feature-dependencies", "-f", "group.version=1"]);
        assert!(code == 0 && golden.contains(&out), "{out}");
        let golden = include_str!("../../tests/golden/storage-format-missing-config.txt");
        let (code, _, err) = run(&["format", "-t", "Z29sZGVuLWthZmthLTQzMQ", "-c", "nope.properties"]);
        assert!(code == 1 && golden.contains(&err), "{err}");
        assert_eq!(run(&["format", "-c", "x"]).0, 1);
        assert_eq!(run(&["random-uuid"]).1.len(), 23);
    }
}
