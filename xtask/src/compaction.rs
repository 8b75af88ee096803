//! `cargo xtask compaction`: log directories compacted by Kafka's cleaner and by ours, and the results compared.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::jars::{Kafka, Missing};
use crate::stages::{self, Outcome, cargo, has_program};

/// Log directories in CI.
const ROUNDS: &str = "8";

/// With `--rounds N` and `--seed N`.
pub fn run(root: &Path, args: &[&str]) -> Result<(), String> {
    compare(root, args).map_err(|Missing(reason)| reason)?
}

pub fn stage(root: &Path) -> Result<Outcome, String> {
    match compare(root, &["--rounds", ROUNDS]) {
        Ok(result) => result.map(|()| Outcome::Note(format!("{ROUNDS} logs"))),
        Err(Missing(reason)) => Ok(Outcome::LeftOut(reason)),
    }
}

fn compare(root: &Path, args: &[&str]) -> Result<Result<(), String>, Missing> {
    if !has_program("javac") {
        return Err(Missing("there is no JDK (javac is not on the path)".to_owned()));
    }
    let libs = Kafka::get(root)?.libs().to_owned();
    let classes = stages::target_dir(root).join("compaction-classes");
    let work = stages::target_dir(root).join("compaction");
    Ok(compile(root, &libs, &classes).and_then(|()| {
        let [classes, libs, work] = [&classes, &libs, &work].map(|path| path.to_string_lossy().into_owned());
        let mut words = vec!["run", "--quiet", "-p", "oracle", "--bin", "compaction", "--"];
        words.extend(["--classes", &classes, "--libs", &libs, "--work", &work]);
        words.extend(args);
        cargo(root, &words).map(drop)
    }))
}

fn compile(root: &Path, libs: &Path, classes: &Path) -> Result<(), String> {
    fs::create_dir_all(classes).map_err(|e| format!("{}: {e}", classes.display()))?;
    let mut javac = Command::new("javac");
    javac.args(["-proc:none", "-nowarn", "-cp"]).arg(libs.join("*")).arg("-d").arg(classes);
    javac.arg(root.join("xtask/oracle/Compaction.java"));
    stages::output(javac).map(drop)
}
