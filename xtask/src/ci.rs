//! `cargo xtask test`: everything CI runs, in the order in which a mistake is found soonest.

use std::path::Path;

use crate::stages::{Outcome, Stages, cargo};
use crate::{clients, codegen, compaction, conversations, deny, dump_log, oracle, stories, tidy, tools};

/// Simulated lives of a cluster; a few seconds each at most.
const SIMULATOR_SEEDS: &str = "40";

pub fn run(root: &Path, args: &[&str]) -> Result<(), String> {
    let mut only = Vec::new();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        match (*arg, rest.next()) {
            ("--only", Some(stage)) => only.push((*stage).to_owned()),
            _ => return Err("usage: cargo xtask test [--only STAGE]...".to_owned()),
        }
    }
    let mut stages = Stages::new(root, only);
    stages.run("fmt", |root| cargo(root, &["fmt", "--all", "--check"]));
    stages.run("codegen", |root| codegen::run(root, true).map(|()| Outcome::Passed));
    stages.run("tidy", |root| tidy::run(root, false).map(|()| Outcome::Passed));
    stages.run("clippy", |root| {
        cargo(root, &["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"])
    });
    stages.run("deny", deny::stage);
    stages.run("unit tests", |root| cargo(root, &["test", "--quiet", "--workspace"]));
    stages.run("fuzz", crate::fuzz::stage);
    stages.run("oracle", oracle::stage);
    stages.run("conversations", conversations::stage);
    stages.run("dump-log", dump_log::stage);
    stages.run("compaction", compaction::stage);
    stages.run("tools", tools::stage);
    stages.run("simulator", simulator);
    // Checkers that notice nothing would pass every seed.
    stages.run("planted faults", |root| {
        cargo(root, &["run", "--quiet", "--release", "-p", "simulator", "--", "--mutations"])
    });
    stories::run(&mut stages);
    stages.run("clients", clients::stage);
    stages.finish()
}

fn simulator(root: &Path) -> Result<Outcome, String> {
    if !root.join("crates/simulator/src/main.rs").is_file() {
        return Ok(Outcome::LeftOut("there is no simulator yet".to_owned()));
    }
    cargo(root, &["run", "--quiet", "--release", "-p", "simulator", "--", "--seeds", SIMULATOR_SEEDS])?;
    Ok(Outcome::Note(format!("{SIMULATOR_SEEDS} seeds")))
}
