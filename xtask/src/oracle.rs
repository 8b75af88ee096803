//! `cargo xtask oracle`: compiles the program that asks Kafka's own classes, and starts the comparison with our codec.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::jars::{Kafka, Missing};
use crate::stages::{self, Outcome, cargo, has_program};

/// Values per message and version in CI; a nightly run takes thousands.
const VALUES: &str = "24";

/// With the options of the command line after the directories that only we know.
pub fn run(root: &Path, args: &[&str]) -> Result<(), String> {
    let libs = prepare(root).map_err(|missing| missing.0)?;
    ask(root, &libs, args).map(drop)
}

pub fn stage(root: &Path) -> Result<Outcome, String> {
    let libs = match prepare(root) {
        Ok(libs) => libs,
        Err(Missing(reason)) => return Ok(Outcome::LeftOut(reason)),
    };
    ask(root, &libs, &["--values", VALUES])?;
    Ok(Outcome::Note(format!("{VALUES} values of each version")))
}

fn prepare(root: &Path) -> Result<PathBuf, Missing> {
    if !has_program("javac") {
        return Err(Missing("there is no JDK (javac is not on the path)".to_owned()));
    }
    Ok(Kafka::get(root)?.libs().to_owned())
}

fn ask(root: &Path, libs: &Path, args: &[&str]) -> Result<Outcome, String> {
    let classes = stages::target_dir(root).join("oracle-classes");
    fs::create_dir_all(&classes).map_err(|e| format!("{}: {e}", classes.display()))?;
    let mut javac = Command::new("javac");
    javac.args(["-proc:none", "-nowarn", "-cp"]).arg(libs.join("*")).arg("-d").arg(&classes);
    let sources =
        ["Oracle.java", "RandomValues.java", "StateFiles.java"].map(|name| root.join("xtask/oracle").join(name));
    stages::output({
        javac.args(sources);
        javac
    })?;
    let (classes, libs) = (classes.to_string_lossy(), libs.to_string_lossy());
    let mut words = vec!["run", "--quiet", "-p", "oracle", "--", "--classes", &classes, "--libs", &libs];
    words.extend(args);
    cargo(root, &words)
}
