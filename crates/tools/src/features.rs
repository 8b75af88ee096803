//! `kafka-features`: levels of features, as they are and as they are to be.

use std::fmt::Write;

use metadata::features::{METADATA_VERSION, METADATA_VERSIONS, SUPPORTED};

use crate::argparse::{Command, Option_, Parsed, Program, append, flag, value};
use crate::client::{Client, FeatureLevels, FeatureUpdate, Upgrade};
use crate::quorum::connect;
use crate::storage::features::{default_level, dependencies, parse_feature, parse_release, version_mapping};
use crate::terminal::Terminal;

const RELEASE: Option_ = value("release-version", "", "A release: all features as it has them.");
const METADATA: Option_ = value("metadata", "", "Old way to say --feature metadata.version=<level>, by release.");
const FEATURE: Option_ = append("feature", "", "feature=level; may be repeated.");
const DRY_RUN: Option_ = flag("dry-run", "", "Only say whether it could be done.");
const UNSAFE: Option_ = flag("unsafe", "", "Even if metadata would be lost.");

const PROGRAM: Program = Program {
    name: "features",
    about: "Shows and changes the levels of the cluster's features.",
    examples: &[
        "zwirn features --bootstrap-server localhost:9092 describe",
        "zwirn features --bootstrap-server localhost:9092 upgrade --release-version 4.3",
    ],
    options: &[
        value("bootstrap-server", "", "Brokers to start from."),
        value("bootstrap-controller", "", "Controllers to start from, instead of brokers."),
        value("command-config", "", "Properties file for the client."),
    ],
    commands: &[
        Command {
            name: "describe",
            about: "Show supported and finalized levels.",
            options: &[value("node-id", "", "Ask this node; otherwise any.")],
            exclusive: &[],
        },
        Command {
            name: "upgrade",
            about: "Raise levels.",
            options: &[METADATA, RELEASE, FEATURE, DRY_RUN],
            exclusive: &[],
        },
        Command {
            name: "downgrade",
            about: "Lower levels.",
            options: &[METADATA, RELEASE, FEATURE, UNSAFE, DRY_RUN],
            exclusive: &[],
        },
        Command {
            name: "disable",
            about: "Lower features to level 0.",
            options: &[append("feature", "", "A feature; may be repeated."), UNSAFE, DRY_RUN],
            exclusive: &[],
        },
        Command {
            name: "version-mapping",
            about: "Show which levels belong to a release.",
            options: &[RELEASE],
            exclusive: &[],
        },
        Command {
            name: "feature-dependencies",
            about: "Show what a level needs.",
            options: &[Option_ { required: true, ..FEATURE }],
            exclusive: &[],
        },
    ],
};

pub fn main(args: &[String], terminal: &mut Terminal<'_>) -> u8 {
    let refuse = |message: &str, terminal: &mut Terminal<'_>| {
        let _ = write!(terminal.err, "Command line error: {message}. Type --help for help.");
        1
    };
    let parsed = match PROGRAM.parse_or(args, terminal, refuse) {
        Ok(parsed) => parsed,
        Err(code) => return code,
    };
    let offline = ["version-mapping", "feature-dependencies"].contains(&parsed.command);
    if parsed.has("bootstrap-server") && parsed.has("bootstrap-controller") {
        return refuse("argument --bootstrap-controller: not allowed with argument --bootstrap-server", terminal);
    }
    if !offline && !parsed.has("bootstrap-server") && !parsed.has("bootstrap-controller") {
        return refuse("You must specify either --bootstrap-controller or --bootstrap-server.", terminal);
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
    match parsed.command {
        "version-mapping" => return version_mapping(parsed.get("release-version"), terminal),
        "feature-dependencies" => return dependencies(parsed.all("feature"), terminal),
        "describe" => {
            let node: Option<i32> = parsed.number("node-id")?;
            if let Some(id @ ..0) = node {
                return Err(format!("Invalid node id {id}: must be non-negative."));
            }
            let levels = connect(parsed)?.describe_features(node).map_err(|error| error.exception())?;
            let _ = terminal.out.write_all(describe(&levels).as_bytes());
            return Ok(());
        }
        _ => {}
    }
    let updates = updates(parsed, terminal)?;
    if updates.is_empty() {
        return Err(format!("You must specify at least one feature to {}", parsed.command));
    }
    if updates.iter().any(|update| update.level < 0) {
        return Err("a feature's level cannot be negative".to_owned());
    }
    if let Some(zero) = updates.iter().find(|update| update.level == 0 && update.upgrade == Upgrade::Upgrade) {
        return Err(format!("{}: level 0 is no upgrade; use downgrade or disable", zero.name));
    }
    let dry_run = parsed.has("dry-run");
    let result = update(&mut connect(parsed)?, &updates, dry_run);
    say(parsed.command, &updates, dry_run, result, terminal)
}

fn update(client: &mut Client, updates: &[FeatureUpdate], dry_run: bool) -> Result<(), String> {
    client.update_features(updates, dry_run).map_err(|error| error.to_string())
}

/// Sorted by name, as Kafka reports them.
fn updates(parsed: &Parsed, terminal: &mut Terminal<'_>) -> Result<Vec<FeatureUpdate>, String> {
    let upgrade = match (parsed.command, parsed.has("unsafe")) {
        ("upgrade", _) => Upgrade::Upgrade,
        (_, false) => Upgrade::SafeDowngrade,
        (_, true) => Upgrade::UnsafeDowngrade,
    };
    let mut out: Vec<FeatureUpdate> = Vec::new();
    let mut put = |name: &str, level: i16| {
        if out.iter().any(|update| update.name == name) {
            return Err(format!("Feature {name} was specified more than once."));
        }
        out.push(FeatureUpdate { name: name.to_owned(), level, upgrade });
        Ok(())
    };
    if parsed.command == "disable" {
        for name in parsed.all("feature") {
            put(name, 0)?;
        }
    } else if let Some(release) = parsed.get("release-version") {
        if parsed.has("metadata") || parsed.has("feature") {
            return Err("Can not specify `release-version` with other feature flags.".to_owned());
        }
        let release = parse_release(release)?;
        put(METADATA_VERSION, release.0)?;
        for feature in SUPPORTED.iter().filter(|feature| feature.name != METADATA_VERSION) {
            let level = default_level(feature.name, release);
            // To raise something to 0 means nothing.
            if upgrade != Upgrade::Upgrade || level > 0 {
                put(feature.name, level)?;
            }
        }
    } else {
        if let Some(release) = parsed.get("metadata") {
            terminal.line(" `metadata` flag is deprecated and may be removed in a future release.");
            put(METADATA_VERSION, parse_release(release)?.0)?;
        }
        for text in parsed.all("feature") {
            let (name, level) = parse_feature(text)?;
            put(&name, level)?;
        }
    }
    out.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(out)
}

fn say(
    command: &str,
    updates: &[FeatureUpdate],
    dry_run: bool,
    result: Result<(), String>,
    terminal: &mut Terminal<'_>,
) -> Result<(), String> {
    for FeatureUpdate { name, level, .. } in updates {
        match &result {
            Ok(()) => {
                let verb = if dry_run { "can be" } else { "was" };
                let what = if command == "disable" { "disabled.".into() } else { format!("{command}d to {level}.") };
                terminal.line(format_args!("{name} {verb} {what}"));
            }
            Err(error) => {
                let verb = if dry_run { "Can not" } else { "Could not" };
                let to = if command == "disable" { String::new() } else { format!(" to {level}") };
                terminal.line(format_args!("{verb} {command} {name}{to}. {error}"));
            }
        }
    }
    result.map_err(|_| format!("{0} out of {0} operation(s) failed.", updates.len()))
}

fn describe(levels: &FeatureLevels) -> String {
    let level = |name: &str, level: i16| {
        if name != METADATA_VERSION {
            return level.to_string();
        }
        let known = METADATA_VERSIONS.iter().find(|(number, _)| *number == level);
        known.map_or_else(|| format!("UNKNOWN {level}"), |(_, name)| (*name).to_owned())
    };
    let epoch = levels.epoch.map_or("-".to_owned(), |epoch| epoch.to_string());
    let mut out = String::new();
    for (name, (min, max)) in &levels.supported {
        let finalized = levels.finalized.get(name).copied().unwrap_or(0);
        let _ = writeln!(
            out,
            "Feature: {name:<40}  SupportedMinVersion: {:<15}  SupportedMaxVersion: {:<15}  \
             FinalizedVersionLevel: {:<15}  Epoch: {epoch}",
            level(name, *min),
            level(name, *max),
            level(name, finalized)
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_main(args: &[&str]) -> (u8, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let args: Vec<String> = args.iter().map(|s| (*s).to_owned()).collect();
        let code = main(&args, &mut Terminal { out: &mut out, err: &mut err });
        (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn as_recorded() {
        let supported = [
            ("eligible.leader.replicas.version", 0, 1, 1),
            ("group.version", 0, 1, 1),
            ("kraft.version", 0, 1, 0),
            ("metadata.version", 7, 30, 30),
            ("share.version", 0, 1, 1),
            ("streams.version", 0, 1, 1),
            ("transaction.version", 0, 2, 2),
        ];
        let levels = FeatureLevels {
            supported: supported.iter().map(|(name, min, max, _)| ((*name).to_owned(), (*min, *max))).collect(),
            finalized: supported.iter().map(|(name, .., level)| ((*name).to_owned(), *level)).collect(),
            epoch: Some(2260),
        };
        assert!(include_str!("../tests/golden/features-describe.txt").contains(&describe(&levels)));
        let (code, _, err) = run_main(&["--bootstrap-server", "127.0.0.1:19291"]);
        assert!(code == 1 && include_str!("../tests/golden/features-no-action.txt").contains(&err), "{err}");
        let (code, out, _) = run_main(&["version-mapping", "--release-version", "4.3-IV0"]);
        assert!(code == 0 && include_str!("../tests/golden/features-version-mapping.txt").contains(&out), "{out}");
    }

    #[test]
    fn results() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let terminal = &mut Terminal { out: &mut out, err: &mut err };
        let one = |name: &str, level| vec![FeatureUpdate { name: name.to_owned(), level, upgrade: Upgrade::Upgrade }];
        say("upgrade", &one("streams.version", 1), false, Ok(()), terminal).unwrap();
        say("downgrade", &one("transaction.version", 1), true, Ok(()), terminal).unwrap();
        say("disable", &one("eligible.leader.replicas.version", 0), false, Ok(()), terminal).unwrap();
        let failed = say("upgrade", &one("metadata.version", 99), false, Err("no".to_owned()), terminal);
        assert_eq!(failed.unwrap_err(), "1 out of 1 operation(s) failed.");
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "streams.version was upgraded to 1.\ntransaction.version can be downgraded to 1.\n\
             eligible.leader.replicas.version was disabled.\nCould not upgrade metadata.version to 99. no\n"
        );
    }
}
